"""Folders in which models lie, and how each names them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lmnb.engine.gguf import split_part
from lmnb.engine.projector import is_projector
from lmnb.models.record import SUFFIX, Record, read_record


@dataclass(frozen=True)
class Place:
    """A folder. `source` is `models`, `lm-studio` or `huggingface-cache`."""

    source: str
    path: Path


@dataclass(frozen=True)
class Found:
    """A model file in a place: part 1 if it is split."""

    place: Place
    path: Path
    publisher: str
    name: str
    record: Record | None


def default_places() -> list[Place]:
    """LM Studio's folder and the Hugging Face cache."""
    places = [Place("lm-studio", folder) for folder in _lm_studio_folders()]
    return [*places, Place("huggingface-cache", _huggingface_cache())]


def walk(place: Place) -> Iterator[Found]:
    """The model files of a place, in a stable order."""
    if place.source == "huggingface-cache":
        yield from _walk_cache(place)
    else:
        yield from _walk_folder(place)


def _walk_folder(place: Place) -> Iterator[Found]:
    """`publisher/name/file.gguf`; files higher up get what there is."""
    for path in _files(place.path):
        relative = path.relative_to(place.path).parts
        publisher = relative[0] if len(relative) > 1 else "local"
        record = read_record(path) if place.source == "models" else None
        if path.name.lower().endswith(".gguf" + SUFFIX):
            model = path.with_name(path.name.removesuffix(SUFFIX))
            record = read_record(model)
            if record is None or record.path is None:
                continue
            # The entry of a file elsewhere; it drops out of sight when the file is gone.
            path = Path(record.path)  # noqa: PLW2901
            if not path.is_file():
                continue
        name = relative[1] if len(relative) > 2 else path.stem
        yield Found(place, path, publisher, name, record)


def _walk_cache(place: Place) -> Iterator[Found]:
    """`models--owner--name/snapshots/commit/…`, where the commit is what `main` points to."""
    for repository in sorted(_folders(place.path)):
        kind, _, rest = repository.name.partition("--")
        owner, _, name = rest.partition("--")
        snapshots = repository / "snapshots"
        if kind != "models" or not name or not snapshots.is_dir():
            continue
        commit = _read_text(repository / "refs" / "main")
        newest = sorted(_folders(snapshots), key=lambda folder: folder.stat().st_mtime)
        folder = snapshots / commit if commit and (snapshots / commit).is_dir() else None
        if folder is None and newest:
            folder = newest[-1]
        for path in _files(folder) if folder else ():
            if path.name.endswith(".gguf"):
                yield Found(place, path, owner, name, None)


def _files(folder: Path) -> Iterator[Path]:
    """GGUF files and records below a folder; not hidden ones, projectors or later parts."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            lower = name.lower()
            if name.startswith(".") or is_projector(lower.removesuffix(SUFFIX)):
                continue
            part = split_part(name)
            if part and part[1] != 1:
                continue
            if lower.endswith((".gguf", ".gguf" + SUFFIX)):
                yield Path(parent) / name


def _folders(folder: Path) -> Iterator[Path]:
    try:
        yield from (child for child in folder.iterdir() if child.is_dir())
    except OSError:
        return


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text("utf-8").strip()
    except OSError:
        return None


def _lm_studio_folders() -> list[Path]:
    """LM Studio writes where its home is into a file in the user's home."""
    pointer = _read_text(Path.home() / ".lmstudio-home-pointer")
    candidates = [Path(pointer)] if pointer else []
    candidates += [Path.home() / ".lmstudio", Path.home() / ".cache" / "lm-studio"]
    for candidate in candidates:
        if (candidate / "models").is_dir():
            return [candidate / "models"]
    return []


def _huggingface_cache() -> Path:
    """The rules of huggingface_hub, without importing it."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if folder := os.environ.get(variable):
            return Path(folder).expanduser()
    if folder := os.environ.get("HF_HOME"):
        return Path(folder).expanduser() / "hub"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser()
    return cache / "huggingface" / "hub"
