"""Events → Anthropic's server-sent events.

Order: `message_start`, then blocks one after the other, each start, deltas, stop; then
`message_delta` with the stop reason and the final counts, and `message_stop`. Clients keep what a
block's start holds as the base that its deltas are added to, so text, thinking and input must be
there, and empty. Every event needs its `event:` line: SDKs skip those without.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from lmnb.chat.events import (
    Event,
    Finished,
    Prompt,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
)
from lmnb.chat.events import Usage as Counts
from lmnb.errors import LmnbError
from lmnb.server import sse
from lmnb.server.anthropic import answer
from lmnb.server.anthropic.answer import PLAIN, Form
from lmnb.server.anthropic.schema import ContextManagement, Message, Usage
from lmnb.server.errors import anthropic_body
from lmnb.server.sealing import seal

_PING = sse.frame({"type": "ping"}, "ping")
_HEARTBEAT_SECONDS = 60.0
_encode = sse.encoder.encode


class MessageStream:
    """Turns the events of one answer into frames. `model` is the name to be reported."""

    def __init__(self, model: str, request_id: str, form: Form = PLAIN) -> None:
        self._model = model
        self._request_id = request_id
        self._form = form
        self._hidden: list[str] | None = [] if form.hides_thinking else None
        self._started = False
        self._counts: Usage | None = None
        self._index = -1
        self._open: str | None = None
        self._delta = b""  # the frame of a delta of the open block, up to its text
        self._has_input = False

    async def frames(self, events: AsyncGenerator[Event, None]) -> sse.Frames:
        """All frames of the answer. `events` is closed at the end."""
        async with aclosing(events):
            async for event in events:
                if data := self.feed(event):
                    yield data

    def feed(self, event: Event) -> bytes:
        """The frames that say `event`; none if there is nothing to be said."""
        if isinstance(event, TextDelta):
            if not event.text:
                return b""
            return self._block("text") + self._add(event.text)
        if isinstance(event, ThinkingDelta):
            return self._think(event.text)
        if isinstance(event, Prompt):
            self._counts = answer.usage(Counts(event.total, event.cached, 0))
            return self._start()
        if isinstance(event, ToolCallStart):
            id_ = answer.tool_use_id(event.id)
            return self._block("tool_use", id=id_, name=event.name, input={})
        if isinstance(event, ToolCallDelta):
            self._has_input = True
            return self._add(event.json)
        if isinstance(event, ToolCallEnd):
            return self._close()
        if isinstance(event, Finished):
            return self._finish(event)
        return b""  # Loading: Anthropic has no word for it

    def keep_alive(self, silent: float) -> bytes:
        """What to send into `silent` seconds of silence.

        Claude Code gives up after 300 s without an event other than `ping`, so that from a minute
        on an empty `message_delta` goes with it: Anthropic allows several, and clients overwrite.
        """
        if silent < _HEARTBEAT_SECONDS:
            return _PING
        empty = {
            "type": "message_delta",
            "delta": {"stop_reason": None, "stop_sequence": None},
            "usage": {"output_tokens": 0},
        }
        return _PING + self._start() + sse.frame(empty, "message_delta")

    def error(self, error: LmnbError) -> bytes:
        """The frame that ends the stream because of `error`."""
        return sse.frame(anthropic_body(error, self._request_id), "error")

    # --- inside ------------------------------------------------------------------

    def _start(self) -> bytes:
        if self._started:
            return b""
        self._started = True
        usage = self._counts or Usage(input_tokens=0, output_tokens=0, cache_read_input_tokens=0)
        message = Message(id=answer.message_id(), model=self._model, usage=usage)
        return sse.frame({"type": "message_start", "message": message}, "message_start")

    def _block(self, kind: str, **fields: Any) -> bytes:
        """Open a block of that kind, unless it is open: calls are always blocks of their own."""
        if self._open == kind and kind != "tool_use":
            return b""
        before = self._start() + self._close()
        self._index += 1
        self._open = kind
        self._has_input = False
        name, delta = _DELTAS[kind]
        self._delta = b'{"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":' % (
            self._index,
            delta.encode(),
            name.encode(),
        )
        base = {"thinking": {"thinking": "", "signature": ""}, "text": {"text": ""}}.get(kind, {})
        block = {"type": kind, **base, **fields}
        start = {"type": "content_block_start", "index": self._index, "content_block": block}
        return before + sse.frame(start, "content_block_start")

    def _think(self, text: str) -> bytes:
        before = self._block("thinking")
        if self._hidden is None:
            return before + self._add(text)
        self._hidden.append(text)
        return before

    def _sign(self) -> bytes:
        signature = answer.signature()
        if self._hidden is not None:
            signature = seal("".join(self._hidden))
            self._hidden = []
        delta = {"type": "signature_delta", "signature": signature}
        data = {"type": "content_block_delta", "index": self._index, "delta": delta}
        return sse.frame(data, "content_block_delta")

    def _add(self, text: str) -> bytes:
        return sse.frame(self._delta + _encode(text) + b"}}", "content_block_delta")

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        before = b""
        if self._open == "tool_use" and not self._has_input:
            before = self._add("")
        elif self._open == "thinking":
            before = self._sign()
        self._open = None
        stop = {"type": "content_block_stop", "index": self._index}
        return before + sse.frame(stop, "content_block_stop")

    def _finish(self, end: Finished) -> bytes:
        usage = answer.usage(end.usage)
        delta: dict[str, Any] = {
            "type": "message_delta",
            "delta": {
                "stop_reason": answer.stop_reason(end),
                "stop_sequence": answer.stop_sequence(end),
                "stop_details": None,
            },
            "usage": {
                "input_tokens": usage.input_tokens,
                "cache_creation_input_tokens": usage.cache_creation_input_tokens,
                "cache_read_input_tokens": usage.cache_read_input_tokens,
                "output_tokens": usage.output_tokens,
                "output_tokens_details": usage.output_tokens_details,
            },
        }
        if self._form.manages_context:
            delta["context_management"] = ContextManagement()
        return (
            self._start()
            + self._close()
            + sse.frame(delta, "message_delta")
            + sse.frame({"type": "message_stop"}, "message_stop")
        )


_DELTAS = {
    "text": ("text", "text_delta"),
    "thinking": ("thinking", "thinking_delta"),
    "tool_use": ("partial_json", "input_json_delta"),
}
"""Of each kind of block: the field and the type of its deltas."""
