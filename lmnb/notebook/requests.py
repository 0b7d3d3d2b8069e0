"""What `%lm log` shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lmnb.notebook.output import Bundle
from lmnb.notebook.table import joined, paragraph, table

_HEADERS = (
    "Time (UTC)",
    "Request",
    "Status",
    "Route",
    "Model",
    "Read",
    "Cached",
    "Written",
    "First token",
    "Duration",
    "End",
)


def requests(records: Sequence[dict[str, Any]], *, words: bool) -> Bundle:
    """Requests, of `Client.requests()`, and below them what models were given and said."""
    if not records:
        return paragraph("No such request is on record.")
    parts = [table(_HEADERS, [_row(record) for record in records])]
    if words:
        found = list(_words(records))
        parts += found or [
            paragraph(
                "Prompts were not recorded. From now on they are with this setting:",
                "%lm settings log_prompts on",
            )
        ]
    return joined(*parts)


def _row(record: dict[str, Any]) -> tuple[object, ...]:
    return (
        record["time"][11:19],
        record["id"],
        record.get("status"),
        f"{record['method']} {record['route']}",
        record.get("model"),
        record.get("prompt_tokens"),
        record.get("cached_tokens"),
        record.get("completion_tokens"),
        _seconds(record.get("time_to_first_token")),
        _seconds(record.get("duration")),
        record.get("error") or record.get("finish_reason"),
    )


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f} s"


def _words(records: Sequence[dict[str, Any]]) -> Iterator[Bundle]:
    for record in records:
        for one in record.get("words", ()):
            cut = "" if one.get("complete", True) else " (stopped)"
            yield paragraph(f"{record['id']} · {one['type']}{cut}", one["text"])
