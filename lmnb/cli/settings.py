"""`lmnb settings` and `lmnb mcp`: what the server goes by, and what it is configured to reach."""

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

    mcp = commands.add_parser("mcp", help="list the MCP servers of mcp.json with their tools")
    mcp.add_argument("--json", action="store_true", help="print JSON")
    mcp.set_defaults(run=_mcp)


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


def _mcp(options: Namespace) -> None:
    client = output.connect()
    rows = client.mcp()
    if options.json:
        output.print_json(rows)
    elif not rows:
        output.note(f"There are no MCP servers. They stand in {client.home / 'mcp.json'}.")
    for row in () if options.json else rows:
        print(f"{row['id']}  {row['place']}")
        if row["error"]:
            print(f"    {row['error']}")
        for tool in row["tools"]:
            print(f"    {tool['name']}: {tool['description'].strip().partition(chr(10))[0]}")
