"""Where a model came from: a small JSON file beside the weights, `<file>.gguf.json`.

A record with a `path` stands alone and refers to a file elsewhere on the disk: that is how a
local file is registered without a copy.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

SUFFIX = ".json"


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The origin of a model file.

    key
        The name the model goes by, if it is not made from the folders it lies in.
    source
        `builtin`, `hub`, `url` or `local`.
    revision
        The commit of a Hub repository, or the version of a wheel.
    sha256
        Of the first file, as it lies on the disk. Absent where it was never computed.
    created_at
        Unix time, in seconds.
    """

    source: str
    key: str | None = None
    publisher: str | None = None
    display_name: str | None = None
    origin: str | None = None
    revision: str | None = None
    license: str | None = None
    sha256: str | None = None
    path: str | None = None
    created_at: float = 0.0


def record_path(model: Path) -> Path:
    """Where the record of a model file lies."""
    return model.with_name(model.name + SUFFIX)


def write_record(model: Path, record: Record) -> None:
    """Write the record of a model file, in one step."""
    target = record_path(model)
    target.parent.mkdir(parents=True, exist_ok=True)
    record = msgspec.structs.replace(record, created_at=record.created_at or time.time())
    partial = target.with_name(target.name + ".part")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(record)) + b"\n")
    partial.replace(target)


def read_record(model: Path) -> Record | None:
    """The record of a model file; None if there is none that can be read."""
    try:
        return msgspec.json.decode(record_path(model).read_bytes(), type=Record)
    except (OSError, msgspec.MsgspecError):
        return None
