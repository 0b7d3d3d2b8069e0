"""What the tests install: packages of npm and of Python, once a machine, beside the test models."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

_INSTALL = 300.0
_RUN = 240.0
"""Seconds until an installation, or a program, is given up."""


def npm(name: str, *packages: str) -> Path:
    """The folder with the `node_modules` of these packages, each with its version.

    Without npm, or its registry, the test is skipped.
    """

    def install(folder: Path) -> None:
        if (program := shutil.which("npm")) is None:
            pytest.skip(f"npm is not installed, with which {name} would be")
        (folder / "package.json").write_text('{"private": true}')
        quick = ("--fetch-retries=1", "--fetch-retry-mintimeout=1000")  # where there is no registry
        quiet = ("--no-audit", "--no-fund")
        _run_installer([program, "install", "--ignore-scripts", *quiet, *quick, *packages], folder)

    return _installed("npm", name, install)


def python(requirements: Path) -> Path:
    """The interpreter of an environment with exactly these packages.

    It is one of its own, since what clients need would change what the project is tested with.
    Without pip, or its index, the test is skipped.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"

    def install(folder: Path) -> None:
        # The file names everything, so that there is nothing to resolve. Compiling all of it would
        # take longer than to install it; what is used is compiled when it is.
        quick = ("--no-deps", "--no-compile", "--only-binary=:all:", "--retries=1")
        _run_installer([sys.executable, "-m", "venv", "."], folder)
        pip = ["bin/python", "-m", "pip", "--disable-pip-version-check", "install"]
        _run_installer([*pip, *quick, "-r", str(requirements)], folder)

    name = f"{requirements.stem}-{version}-{digest(requirements.read_text())}"
    return _installed("python", name, install) / "bin" / "python"


def site(requirements: Path) -> Path:
    """The folder with the packages of such an environment, to put before others in `PYTHONPATH`."""
    (found,) = python(requirements).parents[1].glob("lib/python*/site-packages")
    return found


def digest(*texts: str) -> str:
    """Tells one list of packages from another, for the name of its folder."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]


def run(command: Sequence[str | Path], home: Path, folder: Path, **environment: str) -> str:
    """The output of a program, which reaches nothing but this machine.

    Fails the test with everything that it said if it fails or takes too long.
    """
    closed = "http://127.0.0.1:9"
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_RUN,
        check=False,
        env={
            "HOME": str(home),
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HTTP_PROXY": closed,
            "HTTPS_PROXY": closed,
            "ALL_PROXY": closed,
            "NO_PROXY": "127.0.0.1,localhost",
            **environment,
        },
    )
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _installed(kind: str, name: str, install: Callable[[Path], None]) -> Path:
    cache = Path(os.environ.get("LMNB_TEST_MODELS") or Path.home() / ".cache" / "lmnb-tests")
    folder = cache / kind / name
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            print(f"installing {name} in {folder}", flush=True)  # noqa: T201
            install(folder)
            (folder / "complete").touch()
    return folder


def _run_installer(command: Sequence[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"{folder.name} was not installed within {_INSTALL:.0f} s")
    if done.returncode:
        lines = done.stderr.splitlines()
        errors = [line for line in lines if line.lower().startswith(("error", "npm error"))]
        pytest.skip(f"{folder.name} could not be installed: {' '.join(errors[:2])}")
