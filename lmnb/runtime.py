"""Where the server of a home is found: the record, the locks, the identity.

Client and server share these few functions and nothing else. All of it is per
host, since a home may lie on a network: two machines sharing one run one
server each. The locks are flocks: the system drops them with the process, so
there is no such thing as a stale one.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lmnb import __version__

SOCKET_PATH_LIMIT = 100
"""A socket's path must be shorter than this: the system's own limit is 104 to 108 bytes."""


def find_home() -> Path:
    """`$LMNB_HOME`, or `~/.lmnb`; absolute, not necessarily there."""
    given = os.environ.get("LMNB_HOME")
    return Path(given).expanduser().absolute() if given else Path.home() / ".lmnb"


def log_path(home: Path) -> Path:
    """The server's log; older parts lie next to it."""
    return home / "log" / "server.log"


class Lock:
    """A lock file held by this process, or by none of ours. Released by `release` or by dying."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self, seconds: float = 0.0) -> bool:
        """Try for `seconds`; say whether the lock is held now."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + seconds
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    os.close(fd)
                    return False
                time.sleep(0.02)
            else:
                self._fd = fd
                return True

    def release(self) -> None:
        """Let go. The file stays: removing it would let two processes hold "the" lock."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def make_home(home: Path) -> None:
    """Make the folder, for this user alone: stored chats and tokens lie in it."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)


def server_lock(home: Path) -> Lock:
    """Held by the server for life."""
    return Lock(_run_folder(home) / "server.lock")


def start_lock(home: Path) -> Lock:
    """Held by a client while it starts or replaces the server."""
    return Lock(_run_folder(home) / "start.lock")


def read_record(home: Path) -> dict[str, Any] | None:
    """`{"socket": path, "pid": int}` of the server that last started here, which may be gone."""
    try:
        record = json.loads((_run_folder(home) / "server.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and {"socket", "pid"} <= record.keys() else None


def write_record(home: Path, socket_path: Path) -> None:
    """Say where this process listens. Atomic: a reader sees the old or the new."""
    path = _run_folder(home) / "server.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"socket": str(socket_path), "pid": os.getpid()}))
    temporary.replace(path)


def remove_record(home: Path) -> None:
    """Take the record back, if it is this process's."""
    record = read_record(home)
    if record is not None and record["pid"] == os.getpid():
        (_run_folder(home) / "server.json").unlink(missing_ok=True)


def listens(path: str) -> bool:
    """Whether anybody accepts connections on the socket at `path`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


def socket_path(home: Path) -> Path:
    """A short path for the socket in a folder that only this user can enter.

    `$XDG_RUNTIME_DIR` if there is one, else a folder in the system's temporary folder. Somebody
    else's folder of that name is not used: a fresh one with a random name is (clients read the
    path from the record, so any will do).
    """
    name = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:12] + ".sock"
    for folder in _candidates():
        path = folder / name
        if len(os.fsencode(path)) < SOCKET_PATH_LIMIT and _is_private(folder):
            return path
    return Path(tempfile.mkdtemp(prefix="lmnb-", dir="/tmp")) / name


def identity() -> dict[str, str]:
    """What must be equal for a client to use a server: lmnb, the interpreter, llama.cpp's build.

    Reads metadata only: a kernel never imports llama_cpp.
    """
    return {
        "version": __version__,
        "python": f"{platform.python_version()} in {Path(sys.prefix).resolve()}",
        "build": _build(),
    }


def _run_folder(home: Path) -> Path:
    return home / "run" / (socket.gethostname() or "localhost").replace("/", "_")


def _candidates() -> list[Path]:
    temporary = [tempfile.gettempdir(), "/tmp"]  # noqa: S108 - checked to be ours
    folders = [Path(parent) / f"lmnb-{os.getuid()}" for parent in temporary]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        folders.insert(0, Path(runtime) / "lmnb")
    return folders


def _is_private(folder: Path) -> bool:
    """Make the folder if need be; whether it is a real one, ours and closed to others."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    return (
        folder.is_dir()
        and not folder.is_symlink()
        and found.st_uid == os.getuid()
        and (found.st_mode & 0o077 == 0)
    )


def _build() -> str:
    """Version of llama-cpp-python and a stamp of its library file, which a rebuild changes."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        return "none"
    version = importlib.metadata.version("llama-cpp-python")
    folder = Path(spec.submodule_search_locations[0]) / "lib"
    for library in sorted(folder.glob("*llama.*")):
        found = library.stat()
        return f"{version}+{found.st_size:x}.{found.st_mtime_ns:x}"
    return version
