"""`lmnb mcp [add | remove | login | logout]`: the MCP servers of `mcp.json`."""

from __future__ import annotations

import argparse
import webbrowser
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from lmnb.cli import output
from lmnb.errors import InvalidRequest

if TYPE_CHECKING:
    from argparse import _SubParsersAction
    from collections.abc import Sequence


def add_commands(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Declare the commands."""
    mcp = commands.add_parser(
        "mcp", help="list the MCP servers of mcp.json with their tools; add, remove, log in"
    )
    mcp.add_argument("--json", action="store_true", help="print JSON")
    mcp.set_defaults(run=_list)
    actions = mcp.add_subparsers(title="commands", metavar="COMMAND")

    add = actions.add_parser(
        "add",
        help="add a server to mcp.json",
        usage="lmnb mcp add [OPTION…] NAME COMMAND [ARGUMENT…]\n"
        "       lmnb mcp add NAME URL [OPTION…]",
    )
    add.add_argument("name", help="what it is to be called")
    _add_options(add)
    add.add_argument("place", nargs=argparse.REMAINDER, help="a command with arguments, or a URL")
    add.set_defaults(run=_add)

    remove = actions.add_parser("remove", help="take a server out of mcp.json")
    remove.add_argument("name")
    remove.set_defaults(run=_remove)

    login = actions.add_parser("login", help="log in to a remote server, in a browser")
    login.add_argument("name")
    login.add_argument("--no-browser", action="store_true", help="only print the address to open")
    login.add_argument(
        "--paste",
        action="store_true",
        help="for a browser on another machine: ask for the address that it ends at",
    )
    login.set_defaults(run=_login)

    logout = actions.add_parser("logout", help="forget the login to a server")
    logout.add_argument("name")
    logout.set_defaults(run=_logout)


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--env", metavar="NAME=VALUE", action="append", default=[], help="for a command"
    )
    parser.add_argument("--cwd", metavar="FOLDER", help="that a command is to run in")
    parser.add_argument(
        "--header", metavar="'NAME: VALUE'", action="append", default=[], help="for a URL"
    )
    parser.add_argument(
        "--client-id", metavar="ID", help="of an OAuth client that was registered by hand"
    )
    parser.add_argument(
        "--client-secret", action="store_true", help="ask for the secret of that client"
    )
    parser.add_argument("--replace", action="store_true", help="in place of the one of that name")


def _list(options: Namespace) -> None:
    client = output.connect()
    rows = client.mcp()
    if options.json:
        output.print_json(rows)
        return
    if not rows:
        output.note(f"There are no MCP servers. They stand in {client.home / 'mcp.json'}.")
    for row in rows:
        remark = {"needed": "  (needs login)", "done": "  (logged in)"}.get(row["login"], "")
        print(f"{row['id']}  {row['place']}{remark}")
        if row["error"]:
            print(f"    {row['error']}")
        for tool in row["tools"]:
            print(f"    {tool['name']}: {tool['description'].strip().partition(chr(10))[0]}")
        for warning in row["warnings"]:
            print(f"    {warning}")


def _add(options: Namespace) -> None:
    place: Sequence[str] = options.place
    if place and _is_url(place[0]) and len(place) > 1:
        parser = ArgumentParser(prog="lmnb mcp add", usage="lmnb mcp add NAME URL [OPTION…]")
        _add_options(parser)
        parser.parse_args(place[1:], options)
        place = place[:1]
    place = place[1:] if place[:1] == ["--"] else place
    if not place:
        raise InvalidRequest("Give the command that runs the server, or its URL.")
    entry = _remote(place[0], options) if _is_url(place[0]) else _local(place, options)
    client = output.connect()
    client.add_mcp(options.name, entry, replace=options.replace)
    print(f"{options.name} stands in {client.home / 'mcp.json'}.")


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def _remote(url: str, options: Namespace) -> dict[str, Any]:
    if options.env or options.cwd:
        raise InvalidRequest("--env and --cwd are for commands.")
    entry: dict[str, Any] = {"url": url}
    if options.header:
        entry["headers"] = dict(_pair(text, ":", "--header") for text in options.header)
    if options.client_id:
        entry["auth"] = {"CLIENT_ID": options.client_id}
        if options.client_secret:
            from getpass import getpass

            entry["auth"]["CLIENT_SECRET"] = getpass("Client secret: ")
    elif options.client_secret:
        raise InvalidRequest("--client-secret is that of a --client-id.")
    return entry


def _local(command: Sequence[str], options: Namespace) -> dict[str, Any]:
    if options.header or options.client_id or options.client_secret:
        raise InvalidRequest("--header, --client-id and --client-secret are for URLs.")
    entry: dict[str, Any] = {"command": command[0], "args": list(command[1:])}
    if options.env:
        entry["env"] = dict(_pair(text, "=", "--env") for text in options.env)
    if options.cwd:
        entry["cwd"] = options.cwd
    return entry


def _pair(text: str, sign: str, option: str) -> tuple[str, str]:
    name, found, value = text.partition(sign)
    if not found or not name.strip():
        raise InvalidRequest(f"{option} needs a name, {sign!r} and a value.")
    return name.strip(), value.strip() if sign == ":" else value


def _remove(options: Namespace) -> None:
    output.connect().remove_mcp(options.name)
    print(f"{options.name} is removed.")


def _login(options: Namespace) -> None:
    client = output.connect()
    for event in client.log_in_mcp(options.name):
        if event["type"] == "url":
            output.note(f"Log in here, in a browser:\n\n    {event['url']}\n")
            if options.paste:
                output.note("It ends at a page that cannot be opened. Its address:")
                client.redirect_mcp(options.name, input())
            elif not options.no_browser:
                webbrowser.open(event["url"])
        else:
            print(f"Logged in to {event['name']}.")


def _logout(options: Namespace) -> None:
    was_logged_in = output.connect().log_out_mcp(options.name)
    print(f"{options.name} is forgotten." if was_logged_in else "Nobody was logged in.")
