"""The magics where there are no widgets and nobody looks on: nbconvert, papermill, IPython in a terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from server_home import CHAT, ServerHome

CELLS = [
    "word = 'Paris'",
    "%load_ext lmnb",
    f"%lm load {CHAT}",
    "%%claude -o answer --temperature 0 --max-tokens 12\nSay {{word}}.",
    "import pandas as pd\ndf = pd.DataFrame({'n': [1, 2]})",
    f"asked = df.lm.map('Is {{n}} even?', {{'even': ['y', 'n']}}, model='{CHAT}', progress=True)",
    "%lm ps",
    "print('the answer has', answer.usage.output, 'tokens')",
]
RUNNERS = {
    "nbconvert": ["nbconvert", "--to", "notebook", "--execute", "--output", "ran", "asked.ipynb"],
    "papermill": ["papermill", "asked.ipynb", "ran.ipynb", "-p", "word", "Rome", "--no-progress-bar"],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a notebook."""
    untyped: Any = nbformat
    cells = [untyped.v4.new_code_cell(source) for source in CELLS]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = untyped.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    untyped.write(notebook, tmp_path / "asked.ipynb")
    return tmp_path


def run(folder: Path, module: str, *arguments: str) -> str:
    """What a program of Python says, which has to end well."""
    environment = {**os.environ, "IPYTHONDIR": str(folder / "ipython")}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("runner", ["nbconvert", pytest.param("papermill", marks=pytest.mark.full)])
def test_a_notebook_is_run_and_reads_well(runner: str, folder: Path, server: ServerHome) -> None:
    run(folder, *RUNNERS[runner])
    untyped: Any = nbformat
    cells = untyped.read(folder / "ran.ipynb", as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    said = ""
    for output in outputs:
        assert output.output_type in {"stream", "display_data"}
        assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
        text = output.get("text") or output.data["text/plain"]
        assert text.strip()
        assert "\r" not in text
        assert "\x1b" not in text
        said += f"{text}\n"
    assert re.search(rf"^\[{CHAT} · .* tokens", said, re.MULTILINE)  # below the answer
    assert re.search(r"^map: 2 ok", said, re.MULTILINE)
    assert re.search(r"^Loaded .* Unloads", said, re.MULTILINE)
    assert "the answer has" in said


def test_ipython_in_a_terminal_prints_plain_text(folder: Path, server: ServerHome) -> None:
    said = run(folder, "IPython", "--no-banner", "--colors=NoColor", "asked.ipynb")
    lines = said.strip().splitlines()
    assert any(line.startswith(f"[{CHAT} · ") for line in lines)
    assert any(line.startswith("map: 2 ok") for line in lines)
    assert any(line.startswith("Loaded ") for line in lines)
    assert lines[-1].startswith("the answer has")
    for mark in ("\x1b", "\r", "<", "display_id"):
        assert mark not in said
