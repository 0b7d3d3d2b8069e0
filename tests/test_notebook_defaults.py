"""Defaults from `%config` and `pyproject.toml`, aliases, and completion, seen in what would be asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from notebook_kernel import Kernel
from server_home import CHAT, ServerHome

PROJECT = f"""
[tool.lmnb]
model = "small"
system = "From the project."
temperature = 0.25
thinking = false
cells = 1

[tool.lmnb.aliases]
small = "{CHAT}"
"""


@pytest.fixture(scope="module")
def kernel(server: ServerHome) -> Iterator[Kernel]:
    server.attach().unload(all=True)
    with Kernel(server.path) as kernel:
        kernel.run("import os\n%load_ext lmnb")
        yield kernel


@pytest.fixture
def project(kernel: Kernel, tmp_path: Path) -> Iterator[Path]:
    """A project, in a folder of which the kernel is."""
    inside = tmp_path / "notebooks"
    inside.mkdir()
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    kernel.run(f"before = os.getcwd()\nos.chdir({str(inside)!r})")
    yield tmp_path / "pyproject.toml"
    kernel.run("os.chdir(before)")
    kernel.run("%config Lmnb.temperature = None\n%config Lmnb.system = None")


def asked(kernel: Kernel, options: str = "") -> dict[str, Any]:
    kernel.run(f"%%openai --new --api chat --dry-run -o dry {options}\nHello.")
    body = kernel.value("dry.body")
    assert isinstance(body, dict)
    return body


def failure(kernel: Kernel, code: str) -> str:
    execution = kernel.run(code, ok=False)
    assert execution.error is not None
    return "\n".join(execution.error["traceback"])


def test_the_projects_file(kernel: Kernel, project: Path) -> None:
    kernel.run("something = 1")
    body = asked(kernel)
    assert body["model"] == CHAT
    assert body["temperature"] == 0.25
    assert body["reasoning_effort"] == "none"
    assert body["messages"][0] == {"role": "system", "content": "From the project."}
    assert "something = 1" in body["messages"][1]["content"]
    # Options go before it, and a change of the file is seen.
    assert asked(kernel, "--temperature 0.75")["temperature"] == 0.75
    assert asked(kernel, "--cells 0")["messages"][1]["content"] == "Hello."
    assert asked(kernel, "-s Mine.")["messages"][0]["content"] == "Mine."
    project.write_text("[tool.lmnb]\ntop_p = 0.5\nmax_tokens = 7\nseed = 3")
    body = asked(kernel, f"-m {CHAT}")
    assert (body["top_p"], body["max_completion_tokens"], body["seed"]) == (0.5, 7, 3)
    assert "temperature" not in body


def test_config_goes_before_the_project(kernel: Kernel, project: Path) -> None:
    kernel.run("%config Lmnb.temperature = 0.5\n%config Lmnb.system = 'From here.'")
    body = asked(kernel)
    assert body["temperature"] == 0.5
    assert body["messages"][0]["content"] == "From here."
    kernel.run("%config Lmnb.temperature = None")
    assert asked(kernel)["temperature"] == 0.25
    # IPython says it, and keeps the old value.
    assert "not be greater than 1" in kernel.run("%config Lmnb.top_p = 2").stdout
    assert "top_p" not in asked(kernel)
    # A wrong value, of ipython_config.py for example, keeps nobody from loading the extension.
    assert "not be greater than 1" in kernel.run("%reload_ext lmnb").text
    kernel.run("%config Lmnb.top_p = None")


def test_mistakes_in_the_projects_file(kernel: Kernel, project: Path) -> None:
    question = f"%%claude --dry-run -m {CHAT}\nHello."
    for content, words in [
        ("[tool.lmnb]\ntemprature = 1", "Did you mean temperature?"),
        ("[tool.lmnb]\ntemperature = 'hot'", "temperature"),
        ("[tool.lmnb]\nthinking = 'much'", "'much' is neither"),
        ("[tool.lmnb", "cannot be read"),
    ]:
        project.write_text(content)
        shown = failure(kernel, question)
        assert "ConfigError" in shown
        assert words in shown
    project.write_text("[tool.other]\nx = 1")
    assert asked(kernel, f"-m {CHAT}")["model"] == CHAT


def test_aliases(kernel: Kernel, project: Path) -> None:
    assert kernel.run(f"%lm alias tiny {CHAT}").text == f"tiny is {CHAT}."
    assert asked(kernel, "-m tiny")["model"] == CHAT
    shown = kernel.run("%lm alias").text
    assert f"small  {CHAT}" in shown
    assert f"tiny   {CHAT}" in shown
    assert kernel.run("%lm use tiny").text == f"Cells ask {CHAT} from now on."
    kernel.run("%lm alias tiny --remove")
    assert "There is no model 'tiny'" in failure(kernel, "%%claude --dry-run -m tiny\nHello.")
    assert "no model the name" in failure(kernel, "%lm alias tiny --remove")
    assert "which model" in failure(kernel, "%lm alias tiny")


def complete(kernel: Kernel, code: str) -> list[str]:
    request = kernel.client.complete(code, len(code))
    while (message := kernel.client.get_shell_msg(timeout=30))["parent_header"][
        "msg_id"
    ] != request:
        pass
    content = message["content"]
    return [code[: content["cursor_start"]] + match for match in content["matches"]]


def test_completion(kernel: Kernel, project: Path) -> None:
    kernel.run("my_variable = 1")
    for code, found in [
        ("%%claude -m smo", [f"%%claude -m {CHAT}"]),
        ("%%openai --model smal", ["%%openai --model small"]),
        ("%lm use smo", [f"%lm use {CHAT}"]),
        ("%lm inspect smo", [f"%lm inspect {CHAT}"]),
        ("%lm history cl", ["%lm history claude"]),
        ("%%openai --api ch", ["%%openai --api chat"]),
        ("%%claude --dry", ["%%claude --dry-run"]),
        ("%%openai --log", ["%%openai --logprobs"]),
        ("%%claude --log", []),
        ("%lm ali", ["%lm alias"]),
        ("%%claude --new\nWhat is {{my_v", ["%%claude --new\nWhat is {{my_variable"]),
    ]:
        assert complete(kernel, code) == found, code
