"""`lmnb launch` and `%lm launch`. Real agents are started by it in `clients/`."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from server_home import CHAT, EMBEDDING, ServerHome

from lmnb.agents.all import AGENTS
from lmnb.agents.command import Command, Target, shell_lines
from lmnb.agents.targets import WANTED, choose, remarks
from lmnb.client import Client
from lmnb.errors import ModelLoadFailed, NotSupported

URL = "http://127.0.0.1:4321"
SECRET = "lmnb-secret"


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target(URL, "coder", 65_536, tmp_path / "agents")


@pytest.fixture
def unloaded(client: Client) -> Iterator[Client]:
    client.unload(all=True)
    yield client
    client.stop_serving()
    client.unload(all=True)


def in_a_shell(lines: str, program: Path) -> dict[str, Any]:
    """What a program gets that a shell starts with these lines."""
    path = f"{program.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-c", lines],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": path, "CLAUDE_CODE_USE_BEDROCK": "1", "MINE": "1"},
    )
    assert done.returncode == 7, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with programs of the agents' names that tell how they were called, and end with 7."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for agent in AGENTS.values():
        path = folder / agent.program
        path.write_text(
            "#!/usr/bin/env python3\nimport json, os, sys\n"
            "print(json.dumps({'arguments': sys.argv[1:], 'environment': dict(os.environ)}))\n"
            "sys.exit(7)\n"
        )
        path.chmod(0o700)
    return folder


def test_claude_code_is_told_by_its_environment(target: Target) -> None:
    command = AGENTS["claude"].command(target)
    assert command.arguments == ()
    environment = command.environment
    assert environment["ANTHROPIC_BASE_URL"] == URL
    assert environment["ANTHROPIC_AUTH_TOKEN"]
    assert environment["ANTHROPIC_API_KEY"] == ""
    assert {v for k, v in environment.items() if k.endswith("_MODEL")} == {"coder"}
    assert environment["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == "65536"
    assert environment["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "8192"
    assert environment["CLAUDE_CODE_ATTRIBUTION_HEADER"] == "0"
    assert "CLAUDE_CODE_USE_BEDROCK" in command.removed


def test_codex_is_told_by_overrides_and_a_catalog(tmp_path: Path) -> None:
    target = Target(URL, 'a "b"\\é', 32_768, tmp_path / "agents", sees=True, token=SECRET)
    command = AGENTS["codex"].command(target)
    assert command.arguments[::2] == ("-c",) * (len(command.arguments) // 2)
    settings = tomllib.loads("\n".join(command.arguments[1::2]))
    assert settings["model"] == target.model
    assert settings["model_provider"] == "lmnb"
    provider = settings["model_providers"]["lmnb"]
    assert provider["base_url"] == f"{URL}/v1"
    assert command.environment[provider["env_key"]] == SECRET
    [entry] = json.loads(Path(settings["model_catalog_json"]).read_text())["models"]
    assert entry["slug"] == target.model
    assert entry["context_window"] == 32_768
    assert entry["input_modalities"] == ["text", "image"]
    assert entry["apply_patch_tool_type"] == "freeform"


def test_opencode_is_told_by_a_configuration_in_its_environment(target: Target) -> None:
    command = AGENTS["opencode"].command(target)
    config = json.loads(command.environment["OPENCODE_CONFIG_CONTENT"])
    assert config["model"] == "lmnb/coder"
    provider = config["provider"]["lmnb"]
    assert provider["options"]["baseURL"] == f"{URL}/v1"
    assert provider["models"]["coder"]["limit"] == {"context": 65_536, "output": 8192}


def test_shell_lines_mean_the_same_and_do_not_tell_the_token(
    programs: Path, tmp_path: Path
) -> None:
    file = tmp_path / "a folder" / "token"
    file.parent.mkdir()
    file.write_text(f"{SECRET}\n")
    target = Target(URL, "it's $HOME", 1000, tmp_path, token=SECRET, token_file=file)
    command = AGENTS["claude"].command(target)
    lines = shell_lines(command, target, ["-p", 'say "it\'s" `ls` $PATH'])
    assert SECRET not in lines
    told = in_a_shell(lines, programs / "claude")
    assert told["arguments"] == ["-p", 'say "it\'s" `ls` $PATH']
    assert command.environment.items() <= told["environment"].items()
    assert "CLAUDE_CODE_USE_BEDROCK" not in told["environment"]
    assert told["environment"]["MINE"] == "1"


def test_shell_lines_without_anything_to_remove(target: Target) -> None:
    assert shell_lines(Command("x", environment={"A": "b c"}), target) == "env A='b c' \\\n  x"


@pytest.mark.parametrize("name", list(AGENTS))
def test_launch_becomes_the_agent(
    name: str, server: ServerHome, unloaded: Client, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    arguments = ["-p", "--model", "x", "--", "--port"]
    options = ["--port", "0", "--context-length", "600"]
    done = server.lmnb("launch", name, *options, "--", *arguments, check=False)
    assert done.returncode == 7, done.stderr
    told = json.loads(done.stdout)
    assert told["arguments"][-5:] == arguments
    [row] = unloaded.ps()
    assert (row["id"], row["context_length"]) == (CHAT, 600)
    assert str(row["context_length"]) in done.stderr
    # Said before, as agents fill the screen: that it will not do.
    assert "expect errors" in done.stderr
    url = unloaded.handshake()["listening"]
    assert url in json.dumps(told)


def test_print_env_prints_a_command_with_a_token_that_the_server_knows(
    server: ServerHome, unloaded: Client, programs: Path
) -> None:
    url = unloaded.serve(port=0, require_auth=True)["url"]
    list(unloaded.load(CHAT, context_length=WANTED, parallel=1))
    printed = [server.lmnb("launch", "claude", "--print-env", "--", "-p", "hi") for _ in range(2)]
    assert printed[0].stdout == printed[1].stdout
    assert "expect errors" not in printed[0].stderr
    told = in_a_shell(printed[0].stdout, programs / "claude")
    assert told["arguments"] == ["-p", "hi"]
    assert told["environment"]["ANTHROPIC_BASE_URL"] == url
    key = told["environment"]["ANTHROPIC_AUTH_TOKEN"]
    file = server.path / "agents" / "token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for token, status in ((key, 200), ("wrong", 401)):
        answer = httpx2.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == status
    # Lost, or removed by the user: another is made.
    unloaded.remove_token("launch")
    again = server.lmnb("launch", "claude", "--print-env").stdout
    told = in_a_shell(again, programs / "claude")
    assert told["environment"]["ANTHROPIC_AUTH_TOKEN"] != key
    unloaded.remove_token("launch")


def test_what_is_loaded_is_used_and_what_is_too_small_makes_room(unloaded: Client) -> None:
    first = choose(unloaded, CHAT, None)
    # It was trained for so many.
    assert (first.row, first.context) == (None, 8192)
    list(unloaded.load(CHAT, jit=True, context_length=1024))
    # A request has loaded it: it gives way to more.
    assert choose(unloaded, None, None).replaces == CHAT
    [*_, done] = choose(unloaded, None, None).load(unloaded)
    assert (done["id"], done["context_length"]) == (CHAT, 8192)
    chosen = choose(unloaded, None, None).row
    assert chosen is not None
    assert (chosen["id"], chosen["context_length"]) == (CHAT, 8192)
    assert choose(unloaded, "SmolLM2-135M-instruct", 4096).row is not None
    unloaded.unload(all=True)
    # The user has loaded it, so that is as it is to be.
    list(unloaded.load(CHAT, identifier="mine", context_length=1024))
    chosen = choose(unloaded, "mine", None).row
    assert chosen is not None
    [remark] = remarks(AGENTS["claude"], chosen)
    assert "1024 tokens" in remark
    assert "25000" in remark


def test_models_that_cannot_be_used(unloaded: Client) -> None:
    with pytest.raises(NotSupported, match="no language model"):
        choose(unloaded, EMBEDDING, None)
    with pytest.raises(ModelLoadFailed, match="GB"):
        choose(unloaded, CHAT, 1_000_000_000)


def test_an_agent_that_is_not_installed(server: ServerHome, unloaded: Client) -> None:
    done = server.lmnb("launch", "codex", check=False, PATH="/usr/bin:/bin")
    assert done.returncode == 1
    assert "Codex is not installed" in done.stderr
    assert "npm install -g @openai/codex" in done.stderr
    assert unloaded.ps() == []  # Nothing was loaded for it.


def test_another_port_than_the_open_one(server: ServerHome, unloaded: Client) -> None:
    info = unloaded.serve(port=0)
    other = str(info["port"] % 60_000 + 1)
    done = server.lmnb("launch", "claude", "--print-env", "--port", other, check=False)
    assert done.returncode == 1
    assert f"already listens on {info['url']}" in done.stderr


def test_words_for_the_agent_need_two_dashes(server: ServerHome) -> None:
    done = server.lmnb("launch", "claude", "-p", "hello", check=False)
    assert done.returncode == 2
    assert "[-- ARGUMENT …]" in done.stderr
    assert "unrecognized arguments: -p hello" in done.stderr
