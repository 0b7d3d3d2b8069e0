"""What `lmnb.server.inspecting` found about how a model writes, in words."""

from __future__ import annotations

import json
from typing import Any

TITLES = {"answer": "An answer", "call": "A call", "calls": "Two calls"}
"""Of the examples under `written`."""


def facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and what is to be said of them, in the order they are shown."""
    form = found["format"]
    source = f"known family: {form['family']}" if form["family"] else "derived from its template"
    if not found["template"]:
        source = "lmnb's default, since the file has no template"
    calls = "as its template writes them"
    if found["default_calls"]:
        calls = "in lmnb's own syntax, since its template has none"
    elif form["family"]:
        calls = "as its family writes them"
    if not form["calls"]["parallel"]:
        calls += "; one at a time"
    ends = "".join(f"{json.dumps(end, ensure_ascii=False)}, " for end in form["ends"])
    return [
        ("syntax", source),
        ("thinking", _span(form["thinking"])),
        ("answer", _span(form["answer"])),
        ("calls", calls),
        ("turn ends", f"{ends}the model's own end tokens"),
    ]


def _span(span: dict[str, str] | None) -> str:
    if span is None:
        return "without markers"
    begin, end = (json.dumps(span[key], ensure_ascii=False) for key in ("begin", "end"))
    return f"{begin} … {end}"
