"""`%lm inspect MODEL`: its template, the format derived from it, and what the file says of itself."""

from __future__ import annotations

import html
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from lmnb.inspected import TITLES, facts
from lmnb.notebook.defaults import model_name
from lmnb.notebook.output import Bundle, show
from lmnb.notebook.table import joined, paragraph, table

if TYPE_CHECKING:
    from lmnb.client import Client


def add_inspect(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "inspect",
        help="how a model writes",
        description="A model's template, how it writes thinking and calls, and its metadata. Loads nothing.",
    )
    parser.add_argument("model", type=model_name, metavar="MODEL", help="as %%lm ls shows it")
    parser.set_defaults(run=run_inspect)


def run_inspect(client: Client, args: Namespace) -> None:
    """Show what the server finds in the model's file."""
    show(inspected(client.inspect(args.model)))


def inspected(found: dict[str, Any]) -> Bundle:
    """What `Client.inspect` has found. The long parts are folded away in a notebook."""
    parts = [paragraph(found["model"]), table(("", ""), facts(found))]
    parts += [_folded(TITLES[key], text) for key, text in found["written"].items()]
    parts += [
        _folded(f"Template: {name}", text) for name, text in sorted(found["templates"].items())
    ]
    values = "\n".join(f"{key} = {value}" for key, value in sorted(found["metadata"].items()))
    return joined(*parts, _folded("Metadata", values))


def _folded(title: str, text: str) -> Bundle:
    inside = "\n".join(f"  | {line}" for line in text.split("\n"))
    return {
        "text/html": f"<details><summary>{html.escape(title)}</summary>"
        f'<pre style="white-space: pre-wrap">{html.escape(text)}</pre></details>',
        "text/plain": f"\n{title}:\n{inside}",
    }
