"""An index as a folder: `manifest.json`, `rows.jsonl`, and what its store writes.

A folder appears as a whole or not at all: it is written beside its place and moved there.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from lmnb import __version__
from lmnb.errors import ConfigError, InvalidRequest
from lmnb.frame.index import tables

FORMAT = 1
"""Raise it when folders of before can no longer be read as they were meant."""

_MANIFEST = "manifest.json"
_ROWS = "rows.jsonl"


def save(
    path: Path, table: pd.DataFrame, manifest: dict[str, Any], write: Callable[[Path], None]
) -> None:
    """Put an index in a folder of that name, in place of an older one; `write` adds the store's part.

    Raises
    ------
    InvalidRequest
        Something else is there, or the table holds what cannot be saved.
    ConfigError
        It cannot be written.
    """
    path = path.absolute()
    if path.exists() and not (path / _MANIFEST).is_file():
        raise InvalidRequest(f"{path} is there already, and is no index.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as room:
            new, old = Path(room) / "new", Path(room) / "old"
            new.mkdir()
            _write_table(new, table, manifest)
            write(new)
            _swap(new, path, old)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}.") from error


def read(path: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """The manifest and the table.

    Raises
    ------
    InvalidRequest
        There is no index there.
    ConfigError
        It is damaged, or made by a later lmnb.
    """
    if not (path / _MANIFEST).is_file():
        raise InvalidRequest(f"There is no index in {path}.", hint="`Index.save(path)` makes one.")
    manifest: dict[str, Any] = read_part(
        path, lambda: json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
    )
    if manifest.get("format") != FORMAT:
        raise ConfigError(
            f"{path} is an index of lmnb {manifest.get('lmnb')}, whose form this one, {__version__}, "
            "does not know."
        )
    return manifest, read_part(path, lambda: _read_table(path, manifest))


def read_part(path: Path, reading: Callable[[], Any]) -> Any:
    """What `reading` reads of a folder.

    Raises
    ------
    ConfigError
        That fails.
    """
    try:
        return reading()
    except (OSError, ValueError, KeyError, IndexError, TypeError, EOFError) as error:
        raise ConfigError(
            f"The index in {path} is damaged: {type(error).__name__}: {error}."
        ) from error


def _swap(new: Path, path: Path, old: Path) -> None:
    """Move a folder to its place. What is there cannot be written over: it is put away, or put back."""
    try:
        if path.exists():
            path.replace(old)
        new.replace(path)
    except BaseException:
        if old.exists():
            old.replace(path)
        raise


def _write_table(folder: Path, table: pd.DataFrame, manifest: dict[str, Any]) -> None:
    levels = [(name, _level(table.index, n)) for n, name in enumerate(table.index.names)]
    columns = [(name, table[name]) for name in table.columns]
    described = tables.write(folder / _ROWS, [*levels, *columns])
    whole = {
        "format": FORMAT,
        "lmnb": __version__,
        "rows": len(table),
        **manifest,
        "index": described[: len(levels)],
        "columns": described[len(levels) :],
    }
    text = json.dumps(whole, indent=2, ensure_ascii=False)
    (folder / _MANIFEST).write_text(text + "\n", encoding="utf-8")


def _read_table(folder: Path, manifest: dict[str, Any]) -> pd.DataFrame:
    levels, columns = manifest["index"], manifest["columns"]
    found = tables.read(folder / _ROWS, [*levels, *columns])
    if any(len(one) != manifest["rows"] for one in found):
        raise ValueError(f"rows.jsonl has not {manifest['rows']} rows")
    labels, cells = found[: len(levels)], found[len(levels) :]
    names = [level["name"] for level in levels]
    index: pd.Index[Any] = (
        pd.Index(labels[0], name=names[0])
        if len(labels) == 1
        else pd.MultiIndex.from_arrays(labels, names=names)
    )
    named = pd.Index([column["name"] for column in columns])
    table = pd.concat(cells, axis=1) if cells else pd.DataFrame(index=index)
    table.index, table.columns = index, named
    return table


def _level(index: pd.Index[Any], place: int) -> pd.Series[Any]:
    return pd.Series(index.get_level_values(place)).reset_index(drop=True)
