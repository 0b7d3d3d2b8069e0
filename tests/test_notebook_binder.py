"""The image of the hosted notebook: its build script, with the programs it calls replaced.

The real build needs a container builder and the network.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

BINDER = Path(__file__).parents[1] / "binder"


def build(tmp_path: Path, *, failing: str = "") -> tuple[int, list[str]]:
    """Run postBuild; its exit status and the commands it has called."""
    programs = tmp_path / "bin"
    programs.mkdir()
    log = tmp_path / "log"
    for name in ("python", "lmnb"):
        program = programs / name
        program.write_text(
            f'#!/bin/sh\necho "{name} $*" >> "{log}"\ncase "{name} $*" in "{failing}"*) exit 1;; esac\n'
            if failing
            else f'#!/bin/sh\necho "{name} $*" >> "{log}"\n'
        )
        program.chmod(0o755)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "NB_PYTHON_PREFIX": str(tmp_path / "env"),
    }
    done = subprocess.run([BINDER / "postBuild"], env=environment, check=False)
    return done.returncode, log.read_text().splitlines()


def test_the_build_installs_checks_and_fetches_both_models(tmp_path: Path) -> None:
    status, calls = build(tmp_path)
    assert status == 0
    install, check, *fetch = calls
    assert "--only-binary llama-cpp-python" in install
    assert "https://abetlen.github.io/llama-cpp-python/whl/cpu" in install
    assert check == "python -m lmnb.engine.devices"
    assert fetch == ["lmnb get", "lmnb get all-minilm-l6-v2", "lmnb stop"]
    settings = tmp_path / "env" / "share" / "jupyter" / "lab" / "settings" / "overrides.json"
    assert json.loads(settings.read_text())


def test_a_wheel_that_does_not_run_here_fails_the_build(tmp_path: Path) -> None:
    status, calls = build(tmp_path, failing="python -m lmnb")
    assert status != 0
    assert len(calls) == 2
