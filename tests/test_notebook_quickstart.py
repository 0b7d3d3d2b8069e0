"""The quick-start notebook, run from top to bottom as a newcomer would."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from server_home import ServerHome

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "quickstart.ipynb"


def read() -> Any:
    untyped: Any = nbformat
    return untyped.read(NOTEBOOK, as_version=4)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def outputs(notebook: Any, start: str) -> list[Any]:
    """The outputs of the first cell that begins with the line `start`, or with such a line."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    exact = [cell for cell in cells if cell.source.split("\n")[0] == start]
    begins = [cell for cell in cells if cell.source.startswith(start)]
    return list((exact or begins)[0].outputs)


def test_it_is_committed_without_outputs_and_with_a_kernel() -> None:
    notebook = read()
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_it_runs(fresh_home: ServerHome, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("LMNB_PORT", str(port))
    notebook = read()
    nbclient.NotebookClient(notebook, timeout=280, kernel_name="python3").execute()
    nbformat.validate(notebook)

    assert "smollm2-135m-instruct is here" in outputs(notebook, "%lm get")[0].data["text/plain"]
    asked = [cell for cell in notebook.cells if cell.source.startswith(("%%claude", "%%openai"))]
    assert len(asked) == 3
    for answer, footer in (cell.outputs for cell in asked):
        assert answer.data["text/markdown"]
        assert "tokens/s" in footer.data["text/plain"]
    assert "history 4 messages" in asked[1].outputs[1].data["text/plain"]

    cats, kittens, train = [
        [float(number) for number in line.split()[:3]]
        for line in outputs(notebook, "import lmnb")[0].text.splitlines()[2:]
    ]
    assert cats[1] > cats[2] + 0.2
    assert kittens[0] > train[1] + 0.2

    assert f"http://127.0.0.1:{port}" in outputs(notebook, "%lm serve")[0].data["text/plain"]
    assert outputs(notebook, "import os")[0].text.strip()
    message = json.loads("".join(output.text for output in outputs(notebook, "%%bash")))
    assert message["type"] == "message"
    assert message["content"][0]["text"]
    assert f"http://127.0.0.1:{port}" in outputs(notebook, "%lm")[0].data["text/plain"]
