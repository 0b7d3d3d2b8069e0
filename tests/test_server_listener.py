"""`serve`: the public app on TCP."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from anthropic.types import MessageParam
from server_home import CHAT, ENDLESS, ServerHome, wait_for
from starlette.routing import Route, WebSocketRoute

from lmnb.client import Client
from lmnb.errors import ConfigError, Forbidden, InvalidRequest, PortInUse
from lmnb.server.anthropic import routes as anthropic_routes
from lmnb.server.lmstudio import routes as lmstudio_routes
from lmnb.server.openai import routes as openai_routes
from lmnb.server.tokens import Permission


@contextlib.contextmanager
def listening(client: Client, **options: Any) -> Iterator[str]:
    info = client.serve(**{"port": 0, **options})
    assert info["opened"]
    try:
        yield info["url"]
    finally:
        client.stop_serving()


@pytest.fixture
def url(client: Client) -> Iterator[str]:
    with listening(client) as found:
        yield found


def test_an_sdk_elsewhere_reaches_the_same_loaded_model(client: Client, url: str) -> None:
    list(client.load(CHAT, identifier="shared"))
    before = [row["id"] for row in client.ps()]
    try:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="lm-studio") as sdk:
            answer = sdk.completions.create(model="shared", prompt="One, two,", max_tokens=4)
        with anthropic.Anthropic(base_url=url, api_key="lm-studio") as claude:
            message = claude.messages.create(
                model="shared", max_tokens=4, messages=[{"role": "user", "content": "Hello"}]
            )
        assert answer.choices[0].text
        assert message.usage.output_tokens > 0
        assert [row["id"] for row in client.ps()] == before
    finally:
        client.unload("shared")


def test_probes_are_answered(url: str) -> None:
    with httpx2.Client(base_url=url) as http:
        assert http.head("/").status_code == 200
        assert http.get("/").json()["name"] == "lmnb"
        assert http.get("/health").json() == {"status": "ok"}
        assert http.get("/lmstudio-greeting").json() == {"lmstudio": True}


@pytest.mark.parametrize("path", ["/lmnb/status", "/lmnb/handshake", "/lmnb/../lmnb/status"])
def test_control_is_not_on_tcp(url: str, path: str) -> None:
    with httpx2.Client(base_url=url) as http:
        assert http.get(path).status_code == 404
        assert http.post("/lmnb/shutdown").status_code == 404


def test_a_taken_port_is_told_with_its_owner(client: Client) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"Port {port} is taken by .*process \d+") as caught:
            client.serve(port=port)
    assert f"--port {port + 1}" in str(caught.value.hint)
    assert client.handshake()["listening"] is None


def test_asking_again_changes_nothing(client: Client, url: str) -> None:
    port = int(url.rpartition(":")[2])
    again = client.serve("127.0.0.1", port)
    assert (again["url"], again["opened"]) == (url, False)
    with pytest.raises(InvalidRequest, match="already listens"):
        client.serve(port=port + 1)
    with pytest.raises(InvalidRequest, match="without tokens"):
        client.serve(port=port, require_auth=True)


def test_the_same_port_can_be_opened_again_at_once(client: Client) -> None:
    with listening(client) as url:
        httpx2.get(f"{url}/health")
    with listening(client, port=int(url.rpartition(":")[2])) as again:
        assert again == url
        assert httpx2.get(f"{url}/health").status_code == 200
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{url}/health")


def test_stopping_ends_streams_and_keeps_models(client: Client) -> None:
    list(client.load(CHAT))
    try:
        with (
            listening(client) as url,
            openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as sdk,
        ):
            stream = sdk.completions.create(stream=True, **ENDLESS)
            next(iter(stream))
            assert client.stop_serving()
            with pytest.raises(openai.APIError, match="stopped listening"):
                list(stream)
        assert not client.stop_serving()
        wait_for(lambda: client.ps()[0]["state"] == "idle", "the generation to end")
    finally:
        client.unload(CHAT)


def test_a_client_that_reads_nothing_does_not_hold_up_stopping(client: Client) -> None:
    with listening(client) as url:
        _, _, port = url.rpartition(":")
        with socket.create_connection(("127.0.0.1", int(port))) as deaf:
            deaf.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n")
            assert client.stop_serving()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_the_network_is_not_let_in_by_accident(client: Client, host: str) -> None:
    with pytest.raises(Forbidden, match="anybody on the network") as caught:
        client.serve(host, 0)
    assert "--require-auth" in str(caught.value.hint)
    assert client.handshake()["listening"] is None


def test_the_network_is_let_in_on_purpose(client: Client) -> None:
    info = client.serve("0.0.0.0", 0, allow_open=True)
    try:
        assert info["url"].startswith("http://127.0.0.1:")
        assert httpx2.get(f"{info['url']}/health").status_code == 200
        assert httpx2.get(info["url"], headers={"host": "evil.example"}).status_code == 403
    finally:
        client.stop_serving()


def test_where_to_listen_is_up_to_who_asks(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not to the environment of the kernel that happened to start the server."""
    monkeypatch.setenv("LMNB_PORT", "0")
    monkeypatch.setenv("LMNB_REQUIRE_AUTH", "true")
    info = client.serve()
    try:
        assert info["port"] not in {0, 1234}
        assert info["require_auth"] is True
    finally:
        client.stop_serving()


def test_an_address_elsewhere_is_named(client: Client) -> None:
    with pytest.raises(ConfigError, match=r"no-such-host\.invalid"):
        client.serve("no-such-host.invalid", 0, allow_open=True)
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        client.serve("192.0.2.1", 0, allow_open=True)


def test_web_pages_are_kept_out(url: str) -> None:
    rebound = httpx2.get(f"{url}/v1/models", headers={"host": "evil.example"})
    assert rebound.status_code == 403
    assert "evil.example" in rebound.json()["error"]["message"]
    posted = httpx2.post(
        f"{url}/v1/completions",
        headers={"origin": "https://evil.example", "content-type": "text/plain"},
        content='{"model": "x", "prompt": "y"}',
    )
    assert posted.status_code == 403
    local = httpx2.get(f"{url}/v1/models", headers={"origin": "http://localhost:3000"})
    assert local.status_code == 200
    assert "access-control-allow-origin" not in local.headers


def test_web_pages_are_let_in_on_purpose(
    fresh_home: ServerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMNB_CORS", "1")
    monkeypatch.setenv("LMNB_ALLOWED_HOSTS", "Notebook.example")
    with listening(fresh_home.attach(), require_auth=True) as url:
        # A preflight carries no token.
        answer = httpx2.options(
            f"{url}/v1/messages",
            headers={
                "host": "notebook.example",
                "origin": "https://a.example",
                "access-control-request-method": "POST",
                "access-control-request-headers": "x-api-key, anthropic-version, x-stainless-os",
            },
        )
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "x-stainless-os" in answer.headers["access-control-allow-headers"]
        refused = httpx2.get(f"{url}/v1/models", headers={"origin": "https://a.example"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "*"


def test_tokens(client: Client) -> None:
    info = client.serve(port=0, require_auth=True)
    assert "lmnb token create" in info["warnings"][0]
    url = info["url"]
    text = client.create_token("test")["token"]
    try:
        with httpx2.Client(base_url=url) as http:
            for good in (
                {"authorization": f"Bearer {text}"},
                {"authorization": f"bearer {text}"},
                {"x-api-key": text},
            ):
                assert http.get("/v1/models", headers=good).status_code == 200
            for bad in ({}, {"authorization": "Bearer lm-studio"}, {"x-api-key": text[:-1]}):
                assert http.get("/v1/models", headers=bad).status_code == 401
            assert http.get("/health").status_code == 200
            assert http.head("/").status_code == 200
        assert [token["name"] for token in client.tokens()] == ["test"]
        assert text not in str(client.tokens())
    finally:
        client.remove_token("test")
        client.stop_serving()


NEEDED = {
    "/api/v1/models/load": "models",
    "/api/v1/models/unload": "models",
    "/metrics": "administration",
    "/api/v1/models/download": "downloads",
    "/api/v1/models/download/status/none": "downloads",
}


def test_every_route_asks_for_its_permission(client: Client) -> None:
    """What a token with one permission may reach, of all routes that there are."""
    with listening(client, require_auth=True) as url, httpx2.Client(base_url=url) as http:
        for permission in Permission:
            text = client.create_token(permission, [permission])["token"]
            try:
                for method, path in _routes():
                    answer = http.request(
                        method, path, headers={"x-api-key": text}, json=_refused_body(method)
                    )
                    if method == "GET" and "/models" in path and path not in NEEDED:
                        needed = None
                    else:
                        needed = NEEDED.get(path, "inference")
                    refused = answer.status_code == 403
                    assert refused == (needed not in {None, permission}), (permission, path)
                    assert not refused or f"'{needed}'" in answer.text
            finally:
                client.remove_token(permission)


def _routes() -> Iterator[tuple[str, str]]:
    for router in (openai_routes.router, anthropic_routes.router, lmstudio_routes.router):
        for route in router.routes:
            if isinstance(route, WebSocketRoute):  # see test_protocol_openai_websocket.py
                continue
            assert isinstance(route, Route)
            for method in (route.methods or set()) - {"HEAD"}:
                yield method, re.sub(r"\{.*?\}", "none", route.path)
    yield "GET", "/metrics"


def _refused_body(method: str) -> object:
    """A body that no route takes, so that nothing is done."""
    return None if method == "GET" else []


def test_a_permission_taken_away_is_gone_at_once(client: Client) -> None:
    text = client.create_token("laptop")["token"]
    try:
        with (
            listening(client, require_auth=True) as url,
            anthropic.Anthropic(base_url=url, api_key=text) as claude,
        ):
            messages: list[MessageParam] = [{"role": "user", "content": "Hello"}]
            counted = claude.messages.count_tokens(model=CHAT, messages=messages)
            assert counted.input_tokens > 0
            client.edit_token("laptop", permissions=["downloads"])
            with pytest.raises(anthropic.PermissionDeniedError, match="'inference'") as refused:
                claude.messages.count_tokens(model=CHAT, messages=messages)
            body = refused.value.body
            assert isinstance(body, dict)
            assert body["error"]["type"] == "permission_error"
    finally:
        client.remove_token("laptop")
        client.unload(all=True)


def test_a_refused_client_is_told_in_its_own_protocol(client: Client) -> None:
    with listening(client, require_auth=True) as url:
        with (
            openai.OpenAI(base_url=f"{url}/v1", api_key="wrong") as sdk,
            pytest.raises(openai.AuthenticationError) as refused,
        ):
            sdk.models.list()
        assert refused.value.code == "invalid_api_key"
        with (
            anthropic.Anthropic(base_url=url, api_key="wrong") as claude,
            pytest.raises(anthropic.AuthenticationError, match="invalid x-api-key"),
        ):
            claude.messages.create(
                model=CHAT, max_tokens=1, messages=[{"role": "user", "content": "Hello"}]
            )
        native = httpx2.get(f"{url}/api/v1/models").json()
        assert native["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("port", [-1, 65536, 99999])
def test_a_port_that_cannot_be_is_refused(client: Client, port: int) -> None:
    with pytest.raises(InvalidRequest, match="between 0 and 65535"):
        client.serve(port=port)
    assert not client.handshake()["listening"]
