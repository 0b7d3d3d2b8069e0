"""The Host header, the Origin header, and what paths need which permission."""

from __future__ import annotations

import pytest

from lmnb.server.auth import host_allowed, is_loopback, origin_allowed


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "localhost:1234",
        "LOCALHOST.",
        "127.0.0.1:1234",
        "[::1]:1234",
        "::1",
        "192.168.1.7",
        "jupyter.localhost",
        "studio.local:1234",
        "host.docker.internal",
        "workshop:1234",
    ],
)
def test_hosts_that_cannot_be_rebound(host: str) -> None:
    assert host_allowed(host, {"workshop"})


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io:1234", "local", "1.2.3"]
)
def test_hosts_that_can(host: str) -> None:
    assert not host_allowed(host, {"workshop"})


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:3000", True),
        ("https://127.0.0.1", True),
        ("http://[::1]:8888", True),
        ("app://obsidian.md", True),
        ("vscode-webview://1234", True),
        ("http://workshop:1234", True),
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
        ("null", False),
        ("", False),
        ("chrome-extension://abc", False),
    ],
)
def test_origins(origin: str, allowed: bool) -> None:
    assert origin_allowed(origin, "workshop:1234") is allowed


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.3.2.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.7", False),
        ("workshop", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
