"""A whole answer in LM Studio's form."""

from __future__ import annotations

from collections.abc import Iterable

from lmnb.chat.events import Event, Finished, TextDelta, ThinkingDelta
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
from lmnb.server.mcp.toolset import Called, Offered


class Outputs:
    """Collects the output items of an answer in their order; none for what is empty."""

    def __init__(self) -> None:
        self._items: list[Output | tuple[type[MessageOutput | ReasoningOutput], list[str]]] = []

    def feed(self, event: Event | Called) -> None:
        """Add what `event` says."""
        if isinstance(event, TextDelta):
            self._add(MessageOutput, event.text)
        elif isinstance(event, ThinkingDelta):
            self._add(ReasoningOutput, event.text)
        elif isinstance(event, Called):
            self._items.append(called_output(event))

    @property
    def items(self) -> tuple[Output, ...]:
        """Those so far."""
        return tuple(
            item[0]("".join(item[1])) if isinstance(item, tuple) else item for item in self._items
        )

    def _add(self, kind: type[MessageOutput | ReasoningOutput], text: str) -> None:
        if not text:
            return
        last = self._items[-1] if self._items else None
        if isinstance(last, tuple) and last[0] is kind:
            last[1].append(text)
        else:
            self._items.append((kind, [text]))


def chat_result(
    finished: Finished, output: Iterable[Output], response_id: str | None
) -> ChatResult:
    """The body of a plain answer, and the `result` of `chat.end`."""
    return ChatResult(
        model_instance_id=finished.instance,
        output=tuple(output),
        stats=stats(finished),
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
