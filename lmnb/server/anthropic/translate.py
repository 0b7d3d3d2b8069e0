"""A Messages request as a conversation request."""

from __future__ import annotations

import json
from collections.abc import Set as AbstractSet
from typing import Any

from starlette.datastructures import Headers

from lmnb.chat.conversation import (
    Message,
    OutputFormat,
    Reasoning,
    Request,
    Role,
    SamplingOptions,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from lmnb.errors import InvalidRequest, NotSupported
from lmnb.server.anthropic import blocks, references
from lmnb.server.anthropic.schema import Block, CountBody, MessagesBody
from lmnb.server.errors import InvalidType, ThreadUnsupported
from lmnb.server.notes import note

BILLING_HEADER = "x-anthropic-billing-header:"
"""How a system block begins that only Anthropic's own servers should see.

It differs from conversation to conversation, so in front of everything else it would keep every
prompt from being found in the prefix cache.
"""

_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}
_CHOICES = {"auto": "auto", "any": "required", "tool": "named", "none": "none"}


def translate(body: CountBody, model: str, headers: Headers) -> Request:
    """The request; `model` is what `body.model` was resolved to.

    Raises
    ------
    InvalidRequest
        There is no message, or a value makes no sense. Anthropic's message form: the field first.
    NotSupported
        Only tools were given that Anthropic runs itself, or the conversation is not all there.
    """
    if isinstance(body, MessagesBody) and body.thread is not None:
        raise ThreadUnsupported(
            "thread: this server holds no conversations between requests.",
            hint="Send the whole conversation, without 'thread'. Threads of the SDKs do so with "
            "unsupported_request_behavior='continue_unthreaded'.",
            param="thread",
        )
    messages = conversation(body)
    own = tools(body.tools or [], references.referenced(body.messages))
    common: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "continue_final": _is_prefill(messages[-1]),
        "tools": own,
        "tool_choice": tool_choice(body.tool_choice, own),
        "output_format": output_format(body),
        "reasoning": reasoning(body),
        "cache_key": cache_key(body, headers),
        "ttl": body.ttl,
    }
    if not isinstance(body, MessagesBody):
        return Request(**common)
    names = SamplingOptions.__struct_fields__
    extra = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return Request(
        **common,
        max_tokens=token_limit(body.max_tokens),
        stop=tuple(stop for stop in (*(body.stop_sequences or ()), *extra) if stop),
        sampling=SamplingOptions(**{name: getattr(body, name, None) for name in names}),
    )


def token_limit(given: int | None) -> int | None:
    """Tokens to generate; none given, or -1 as LM Studio has it: until the context is full.

    0 only reads the prompt into the cache
    (https://platform.claude.com/docs/en/build-with-claude/prompt-caching#pre-warming-the-cache).
    """
    return None if given is None or given < 0 else given


# --- messages -------------------------------------------------------------------


def conversation(body: CountBody) -> tuple[Message, ...]:
    """The system prompt and the messages; system messages in between stay where they stand.

    Tool results come before the words of the same message, as they do in time.
    """
    messages: list[Message] = []
    if words := system_text(body.system):
        messages.append(Message("system", (Text(words),)))
    for i, message in enumerate(body.messages):
        role = _ROLES.get(message.role)
        if role is None:
            raise InvalidRequest(
                f"messages.{i}.role: must be 'user', 'assistant' or 'system', not {message.role!r}.",
                param=f"messages.{i}.role",
            )
        content = references.spelled_out(message.content, body.tools or [])
        parts = blocks.parts(content, f"messages.{i}.content")
        results = tuple(part for part in parts if isinstance(part, ToolResult))
        rest = tuple(part for part in parts if not isinstance(part, ToolResult))
        if results:
            messages.append(Message("tool", results))
        if rest or not (results or (role == "assistant" and i == len(body.messages) - 1)):
            messages.append(Message(role, rest))
    if not any(message.role != "system" for message in messages):
        raise InvalidRequest("messages: at least one message is required.", param="messages")
    return tuple(messages)


def _is_prefill(last: Message) -> bool:
    """An assistant's last words are to be continued; a call is answered, not continued."""
    return last.role == "assistant" and not any(isinstance(part, ToolCall) for part in last.parts)


def system_text(system: str | list[Block] | None) -> str:
    """The system prompt without what is meant for Anthropic's servers alone."""
    if isinstance(system, list):
        shown = [block for block in system if not _is_billing(block.get("text"))]
        return blocks.text_of(shown, "system", gap="\n\n")
    lines = (system or "").splitlines(keepends=True)
    return "".join(line for line in lines if not _is_billing(line))


def _is_billing(text: object) -> bool:
    return isinstance(text, str) and text.lstrip().startswith(BILLING_HEADER)


# --- options --------------------------------------------------------------------


def tools(given: list[Block], referenced: AbstractSet[str] = frozenset()) -> tuple[Tool, ...]:
    """The caller's own tools. Those that Anthropic runs are left out, unless there are no others.

    So are deferred ones, until they have been `referenced`.
    """
    own = [tool for tool in given if not _is_hosted(tool)]
    hosted = sorted({_tool_name(tool) for tool in given if _is_hosted(tool)})
    if own and hosted:
        note(f"Tools that do not run on this server were left out: {', '.join(hosted)}.")
    if given and not own:
        raise NotSupported(
            f"{_tool_name(given[0])} is not supported: no tools run on this server.",
            hint="Tools of your own have a name and an input_schema.",
            param="tools",
        )
    found: list[Tool] = []
    for i, tool in enumerate(own):
        name, schema = tool.get("name"), tool.get("input_schema")
        if not isinstance(name, str):
            raise InvalidType(f"'tools.{i}.name' must be a string.", param=f"tools.{i}.name")
        if schema is not None and not isinstance(schema, dict):
            place = f"tools.{i}.input_schema"
            raise InvalidType(f"'{place}' must be an object.", param=place)
        deferred = bool(tool.get("defer_loading"))
        if deferred and name not in referenced:
            continue
        description = str(tool.get("description") or "")
        found.append(Tool(name, description, schema, bool(tool.get("strict")), deferred))
    return tuple(found)


def _is_hosted(tool: Block) -> bool:
    """Whether only Anthropic knows it: it has a type of its own, and no schema."""
    return tool.get("type") not in (None, "custom") and "input_schema" not in tool


def _tool_name(tool: Block) -> str:
    return str(tool.get("name") or tool["type"])


def tool_choice(given: str | Block | None, own: tuple[Tool, ...]) -> ToolChoice:
    """`auto`, `any`, `tool` or `none`; as an object, or (LM Studio's docs) as a bare string."""
    if given is None:
        return ToolChoice()
    choice: Block = {"type": given} if isinstance(given, str) else given
    mode = _CHOICES.get(str(choice.get("type")))
    if mode is None:
        raise InvalidRequest(
            "tool_choice: type must be 'auto', 'any', 'tool' or 'none'.", param="tool_choice"
        )
    name = choice.get("name")
    if mode == "named" and not isinstance(name, str):
        raise InvalidRequest("tool_choice.name: must name a tool.", param="tool_choice.name")
    if mode == "named" and name not in {tool.name for tool in own}:
        raise InvalidRequest(
            f"tool_choice.name: there is no tool named '{name}'.", param="tool_choice.name"
        )
    if mode == "required" and not own:
        raise InvalidRequest("tool_choice: there are no tools to choose from.", param="tool_choice")
    parallel = not choice.get("disable_parallel_tool_use")
    return ToolChoice(mode, name if mode == "named" else None, parallel)  # type: ignore[arg-type]


def reasoning(body: CountBody) -> Reasoning:
    """`thinking` and `output_config.effort`. `adaptive` leaves the choice to the model."""
    thinking, config = body.thinking or {}, body.output_config or {}
    enabled = {"enabled": True, "disabled": False}.get(str(thinking.get("type")))
    budget, effort = thinking.get("budget_tokens"), config.get("effort")
    return Reasoning(
        enabled=enabled,
        effort=effort if isinstance(effort, str) else None,
        budget=budget if isinstance(budget, int) else None,
    )


def output_format(body: CountBody) -> OutputFormat:
    """`output_config.format`, or where it stood before, `output_format`."""
    given = (body.output_config or {}).get("format")
    param = "output_config.format"
    if given is None:
        given, param = body.output_format, "output_format"
    if given is None:
        return OutputFormat()
    kind = given.get("type") if isinstance(given, dict) else None
    schema = given.get("schema") if isinstance(given, dict) else None
    if kind == "text":
        return OutputFormat()
    if kind != "json_schema" or not isinstance(schema, dict):
        raise InvalidRequest(f"{param}: must be a json_schema with a schema.", param=param)
    return OutputFormat("json_schema", schema, param=f"{param}.schema")


def cache_key(body: CountBody, headers: Headers) -> str | None:
    """The session, by Claude Code's headers (an agent of its own has one too) or metadata."""
    session = headers.get("x-claude-code-session-id")
    if session:
        return f"{session}/{headers.get('x-claude-code-agent-id', '')}"
    user = body.metadata.user_id if body.metadata else None
    if not user:
        return None
    try:
        data = json.loads(user)
    except (ValueError, RecursionError):
        return user
    found = data.get("session_id") if isinstance(data, dict) else None
    return found if isinstance(found, str) else user
