"""Events → LM Studio's server-sent events (developer docs, "Streaming events").

`chat.start` comes first and `chat.end` last, also after an error: its `result` holds what there is.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from lmnb.chat.conversation import ToolCall
from lmnb.chat.events import (
    Finished,
    Loading,
    Prompt,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
)
from lmnb.errors import LmnbError
from lmnb.server import sse
from lmnb.server.errors import lmstudio_body
from lmnb.server.lmstudio.keeping import Keeper
from lmnb.server.lmstudio.result import Outputs, called_output, chat_result, provider_info
from lmnb.server.lmstudio.schema import ChatResult, Stats, ToolCallOutput
from lmnb.server.mcp.loop import ToolLoop
from lmnb.server.mcp.steps import Called, Step
from lmnb.server.mcp.toolset import arguments_of

_encode = sse.encoder.encode
_PREFIXES = {
    kind: b'{"type":"%b.delta","content":' % kind.encode() for kind in ("message", "reasoning")
}


class ChatStream:
    """Turns the events of one answer into frames. `instance` is the id of the one that answers."""

    def __init__(self, instance: str, keeper: Keeper, loop: ToolLoop) -> None:
        self._instance = instance
        self._keeper = keeper
        self._loop = loop
        self._outputs = Outputs()
        self._call: tuple[ToolCallStart, list[str]] | None = None
        self._loading = False
        self._prompt: Prompt | None = None
        self._phase = ""  # of prompt_processing, reasoning, message the one that is open
        self._began = time.monotonic()
        self._first: float | None = None
        self._pieces = {"message": 0, "reasoning": 0}
        self._load_seconds: float | None = None

    async def frames(self, events: AsyncGenerator[Step, None]) -> sse.Frames:
        """All frames of the answer, which is stored before its end is told."""
        yield self._frame("chat.start", model_instance_id=self._instance)
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Finished):
                    yield await self._finish(event)
                elif data := self.feed(event):
                    yield data

    def feed(self, event: Step) -> bytes:
        """The frames that say `event`, which is not the last."""
        self._outputs.feed(event)
        if isinstance(event, TextDelta):
            return self._delta("message", event.text)
        if isinstance(event, ThinkingDelta):
            return self._delta("reasoning", event.text)
        if isinstance(event, Prompt):
            return self._reading(event)
        if isinstance(event, Loading):
            return self._load(event)
        if isinstance(event, Called):
            return self._called(event)
        return self._calling(event)

    def error(self, error: LmnbError) -> bytes:
        """The frames that end the stream because of `error`, with what was generated until then.

        The counts are those of the events: what the engine would have counted was never told.
        """
        found = self._first is not None
        stats = Stats(
            input_tokens=self._prompt.total if self._prompt else 0,
            total_output_tokens=sum(self._pieces.values()),
            reasoning_output_tokens=self._pieces["reasoning"],
            tokens_per_second=0.0,
            time_to_first_token_seconds=(self._first or 0.0) - self._began if found else 0.0,
            model_load_time_seconds=self._load_seconds,
        )
        result = ChatResult(
            model_instance_id=self._instance,
            output=self._outputs.items,
            stats=stats,
        )
        return (
            self._close()
            + self._frame("error", **lmstudio_body(error))
            + self._frame("chat.end", result=result)
        )

    # --- inside ------------------------------------------------------------------

    def _load(self, event: Loading) -> bytes:
        if event.seconds is None:
            return self._start_load() + self._frame(
                "model_load.progress", model_instance_id=self._instance, progress=event.progress
            )
        before = self._start_load()
        self._loading = False
        self._instance = event.model
        self._load_seconds = event.seconds
        return before + self._frame(
            "model_load.end", model_instance_id=event.model, load_time_seconds=event.seconds
        )

    def _start_load(self) -> bytes:
        if self._loading:
            return b""
        self._loading = True
        # A prompt is being read only if the model crashed and is loaded once more.
        return self._close() + self._frame("model_load.start", model_instance_id=self._instance)

    def _reading(self, event: Prompt) -> bytes:
        self._prompt = event
        progress = event.done / event.total if event.total else 1.0
        data = self._open("prompt_processing")
        data += self._frame("prompt_processing.progress", progress=progress)
        return data + self._close() if event.done >= event.total else data

    def _delta(self, kind: str, text: str) -> bytes:
        self._pieces[kind] += 1
        self._arrived()
        if not text:
            return b""
        before = self._open(kind) if self._phase != kind else b""
        return before + sse.frame(_PREFIXES[kind] + _encode(text) + b"}", f"{kind}.delta")

    def _arrived(self) -> None:
        if self._first is None:
            self._first = time.monotonic()

    def _calling(self, event: Step) -> bytes:
        """A call as it is written; its arguments are told at once, when they are whole."""
        if isinstance(event, ToolCallStart):
            self._arrived()
            self._call = (event, [])
            return self._close() + self._tool("start", event.name)
        if self._call is not None:
            start, pieces = self._call
            if isinstance(event, ToolCallDelta):
                pieces.append(event.json)
            elif isinstance(event, ToolCallEnd):
                self._call = None
                arguments = arguments_of(ToolCall(start.id, start.name, "".join(pieces)))
                return self._tool("arguments", start.name, arguments=arguments or {})
        return b""

    def _called(self, called: Called) -> bytes:
        found = called_output(called)
        if isinstance(found, ToolCallOutput):
            return self._tool("success", found.tool, arguments=found.arguments, output=found.output)
        return self._frame("tool_call.failure", reason=found.reason, metadata=found.metadata)

    def _tool(self, what: str, name: str, **fields: Any) -> bytes:
        offered = self._loop.find(name)
        if offered is None:  # The failure that follows says so.
            return b""
        info = provider_info(offered)
        return self._frame(f"tool_call.{what}", tool=name, **fields, provider_info=info)

    def _open(self, phase: str) -> bytes:
        if self._phase == phase:
            return b""
        before = self._close()
        self._phase = phase
        return before + self._frame(f"{phase}.start")

    def _close(self) -> bytes:
        phase, self._phase = self._phase, ""
        return self._frame(f"{phase}.end") if phase else b""

    async def _finish(self, end: Finished) -> bytes:
        before = self._close()
        identifier = await self._keeper.keep(self._loop.messages)
        result = chat_result(end, self._outputs.items, identifier, last_input=self._loop.last_input)
        return before + self._frame("chat.end", result=result)

    def _frame(self, kind: str, **fields: Any) -> bytes:
        return sse.frame({"type": kind, **fields}, kind)
