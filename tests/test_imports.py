"""Imports run one way: notebook, cli → client → (HTTP) → server → chat, models → engine."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "lmnb"
EVERYWHERE = {"errors", "config", "runtime", "__init__"}
ALLOWED = {
    "__init__": {"notebook", "attaching", "client", "frame"},
    "__main__": {"cli"},
    "errors": set(),
    "runtime": set(),
    "config": set(),
    "logs": set(),
    "journal": set(),
    "inspected": set(),
    "schemas": set(),
    "launch": set(),
    "attaching": {"client", "launch"},
    "client": set(),
    "follow": {"client"},
    "selection": {"client"},
    "agents": {"client", "selection"},
    "cli": {"agents", "attaching", "client", "inspected", "journal", "launch", "logs"},
    "frame": {"attaching", "client", "notebook", "schemas", "selection"},
    "notebook": {
        "agents",
        "attaching",
        "client",
        "follow",
        "frame",
        "inspected",
        "schemas",
        "selection",
    },
    "server": {"chat", "models", "engine", "journal", "logs"},
    "chat": {"engine"},
    "models": {"engine"},
    "engine": set(),
}
"""What the files of a room may import besides themselves and `EVERYWHERE`."""


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            if node.module == "lmnb":
                for name in node.names:
                    yield f"lmnb.{name.name}", node.lineno
            elif node.module:
                yield node.module, node.lineno


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    own = room(path)
    allowed = ALLOWED[own] | EVERYWHERE | {own}
    if own == "engine":
        allowed -= {"config", "runtime"}
    for name, line in imported(path):
        parts = name.split(".")
        if parts[0] == "lmnb" and len(parts) > 1 and parts[1] in ALLOWED:
            assert parts[1] in allowed, f"{path}:{line} imports {name}"
        if parts[0] == "llama_cpp":
            assert path == ROOT / "engine" / "native.py", f"{path}:{line} imports {name}"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("lmnb", {"httpx2", "pydantic", "openai", "anthropic", "pandas", "numpy"}),
        ("lmnb.attaching", {"lmnb.server", "lmnb.engine", "lmnb.models", "lmnb.chat", "llama_cpp"}),
        (
            "lmnb.attaching",
            {"openai", "anthropic", "fastapi", "pydantic", "numpy", "huggingface_hub"},
        ),
        ("lmnb.cli", {"lmnb.server", "lmnb.engine", "lmnb.models", "fastapi", "openai", "IPython"}),
        ("lmnb.server.process", {"llama_cpp", "lmnb.engine.native", "IPython", "pandas"}),
    ],
)
def test_importing_loads_no_more_than_needed(module: str, absent: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not absent & set(done.stdout.split())
