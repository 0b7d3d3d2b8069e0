"""Events → LM Studio's server-sent events (developer docs, "Streaming events").

`chat.start` comes first and `chat.end` last, also after an error: its `result` holds what there is.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from lmnb.chat.events import Event, Finished, Loading, Prompt, TextDelta, ThinkingDelta
from lmnb.errors import LmnbError
from lmnb.server import sse
from lmnb.server.errors import lmstudio_body
from lmnb.server.generation import Answer
from lmnb.server.lmstudio.keeping import Keeper
from lmnb.server.lmstudio.result import chat_result, outputs
from lmnb.server.lmstudio.schema import ChatResult, Stats

_encode = sse.encoder.encode
_PREFIXES = {
    kind: b'{"type":"%b.delta","content":' % kind.encode() for kind in ("message", "reasoning")
}


class ChatStream:
    """Turns the events of one answer into frames. `instance` is the id of the one that answers."""

    def __init__(self, instance: str, keeper: Keeper) -> None:
        self._instance = instance
        self._keeper = keeper
        self._loading = False
        self._prompt: Prompt | None = None
        self._phase = ""  # of prompt_processing, reasoning, message the one that is open
        self._began = time.monotonic()
        self._first: float | None = None
        self._thinking: list[str] = []
        self._text: list[str] = []
        self._load_seconds: float | None = None

    async def frames(self, events: AsyncGenerator[Event, None]) -> sse.Frames:
        """All frames of the answer, which is stored before its end is told."""
        yield self._frame("chat.start", model_instance_id=self._instance)
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Finished):
                    yield await self._finish(event)
                elif data := self.feed(event):
                    yield data

    def feed(self, event: Event) -> bytes:
        """The frames that say `event`, which is not the last."""
        if isinstance(event, TextDelta):
            self._text.append(event.text)
            return self._delta("message", event.text)
        if isinstance(event, ThinkingDelta):
            self._thinking.append(event.text)
            return self._delta("reasoning", event.text)
        if isinstance(event, Prompt):
            return self._reading(event)
        if isinstance(event, Loading):
            return self._load(event)
        return b""

    def error(self, error: LmnbError) -> bytes:
        """The frames that end the stream because of `error`, with what was generated until then.

        The counts are those of the events: what the engine would have counted was never told.
        """
        found = self._first is not None
        stats = Stats(
            input_tokens=self._prompt.total if self._prompt else 0,
            total_output_tokens=len(self._thinking) + len(self._text),
            reasoning_output_tokens=len(self._thinking),
            tokens_per_second=0.0,
            time_to_first_token_seconds=(self._first or 0.0) - self._began if found else 0.0,
            model_load_time_seconds=self._load_seconds,
        )
        result = ChatResult(
            model_instance_id=self._instance,
            output=outputs("".join(self._thinking), "".join(self._text)),
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
        if self._first is None:
            self._first = time.monotonic()
        if not text:
            return b""
        before = self._open(kind) if self._phase != kind else b""
        return before + sse.frame(_PREFIXES[kind] + _encode(text) + b"}", f"{kind}.delta")

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
        answer = Answer("".join(self._text), "".join(self._thinking), (), (), end)
        result = chat_result(answer, await self._keeper.keep(answer))
        return before + self._frame("chat.end", result=result)

    def _frame(self, kind: str, **fields: Any) -> bytes:
        return sse.frame({"type": kind, **fields}, kind)
