"""Responses over a WebSocket: the SDK's own connection, and raw frames."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from socket import create_connection
from typing import Any

import msgspec
import openai
import pytest
from openai.types.responses import ResponsesServerEvent
from pydantic import TypeAdapter
from server_home import CHAT, ServerHome
from test_protocol_openai_chat import ENDLESS, wait_until_idle
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect, unix_connect

from lmnb.client import Client
from lmnb.server import sse
from lmnb.server.body import MAX_BODY
from lmnb.server.conversations import ConversationStore
from lmnb.server.database import Database
from lmnb.server.openai import responses_socket
from lmnb.server.openai.responses_objects import in_progress
from lmnb.server.openai.responses_request import ResponsesBody
from lmnb.server.openai.responses_run import Run
from lmnb.server.openai.responses_socket import WAITING
from lmnb.server.openai.responses_stream import ResponseStream
from lmnb.server.store import ResponseStore

SHORT: dict[str, Any] = {
    "type": "response.create",
    "model": CHAT,
    "max_output_tokens": 4,
    "temperature": 0,
}
FOREVER: dict[str, Any] = {
    "type": "response.create",
    "model": CHAT,
    "input": "One, two,",
    "logit_bias": ENDLESS,
}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponsesServerEvent)
ENDS = {"response.completed", "response.incomplete", "response.failed", "error"}


@pytest.fixture(scope="module")
def url(server: ServerHome) -> Iterator[str]:
    with listening(server.attach()) as found:
        yield found


@contextlib.contextmanager
def listening(client: Client, **options: Any) -> Iterator[str]:
    found = client.serve(**{"port": 0, **options})["url"]
    try:
        yield found
    finally:
        client.stop_serving()


@pytest.fixture
def socket(client: Client) -> Iterator[ClientConnection]:
    """A raw connection over the private socket."""
    with unix_connect(client.socket, "ws://local/v1/responses", max_size=None) as connection:
        yield connection


def receive(socket: ClientConnection) -> dict[str, Any]:
    """The next frame, which is one of those that the SDK's types describe."""
    text = socket.recv(timeout=60)
    EVENT.validate_json(text)
    found: dict[str, Any] = json.loads(text)
    return found


def answer(socket: ClientConnection, request: dict[str, Any]) -> list[dict[str, Any]]:
    """All frames up to the last of a response, or an error."""
    socket.send(json.dumps(request))
    frames = [receive(socket)]
    while frames[-1]["type"] not in ENDS:
        frames.append(receive(socket))
    return frames


def refusal(socket: ClientConnection, request: dict[str, Any]) -> dict[str, Any]:
    """The one error frame that answers a request; the connection lives on."""
    [frame] = answer(socket, request)
    assert frame["type"] == "error"
    found: dict[str, Any] = frame["error"] | {"status": frame["status"]}
    assert answer(socket, {**SHORT, "input": "Hello."})[-1]["type"] != "error"
    return found


# --- what is said -----------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager")
def test_the_sdk_connects(url: str) -> None:
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="none") as sdk,
        sdk.responses.connect() as connection,
    ):
        connection.response.create(
            model=CHAT, input="Write a long story.", max_output_tokens=6, temperature=0
        )
        events = []
        for event in connection:
            events.append(event)
            if event.type in ENDS:
                break
    last = events[-1]
    assert last.type == "response.incomplete"
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == last.response.output_text != ""


def test_the_async_sdk_connects(url: str) -> None:
    async def run() -> None:
        async with (
            openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as sdk,
            sdk.responses.connect() as connection,
        ):
            await connection.response.create(model=CHAT, input="Hello.", max_output_tokens=2)
            async for event in connection:
                if event.type in ENDS:
                    break
            assert event.type in {"response.completed", "response.incomplete"}

    asyncio.run(run())


def test_events_are_those_of_a_stream(client: Client, socket: ClientConnection) -> None:
    over_socket = answer(socket, {**SHORT, "input": "Name a colour."})
    sdk = client.openai(_strict_response_validation=True)
    ask = {key: value for key, value in SHORT.items() if key != "type"}
    over_http = list(sdk.responses.create(**ask, input="Name a colour.", stream=True))
    kinds = [event["type"] for event in over_socket if ".delta" not in event["type"]]
    assert kinds == [event.type for event in over_http if ".delta" not in event.type]
    assert [event["sequence_number"] for event in over_socket] == list(range(len(over_socket)))
    id_ = over_socket[-1]["response"]["id"]
    assert sdk.responses.retrieve(id_).to_dict() == over_socket[-1]["response"]


def test_a_conversation_that_is_not_stored(client: Client, socket: ClientConnection) -> None:
    request = {**SHORT, "store": False}
    first = answer(socket, {**request, "input": "My name is Ada."})[-1]["response"]
    second = answer(socket, {**request, "input": "And?", "previous_response_id": first["id"]})
    usage = second[-1]["response"]["usage"]
    assert usage["input_tokens"] > first["usage"]["total_tokens"]
    with pytest.raises(openai.NotFoundError):
        client.openai().responses.retrieve(first["id"])
    with unix_connect(client.socket, "ws://local/v1/responses") as other:
        error = refusal(other, {**request, "input": "And?", "previous_response_id": first["id"]})
    assert error["code"] == "previous_response_not_found"


def test_warming_the_cache(socket: ClientConnection) -> None:
    request = {**SHORT, "store": False, "instructions": "You are a ship's cook, galley 5150."}
    for how in ({"generate": False}, {"prompt_cache_options": {"prewarm": True}}):
        [*_, end] = answer(socket, {**request, **how, "input": "What is for dinner?"})
        assert end["type"] == "response.completed"
        assert end["response"]["output"] == []
        warmed = end["response"]
        next_ = {**request, "input": [], "previous_response_id": warmed["id"]}
        usage = answer(socket, next_)[-1]["response"]["usage"]
        assert usage["input_tokens"] == warmed["usage"]["input_tokens"]
        assert usage["input_tokens_details"]["cached_tokens"] >= usage["input_tokens"] - 1


def test_requests_are_answered_in_turn(socket: ClientConnection) -> None:
    for lane in ("a", "b", "c"):
        socket.send(json.dumps({**SHORT, "input": "Hello.", "stream_id": lane}))
    order: list[str] = []
    while len(order) < 3:
        frame = receive(socket)
        if frame["type"] in ENDS:
            order.append(frame["stream_id"])
        else:
            assert frame["stream_id"] == "abc"[len(order)]
    assert order == ["a", "b", "c"]


def test_a_silent_response_repeats_that_it_is_in_progress(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Codex's watchdog is fed by events, whatever they come through."""
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.01)
    sent: list[dict[str, Any]] = []

    class Silent(responses_socket._Connection):
        def __init__(self) -> None:
            """Without a client."""

        async def _send(self, value: Any, lane: str | None) -> None:
            sent.append(msgspec.to_builtins(value))

    async def coming() -> None:
        while len(sent) < 3:
            await asyncio.sleep(0.005)

    with contextlib.closing(Database(tmp_path / "lmnb.db")) as database:
        run = Run(
            answer=ResponseStream(in_progress(ResponsesBody(model="m", input="hi"))),
            conversation=(),
            input=[],
            responses=ResponseStore(database),
            conversations=ConversationStore(database),
        )
        asyncio.run(Silent()._next(run, coming(), None))
    assert {frame["type"] for frame in sent} == {"response.in_progress"}
    assert [frame["sequence_number"] for frame in sent] == list(range(len(sent)))


# --- what goes wrong --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "status", "param"),
    [
        ({**SHORT}, 400, "input"),
        ({**SHORT, "input": 5}, 400, "input"),
        ({**SHORT, "input": "x", "model": "no/such"}, 404, "model"),
        ({**SHORT, "input": "x", "background": True}, 400, "background"),
        ({**SHORT, "input": "x", "tools": [{"type": "mcp"}]}, 400, "tools[0].server_label"),
        ({**SHORT, "input": "x", "previous_response_id": "r"}, 400, "previous_response_id"),
        ({"type": "response.steer"}, 400, "type"),
        ({"no": "type"}, 400, "type"),
    ],
)
def test_refusals(
    socket: ClientConnection, request_: dict[str, Any], status: int, param: str
) -> None:
    error = refusal(socket, request_)
    assert (error["status"], error["param"]) == (status, param)
    assert error["message"]


@pytest.mark.parametrize("data", ["no json", "[1]", "", b"\xff\xfe", "[" * 100_000])
def test_frames_that_are_no_requests(socket: ClientConnection, data: str | bytes) -> None:
    socket.send(data)
    frame = receive(socket)
    assert (frame["type"], frame["error"]["code"]) == ("error", "invalid_json")
    assert answer(socket, {**SHORT, "input": "Hello."})[-1]["type"] != "error"


def test_a_prompt_longer_than_the_context(socket: ClientConnection) -> None:
    """As in a stream over HTTP: a failed response, on which Codex compacts."""
    socket.send(json.dumps({**SHORT, "input": "word " * 10_000}))
    frames = [json.loads(socket.recv(timeout=60)) for _ in range(3)]
    assert [frame["type"] for frame in frames] == [
        "response.created",
        "response.in_progress",
        "response.failed",
    ]
    assert frames[-1]["response"]["error"]["code"] == "context_length_exceeded"


def test_too_many_wait(client: Client, socket: ClientConnection) -> None:
    socket.send(json.dumps(FOREVER))
    while receive(socket)["type"] != "response.output_text.delta":
        pass
    for _ in range(WAITING + 1):
        socket.send(json.dumps({**SHORT, "input": "Hello."}))
    while (frame := receive(socket))["type"] != "error":
        pass
    assert (frame["status"], frame["error"]["code"]) == (429, "too_many_requests")


def test_who_leaves_frees_the_engine(client: Client) -> None:
    with unix_connect(client.socket, "ws://local/v1/responses") as connection:
        connection.send(json.dumps(FOREVER))
        while receive(connection)["type"] != "response.output_text.delta":
            pass
    wait_until_idle(client)


def test_a_frame_that_is_too_large(client: Client, socket: ClientConnection) -> None:
    large = "x" * (MAX_BODY + 1)
    with pytest.raises(ConnectionClosed):  # with code 1009, which is lost if much is unread
        answer(socket, {**SHORT, "input": large})
    with unix_connect(client.socket, "ws://local/v1/responses") as other:
        assert answer(other, {**SHORT, "input": "Hello."})[-1]["type"] != "error"


# --- who may talk -----------------------------------------------------------------------


def handshake(url: str, headers: dict[str, str]) -> int:
    """The status that a handshake is answered with."""
    address = url.replace("http", "ws") + "/v1/responses"
    try:
        with connect(address, additional_headers=headers):
            return 101
    except InvalidStatus as error:
        body = error.response.body
        assert body
        assert json.loads(body)["error"]["message"]
        return error.response.status_code


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 101),
        ({"Origin": "http://localhost:8888"}, 101),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_web_pages_of_other_origins_are_kept_out(
    url: str, headers: dict[str, str], status: int
) -> None:
    assert handshake(url, headers) == status


def test_rebound_names_are_kept_out(url: str) -> None:
    address = url.replace("http", "ws").replace("127.0.0.1", "evil.example") + "/v1/responses"
    host, port = url.removeprefix("http://").split(":")
    with (
        create_connection((host, int(port))) as plain,
        pytest.raises(InvalidStatus) as raised,
        connect(address, sock=plain),
    ):
        pass
    assert raised.value.response.status_code == 403


# --- a server of one's own --------------------------------------------------------------


def test_tokens_are_asked_for(fresh_home: ServerHome) -> None:
    client = fresh_home.attach()
    token = client.create_token("test")["token"]
    with listening(client, require_auth=True) as url:
        assert handshake(url, {}) == 401
        assert handshake(url, {"Authorization": "Bearer wrong"}) == 401
        assert handshake(url, {"Authorization": f"Bearer {token}"}) == 101
        assert handshake(url, {"x-api-key": token}) == 101
        address = url.replace("http", "ws") + "/v1/responses"
        with connect(address, additional_headers={"x-api-key": token}) as connection:
            assert answer(connection, {**SHORT, "input": "Hello."})[-1]["type"] != "error"
            client.remove_token("test")
            connection.send(json.dumps({**SHORT, "input": "Hello."}))
            with pytest.raises(ConnectionClosed) as raised:
                drain(connection)
    assert raised.value.rcvd is not None
    assert raised.value.rcvd.code == 1008


def test_a_listener_that_closes_says_so(fresh_home: ServerHome) -> None:
    client = fresh_home.attach()
    address = client.serve(port=0)["url"].replace("http", "ws") + "/v1/responses"
    with connect(address) as connection:
        connection.send(json.dumps(FOREVER))
        while receive(connection)["type"] != "response.output_text.delta":
            pass
        client.stop_serving()
        with pytest.raises(ConnectionClosed) as raised:
            drain(connection)
    assert raised.value.rcvd is not None
    assert (raised.value.rcvd.code, raised.value.rcvd.reason[:10]) == (1001, "The server")
    wait_until_idle(client)


def drain(socket: ClientConnection) -> None:
    while True:
        socket.recv(timeout=60)
