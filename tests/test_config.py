"""Settings: where they come from, and changing them while the server runs."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from server_home import CHAT, ServerHome

from lmnb.client import Client
from lmnb.config import Settings, change_setting, describe, load_settings
from lmnb.errors import ConfigError, InvalidRequest, ModelNotFound


def test_the_file_yields_to_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "settings.json").write_text('{"port": 5000, "jit_ttl": 60}')
    monkeypatch.setenv("LMNB_PORT", "5001")
    monkeypatch.setenv("LMNB_HOST", "")
    monkeypatch.setenv("LMNB_ALLOWED_HOSTS", "a.example, b.example")
    settings = load_settings(tmp_path)
    assert (settings.port, settings.jit_ttl, settings.host) == (5001, 60.0, "127.0.0.1")
    assert settings.allowed_hosts == ("a.example", "b.example")
    assert settings.home == tmp_path


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(tmp_path)


@pytest.mark.parametrize(
    ("name", "given", "value", "text"),
    [
        ("cors", "on", True, "on"),
        ("jit_loading", False, False, "off"),
        ("jit_ttl", "90", 90.0, "90"),
        ("jit_ttl", 0, 0.0, "0"),
        ("port", "0", 0, "0"),
        ("default_context_length", 4096, 4096, "4096"),
        (
            "allowed_hosts",
            "a.example,, b.example,",
            ("a.example", "b.example"),
            "a.example,b.example",
        ),
        ("allowed_hosts", ["c.example"], ("c.example",), "c.example"),
    ],
)
def test_a_change_counts_and_stays(
    settings: Settings, name: str, given: object, value: object, text: str
) -> None:
    change_setting(settings, name, given)
    assert getattr(settings, name) == value
    assert load_settings(settings.home) == settings
    (row,) = (row for row in describe(settings) if row.name == name)
    assert (row.text, row.source) == (text, "file")
    change_setting(settings, name, row.text)  # As it is shown, so it can be given.
    assert getattr(settings, name) == value
    change_setting(settings, name, None)
    assert json.loads((settings.home / "settings.json").read_text()) == {}
    assert settings == load_settings(settings.home)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 70000),
        ("port", "http"),
        ("jit_ttl", -1),
        ("jit_ttl", "nan"),
        ("cors", "perhaps"),
        ("default_context_length", 0),
        ("default_context_length", 1 << 40),
        ("host", ""),
        ("allowed_hosts", 3),
        ("allowed_hosts", [[]]),
        ("home", "/tmp/elsewhere"),
        ("prot", 1),
    ],
)
def test_what_cannot_be_changes_nothing(settings: Settings, name: str, value: Any) -> None:
    change_setting(settings, "port", 4321)
    before = (settings.model_copy(), (settings.home / "settings.json").read_text())
    with pytest.raises(InvalidRequest) as caught:
        change_setting(settings, name, value)
    assert repr(name) in caught.value.message or name in caught.value.message
    assert (settings, (settings.home / "settings.json").read_text()) == before


def test_what_the_environment_sets_cannot_be_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMNB_PORT", "5001")
    monkeypatch.setenv("LMNB_HOST", "")
    settings = load_settings(tmp_path)
    with pytest.raises(InvalidRequest, match="LMNB_PORT"):
        change_setting(settings, "port", 1)
    change_setting(settings, "host", "0.0.0.0")
    sources = {row.name: row.source for row in describe(settings)}
    assert (sources["port"], sources["host"], sources["cors"]) == ("environment", "file", "default")


def test_a_file_that_somebody_broke_is_left_alone(settings: Settings) -> None:
    path = settings.home / "settings.json"
    for text in ("{", '{"port": -4}', '{"prot": 4}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"settings\.json"):
            change_setting(settings, "cors", "on")
        assert path.read_text() == text
    assert not settings.cors


def test_changes_at_once_lose_none(settings: Settings) -> None:
    values: dict[str, Any] = {"cors": True, "port": 99, "jit_ttl": 5.0, "auto_evict": False}
    threads = [
        threading.Thread(target=change_setting, args=(settings, name, value))
        for name, value in values.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stored = load_settings(settings.home)
    assert {name: getattr(stored, name) for name in values} == values


def test_every_setting_says_what_it_means(settings: Settings) -> None:
    rows = describe(settings)
    assert {row.name for row in rows} == set(Settings.model_fields) - {"home"}
    assert all(row.description.endswith(".") for row in rows)


def test_a_running_server_goes_by_the_change(server: ServerHome, client: Client) -> None:
    client.unload(all=True)
    assert "jit_loading = on\n" in server.lmnb("settings").stdout
    done = server.lmnb("settings", "jit_loading", "off")
    assert done.stdout.startswith("jit_loading = off  (file)\n")
    try:
        body = {"model": CHAT, "prompt": "One", "max_tokens": 1}
        answer = client.http.post("/v1/completions", json=body).json()
        assert "loading on demand is switched off" in answer["error"]["message"]
        with pytest.raises(ModelNotFound):
            list(client.load(CHAT, jit=True))
        assert (
            json.loads(server.lmnb("settings", "jit_loading", "--json").stdout)[0]["value"] is False
        )
    finally:
        server.lmnb("settings", "jit_loading", "--reset")
    assert client.settings() == [row for row in client.settings() if row["source"] == "default"]
    wrong = server.lmnb("settings", "jit_ttl", "long", check=False)
    assert wrong.returncode == 1
    assert "jit_ttl cannot be 'long'" in wrong.stderr
    assert "no setting 'x'" in server.lmnb("settings", "x", check=False).stderr


def test_an_open_port_stays_as_it_is_and_says_so(client: Client) -> None:
    info = client.serve(port=0)
    try:
        (warning,) = client.change_setting("cors", "on")["warnings"]
        assert info["url"] in warning
        assert client.change_setting("jit_ttl", 60)["warnings"] == []
        # The server's word counts for whoever asks next: in the file, not in this process.
        assert load_settings(client.home).cors
    finally:
        client.stop_serving()
        client.change_setting("cors", None)
        client.change_setting("jit_ttl", None)
