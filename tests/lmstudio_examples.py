"""What LM Studio's developer documentation promises of its endpoints, as shapes of our own.

After the pages on the REST API (v1 and v0) and on the OpenAI and Anthropic endpoints, as of April 2026.
Keys that lmnb adds to documented objects are allowed only where `MORE` says so: in LM Studio's own API
they are listed.
"""

from __future__ import annotations

from shapes import MORE, Many, OneOf, Shape, Text

TIME = Text(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

# --- /api/v1 ------------------------------------------------------------------

PROVIDER = OneOf(
    {"type": "ephemeral_mcp", "server_label": str}, {"type": "plugin", "plugin_id": Text("mcp/.+")}
)
MESSAGE: Shape = {"type": "message", "content": str}
REASONING: Shape = {"type": "reasoning", "content": str}
TOOL_CALL: Shape = {
    "type": "tool_call",
    "tool": str,
    "arguments": dict,
    "output": str,
    "provider_info": PROVIDER,
}
STATS: Shape = {
    "input_tokens": int,
    "total_output_tokens": int,
    "reasoning_output_tokens": int,
    "tokens_per_second": float,
    "time_to_first_token_seconds": float,
    "model_load_time_seconds?": float,
    # Ours, of speculation.
    "total_draft_tokens_count?": int,
    "accepted_draft_tokens_count?": int,
    "rejected_draft_tokens_count?": int,
}


def chat(*outputs: Shape, stored: bool = True) -> Shape:
    """A whole answer of `/api/v1/chat`."""
    found = {"model_instance_id": str, "output": [OneOf(*outputs)], "stats": STATS}
    return found | {"response_id": Text("resp_.+")} if stored else found


REASONING_OPTION = {"off", "on", "low", "medium", "high"}
MODELS: Shape = {
    "models": [
        OneOf(
            {
                "type": "llm",
                "publisher": str,
                "key": str,
                "display_name": str,
                "architecture?": OneOf(str, None),
                "quantization": OneOf(
                    {"name": OneOf(str, None), "bits_per_weight": OneOf(float, None)}, None
                ),
                "size_bytes": int,
                "params_string": OneOf(str, None),
                "loaded_instances": Many(
                    {
                        "id": str,
                        "config": {
                            "context_length": int,
                            "eval_batch_size?": int,
                            "parallel?": int,
                            "flash_attention?": bool,
                            "num_experts?": int,
                            "offload_kv_cache_to_gpu?": bool,
                        },
                    }
                ),
                "max_context_length": int,
                "format": {"gguf", "mlx", None},
                "capabilities?": {
                    "vision": bool,
                    "trained_for_tool_use": bool,
                    "reasoning?": {
                        "allowed_options": [REASONING_OPTION],
                        "default": REASONING_OPTION,
                    },
                },
                "description?": OneOf(str, None),
                "variants?": [str],
                "selected_variant?": str,
            },
            {
                "type": "embedding",
                "publisher": str,
                "key": str,
                "display_name": str,
                "quantization": OneOf(
                    {"name": OneOf(str, None), "bits_per_weight": OneOf(float, None)}, None
                ),
                "size_bytes": int,
                "params_string": OneOf(str, None),
                "loaded_instances": Many({"id": str, "config": {"context_length": int}}),
                "max_context_length": int,
                "format": {"gguf", "mlx", None},
                "variants?": [str],
                "selected_variant?": str,
            },
        )
    ]
}
LOADED: Shape = {
    "type": {"llm", "embedding"},
    "instance_id": str,
    "load_time_seconds": float,
    "status": "loaded",
}
LLM_CONFIG: Shape = {
    "context_length": int,
    "eval_batch_size?": int,
    "flash_attention?": bool,
    "num_experts?": int,
    "offload_kv_cache_to_gpu?": bool,
    # Of the list of models, and of the load since LM Studio 0.4.
    "parallel?": int,
}
UNLOADED: Shape = {"instance_id": str}
DOWNLOAD: Shape = {
    "job_id": str,
    "status": {"downloading", "paused", "completed", "failed"},
    "total_size_bytes?": int,
    "started_at": TIME,
    "completed_at?": TIME,
}
ALREADY: Shape = {"status": "already_downloaded"}
DOWNLOADING: Shape = {
    "job_id": str,
    "status": "downloading",
    "bytes_per_second": float,
    "estimated_completion?": TIME,
    "total_size_bytes?": int,
    "downloaded_bytes?": int,
    "started_at?": TIME,
}
PAUSED: Shape = {
    "job_id": str,
    "status": "paused",
    "total_size_bytes?": int,
    "downloaded_bytes?": int,
    "started_at?": TIME,
}
COMPLETED: Shape = {
    "job_id": str,
    "status": "completed",
    "total_size_bytes": int,
    "downloaded_bytes": int,
    "started_at": TIME,
    "completed_at": TIME,
}
ERROR: Shape = {
    "error": {
        "type": {
            "invalid_request",
            "unknown",
            "mcp_connection_error",
            "plugin_connection_error",
            "not_implemented",
            "model_not_found",
            "job_not_found",
            "internal_error",
        },
        "message": str,
        "code?": str,
        "param?": str,
    }
}
TOOL: Shape = {"tool": str, "provider_info": PROVIDER}
FAILURE: Shape = {
    "type": {"invalid_name", "invalid_arguments"},
    "tool_name": str,
    "arguments?": dict,
    "provider_info?": PROVIDER,
}
EVENTS: dict[str, Shape] = {
    "chat.start": {"model_instance_id": str},
    "model_load.start": {"model_instance_id": str},
    "model_load.progress": {"model_instance_id": str, "progress": float},
    "model_load.end": {"model_instance_id": str, "load_time_seconds": float},
    "prompt_processing.start": {},
    "prompt_processing.progress": {"progress": float},
    "prompt_processing.end": {},
    "reasoning.start": {},
    "reasoning.delta": {"content": str},
    "reasoning.end": {},
    "tool_call.start": TOOL,
    "tool_call.arguments": TOOL | {"arguments": dict},
    "tool_call.success": TOOL | {"arguments": dict, "output": str},
    "tool_call.failure": {"reason": str, "metadata": FAILURE},
    "message.start": {},
    "message.delta": {"content": str},
    "message.end": {},
    "error": ERROR,
    "chat.end": {"result": chat(MESSAGE, REASONING, TOOL_CALL)},
}
"""Of each event the data, without its `type`, which is the event's name."""

# --- /api/v0 ------------------------------------------------------------------

V0_MODEL: Shape = {
    "id": str,
    "object": "model",
    "type": {"llm", "vlm", "embeddings"},
    "publisher": str,
    "arch": str,
    "compatibility_type": {"gguf", "mlx"},
    "quantization": str,
    "state": {"loaded", "not-loaded", "loading"},
    "max_context_length": int,
    # Not in the examples, but what its servers send.
    "loaded_context_length?": int,
    "capabilities?": [str],
}
V0_MODELS: Shape = {"object": "list", "data": [V0_MODEL]}
USAGE: Shape = {"prompt_tokens": int, "completion_tokens": int, "total_tokens": int, **MORE}
V0_ADDED: Shape = {
    "stats": {
        "tokens_per_second": float,
        "time_to_first_token": float,
        "generation_time": float,
        "stop_reason": {
            "eosFound",
            "stopStringFound",
            "maxPredictedTokensReached",
            "contextLengthReached",
            "toolCalls",
        },
        **MORE,
    },
    "model_info": {"arch": str, "quant": str, "format": "gguf", "context_length": int},
    "runtime": {"name": str, "version": str, "supported_formats": ["gguf"]},
}
FINISH = {"stop", "length", "tool_calls"}
V0_CHAT: Shape = {
    "id": Text("chatcmpl-.+"),
    "object": "chat.completion",
    "created": int,
    "model": str,
    "choices": [
        {
            "index": int,
            "logprobs": None,
            "finish_reason": FINISH,
            "message": {"role": "assistant", "content": str, **MORE},
        }
    ],
    "usage": USAGE,
    **V0_ADDED,
    **MORE,
}
V0_COMPLETION: Shape = {
    "id": Text("cmpl-.+"),
    "object": "text_completion",
    "created": int,
    "model": str,
    "choices": [{"index": int, "text": str, "logprobs": None, "finish_reason": FINISH}],
    "usage": USAGE,
    **V0_ADDED,
    **MORE,
}
EMBEDDINGS: Shape = {
    "object": "list",
    "data": [{"object": "embedding", "embedding": [float], "index": int}],
    "model": str,
    "usage": {"prompt_tokens": int, "total_tokens": int},
}

# --- /v1 ----------------------------------------------------------------------

OPENAI_MODELS: Shape = {"object": "list", "data": [{"id": str, "object": "model", **MORE}], **MORE}
CHAT_COMPLETION: Shape = {key: V0_CHAT[key] for key in V0_CHAT if key not in V0_ADDED}
CHAT_CALLS: Shape = CHAT_COMPLETION | {
    "choices": [
        {
            "index": int,
            "logprobs": None,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "tool_calls": [
                    {
                        "id": str,
                        "type": "function",
                        "function": {"name": str, "arguments": Text(r"\{.*\}")},
                    }
                ],
                **MORE,
            },
        }
    ],
    "system_fingerprint": str,
}
RESPONSE: Shape = {
    "id": Text("resp_.+"),
    "object": "response",
    "status": "completed",
    "model": str,
    "output": [{"type": {"message", "reasoning"}, **MORE}],
    "usage": {"input_tokens": int, "output_tokens": int, "total_tokens": int, **MORE},
    **MORE,
}
ANTHROPIC_MESSAGE: Shape = {
    "id": str,
    "type": "message",
    "role": "assistant",
    "model": str,
    "content": [OneOf({"type": "text", "text": str, **MORE}, {"type": "thinking", **MORE})],
    "stop_reason": {"end_turn", "max_tokens"},
    "stop_sequence": None,
    "usage": {"input_tokens": int, "output_tokens": int, **MORE},
    **MORE,
}
ANTHROPIC_CALL: Shape = ANTHROPIC_MESSAGE | {
    "content": [
        OneOf(
            {"type": "text", "text": str, **MORE},
            {"type": "tool_use", "id": str, "name": str, "input": dict, **MORE},
        )
    ],
    "stop_reason": "tool_use",
}
