"""A request in the words of an endpoint: the body of Chat Completions or Completions.

What is OpenAI's is said as OpenAI has it, what is not by the names that lmnb, llama.cpp's server and
vLLM share. What the endpoint's server has no word for is refused rather than left out.
"""

from __future__ import annotations

from typing import Any

import msgspec

from lmnb.chat.conversation import OutputFormat, Request, SamplingOptions
from lmnb.chat.tool_names import Adapted, adapt
from lmnb.errors import InvalidRequest, NotSupported
from lmnb.models.remote.endpoint import Flavour
from lmnb.server.notes import note
from lmnb.server.remote import messages

Json = dict[str, Any]


def tools_of(request: Request) -> Adapted:
    """The tools under names that every server takes; none that must not be called."""
    return adapt(() if request.tool_choice.mode == "none" else request.tools)


def chat_body(request: Request, model: str, flavour: Flavour, tools: Adapted) -> Json:
    """The body of POST /chat/completions that asks `model` for what `request` wants.

    Raises
    ------
    NotSupported
        The endpoint has no word for something.
    """
    body = _common(request, model, flavour)
    body["messages"] = messages.write(request.messages, tools)
    body |= _tools(request, tools) | _thinking(request, flavour)
    if request.logprobs is not None:
        body["logprobs"] = True
        if request.logprobs:
            body["top_logprobs"] = request.logprobs
    if flavour in {"lmnb", "llama.cpp"}:
        body["return_progress"] = True
    if request.continue_final and flavour == "vllm":
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body


def text_body(request: Request, model: str, flavour: Flavour) -> Json:
    """The body of POST /completions, for a raw prompt.

    Raises
    ------
    NotSupported
        The endpoint has no word for something.
    """
    body = _common(request, model, flavour)
    prompt = request.prompt
    body["prompt"] = list(prompt) if isinstance(prompt, tuple) else prompt
    if flavour in {"vllm", "other"}:
        body.setdefault("max_tokens", None)  # Left out it would be OpenAI's default, 16.
    if request.score_prompt:
        if flavour != "lmnb":
            raise _cannot("'echo' with 'logprobs', or a prompt of token ids,", flavour, "echo")
        body |= {"echo": True, "logprobs": 0}
    if request.suffix is not None:
        body["suffix"] = request.suffix
    if request.logprobs is not None:
        body["logprobs"] = request.logprobs
    return body


_SWITCHES = ("chat_template_kwargs", "thinking_budget_tokens", "reasoning_effort")


def without_switches(body: Json, error: InvalidRequest) -> Json | None:
    """The body without what tells how much to think, if that is what the endpoint stumbles over.

    Agents say it with every request, and some servers refuse what they do not know. None: it is
    something else.
    """
    given = [name for name in _SWITCHES if name in body]
    if not any(name in error.message or name == error.param for name in given):
        return None
    note(f"How much to think was left out: the endpoint does not know {', '.join(given)}.")
    return {name: value for name, value in body.items() if name not in _SWITCHES}


def _common(request: Request, model: str, flavour: Flavour) -> Json:
    _refuse(request, flavour)
    body: Json = {
        "model": model,
        "stream": True,
        "stream_options": {"include_usage": True},
        **_sampling(request.sampling, flavour),
        **_format(request.output_format, flavour),
    }
    if request.max_tokens is not None:
        body["max_tokens"] = request.max_tokens
    if request.stop:
        body["stop"] = list(request.stop)
    if flavour == "lmnb":
        own = {
            "prompt_cache_key": request.cache_key,
            "ttl": request.ttl,
            "draft_model": request.draft,
        }
        body |= {name: value for name, value in own.items() if value is not None}
    if request.adapters is not None:
        body["lora"] = [
            {"name" if isinstance(key, str) else "id": key, "scale": scale}
            for key, scale in request.adapters
        ]
    return body


def _refuse(request: Request, flavour: Flavour) -> None:
    if request.load:
        raise NotSupported(
            f"'{next(iter(request.load))}' cannot be given for a remote model: its endpoint loads it.",
            param=next(iter(request.load)),
        )
    if request.adapters and flavour not in {"lmnb", "llama.cpp"}:
        raise _cannot("'lora'", flavour, "lora")
    if request.ttl is not None and flavour != "lmnb":
        raise _cannot("'ttl'", flavour, "ttl")
    if request.draft is not None and flavour != "lmnb":
        raise _cannot("'draft_model'", flavour, "draft_model")


def _cannot(what: str, flavour: Flavour, param: str | None) -> NotSupported:
    whose = "this server" if flavour == "other" else flavour
    return NotSupported(
        f"{what} is not possible with a model of a remote endpoint ({whose}).",
        hint="Leave it out, or use a model of this machine.",
        param=param,
    )


def _sampling(options: SamplingOptions, flavour: Flavour) -> Json:
    given = {
        name: value for name, value in msgspec.structs.asdict(options).items() if value is not None
    }
    if "logit_bias" in given:
        given["logit_bias"] = {str(token): bias for token, bias in given["logit_bias"].items()}
    if flavour == "vllm" and "repeat_penalty" in given:
        given["repetition_penalty"] = given.pop("repeat_penalty")
    return given


def _format(form: OutputFormat, flavour: Flavour) -> Json:
    if form.type == "text":
        return {}
    if form.type == "json_object":
        return {"response_format": {"type": "json_object"}}
    if form.type == "json_schema":
        named = {"name": form.name or "answer", "schema": form.schema, "strict": form.strict}
        return {"response_format": {"type": "json_schema", "json_schema": named}}
    if flavour == "lmnb":
        grammar = {"type": "grammar", "syntax": form.type, "definition": form.definition}
        return {"response_format": grammar}
    if flavour == "vllm" and form.type == "regex":
        return {"structured_outputs": {"regex": form.definition}}
    what = "A Lark grammar" if form.type == "lark" else "A regular expression"
    raise _cannot(what, flavour, form.param)


def _tools(request: Request, tools: Adapted) -> Json:
    if not tools.tools:
        return {}
    choice = request.tool_choice
    wanted: Any = choice.mode
    if choice.mode == "named":
        wanted = {"type": "function", "function": {"name": tools.name(choice.name or "")}}
    given = []
    for tool in tools.tools:
        function: Json = {"name": tool.name, "parameters": tool.parameters}
        if tool.description:
            function["description"] = tool.description
        if tool.strict:
            function["strict"] = True
        if tool.input_format is not None:
            note(
                f"The grammar of the tool '{tool.name}' is told to the remote model, not enforced."
            )
        given.append({"type": "function", "function": function})
    body: Json = {"tools": given, "tool_choice": wanted}
    if not choice.parallel:
        body["parallel_tool_calls"] = False
    return body


def _thinking(request: Request, flavour: Flavour) -> Json:
    """How much to think: effort as OpenAI has it, the switch as vLLM, SGLang and llama.cpp do."""
    body: Json = {}
    reasoning, arguments = request.reasoning, dict(request.template_kwargs)
    if reasoning.effort is not None:
        body["reasoning_effort"] = reasoning.effort
    if reasoning.enabled is not None:
        arguments.setdefault("enable_thinking", reasoning.enabled)
    if reasoning.budget is not None and reasoning.budget >= 0:
        name = "thinking_token_budget" if flavour == "vllm" else "thinking_budget_tokens"
        body[name] = reasoning.budget
    if arguments:
        body["chat_template_kwargs"] = arguments
    return body
