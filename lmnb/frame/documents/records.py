"""Tables in files: a page for each record, as lines of `column: value`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from lmnb.frame.documents.page import Page, Unreadable
from lmnb.frame.documents.text import decoded
from lmnb.frame.values import is_null


def csv(data: bytes) -> Iterator[Page]:
    """Values separated by commas, below their names."""
    return _separated(data, ",")


def tsv(data: bytes) -> Iterator[Page]:
    """Values separated by tabs, below their names."""
    return _separated(data, "\t")


def _separated(data: bytes, separator: str) -> Iterator[Page]:
    text = decoded(data)
    if not text.strip():
        return
    try:
        frame = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise Unreadable(f"it is no table ({error})") from None
    yield from _pages(frame.to_dict("records"))


def jsonl(data: bytes) -> Iterator[Page]:
    """A JSON value on each line."""
    records = []
    for number, line in enumerate(decoded(data).split("\n"), 1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise Unreadable(f"line {number} is no JSON ({error})") from None
    yield from _pages(records)


def parquet(data: bytes) -> Iterator[Page]:
    """A Parquet file."""
    try:
        frame = pd.read_parquet(io.BytesIO(data))
    except ImportError:
        raise Unreadable("reading .parquet needs pyarrow: pip install pyarrow") from None
    yield from _pages(frame.to_dict("records"))


def _pages(records: list[Any]) -> Iterator[Page]:
    for number, record in enumerate(records, 1):
        yield Page(_words(record), number)


def _words(record: Any) -> str:
    if isinstance(record, Mapping):
        given = ((name, value) for name, value in record.items() if not is_null(value))
        return "\n".join(f"{name}: {_word(value)}" for name, value in given)
    return _word(record)


def _word(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
