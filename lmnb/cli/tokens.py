"""`lmnb token create | ls | edit | rm`."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from lmnb.cli import output

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_commands(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Declare the commands."""
    token = commands.add_parser("token", help="API tokens for clients over the network")
    actions = token.add_subparsers(title="commands", metavar="COMMAND", required=True)

    create = actions.add_parser("create", help="make a token; it is shown this once")
    create.add_argument("name", help="what it is for")
    _add_permissions(create, "inference,models,downloads")
    create.add_argument("--json", action="store_true", help="print JSON")
    create.set_defaults(run=_create)

    ls = actions.add_parser("ls", help="list the tokens, without their secrets")
    ls.add_argument("--json", action="store_true", help="print JSON")
    ls.set_defaults(run=_ls)

    edit = actions.add_parser("edit", help="change a token's name or permissions")
    edit.add_argument("name", help="name or id")
    edit.add_argument("--name", dest="new_name", metavar="NEW", help="call it that")
    _add_permissions(edit, "as they are")
    edit.set_defaults(run=_edit)

    rm = actions.add_parser("rm", help="remove a token; it is refused from then on")
    rm.add_argument("name", help="name or id")
    rm.set_defaults(run=_rm)


def _add_permissions(parser: ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--permissions",
        type=lambda text: text.split(","),
        metavar="A,B",
        help=f"of inference, models, downloads, mcp, administration ({default})",
    )


def _create(options: Namespace) -> None:
    token = output.connect().create_token(options.name, options.permissions)
    if options.json:
        output.print_json(token)
        return
    output.note("Keep it: it is not shown again. Clients send it as their API key.")
    print(token["token"])


def _ls(options: Namespace) -> None:
    tokens = output.connect().tokens()
    if options.json:
        output.print_json(tokens)
    elif not tokens:
        output.note("There are no tokens. `lmnb token create NAME` makes one.")
    else:
        rows = [
            (row["id"], row["name"], _day(row["created_at"]), ", ".join(row["permissions"]))
            for row in tokens
        ]
        output.print_table(("ID", "NAME", "CREATED", "PERMISSIONS"), rows)


def _edit(options: Namespace) -> None:
    token = output.connect().edit_token(
        options.name, new_name=options.new_name, permissions=options.permissions
    )
    print(f"Token {token['name']} permits: {', '.join(token['permissions'])}.")


def _rm(options: Namespace) -> None:
    token = output.connect().remove_token(options.name)
    print(f"Token {token['name']} is removed.")


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(seconds))
