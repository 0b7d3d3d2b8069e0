"""A small HTTP load: streamed completions over raw sockets.

The client shares the machine with the servers it measures, so it does as little as it can: it
writes one request, then only looks for the first text and for the usage at the end.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from time import perf_counter


@dataclass(frozen=True)
class Answer:
    """What one streamed completion cost. Seconds from the sending of the request."""

    first_token: float
    total: float
    prompt_tokens: int
    output_tokens: int


async def complete(port: int, body: dict[str, object]) -> Answer:
    """POST /v1/completions with streaming, and read it to the end."""
    payload = json.dumps(
        body | {"stream": True, "stream_options": {"include_usage": True}}
    ).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = perf_counter()
    writer.write(head.encode() + payload)
    data = bytearray()
    first = 0.0
    while chunk := await reader.read(1 << 16):
        data += chunk
        if not first and b'"text":"' in data.replace(b'"text":""', b""):
            first = perf_counter() - began
    total = perf_counter() - began
    writer.close()
    usage = data.rfind(b'"usage":{')
    if b" 200 " not in data[:20] or usage < 0:
        raise RuntimeError(f"unexpected answer: {bytes(data[:2000])!r}")
    counts, _ = json.JSONDecoder().raw_decode(data[usage + 8 :].decode("utf-8", "replace"))
    return Answer(first, total, counts["prompt_tokens"], counts["completion_tokens"])


async def run(port: int, bodies: list[dict[str, object]]) -> tuple[float, list[Answer]]:
    """All requests at once; seconds until the last has ended, and the answers."""
    began = perf_counter()
    answers = await asyncio.gather(*(complete(port, body) for body in bodies))
    return perf_counter() - began, answers
