"""Saved prefixes on disk: what host memory has no room for, and what outlives the process.

A file holds one state: a header, its tokens, its data, and a digest over all of it, since
llama.cpp asserts on some kinds of damage. All models and processes share one folder within one
budget; the files that were used longest ago go first. A file belongs to the model file, the KV
cache's types and the llama.cpp that wrote it; others are left alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import queue
import struct
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from lmnb.engine.config import LoadConfig
from lmnb.engine.prefixes import Tokens
from lmnb.engine.protocol import Load
from lmnb.engine.saved import Saved

_MAGIC = b"lmnb-prefix-1\n"
_SUFFIX = ".prefix"
_DIGEST = 32
_MOST_PENDING = 1 << 29
"""Bytes that may wait to be written; what comes on top is not kept. A single copy may be larger."""


class _Header(msgspec.Struct, frozen=True):
    """What stands before the tokens. Lengths in tokens and bytes."""

    fingerprint: str
    tokens: int
    data: int
    start: int
    session: str | None


def open_disk(load: Load, *, flash: bool) -> Disk | None:
    """The folder that a load names, if it names one that can be used.

    `flash`: whether the context has flash attention, whose values lie otherwise in memory.
    """
    if load.prefixes is None:
        return None
    path, folder = Path(load.path), Path(load.prefixes.path)
    config = msgspec.structs.replace(load.config, flash_attention=flash)
    try:
        return Disk(folder, load.prefixes.bytes, fingerprint(path, config))
    except OSError as error:
        print(f"{folder} cannot hold prefixes: {error}.", flush=True)  # noqa: T201  (the worker's log)
        return None


def fingerprint(path: Path, config: LoadConfig) -> str:
    """What a state depends on, beside its tokens: the model, how it is computed, and with what."""
    status = path.stat()
    with path.open("rb") as file:
        beginning = file.read(1 << 16)
    parts = (
        importlib.metadata.version("llama-cpp-python"),
        status.st_size,
        status.st_mtime_ns,
        config.cache_type_k,
        config.cache_type_v,
        config.flash_attention,
        config.num_experts,
        config.gpu_layers,
    )
    return hashlib.blake2b(repr(parts).encode() + beginning, digest_size=16).hexdigest()


class Disk:
    """The files of one model in the shared folder. One thread writes; reading is the caller's."""

    def __init__(self, folder: Path, budget: int, fingerprint: str) -> None:
        self._folder = folder
        self._budget = budget
        self._fingerprint = fingerprint
        self._queue: queue.SimpleQueue[Saved] = queue.SimpleQueue()
        self._pending = 0
        self._lock = threading.Condition()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        threading.Thread(target=self._write_forever, daemon=True).start()

    def found(self) -> list[Saved]:
        """What earlier processes have left for this model; without data, which `read` fetches."""
        saved = []
        for path in self._folder.glob(f"{self._fingerprint}-*{_SUFFIX}"):
            with contextlib.suppress(OSError, ValueError, msgspec.MsgspecError, struct.error):
                header, tokens = _read_head(path)
                if header.fingerprint == self._fingerprint:
                    kept = Saved(tokens, None, start=header.start, session=header.session)
                    kept.path = path
                    saved.append(kept)
        return saved

    def write(self, saved: Saved) -> bool:
        """Have a copy written, after which its data is given up; False if too much waits already."""
        with self._lock:
            is_late = self._pending and self._pending + saved.size > _MOST_PENDING
            if saved.size > self._budget or is_late:
                return False
            self._pending += saved.size
        name = hashlib.blake2b(saved.tokens.tobytes(), digest_size=16).hexdigest()
        saved.path = self._folder / f"{self._fingerprint}-{name}{_SUFFIX}"
        self._queue.put(saved)
        return True

    def holds(self, saved: Saved) -> bool:
        """Whether there is something to read."""
        return saved.data is not None or (saved.path is not None and saved.path.exists())

    def read(self, saved: Saved) -> NDArray[np.uint8] | None:
        """A copy's data; None if the file is gone or damaged, which is then removed."""
        data = saved.data  # The other thread may just be giving it up.
        if data is not None or saved.path is None:
            return data
        try:
            data = _read_data(saved.path, saved.tokens)
            os.utime(saved.path)
        except (OSError, ValueError, msgspec.MsgspecError, struct.error):
            self.remove(saved)
            return None
        return data

    def remove(self, saved: Saved) -> None:
        """Delete a copy's file, if it has one."""
        if saved.path is not None:
            with contextlib.suppress(OSError):
                saved.path.unlink()
            saved.path = None

    def wait(self) -> None:
        """Until all is written."""
        with self._lock:
            self._lock.wait_for(lambda: not self._pending)

    # --- the writing thread ------------------------------------------------------------

    def _write_forever(self) -> None:
        while True:
            saved = self._queue.get()
            size, path = saved.size, saved.path
            try:
                if path is not None:
                    self._make_room(size)
                    self._write(saved, path)
                    if saved.path is None:  # It was dropped meanwhile.
                        path.unlink(missing_ok=True)
            except OSError:
                self.remove(saved)
            saved.data = None
            with self._lock:
                self._pending -= size
                self._lock.notify_all()

    def _make_room(self, size: int) -> None:
        files = []
        for path in self._folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(OSError):
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
        total = size + sum(length for _, length, _ in files)
        for _, length, path in sorted(files):
            if total <= self._budget:
                return
            with contextlib.suppress(OSError):
                path.unlink()
            total -= length

    def _write(self, saved: Saved, path: Path) -> None:
        data = saved.data
        if data is None:
            return
        header = msgspec.msgpack.encode(
            _Header(self._fingerprint, len(saved.tokens), data.nbytes, saved.start, saved.session)
        )
        parts: list[Any] = [_MAGIC, struct.pack("!I", len(header)), header, saved.tokens, data]
        digest = hashlib.blake2b(digest_size=_DIGEST)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                for part in parts:
                    digest.update(part)
                    file.write(part)
                file.write(digest.digest())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _read_head(path: Path) -> tuple[_Header, Tokens]:
    with path.open("rb") as file:
        head = file.read(len(_MAGIC) + 4)
        (length,) = struct.unpack("!I", head[len(_MAGIC) :])
        if not head.startswith(_MAGIC) or length > 1 << 16:
            raise ValueError("not a saved prefix")
        header = msgspec.msgpack.decode(file.read(length), type=_Header)
        size = len(head) + length + 4 * header.tokens + header.data + _DIGEST
        if min(header.tokens, header.data) < 0 or size != path.stat().st_size:
            raise ValueError("cut off")
        return header, np.frombuffer(file.read(4 * header.tokens), np.int32)


def _read_data(path: Path, tokens: Tokens) -> NDArray[np.uint8]:
    content = np.fromfile(path, np.uint8)
    digest = hashlib.blake2b(content[:-_DIGEST].data, digest_size=_DIGEST).digest()
    if digest != content[-_DIGEST:].tobytes():
        raise ValueError("damaged")
    header, found = _read_head(path)
    if not np.array_equal(found, tokens):
        raise ValueError("another's")
    return content[len(content) - _DIGEST - header.data : -_DIGEST]
