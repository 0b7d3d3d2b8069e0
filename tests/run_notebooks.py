"""Run the notebooks of `notebooks/`, and write them with their outputs, as they are committed.

`python tests/run_notebooks.py [NAME …]`. Outputs are freed of what belongs to this machine and this run.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import nbclient
import nbformat
from server_home import ServerHome, link_models

FOLDER = Path(__file__).parents[1] / "notebooks"
_untyped: Any = nbformat
NAMES = sorted(path.stem for path in FOLDER.glob("*.ipynb"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def read(name: str) -> Any:
    return _untyped.read(FOLDER / f"{name}.ipynb", as_version=4)


def execute(notebook: Any) -> Any:
    """The notebook with its outputs, run in its folder; the first error of a cell is raised."""
    where = {"metadata": {"path": str(FOLDER)}}
    nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3", resources=where).execute()
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = list(_joined(cell.outputs))
    nbformat.validate(notebook)
    return notebook


def tidied(notebook: Any, home: Path, port: int) -> Any:
    """The notebook as it is committed: with the paths and the port of a user, and no times of cells."""
    for cell in notebook.cells:
        cell.metadata.clear()
        for output in cell.get("outputs", ()):
            for texts in (output, output.get("data", {})):
                for key, text in texts.items():
                    if isinstance(text, str) and not key.startswith("image/"):
                        texts[key] = _plain(text, home, port)
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def _joined(outputs: Iterable[Any]) -> Iterator[Any]:
    """Outputs without those that show nothing; what was printed in pieces is one."""
    last: Any = None
    for output in outputs:
        if output.output_type == "stream" and last is not None and last.get("name") == output.name:
            last.text += output.text
        elif output.output_type == "stream" or any(output.get("data", {"error": True}).values()):
            last = output
            yield output


def _plain(text: str, home: Path, port: int) -> str:
    text = text.replace(str(home), "/home/you/.lmnb").replace(f"127.0.0.1:{port}", "127.0.0.1:1234")
    return re.sub(r"process \d+", "process 4711", text)


def main(names: list[str]) -> None:
    cache = Path(os.environ.get("LMNB_TEST_MODELS") or Path.home() / ".cache" / "lmnb-tests")
    with tempfile.TemporaryDirectory() as folder:
        home, port = Path(folder), free_port()
        link_models(cache, home)
        os.environ |= {"LMNB_HOME": str(home), "LMNB_PORT": str(port)}
        server = ServerHome(home)
        try:
            for name in names or NAMES:
                notebook = tidied(execute(read(name)), home, port)
                _untyped.write(notebook, FOLDER / f"{name}.ipynb")
        finally:
            server.close()
            server.wait_until_empty()


if __name__ == "__main__":
    main(sys.argv[1:])
