"""`lmnb inspect`."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from lmnb.cli import output

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_commands(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Declare the command."""
    inspect = commands.add_parser("inspect", help="show how a model writes thinking and tool calls")
    inspect.add_argument("model")
    inspect.add_argument("--json", action="store_true", help="print JSON")
    inspect.set_defaults(run=_inspect)


def _inspect(options: Namespace) -> None:
    found = output.connect().inspect(options.model)
    if options.json:
        output.print_json(found)
        return
    print(found["model"])
    for name, text in _facts(found):
        print(f"  {name:<9} {text}")
    titles = {"answer": "An answer:", "call": "A call:", "calls": "Two calls:"}
    for key, text in found["written"].items():
        print(f"\n{titles[key]}")
        print("\n".join(f"  | {line}" for line in text.split("\n")))


def _facts(found: dict[str, Any]) -> list[tuple[str, str]]:
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
