"""A whole answer in LM Studio's form."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from lmnb.chat.conversation import Part, Text, Thinking, ToolCall
from lmnb.chat.events import Finished
from lmnb.chat.said import Said
from lmnb.server.lmstudio.schema import (
    ChatResult,
    EphemeralInfo,
    FailureMetadata,
    InvalidToolCallOutput,
    MessageOutput,
    Output,
    PluginInfo,
    ProviderInfo,
    ReasoningOutput,
    Stats,
    ToolCallOutput,
)
from lmnb.server.mcp.servers import PLUGIN
from lmnb.server.mcp.steps import Approved, Asked, Called, Listed, Listing, Offered, Step


class Outputs:
    """Collects the output items of an answer in their order; none for what is empty."""

    def __init__(self) -> None:
        self._said = Said()
        self._called: dict[str, Called] = {}

    def feed(self, step: Step) -> None:
        """Add what `step` says."""
        if isinstance(step, Called):
            self._called[step.call.id] = step
        elif not isinstance(step, Listing | Listed | Approved | Asked):
            self._said.feed(step)

    @property
    def items(self) -> tuple[Output, ...]:
        """Those so far."""
        return tuple(item for part in self._said.parts if (item := self._item(part)) is not None)

    def _item(self, part: Part) -> Output | None:
        if isinstance(part, Text):
            return MessageOutput(part.text)
        if isinstance(part, Thinking):
            return ReasoningOutput(part.text)
        assert isinstance(part, ToolCall)
        called = self._called.get(part.id)
        return None if called is None else called_output(called)


def chat_result(
    finished: Finished, output: Iterable[Output], response_id: str | None, *, last_input: int
) -> ChatResult:
    """The body of a plain answer, and the `result` of `chat.end`.

    `last_input` are the tokens of the last prompt: LM Studio's count is not of what was read for an
    answer, but of what the chat has come to.
    """
    return ChatResult(
        model_instance_id=finished.instance,
        output=tuple(output),
        stats=msgspec.structs.replace(stats(finished), input_tokens=last_input),
        response_id=response_id,
    )


def called_output(called: Called) -> ToolCallOutput | InvalidToolCallOutput:
    """A call and what came of it."""
    info = None if called.offered is None else provider_info(called.offered)
    if called.failure is None:
        assert info is not None
        return ToolCallOutput(called.call.name, called.arguments or {}, called.output, info)
    metadata = FailureMetadata(called.failure, called.call.name, called.arguments, info)
    return InvalidToolCallOutput(called.reason, metadata)


def provider_info(offered: Offered) -> ProviderInfo:
    """Whose tool it is."""
    server = offered.server
    if server.is_configured:
        return PluginInfo(f"{PLUGIN}{server.label}")
    return EphemeralInfo(server.label)


def stats(end: Finished) -> Stats:
    """Counts and speed."""
    return Stats(
        input_tokens=end.usage.input,
        total_output_tokens=end.usage.output,
        reasoning_output_tokens=end.usage.reasoning,
        tokens_per_second=end.timings.tokens_per_second(end.usage.output),
        time_to_first_token_seconds=end.timings.first_token,
        model_load_time_seconds=end.timings.load,
        total_draft_tokens_count=end.usage.drafted,
        accepted_draft_tokens_count=end.usage.accepted,
        rejected_draft_tokens_count=end.usage.rejected,
    )
