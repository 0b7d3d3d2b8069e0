"""What the command line prints: results on stdout, everything about the way there on stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any, Self

from lmnb.attaching import attach
from lmnb.client import Client


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
    with Bar("{desc}: {percentage:3.0f} % |{bar}| {n_fmt} of {total_fmt}, {postfix}") as bar:
        for event in events:
            if event["type"] == "done":
                return event
            if event["type"] == "note":
                bar.note(event["text"])
            elif event["type"] == "progress":
                bar.show(event["file"], event["done"], event["total"], _pace(event))
    raise AssertionError("A stream of events ends with `done` or an error.")


def follow(label: str, events: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Show a load, or whatever else tells a fraction; its last event."""
    with Bar("{desc}: {percentage:3.0f} % |{bar}| {elapsed}") as bar:
        for event in events:
            if event["type"] == "done":
                return event
            bar.show(label, event["progress"], 1.0)
    raise AssertionError("A stream of events ends with `done` or an error.")


def _pace(event: dict[str, Any]) -> str:
    """Such as `29 MB/s, 2 min left`."""
    parts = []
    if event["bytes_per_second"] is not None:
        parts.append(f"{size(event['bytes_per_second'])}/s")
    if event["eta_seconds"] is not None:
        parts.append(f"{duration(event['eta_seconds'])} left")
    return ", ".join(parts)


class Bar:
    """A progress bar on a terminal; in a file, a line now and then."""

    INTERVAL = 5.0

    def __init__(self, layout: str) -> None:
        self._layout = layout
        self._bar: Any = None
        self._last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def note(self, text: str) -> None:
        """A line of text above the bar."""
        if self._bar is not None:
            self._bar.clear()
        note(text)

    def show(self, what: str, done: float, total: float | None, pace: str = "") -> None:
        """How far it is."""
        if not sys.stderr.isatty():
            self._write_line(what, done, total, pace)
            return
        if self._bar is None:
            from tqdm import tqdm

            # No thread that watches the bar: it would keep an interrupted program alive.
            tqdm.monitor_interval = 0
            unit = {"unit": "B", "unit_scale": True}
            self._bar = tqdm(file=sys.stderr, bar_format=self._layout, leave=False, **unit)
        self._bar.desc, self._bar.total, self._bar.postfix = what, total, pace
        # Not `update`, which guesses the pace: the server knows it, and a transfer may start again.
        self._bar.n = done
        self._bar.refresh()

    def _write_line(self, what: str, done: float, total: float | None, pace: str) -> None:
        if time.monotonic() - self._last >= self.INTERVAL:
            self._last = time.monotonic()
            share = f"{done / total:.0%}" if total else size(done)
            note(f"{what}: {share}{', ' if pace else ''}{pace}")
