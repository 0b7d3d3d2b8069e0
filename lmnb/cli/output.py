"""What the command line prints: results on stdout, everything about the way there on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lmnb.client import Client, attach


def connect() -> Client:
    """The server, started if need be; long waits are told."""
    return attach(notify=note)


def note(text: str) -> None:
    """One line about what is going on."""
    print(text, file=sys.stderr, flush=True)


def print_json(data: Any) -> None:
    """For scripts."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need to be."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


def size(count: float | None) -> str:
    """Bytes for people: `98 MB`. Powers of 1000, as disks and the Hub count."""
    if count is None:
        return "?"
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def duration(seconds: float) -> str:
    """Seconds for people: `42 s`, `7 min`, `1 h 30 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"


def follow_download(events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Show a download; its last event."""
    with _bar(unit="B", unit_scale=True, desc="Downloading") as bar:
        for event in events:
            if event["type"] == "done":
                return event
            if event["type"] == "note":
                bar.clear()
                note(event["text"])
                continue
            if event["type"] == "progress":
                bar.set_description(event["file"], refresh=False)
            bar.total = event["total"]
            # Not `bar.n = …`: a download that starts again goes back.
            bar.update(event["done"] - bar.n)
    raise AssertionError("A stream of events ends with `done` or an error.")


def follow_load(model: str, events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Show a load; its last event."""
    layout = "{desc} {percentage:3.0f} % |{bar}| {elapsed}"
    with _bar(total=1.0, desc=f"Loading {model}", bar_format=layout, leave=False) as bar:
        for event in events:
            if event["type"] == "done":
                return event
            bar.update(event["progress"] - bar.n)
    raise AssertionError("A stream of events ends with `done` or an error.")


@contextmanager
def _bar(**options: Any) -> Iterator[Any]:
    """A progress bar; where stderr is a file, a line now and then."""
    from tqdm import tqdm

    interval = 0.1 if sys.stderr.isatty() else 5.0
    # No thread that watches the bar: it would keep an interrupted program alive.
    tqdm.monitor_interval = 0
    with tqdm(file=sys.stderr, mininterval=interval, **options) as bar:
        yield bar
