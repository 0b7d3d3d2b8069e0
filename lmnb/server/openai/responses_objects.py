"""The response object and its items, as Responses sends them (protocols, 1.3)."""

from __future__ import annotations

import time
from typing import Any, Literal, TypeAlias

import msgspec

from lmnb.chat.conversation import OutputFormat
from lmnb.chat.events import Finished
from lmnb.server.openai import ids
from lmnb.server.openai.responses_mcp_tools import without_secrets
from lmnb.server.openai.responses_request import ResponsesBody
from lmnb.server.openai.wire import Logprob
from lmnb.server.sealing import seal

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
SUMMARIES = ("auto", "concise", "detailed")
ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]
McpStatus: TypeAlias = Literal["in_progress", "calling", "completed", "incomplete", "failed"]
Status: TypeAlias = Literal[
    "queued", "in_progress", "completed", "incomplete", "failed", "cancelled"
]


class OutputText(msgspec.Struct, frozen=True):
    """The content of a message."""

    text: str
    annotations: tuple[()] = ()
    logprobs: list[Logprob] = []
    type: str = "output_text"


class MessageItem(msgspec.Struct, frozen=True):
    """What the model says."""

    id: str
    status: ItemStatus
    content: tuple[OutputText, ...] = ()
    role: str = "assistant"
    type: str = "message"


class ReasoningText(msgspec.Struct, frozen=True):
    """The content of a reasoning item."""

    text: str
    type: str = "reasoning_text"


class SummaryText(msgspec.Struct, frozen=True):
    """The summary of a reasoning item: all of what was thought, where clients read that only."""

    text: str
    type: str = "summary_text"


class ReasoningItem(msgspec.Struct, frozen=True):
    """What the model thought: in `content`, or, if a summary was asked for, in `summary`."""

    id: str
    status: ItemStatus
    content: tuple[ReasoningText, ...] = ()
    summary: tuple[SummaryText, ...] = ()
    encrypted_content: str | None = None
    type: str = "reasoning"


class FunctionCallItem(msgspec.Struct, frozen=True):
    """A call of a function; `arguments` is JSON text."""

    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str = ""
    namespace: str | msgspec.UnsetType = msgspec.UNSET
    type: str = "function_call"


class CustomCallItem(msgspec.Struct, frozen=True):
    """A call of a custom tool; `input` is plain text."""

    id: str
    status: ItemStatus
    call_id: str
    name: str
    input: str = ""
    namespace: str | msgspec.UnsetType = msgspec.UNSET
    type: str = "custom_tool_call"


class McpListedTool(msgspec.Struct, frozen=True):
    """A tool as its server describes it."""

    name: str
    input_schema: dict[str, Any]
    description: str | None
    annotations: dict[str, Any] | None


class McpListItem(msgspec.Struct, frozen=True):
    """The tools of an MCP server, or why there are none."""

    id: str
    server_label: str
    tools: tuple[McpListedTool, ...] = ()
    error: str | None = None
    type: str = "mcp_list_tools"


class McpCallItem(msgspec.Struct, frozen=True):
    """A call of a tool of an MCP server: `arguments` is JSON text, `output` what the tool said.

    `server_label` is empty if no server has a tool that is called like this.
    """

    id: str
    status: McpStatus
    server_label: str
    name: str
    arguments: str = ""
    output: str | None = None
    error: dict[str, Any] | None = None
    approval_request_id: str | None = None
    type: str = "mcp_call"


class McpApprovalItem(msgspec.Struct, frozen=True):
    """A call that is made if an `mcp_approval_response` in the next request approves it."""

    id: str
    server_label: str
    name: str
    arguments: str
    type: str = "mcp_approval_request"


CallItem: TypeAlias = FunctionCallItem | CustomCallItem
SaidItem: TypeAlias = MessageItem | ReasoningItem | CallItem
McpItem: TypeAlias = McpListItem | McpCallItem | McpApprovalItem
Item: TypeAlias = SaidItem | McpItem


class InputDetails(msgspec.Struct, frozen=True):
    """Prompt tokens found in the prefix cache, and those added to it."""

    cached_tokens: int
    cache_write_tokens: int


class OutputDetails(msgspec.Struct, frozen=True):
    """Tokens of the thinking."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct, frozen=True):
    """Token counts; the input includes what was cached."""

    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseError(msgspec.Struct, frozen=True):
    """Why a response failed."""

    code: str
    message: str


class ResponseObject(msgspec.Struct, frozen=True, kw_only=True):
    """The response. Every field is always present: clients' parsers insist."""

    id: str
    object: str = "response"
    created_at: float
    completed_at: float | None = None
    status: Status = "in_progress"
    background: bool
    conversation: dict[str, str] | None
    error: ResponseError | None = None
    incomplete_details: dict[str, str] | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    model: str
    output: tuple[Item, ...] = ()
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: dict[str, str | None]
    safety_identifier: str | None
    service_tier: str = "default"
    store: bool
    temperature: float | None
    text: dict[str, Any]
    tool_choice: Any
    tools: list[Any]
    top_logprobs: int
    top_p: float | None
    truncation: str = "disabled"
    usage: ResponseUsage | None = None
    user: str | None
    metadata: dict[str, str]


def in_progress(body: ResponsesBody) -> ResponseObject:
    """A response that begins: the request's own fields, and nothing yet said."""
    effort = body.reasoning.effort
    return ResponseObject(
        id=ids.response(),
        created_at=int(time.time()),
        status="queued" if body.background else "in_progress",
        background=body.background,
        conversation={"id": body.conversation} if body.conversation else None,
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        model=body.model,
        parallel_tool_calls=body.parallel_tool_calls,
        previous_response_id=body.previous_response_id,
        prompt_cache_key=body.prompt_cache_key,
        reasoning={"effort": effort if effort in EFFORTS else None, "summary": summary(body)},
        safety_identifier=body.safety_identifier,
        store=body.store,
        temperature=body.temperature,
        text={"format": format_object(body.output_format())},
        tool_choice=body.tool_choice or "auto",
        tools=[without_secrets(tool) for tool in body.tools or ()],
        top_logprobs=body.top_logprobs or 0,
        top_p=body.top_p,
        user=body.user,
        metadata=body.metadata,
    )


def summary(body: ResponsesBody) -> str | None:
    """The kind of summary that is asked for; there is only one kind here."""
    wanted = body.reasoning.summary or body.reasoning.generate_summary
    return wanted if wanted in SUMMARIES else None


def format_object(form: OutputFormat) -> dict[str, Any]:
    """The answer's form as the response repeats it: flat, whichever way it was given."""
    if form.type == "json_schema":
        name, strict = form.name or "schema", form.strict
        return {"type": form.type, "name": name, "schema": form.schema, "strict": strict}
    if form.definition:
        return {"type": "grammar", "syntax": form.type, "definition": form.definition}
    return {"type": form.type}


def usage(end: Finished, *, output: bool = True) -> ResponseUsage:
    """The engine's counts. All of the prompt that was not cached is cached now.

    Without `output`, what came after the prompt was thrown away and does not count.
    """
    used = end.usage
    return ResponseUsage(
        input_tokens=used.input,
        input_tokens_details=InputDetails(used.cached, used.input - used.cached),
        output_tokens=used.output if output else 0,
        output_tokens_details=OutputDetails(used.reasoning if output else 0),
        total_tokens=used.total if output else used.input,
    )


def with_sealed_reasoning(body: dict[str, Any]) -> dict[str, Any]:
    """A stored response whose thoughts are given in the form, too, that is sent back unread."""
    return {**body, "output": [_sealed(item) for item in body["output"]]}


def _sealed(item: dict[str, Any]) -> dict[str, Any]:
    if item["type"] != "reasoning":
        return item
    thought = "".join(part["text"] for part in item["content"] or item["summary"])
    return {**item, "encrypted_content": seal(thought)}
