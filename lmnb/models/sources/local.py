"""A model file that is on this machine already: registered where it lies, never copied."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

from lmnb.engine.gguf import read_header, split_part, split_paths
from lmnb.errors import DownloadFailed, InvalidModel
from lmnb.models.events import DownloadEvent, Note
from lmnb.models.quantization import without_label
from lmnb.models.record import Record, read_record, write_record
from lmnb.models.sources.files import disk_errors, done_event, models_folder


def as_local(model: str) -> Path | None:
    """The path, if `model` looks like one rather than like a name."""
    text = model.strip()
    looks_local = text.startswith((".", "/", "~")) or "\\" in text
    # owner/name/file.gguf is in a repository; with fewer parts it can only be a path.
    looks_local |= text.lower().endswith(".gguf") and text.count("/") < 2
    try:
        path = Path(text).expanduser()
        is_file = text.lower().endswith(".gguf") and path.is_file()
    except (OSError, RuntimeError, ValueError):
        return None
    return path.absolute() if looks_local or is_file else None


async def register(home: Path, path: Path) -> AsyncGenerator[DownloadEvent, None]:
    """Check a file and make it known to the catalog."""
    first, note = await asyncio.to_thread(_register, home, path)
    if note:
        yield Note(note)
    yield await done_event(home, first)


def _register(home: Path, path: Path) -> tuple[Path, str | None]:
    if path.is_dir():
        raise DownloadFailed(f"{path} is a folder.", hint="Name the .gguf file in it.")
    if not path.is_file():
        raise DownloadFailed(f"There is no file {path}.")
    part = split_part(path.name)
    first = path.with_name(f"{part[0]}-00001-of-{part[2]:05d}.gguf") if part else path
    for one in split_paths(first):
        header = read_header(one)
        if header.type != "model":
            raise InvalidModel(f"{one.name} is an {header.type}, not a model by itself.")
    if first.is_relative_to(models_folder(home)):
        return first, None
    stem = part[0] if part else first.stem
    entry = models_folder(home) / "local" / (without_label(stem) or stem) / first.name
    earlier = read_record(entry)
    note = f"{first.name} stays where it is; lmnb refers to it."
    if earlier and earlier.path not in {None, str(first)}:
        note = f"{first.name} now means this file instead of {earlier.path}."
    with disk_errors(home):
        write_record(entry, Record(source="local", path=str(first), origin=str(first)))
    return first, note
