"""`lmnb inspect`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from lmnb.cli import output
from lmnb.inspected import TITLES, facts

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
    for name, text in facts(found):
        print(f"  {name:<9} {text}")
    for key, text in found["written"].items():
        print(f"\n{TITLES[key]}:")
        print("\n".join(f"  | {line}" for line in text.split("\n")))
