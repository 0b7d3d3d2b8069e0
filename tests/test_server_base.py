"""What all protocols stand on: errors, bodies, event streams, clients that leave."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, HTTPException
from own_server import app_with, serving
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lmnb.chat.events import Event, Loading, Prompt, TextDelta
from lmnb.errors import (
    ContextOverflow,
    EngineCrashed,
    Forbidden,
    InvalidRequest,
    LmnbError,
    ModelNotFound,
    ModelUnloaded,
    NotSupported,
    ServerError,
    Unauthorized,
)
from lmnb.server import body, sse
from lmnb.server.disconnect import until_disconnect
from lmnb.server.errors import error_body, protocol_of
from lmnb.server.generation import begin
from lmnb.server.tracking import Activity, Tracked

# --- errors -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "headers", "protocol"),
    [
        ("/v1/messages", {}, "anthropic"),
        ("/v1/messages/count_tokens", {}, "anthropic"),
        ("/messages", {}, "anthropic"),
        ("/v1/v1/messages", {}, "anthropic"),
        ("/v1/models", {"anthropic-version": "2023-06-01"}, "anthropic"),
        ("/v1/models", {}, "openai"),
        ("/v1/chat/completions", {}, "openai"),
        ("/api/v1/chat", {}, "lmstudio"),
        ("/api/v0/chat/completions", {}, "openai"),
        ("/lmnb/status", {}, "control"),
        ("/nowhere", {}, "openai"),
    ],
)
def test_the_protocol_is_that_of_the_path(
    path: str, headers: dict[str, str], protocol: str
) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert protocol_of({"type": "http", "path": path, "headers": raw}) == protocol


def test_bodies() -> None:
    lost = ModelNotFound("No model 'x'.", hint="Get it.", param="model")
    assert error_body(lost, "openai", "req_1") == {
        "error": {
            "message": "No model 'x'. Get it.",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }
    assert error_body(lost, "anthropic", "req_1") == {
        "type": "error",
        "error": {"type": "not_found_error", "message": "model: No model 'x'. Get it."},
        "request_id": "req_1",
    }
    assert error_body(lost, "lmstudio", "req_1") == {
        "error": {
            "type": "model_not_found",
            "message": "No model 'x'. Get it.",
            "code": "model_not_found",
            "param": "model",
        }
    }
    rebuilt = LmnbError.from_dict(error_body(lost, "control", "req_1")["error"])
    assert isinstance(rebuilt, ModelNotFound)
    assert rebuilt.hint == "Get it."


@pytest.mark.parametrize(
    ("error", "openai", "anthropic", "lmstudio"),
    [
        (InvalidRequest("x"), "invalid_request_error", "invalid_request_error", "invalid_request"),
        (NotSupported("x"), "invalid_request_error", "invalid_request_error", "not_implemented"),
        (Unauthorized("x"), "invalid_request_error", "authentication_error", "invalid_request"),
        (Forbidden("x"), "invalid_request_error", "permission_error", "invalid_request"),
        (EngineCrashed("x"), "server_error", "api_error", "internal_error"),
        (ServerError("x"), "server_error", "overloaded_error", "internal_error"),
        (
            ContextOverflow(9, 8),
            "invalid_request_error",
            "invalid_request_error",
            "invalid_request",
        ),
    ],
)
def test_types(error: LmnbError, openai: str, anthropic: str, lmstudio: str) -> None:
    assert error_body(error, "openai", None)["error"]["type"] == openai
    assert error_body(error, "anthropic", None)["error"]["type"] == anthropic
    assert error_body(error, "lmstudio", None)["error"]["type"] == lmstudio


def test_words_that_clients_look_for() -> None:
    overflow = error_body(ContextOverflow(215000, 200000), "anthropic", None)["error"]["message"]
    assert overflow == "prompt is too long: 215000 tokens > 200000 maximum"
    assert error_body(ContextOverflow(9, 8), "openai", None)["error"]["code"] == (
        "context_length_exceeded"
    )
    assert (
        error_body(Unauthorized("x"), "anthropic", None)["error"]["message"] == "invalid x-api-key"
    )
    assert error_body(Unauthorized("x"), "openai", None)["error"]["code"] == "invalid_api_key"


def answered(error: Exception, path: str = "/v1/x") -> httpx2.Response:
    def fail(_request: Request) -> Response:
        raise error

    async def run() -> httpx2.Response:
        async with serving(app_with(path, fail)) as client:
            return await client.post(path)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("error", "retry"),
    [
        (EngineCrashed("x"), "false"),
        (ModelUnloaded("x"), "false"),
        (LmnbError("x"), "false"),
        (ServerError("x"), None),
        (InvalidRequest("x"), None),
    ],
)
def test_only_what_may_pass_is_retried(error: LmnbError, retry: str | None) -> None:
    response = answered(error)
    assert response.status_code == error.status
    assert response.headers.get("x-should-retry") == retry
    assert ("retry-after" in response.headers) == isinstance(error, ServerError)
    assert response.headers["request-id"] == response.headers["x-request-id"]


def test_a_fault_of_ours_is_a_plain_500(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        response = answered(RuntimeError("secret detail"), "/v1/messages")
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.json()["error"]["type"] == "api_error"
    identifier = response.headers["request-id"]
    assert response.json()["request_id"] == identifier
    assert identifier in response.json()["error"]["message"]
    assert "secret detail" in caplog.text
    assert identifier in caplog.text


@pytest.mark.parametrize(("status", "kind"), [(401, Unauthorized), (403, Forbidden), (418, None)])
def test_http_exceptions(status: int, kind: type[LmnbError] | None) -> None:
    response = answered(HTTPException(status, "No."))
    assert response.status_code == (status if kind else 400)
    assert "No." in response.json()["error"]["message"]


def test_unknown_paths_and_methods() -> None:
    async def run() -> list[httpx2.Response]:
        app = app_with("/v1/messages", lambda _r: JSONResponse({}))
        async with serving(app) as client:
            paths = ("/v1/messages/x", "/v1/nothing", "/api/v1/nothing")
            found = [await client.post(path) for path in paths]
            return [*found, await client.get("/v1/messages")]

    anthropic, openai, lmstudio, method = asyncio.run(run())
    assert [r.status_code for r in (anthropic, openai, lmstudio, method)] == [404, 404, 404, 405]
    assert anthropic.json()["error"]["type"] == "not_found_error"
    assert openai.json()["error"]["message"] == "There is no POST /v1/nothing."
    assert lmstudio.json()["error"]["type"] == "invalid_request"
    assert method.json()["error"]["type"] == "invalid_request_error"


# --- bodies ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message", "param"),
    [
        (
            "Expected `str | null`, got `int` - at `$.a[0].b`",
            "'a[0].b' must be a string, not an integer.",
            "a[0].b",
        ),
        ("Expected `int`, got `float` - at `$.n`", "'n' must be an integer, not a number.", "n"),
        (
            "Expected `object`, got `array`",
            "The request body must be an object, not an array.",
            None,
        ),
        ("Object missing required field `model`", "'model' is required.", "model"),
        ("Object missing required field `c` - at `$.a[1]`", "'a[1].c' is required.", "a[1].c"),
        ("Object contains unknown field `x`", "'x' is not a field of this request.", "x"),
    ],
)
def test_validation_errors_in_words_of_json(text: str, message: str, param: str | None) -> None:
    error = body.explain(text)
    assert (error.message, error.param, error.status) == (message, param, 400)


# --- event streams --------------------------------------------------------------------


def test_frames() -> None:
    assert sse.frame({"a": "é\n"}) == 'data: {"a":"é\\n"}\n\n'.encode()
    assert sse.frame(b"{}", "ping") == b"event: ping\ndata: {}\n\n"
    tricky = "a\u0085b\u2028c\u2029d\r\n"
    data = sse.frame({"t": tricky})
    assert len(data.decode().splitlines()) == 2
    assert json.loads(data[6:]) == {"t": tricky}


Frames = Callable[[], AsyncGenerator[bytes, None]]


def streaming(frames: Frames, **options: Any) -> FastAPI:
    def handle(_request: Request) -> Response:
        wanted = {"on_error": lambda error: sse.frame({"error": str(error)}), **options}
        return sse.stream(frames(), **wanted)

    return app_with("/v1/x", handle)


def body_of(frames: Frames, **options: Any) -> httpx2.Response:
    async def run() -> httpx2.Response:
        async with serving(streaming(frames, **options)) as client:
            return await client.post("/v1/x")

    return asyncio.run(run())


def test_a_stream() -> None:
    async def frames() -> AsyncGenerator[bytes, None]:
        yield sse.frame({"n": 1})
        await asyncio.sleep(0)
        yield sse.DONE

    response = body_of(frames)
    assert response.content == b'data: {"n":1}\n\ndata: [DONE]\n\n'
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-request-id"].startswith("req_")


def test_errors_in_mid_stream(caplog: pytest.LogCaptureFixture) -> None:
    async def known() -> AsyncGenerator[bytes, None]:
        yield sse.frame({"n": 1})
        raise EngineCrashed("It crashed.")

    async def unknown() -> AsyncGenerator[bytes, None]:
        yield sse.frame({"n": 1})
        raise RuntimeError("secret detail")

    assert body_of(known).content == b'data: {"n":1}\n\ndata: {"error":"It crashed."}\n\n'
    with caplog.at_level(logging.ERROR):
        response = body_of(unknown)
    assert b"secret" not in response.content
    assert b"failed in mid-answer" in response.content
    assert "secret detail" in caplog.text


def test_silence_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.05)
    silences: list[float] = []

    def keep_alive(silent: float) -> bytes:
        silences.append(silent)
        return sse.COMMENT

    async def frames() -> AsyncGenerator[bytes, None]:
        yield b"data: 1\n\n"
        while len(silences) < 3:
            await asyncio.sleep(0.01)
        yield b"data: 2\n\n"

    content = body_of(frames, keep_alive=keep_alive).content
    assert content.startswith(b"data: 1\n\n" + sse.COMMENT)
    assert content.endswith(sse.COMMENT + b"data: 2\n\n")
    assert silences == sorted(silences)


def test_headers_are_sent_before_the_first_frame() -> None:
    gate = asyncio.Event()

    async def frames() -> AsyncGenerator[bytes, None]:
        await gate.wait()
        yield b"data: 1\n\n"

    async def run() -> bytes:
        async with serving(streaming(frames)) as client, client.stream("POST", "/v1/x") as response:
            assert response.status_code == 200
            gate.set()
            return await response.aread()

    assert asyncio.run(run()) == b"data: 1\n\n"


@pytest.mark.parametrize("endless", [False, True])
def test_a_client_that_leaves_ends_its_stream(endless: bool) -> None:
    """Also one that never waits: nothing would ever tell it that it is cancelled."""
    closed = asyncio.Event()

    async def frames() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"data: 1\n\n"
                if not endless:
                    await asyncio.sleep(0.01)
        finally:
            closed.set()

    async def run() -> None:
        async with serving(streaming(frames)) as client:
            async with client.stream("POST", "/v1/x") as response:
                await anext(response.aiter_bytes())
            await asyncio.wait_for(closed.wait(), 10)

    asyncio.run(run())


def test_a_listener_that_closes_ends_streams_in_their_protocol() -> None:
    async def frames() -> AsyncGenerator[bytes, None]:
        yield b"data: 1\n\n"
        await asyncio.sleep(60)

    async def run() -> bytes:
        tracked = Tracked(streaming(frames), Activity(), quiet=frozenset(), watching=frozenset())
        async with serving(tracked) as client, client.stream("POST", "/v1/x") as response:
            chunks = response.aiter_bytes()
            received = await anext(chunks)
            tracked.end_all()
            async for chunk in chunks:
                received += chunk
            return received

    content = asyncio.run(run())
    assert content.startswith(b"data: 1\n\n")
    assert b'data: {"error":"The server stopped listening' in content


# --- plain requests -------------------------------------------------------------------


def test_a_client_that_leaves_cancels_its_work() -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> str:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return "done"

    async def handle(request: Request) -> Response:
        await request.body()
        return JSONResponse(await until_disconnect(request, work()))

    async def run() -> None:
        async with serving(app_with("/v1/x", handle)) as client:
            task = asyncio.create_task(client.post("/v1/x", json={}))
            await started.wait()
            task.cancel()
            await asyncio.wait_for(cancelled.wait(), 10)
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_work_that_is_waited_for_is_answered() -> None:
    async def work() -> str:
        await asyncio.sleep(0.01)
        return "done"

    async def handle(request: Request) -> Response:
        await request.body()
        return JSONResponse(await until_disconnect(request, work()))

    async def run() -> Any:
        async with serving(app_with("/v1/x", handle)) as client:
            return (await client.post("/v1/x", json={})).json()

    assert asyncio.run(run()) == "done"


# --- the beginning of a stream ----------------------------------------------------------


class Script:
    """Events with pauses; knows how far it got and whether it was closed."""

    def __init__(self, *steps: Event | float | LmnbError) -> None:
        self.steps = steps
        self.closed = False

    async def events(self) -> AsyncGenerator[Event, None]:
        try:
            for step in self.steps:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                elif isinstance(step, LmnbError):
                    raise step
                else:
                    yield step
        finally:
            self.closed = True


LOADING, PROMPT, TEXT = Loading("m", 0.5), Prompt(1, 1, 0), TextDelta("x")


def test_begin_waits_for_the_first_sign_and_loses_nothing() -> None:
    async def run() -> list[Event]:
        script = Script(LOADING, 0.01, LOADING, 0.01, PROMPT, TEXT)
        events = await begin(script.events())
        return [event async for event in events]

    assert asyncio.run(run()) == [LOADING, LOADING, PROMPT, TEXT]


def test_begin_raises_what_goes_wrong_at_first() -> None:
    async def run() -> None:
        await begin(Script(LOADING, ContextOverflow(9, 8)).events())

    with pytest.raises(ContextOverflow):
        asyncio.run(run())


def test_begin_does_not_wait_for_ever() -> None:
    async def run() -> list[Event | str]:
        events = await begin(Script(0.2, PROMPT, EngineCrashed("x")).events(), patience=0.01)
        found: list[Event | str] = ["begun"]
        try:
            async for event in events:
                found.append(event)  # noqa: PERF401 - an error comes in between
        except EngineCrashed:
            found.append("crashed")
        return found

    assert asyncio.run(run()) == ["begun", PROMPT, "crashed"]


@pytest.mark.parametrize("patience", [5.0, 0.01])
def test_begin_closes_events_when_it_is_left(patience: float) -> None:
    async def run() -> bool:
        script = Script(LOADING, 60.0, PROMPT)

        async def read() -> None:
            async for _ in await begin(script.events(), patience=patience):
                pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return script.closed

    assert asyncio.run(run())
