"""What becomes of each field of OpenAI's requests: the table that `test_protocol_openai_fields` checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from lmnb.chat.conversation import (
    Message,
    OutputFormat,
    Reasoning,
    Request,
    Text,
    Tool,
    ToolChoice,
)

Check: TypeAlias = Callable[[Request], object]


@dataclass(frozen=True)
class Honoured:
    """It reaches the request that the engine gets: `seen` is what of it, `expected` what it says."""

    value: Any
    seen: Check
    expected: Any
    besides: dict[str, Any] = field(default_factory=dict)
    """Fields without which it means nothing."""


@dataclass(frozen=True)
class Ignored:
    """The request is the same as without it; with `noted` the caller is told."""

    value: Any
    noted: bool = False


@dataclass(frozen=True)
class Refused:
    """An error that names it."""

    value: Any
    param: str | None = None


@dataclass(frozen=True)
class Output:
    """It decides on the form of the answer, not on what the engine does: the named test sees it."""

    value: Any
    test: str


Fate: TypeAlias = Honoured | Ignored | Refused | Output

HELLO = {"role": "user", "content": "hello"}
FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {}}}
WEATHER = Tool("weather", "", FUNCTION["parameters"])  # type: ignore[arg-type]
NAMED, NONE = ToolChoice("named", "weather"), ToolChoice("none")


def option(value: Any, name: str, expected: Any = None) -> Honoured:
    """An option of the sampling."""
    return Honoured(
        value,
        lambda request: getattr(request.sampling, name),
        value if expected is None else expected,
    )


def _sampling() -> dict[str, Fate]:
    numbers = {
        "temperature": 0.5, "dynatemp_range": 0.1, "dynatemp_exponent": 2, "top_k": 7,
        "top_p": 0.5, "min_p": 0.1, "typical_p": 0.9, "top_n_sigma": 1.5, "xtc_probability": 0.3,
        "xtc_threshold": 0.2, "repeat_penalty": 1.1, "repeat_last_n": -1, "presence_penalty": 1,
        "frequency_penalty": -1, "dry_multiplier": 0.8, "dry_base": 1.5, "dry_allowed_length": 3,
        "dry_penalty_last_n": 100, "mirostat": 2, "mirostat_tau": 4, "mirostat_eta": 0.2, "seed": 42,
    }  # fmt: skip
    return {name: option(value, name) for name, value in numbers.items()}


SHARED: dict[str, Fate] = {
    **_sampling(),
    "dry_sequence_breakers": option(["a"], "dry_sequence_breakers", ("a",)),
    "logit_bias": option({"17": -100}, "logit_bias", {17: -100}),
    "model": Honoured("other", lambda request: request.model, "other"),
    "stop": Honoured(["END", "."], lambda request: request.stop, ("END", ".")),
    "ttl": Honoured(60, lambda request: request.ttl, 60),
    "draft_model": Honoured("small", lambda request: request.draft, "small"),
    "prompt_cache_key": Honoured("k", lambda request: request.cache_key, "k"),
    "lora": Honoured(
        [{"id": 1, "scale": 0.5}], lambda request: request.adapters, ((1, 0.5),)
    ),
    "response_format": Honoured(
        {"type": "json_object"},
        lambda request: request.output_format,
        OutputFormat("json_object", param="response_format"),
    ),
    **{
        name: Refused("x")
        for name in (
            "grammar", "json_schema", "guided_json", "guided_regex", "guided_choice",
            "guided_grammar", "structured_outputs",
        )
    },
    "user": Ignored("me"),
    "stream": Output(True, "test_streams_and_whole_answers"),
    "stream_options": Output({"include_usage": True}, "test_streams_and_whole_answers"),
}  # fmt: skip
"""Of Chat Completions, Completions and Responses."""

_TOOL = {"type": "function", "function": FUNCTION}
_EVERYWHERE_IGNORED: dict[str, Fate] = {
    "metadata": Ignored({"a": "b"}),
    "prompt_cache_options": Ignored({"mode": "explicit"}),
    "prompt_cache_retention": Ignored("24h"),
    "safety_identifier": Ignored("me"),
    "service_tier": Ignored("flex"),
}

_BUDGETS: dict[str, Fate] = {
    name: Honoured(100, lambda request: request.reasoning.budget, 100)
    for name in (
        "reasoning_budget_tokens",
        "thinking_budget_tokens",
        "thinking_token_budget",
        "thinking_budget",
    )
}

CHAT: dict[str, Fate] = {
    **SHARED,
    **_EVERYWHERE_IGNORED,
    **_BUDGETS,
    "messages": Honoured(
        [{"role": "developer", "content": "Be brief.", "name": "me"}, HELLO],
        lambda request: request.messages,
        (Message("system", (Text("Be brief."),)), Message("user", (Text("hello"),))),
    ),
    "audio": Ignored({"voice": "alloy", "format": "mp3"}),
    "chat_template_kwargs": Honoured({"a": 1}, lambda request: request.template_kwargs, {"a": 1}),
    "function_call": Honoured(
        {"name": "weather"},
        lambda request: (request.tool_choice.mode, request.tool_choice.name),
        ("named", "weather"),
        {"functions": [FUNCTION]},
    ),
    "functions": Honoured([FUNCTION], lambda request: request.tools, (WEATHER,)),
    "logprobs": Honoured(True, lambda request: request.logprobs, 0),
    "max_completion_tokens": Honoured(7, lambda request: request.max_tokens, 7),
    "max_tokens": Honoured(7, lambda request: request.max_tokens, 7),
    "modalities": Refused(["text", "audio"]),
    "moderation": Ignored({"model": "omni"}, noted=True),
    "n": Output(2, "test_n_is_a_request_each"),
    "parallel_tool_calls": Honoured(False, lambda request: request.tool_choice.parallel, False),
    "prediction": Ignored({"type": "content", "content": "x"}),
    "reasoning": Honoured({"effort": "low"}, lambda request: request.reasoning.effort, "low"),
    "reasoning_effort": Honoured("low", lambda request: request.reasoning.effort, "low"),
    "return_progress": Output(True, "test_progress_of_the_prompt_is_told"),
    "store": Ignored(True),
    "thinking": Honoured(
        {"type": "enabled", "budget_tokens": 100},
        lambda request: request.reasoning,
        Reasoning(enabled=True, budget=100),
    ),
    "tool_choice": Honoured(
        {"type": "function", "function": {"name": "weather"}},
        lambda request: request.tool_choice,
        NAMED,
        {"tools": [_TOOL]},
    ),
    "tools": Honoured([_TOOL], lambda request: request.tools, (WEATHER,)),
    "top_logprobs": Honoured(3, lambda request: request.logprobs, 3, {"logprobs": True}),
    "verbosity": Ignored("low"),
    "web_search_options": Ignored({}, noted=True),
    # llama.cpp's, and what other clients send
    "cache_prompt": Ignored(True),
    "id_slot": Ignored(0),
    "timings_per_token": Ignored(True),
    "preset": Ignored("x"),
}

COMPLETIONS: dict[str, Fate] = {
    **SHARED,
    "prompt": Honoured("Once", lambda request: request.prompt, "Once"),
    "best_of": Output(2, "test_n_is_a_request_each"),
    "n": Output(2, "test_n_is_a_request_each"),
    "echo": Honoured(True, lambda request: request.score_prompt, True, {"logprobs": 1}),
    "logprobs": Honoured(2, lambda request: request.logprobs, 2),
    "max_tokens": Honoured(0, lambda request: request.max_tokens, 0),
    "suffix": Honoured("end", lambda request: request.suffix, "end"),
}

_FLAT = {"type": "function", **FUNCTION}

RESPONSES: dict[str, Fate] = {
    **SHARED,
    **_EVERYWHERE_IGNORED,
    **_BUDGETS,
    "input": Honoured(
        [HELLO], lambda request: request.messages, (Message("user", (Text("hello"),)),)
    ),
    "access_programs": Ignored({"cyber": "standard"}),
    "background": Output(True, "test_protocol_openai_responses"),
    "background_options": Ignored({"completion_window": "soonest"}),
    "context_management": Ignored([{"type": "compaction"}]),
    "conversation": Output("conv_1", "test_protocol_openai_responses"),
    "generate": Output(False, "test_protocol_openai_responses"),
    "image": Ignored({"context_compression": "auto"}),
    "include": Honoured(["message.output_text.logprobs"], lambda request: request.logprobs, 0),
    "instructions": Honoured(
        "Be brief.", lambda request: request.messages[0], Message("system", (Text("Be brief."),))
    ),
    "max_output_tokens": Honoured(7, lambda request: request.max_tokens, 7),
    "max_tool_calls": Ignored(3),
    "moderation": Ignored({"model": "omni"}),
    "parallel_tool_calls": Honoured(False, lambda request: request.tool_choice.parallel, False),
    "previous_response_id": Output("resp_1", "test_protocol_openai_responses"),
    "prompt": Refused({"id": "p"}),
    "reasoning": Honoured({"effort": "low"}, lambda request: request.reasoning.effort, "low"),
    "store": Output(False, "test_protocol_openai_responses"),
    "stream_options": Ignored({"include_obfuscation": False}),
    "text": Honoured(
        {"format": {"type": "json_object"}, "verbosity": "low"},
        lambda request: request.output_format.type,
        "json_object",
    ),
    "tool_choice": Honoured("none", lambda request: request.tool_choice, NONE),
    "tools": Honoured([_FLAT], lambda request: [tool.name for tool in request.tools], ["weather"]),
    "top_logprobs": Honoured(3, lambda request: request.logprobs, 3),
    "truncation": Ignored("auto"),
}
