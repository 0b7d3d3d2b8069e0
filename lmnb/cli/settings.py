"""`lmnb settings`: what the server goes by."""

from __future__ import annotations

import textwrap
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from lmnb.cli import output
from lmnb.errors import InvalidRequest

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_commands(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Declare the commands."""
    settings = commands.add_parser("settings", help="show settings, or change one")
    settings.add_argument("name", nargs="?", help="which one (all)")
    settings.add_argument("value", nargs="?", help="what to set it to, such as 600 or off")
    settings.add_argument("--reset", action="store_true", help="back to its default")
    settings.add_argument("--json", action="store_true", help="print JSON")
    settings.set_defaults(run=_settings)


def _settings(options: Namespace) -> None:
    client = output.connect()
    if options.reset or options.value is not None:
        if options.name is None:
            raise InvalidRequest("--reset needs a name.", hint="`lmnb settings NAME --reset`")
        if options.reset and options.value is not None:
            raise InvalidRequest("Give a value or --reset, not both.")
        changed = client.change_setting(options.name, None if options.reset else options.value)
        for warning in changed.pop("warnings"):
            output.note(warning)
        rows = [changed]
    else:
        rows = [row for row in client.settings() if options.name in {None, row["name"]}]
        if not rows:
            raise InvalidRequest(f"There is no setting {options.name!r}.", param="name")
    if options.json:
        output.print_json(rows)
        return
    for row in rows:
        source = "" if row["source"] == "default" else f"  ({row['source']})"
        print(f"{row['name']} = {row['text']}{source}")
        print(textwrap.indent(textwrap.fill(row["description"], 92), "    "))
