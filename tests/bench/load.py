"""A small HTTP load over raw sockets, with the time of every piece of text.

The client shares the machine with the servers it measures, so it does as little as it can while
they work: it sends one request and notes when which bytes came. What they say is read afterwards.
"""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

Body = dict[str, Any]


class Refused(Exception):
    """The server answered with another status than 200."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"status {status}: {text[:500]}")
        self.status = status


@dataclass
class Answer:
    """What one request brought so far. Times are `perf_counter`'s, in seconds."""

    sent: float
    marks: list[tuple[int, float]] = field(default_factory=list)
    """Bytes received, and when, after each read."""
    raw: bytearray = field(default_factory=bytearray)

    @property
    def ended(self) -> float:
        """When the last bytes came."""
        return self.marks[-1][1]

    def body(self) -> bytes:
        """The body, as it is without its transfer encoding."""
        return b"".join(piece for piece, _ in self._pieces())

    def events(self) -> list[tuple[float, Any]]:
        """The server-sent events: when each was whole, and its JSON. Half an event is left out."""
        found = []
        rest = b""
        for piece, end in self._pieces():
            *whole, rest = (rest + piece).replace(b"\r\n", b"\n").split(b"\n\n")
            found += [
                (self._time(end), json.loads(event[6:]))
                for event in whole
                if event.startswith(b"data: ") and event != b"data: [DONE]"
            ]
        return found

    def texts(self) -> list[tuple[float, str]]:
        """The pieces of the answer's text, and when each came."""
        found = []
        for time, event in self.events():
            if "error" in event:
                raise RuntimeError(f"an error in mid-stream: {event['error']}")
            for choice in event.get("choices", ()):
                text = choice.get("text") or choice.get("delta", {}).get("content")
                if text:
                    found.append((time, text))
        return found

    def text(self) -> str:
        """All of the answer's text."""
        return "".join(text for _, text in self.texts())

    def first_token(self) -> float:
        """Seconds from the sending of the request to the first text."""
        return self.texts()[0][0] - self.sent

    def usage(self) -> dict[str, Any]:
        """The counts at the end of the stream."""
        for _, event in reversed(self.events()):
            if event.get("usage"):
                return dict(event["usage"])
        raise RuntimeError(f"no usage in {bytes(self.raw[-500:])!r}")

    def check(self) -> None:
        """Raise `Refused` if the status is not 200."""
        head = bytes(self.raw[:20]).split(b" ")
        status = int(head[1]) if len(head) > 1 and head[1].isdigit() else 0
        if status != 200:
            raise Refused(
                status, bytes(self.raw).partition(b"\r\n\r\n")[2].decode(errors="replace")
            )

    def _time(self, offset: int) -> float:
        return self.marks[bisect_left(self.marks, offset, key=lambda mark: mark[0])][1]

    def _pieces(self) -> Iterator[tuple[bytes, int]]:
        """Parts of the body, each with the number of bytes received when it was there."""
        raw = bytes(self.raw)
        head, _, _ = raw.partition(b"\r\n\r\n")
        at = len(head) + 4
        if b"transfer-encoding: chunked" not in head.lower():
            for received, _ in self.marks:
                if received > at:
                    yield raw[at:received], received
                    at = received
            return
        while (line := raw.find(b"\r\n", at)) >= 0 and (size := int(raw[at:line], 16)):
            begin, end = line + 2, line + 2 + size
            if end > len(raw):
                return
            yield raw[begin:end], end
            at = end + 2


async def post(port: int, path: str, body: Body, answer: Answer | None = None) -> Answer:
    """Send one request and read the answer to its end; cancelled, it leaves.

    `answer`, if given, is filled while bytes come, so that another task can watch.
    """
    payload = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = answer or Answer(0.0)
    answer.sent = perf_counter()
    try:
        writer.write(head.encode() + payload)
        while chunk := await reader.read(1 << 16):
            answer.raw += chunk
            answer.marks.append((len(answer.raw), perf_counter()))
    finally:
        writer.close()
    answer.check()
    return answer


async def stream(port: int, path: str, body: Body, answer: Answer | None = None) -> Answer:
    """`post`, with streaming and the usage at the end."""
    return await post(
        port, path, body | {"stream": True, "stream_options": {"include_usage": True}}, answer
    )


async def together(port: int, path: str, bodies: list[Body]) -> tuple[float, list[Answer]]:
    """All requests at once; seconds until the last has ended, and the answers."""
    began = perf_counter()
    answers = await asyncio.gather(*(stream(port, path, body) for body in bodies))
    return perf_counter() - began, answers
