"""Which files are meant, and what is in them: a row for each page."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd

from lmnb.errors import InvalidRequest, LmnbError
from lmnb.frame.documents import office, records, text
from lmnb.frame.documents.page import Page, Reader, Unreadable
from lmnb.frame.tally import Tally
from lmnb.frame.values import sendable

Paths: TypeAlias = str | os.PathLike[str]

_READERS: Mapping[str, Reader] = {
    ".csv": records.csv,
    ".tsv": records.tsv,
    ".jsonl": records.jsonl,
    ".ndjson": records.jsonl,
    ".parquet": records.parquet,
    ".htm": text.html,
    ".html": text.html,
    ".xhtml": text.html,
    ".ipynb": text.notebook,
    ".docx": office.word,
    ".pptx": office.slides,
    ".xlsx": office.sheets,
}
"""All others are plain text, if they are text."""
_UNIT = {".pdf": "page", ".pptx": "slide", ".xlsx": "sheet"}
"""What a page is called in `doc_id`; else it is a record."""
_OLD = (".doc", ".ppt", ".xls")
_MOST_BYTES = 512 << 20
_COLUMNS = {
    "doc_id": "string",
    "path": "string",
    "page": "Int64",
    "text": "string",
    "mtime": "datetime64[ns, UTC]",
    "sha256": "string",
    "error": "string",
}


def read_docs(
    paths: Paths | Iterable[Paths], *, pages: bool = True, progress: bool | None = None
) -> pd.DataFrame:
    """The texts of files as a table, for `.lm.chunk`, `.lm.index` and all else.

    Parameters
    ----------
    paths
        Files, folders (with all in them that is not hidden), patterns such as `"docs/**/*.pdf"`, or
        several of these.
    pages
        A row for each page of a PDF, slide, sheet, and record of a table (CSV, TSV, JSONL, Parquet).
        With False, a row for each file.
    progress
        True or False; default where somebody looks on.

    Returns
    -------
    DataFrame
        `doc_id` (also the index; unique), `path`, `page` (from 1; null where there are none),
        `text`, `mtime` (UTC), `sha256` (of the file), `error`. A file that cannot be read is a row
        without text, and `error` says why.

    Notes
    -----
    Text has to be in UTF-8 (or UTF-16 with a byte order mark). Of HTML there is what a browser would
    show, of notebooks words and code. PDFs are read by the server, in a confined process. Office
    files (.docx, .pptx, .xlsx) need the extra `lmnb[docs]`, Parquet needs pyarrow.

    Raises
    ------
    InvalidRequest
        Nothing is there under these names.
    """
    found = list(dict.fromkeys(_files([paths] if isinstance(paths, str | os.PathLike) else paths)))
    if not found:
        raise InvalidRequest(f"There are no files at {paths!r}.")
    tally = Tally(len(found), "read")
    rows: list[dict[str, Any]] = []
    with tally.shown(progress):
        for path in found:
            some = _rows(path, pages=pages)
            rows += some
            if some[0]["error"] is None:
                tally.ok += 1
            else:
                tally.error += 1
            tally.update()
    frame = pd.DataFrame(rows, columns=list(_COLUMNS)).astype(_COLUMNS)
    frame.index = pd.Index(frame["doc_id"].to_numpy(dtype=object))
    return frame


def _files(given: Iterable[Paths]) -> Iterator[Path]:
    for one in given:
        if not isinstance(one, str | os.PathLike):
            raise InvalidRequest(f"A path is a text, not {one!r}.")
        path = Path(one).expanduser()
        if path.is_dir():
            yield from _below(path)
        elif glob.has_magic(str(path)) and not path.exists():
            # Not Path.glob: it takes no absolute patterns.
            matches = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207
            yield from (match for match in sorted(matches) if not match.is_dir())
        else:
            yield path


def _below(folder: Path) -> Iterator[Path]:
    """Files in a folder and the folders in it, but for hidden ones."""
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(here) / name for name in sorted(names) if not name.startswith("."))


def _rows(path: Path, *, pages: bool) -> list[dict[str, Any]]:
    """The rows of a file; at least one."""
    name = sendable(str(path))
    row: dict[str, Any] = dict.fromkeys(_COLUMNS) | {"doc_id": name, "path": name}
    try:
        row["mtime"] = pd.Timestamp(path.stat().st_mtime_ns, tz="UTC")
        data = _content(path)
        row["sha256"] = hashlib.sha256(data).hexdigest()
        found = list(_pages(path, data))
    except OSError as error:
        return [row | {"error": f"it cannot be read: {error.strerror}"}]
    except Unreadable as error:
        return [row | {"error": str(error)}]
    except LmnbError as error:
        return [row | {"error": error.message}]
    except Exception as error:  # noqa: BLE001 - whatever a damaged file brings up in a library
        return [row | {"error": f"it is damaged, or not what its name says ({error!r:.200})"}]
    if not pages or not found:
        found = [Page("\n\n".join(page.text for page in found))]
    unit = _UNIT.get(path.suffix.lower(), "record")
    return [
        row
        | {
            "doc_id": name if page.number is None else f"{name}#{unit}={page.number}",
            "page": page.number,
            "text": sendable(page.text),
        }
        for page in found
    ]


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise Unreadable("it is no file")
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise Unreadable(f"it has {size >> 20} MiB, of which at most {_MOST_BYTES >> 20} are read")
    return path.read_bytes()


def _pages(path: Path, data: bytes) -> Iterator[Page]:
    kind = path.suffix.lower()
    if kind == ".pdf" or data.startswith(b"%PDF-"):
        yield from _pdf(path)
    elif kind in _OLD:
        raise Unreadable(f"{kind} files of old are not read; save it as {kind}x")
    else:
        try:
            yield from _READERS.get(kind, text.plain)(data)
        except ImportError as error:
            raise Unreadable(
                f"reading {kind} needs {error.name}: pip install 'lmnb[docs]'"
            ) from None


def _pdf(path: Path) -> Iterator[Page]:
    # Here, as nothing else needs the server.
    from lmnb.attaching import attach

    texts = attach().pdf(path)
    if not any(texts):
        raise Unreadable("it has no text: its pages are pictures")
    yield from (Page(words, number) for number, words in enumerate(texts, 1))
