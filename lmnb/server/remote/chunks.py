"""Chunks of an endpoint's stream as events. Nothing in them is taken for granted."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from lmnb.chat.conversation import Request, ToolCall
from lmnb.chat.events import (
    Event,
    Finished,
    FinishReason,
    Prompt,
    Scored,
    TextDelta,
    ThinkingDelta,
    Timings,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
    Usage,
)
from lmnb.chat.tool_names import Adapted
from lmnb.engine.options import TokenLogprob
from lmnb.errors import EndpointFailed
from lmnb.server.remote.scores import of_chat, of_text

_USABLE_ID = re.compile(r"[\x21-\x7e]{1,256}")
_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "stop",
    "function_call": "stop",
    "content_filter": "stop",
}
_LMNB_REASONS: dict[str, FinishReason] = {
    "stopStringFound": "stop_string",
    "contextLengthReached": "context",
}
"""What lmnb and LM Studio say more precisely in `stats.stop_reason`."""


class _OpenCall:
    """A call whose arguments are coming."""

    def __init__(self, index: int, name: str) -> None:
        self.index = index
        self.name = name
        self.arguments: list[str] = []


class Chunks:
    """Reads the chunks of one answer. `endpoint` and `instance` are names for errors and the end."""

    def __init__(self, endpoint: str, instance: str, request: Request, tools: Adapted) -> None:
        self._endpoint = endpoint
        self._instance = instance
        self._request = request
        self._tools = tools
        self._taken = {
            part.id
            for message in request.messages
            for part in message.parts
            if isinstance(part, ToolCall)
        }
        self._call: _OpenCall | None = None
        self._theirs: object = None
        """The endpoint's own number of the open call."""
        self._calls = 0
        self._scored = False
        self._reason: str | None = None
        self._stop: str | None = None
        self._precise: FinishReason | None = None
        self._usage: dict[str, Any] = {}
        self._begun = time.monotonic()
        self._first: float | None = None

    def feed(self, chunk: Any) -> Iterator[Event]:
        """The events that a chunk says.

        Raises
        ------
        EndpointFailed
            It is none.
        """
        if not isinstance(chunk, dict):
            raise self._nonsense("a chunk that is no object")
        if isinstance(usage := chunk.get("usage"), dict):
            self._usage = usage
        if isinstance(stats := chunk.get("stats"), dict):
            self._precise = _LMNB_REASONS.get(str(stats.get("stop_reason")))
        if isinstance(progress := chunk.get("prompt_progress"), dict):
            yield Prompt(*(_count(progress, name) for name in ("processed", "total", "cache")))
        choices = chunk.get("choices")
        if not isinstance(choices, list):
            if choices is None and (self._usage or "prompt_progress" in chunk):
                return
            raise self._nonsense("a chunk without choices")
        for choice in choices:
            if not isinstance(choice, dict):
                raise self._nonsense("a choice that is no object")
            for event in self._choice(choice):
                if self._first is None:
                    self._first = time.monotonic()
                yield event

    def finish(self) -> Iterator[Event]:
        """The end of the answer.

        Raises
        ------
        EndpointFailed
            It has broken off, or a call of it is no call.
        """
        if self._reason is None:
            raise EndpointFailed(
                f"The endpoint {self._endpoint} broke off in the middle of its answer."
            )
        reason = self._precise or _REASONS.get(self._reason, "stop")
        if self._stop is not None:
            reason = "stop_string"
        elif reason == "stop_string" and len(self._request.stop) == 1:
            self._stop = self._request.stop[0]
        is_cut = self._call is not None and reason in {"length", "context"}
        if not is_cut:
            yield from self._end_call()
        if reason == "stop" and self._calls:
            reason = "tool_calls"
        yield Finished(
            reason=reason,
            is_cut=is_cut,
            usage=self._counts(),
            timings=self._timings(),
            stop=self._stop if reason == "stop_string" else None,
            instance=self._instance,
            draft=self._request.draft,
        )

    # --- inside ---------------------------------------------------------------------

    def _choice(self, choice: dict[str, Any]) -> Iterator[Event]:
        if (reason := choice.get("finish_reason")) is not None:
            self._reason = str(reason)
            if isinstance(stop := choice.get("stop_reason"), str) and stop in self._request.stop:
                self._stop = stop  # vLLM's
        logprobs = choice.get("logprobs")
        if self._request.prompt is not None:
            if self._request.score_prompt and not self._scored:
                self._scored = True
                yield Scored(of_text(logprobs))
            else:
                yield from self._said(choice.get("text"), of_text(logprobs))
            return
        # Servers that ignore `stream` answer with a whole message, which is one large delta.
        delta = choice.get("delta") or choice.get("message") or {}
        if not isinstance(delta, dict):
            raise self._nonsense("a delta that is no object")
        thinking = delta.get("reasoning_content") or delta.get("reasoning")
        if isinstance(thinking, str) and thinking:
            yield from self._end_call()
            yield ThinkingDelta(thinking)
        yield from self._said(delta.get("content"), of_chat(logprobs))
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if not isinstance(call, dict):
                raise self._nonsense("a call that is no object")
            yield from self._more_of_call(call)

    def _said(self, text: Any, tokens: tuple[TokenLogprob, ...]) -> Iterator[Event]:
        if not isinstance(text, str) or not (text or tokens):
            if tokens:
                yield TextDelta("", tokens)
            return
        if text:
            yield from self._end_call()
        yield TextDelta(text, tokens)

    def _more_of_call(self, call: dict[str, Any]) -> Iterator[Event]:
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        name = function.get("name")
        theirs = call.get("index", call.get("id"))
        is_new = self._call is None or (theirs is not None and theirs != self._theirs)
        if is_new:
            yield from self._end_call()
            if not isinstance(name, str) or not name:
                raise self._nonsense("arguments of a call that has not begun")
            self._call = _OpenCall(self._calls, self._tools.original(name))
            self._theirs = theirs
            yield ToolCallStart(self._calls, self._id(call.get("id")), self._call.name)
        assert self._call is not None
        arguments = function.get("arguments")
        if isinstance(arguments, dict):  # some send the object itself
            arguments = msgspec.json.encode(arguments).decode()
        if isinstance(arguments, str) and arguments:
            self._call.arguments.append(arguments)
            yield ToolCallDelta(self._call.index, arguments)

    def _end_call(self) -> Iterator[Event]:
        call, self._call = self._call, None
        if call is None:
            return
        if not call.arguments:
            yield ToolCallDelta(call.index, "{}")
        elif not _is_object("".join(call.arguments)):
            raise self._nonsense(f"a call of {call.name} whose arguments are no JSON object")
        self._calls += 1
        yield ToolCallEnd(call.index)

    def _id(self, written: Any) -> str:
        """Theirs, if it tells calls apart; else a new one."""
        made = written
        if not isinstance(made, str) or not _USABLE_ID.fullmatch(made) or made in self._taken:
            made = f"call_{secrets.token_hex(12)}"
        self._taken.add(made)
        return made

    def _counts(self) -> Usage:
        """What the endpoint says was used; nothing if it does not say."""
        used = self._usage
        prompt, output = (
            _details(used, f"{name}_tokens_details") for name in ("prompt", "completion")
        )
        total = _count(used, "prompt_tokens")
        accepted = _count(output, "accepted_prediction_tokens")
        return Usage(
            input=total,
            cached=min(_count(prompt, "cached_tokens"), total),
            output=_count(used, "completion_tokens"),
            reasoning=_count(output, "reasoning_tokens"),
            drafted=accepted + _count(output, "rejected_prediction_tokens"),
            accepted=accepted,
        )

    def _timings(self) -> Timings:
        """As seen from here: the network and the endpoint's queue are in the time to first token."""
        now = time.monotonic()
        first = now if self._first is None else self._first
        waited = first - self._begun
        return Timings(queue=0.0, prompt=waited, first_token=waited, generation=now - first)

    def _nonsense(self, what: str) -> EndpointFailed:
        return EndpointFailed(f"The endpoint {self._endpoint} sent {what}.")


def _is_object(text: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except msgspec.DecodeError:
        return False


def _details(usage: dict[str, Any], name: str) -> dict[str, Any]:
    found = usage.get(name)
    return found if isinstance(found, dict) else {}


def _count(found: dict[str, Any], name: str) -> int:
    value = found.get(name)
    return value if isinstance(value, int) and value > 0 else 0
