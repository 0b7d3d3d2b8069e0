"""An OpenAI-compatible endpoint made to fail: real HTTP, with a fault for each of its models."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

Json = dict[str, Any]
Answer = Callable[["FakeEndpoint", Json], Response]


def delta(content: str | None = None, finish: str | None = None, **more: Any) -> Json:
    said = {} if content is None else {"content": content}
    return {"choices": [{"index": 0, "delta": {**said, **more}, "finish_reason": finish}]}


def usage(prompt: int = 7, output: int = 3, cached: int = 2) -> Json:
    counts = {"prompt_tokens": prompt, "completion_tokens": output}
    return {"choices": [], "usage": {**counts, "prompt_tokens_details": {"cached_tokens": cached}}}


def call(
    index: int | None, arguments: str, name: str | None = None, id_: str | None = None
) -> Json:
    function = {"arguments": arguments} | ({} if name is None else {"name": name})
    said: Json = {"function": function}
    said |= {key: value for key, value in (("index", index), ("id", id_)) if value is not None}
    return delta(tool_calls=[said])


def stream(*chunks: Json | str, done: bool = True) -> Response:
    """Chunks; a text is sent as it is."""

    async def frames() -> AsyncIterator[bytes]:
        for chunk in chunks:
            data = chunk if isinstance(chunk, str) else f"data: {json.dumps(chunk)}\n\n"
            yield data.encode()
        if done:
            yield b"data: [DONE]\n\n"

    return StreamingResponse(frames(), media_type="text/event-stream")


def failure(status: int, message: str, **more: Any) -> Response:
    headers = more.pop("headers", None)
    return JSONResponse({"error": {"message": message, **more}}, status, headers=headers)


def _breaks(*chunks: Json) -> Response:
    """Sends chunks, then the connection dies in the middle of the body."""

    async def frames() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield f"data: {json.dumps(chunk)}\n\n".encode()
        raise ConnectionResetError("as it was meant to")

    return StreamingResponse(frames(), media_type="text/event-stream")


def _hangs(endpoint: FakeEndpoint, _: Json) -> Response:
    async def frames() -> AsyncIterator[bytes]:
        endpoint.hanging += 1
        try:
            while not endpoint.ending.is_set():
                await asyncio.sleep(0.02)
        finally:
            endpoint.hanging -= 1
        yield b""

    return StreamingResponse(frames(), media_type="text/event-stream")


def _waits(endpoint: FakeEndpoint, _: Json) -> Response:
    """Says a word, and the rest when it is let go on."""

    async def frames() -> AsyncIterator[bytes]:
        endpoint.hanging += 1
        try:
            yield f"data: {json.dumps(delta('One'))}\n\n".encode()
            while not endpoint.may_go_on.is_set():
                await asyncio.sleep(0.005)
        finally:
            endpoint.hanging -= 1
        for chunk in (delta(" two"), delta(finish="stop"), usage()):
            yield f"data: {json.dumps(chunk)}\n\n".encode()

    return StreamingResponse(frames(), media_type="text/event-stream")


LONG = "".join(f"{line}. The *sea* is `blue` and its waves are high today\n" for line in range(800))
"""An answer of 40 kB."""


def _long(*_: object) -> Response:
    """Says `LONG` within about five seconds."""

    async def frames() -> AsyncIterator[bytes]:
        for start in range(0, len(LONG), 200):
            yield f"data: {json.dumps(delta(LONG[start : start + 200]))}\n\n".encode()
            await asyncio.sleep(0.02)
        for chunk in (delta(finish="stop"), usage()):
            yield f"data: {json.dumps(chunk)}\n\n".encode()

    return StreamingResponse(frames(), media_type="text/event-stream")


ANSWERS: dict[str, Answer] = {
    "good": lambda one, _: stream(delta(one.name), delta(" speaks"), delta(finish="stop"), usage()),
    "whole": lambda one, _: JSONResponse(
        {
            "choices": [{"message": {"content": "All at once"}, "finish_reason": "stop"}],
            "usage": usage()["usage"],
        }
    ),
    "long": _long,
    "hangs": _hangs,
    "waits": _waits,
    "dies-early": lambda *_: _breaks(),
    "dies-late": lambda *_: _breaks(delta("It began")),
    "ends-early": lambda *_: stream(delta("It began"), done=False),
    "fails": lambda *_: failure(500, "The GPU fell off"),
    "error-in-stream": lambda *_: stream({"error": {"message": "Out of pages", "code": 500}}),
    "late-error": lambda *_: stream(delta("It began"), {"error": {"message": "Out of pages"}}),
    "busy": lambda *_: failure(429, "Slow down", headers={"retry-after": "3"}),
    "refuses": lambda *_: failure(400, "No such knob", param="temperature"),
    "too-long": lambda *_: failure(
        400,
        "This model's maximum context length is 100 tokens. However, you requested 150 tokens.",
    ),
    "strict": lambda one, body: (
        failure(400, "Unrecognized request argument supplied: chat_template_kwargs")
        if "chat_template_kwargs" in body
        else ANSWERS["good"](one, body)
    ),
    "unknown": lambda *_: failure(404, "The model `unknown` does not exist."),
    "no-json": lambda *_: stream("data: {'choices': []\n\n"),
    "no-object": lambda *_: stream("data: [1, 2]\n\n"),
    "no-choices": lambda *_: stream({"hello": 1}),
    "html": lambda *_: Response("<html>Welcome to nginx", media_type="text/html"),
    "redirects": lambda *_: Response(status_code=302, headers={"location": "http://localhost:1/"}),
    "bad-call": lambda *_: stream(
        call(0, '{"city": Ulm', "weather", "c1"), delta(finish="tool_calls")
    ),
    "cut-call": lambda *_: stream(call(0, '{"city": "U', "weather", "c1"), delta(finish="length")),
    "headless-call": lambda *_: stream(call(0, "{}"), delta(finish="tool_calls")),
    "calls": lambda *_: stream(
        delta(reasoning_content="Hm."),
        call(0, "", "weather", "c1"),
        call(0, '{"city": '),
        call(0, '"Ulm"}'),
        call(1, "{}", "weather", "c1"),
        delta(finish="tool_calls"),
        usage(),
    ),
}


VECTORS: dict[str, Any] = {
    "floats": [{"index": 1, "embedding": [0, 1]}, {"index": 0, "embedding": [1.0, 0.5]}],
    "too-few": [{"index": 0, "embedding": [1, 0]}],
    "twice": [{"index": 0, "embedding": [1, 0]}, {"index": 0, "embedding": [1, 0]}],
    "uneven": [{"index": 0, "embedding": [1, 0]}, {"index": 1, "embedding": [1]}],
    "words": [{"index": 0, "embedding": "?!"}, {"index": 1, "embedding": "x"}],
    "nothing": None,
}
"""What models of embeddings answer to two texts."""


@dataclass
class FakeEndpoint:
    """`requests` are the bodies it got, `hanging` how many it holds."""

    name: str
    models: list[str]
    key: str | None = None
    card: Json = field(default_factory=dict)
    """What it says of each model besides its id."""
    url: str = ""
    lists: bool = True
    """Whether `GET /models` is answered; else it hangs."""
    status: int = 200
    """Of every answer but 200: a failure."""
    requests: list[Json] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    hanging: int = 0
    may_go_on: threading.Event = field(default_factory=threading.Event)
    ending: threading.Event = field(default_factory=threading.Event)
    stop: Callable[[], None] = lambda: None

    def app(self) -> Starlette:
        posted = ["POST"]
        return Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._chat, methods=posted),
                Route("/v1/embeddings", self._embed, methods=posted),
                Route("/v1/rerank", self._rerank, methods=posted),
                Route("/tokenize", self._tokenize, methods=posted),
            ]
        )

    def _refused(self, request: Request) -> Response | None:
        self.headers.append(dict(request.headers))
        given = request.headers.get("authorization", "")
        if self.key and given != f"Bearer {self.key}":
            return failure(401, f"Incorrect API key provided: {given.removeprefix('Bearer ')}")
        if self.status != 200:
            return PlainTextResponse("bad gateway", self.status)
        return None

    async def _models(self, request: Request) -> Response:
        while not self.lists:
            await asyncio.sleep(0.02)
        if (refused := self._refused(request)) is not None:
            return refused
        cards = [{"id": name} | self.card for name in self.models]
        return JSONResponse({"object": "list", "data": cards})

    async def _embed(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(body)
        used = {"prompt_tokens": 4, "total_tokens": 4}
        return JSONResponse({"data": VECTORS[body["model"]], "usage": used})

    async def _rerank(self, request: Request) -> Response:
        """Scores, but as words for a model of that name."""
        body = await request.json()
        score = "high" if body["model"] == "words" else 0.5
        rows = [{"index": i, "relevance_score": score} for i in range(len(body["documents"]))]
        return JSONResponse({"results": rows[::-1]})

    async def _tokenize(self, request: Request) -> Response:
        """vLLM's: takes a chat."""
        body = await request.json()
        self.requests.append(body)
        return JSONResponse({"count": len(body["messages"]) * 100, "tokens": []})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(body)
        return self._refused(request) or ANSWERS[body["model"]](self, body)


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """The test's process keeps its own."""


@contextmanager
def running(endpoint: FakeEndpoint, port: int = 0) -> Iterator[FakeEndpoint]:
    """Serve it on a port of its own, in a thread."""
    config = uvicorn.Config(
        endpoint.app(), port=port, log_config=None, lifespan="off", timeout_graceful_shutdown=0
    )
    server = _Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "The endpoint could not be started."
        thread.join(0.005)
    taken = server.servers[0].sockets[0].getsockname()[1]
    endpoint.url = f"http://127.0.0.1:{taken}/v1"

    def stop() -> None:
        endpoint.lists = True
        endpoint.may_go_on.set()
        endpoint.ending.set()
        server.should_exit = server.force_exit = True
        thread.join(10)

    endpoint.stop = stop
    try:
        yield endpoint
    finally:
        stop()
