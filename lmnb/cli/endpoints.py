"""`lmnb connect | disconnect | endpoints`: other servers whose models are used like one's own."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from lmnb.cli import output

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_commands(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Declare the commands."""
    connect = commands.add_parser(
        "connect", help="use the models of another OpenAI-compatible server"
    )
    connect.add_argument("url", help="its address, such as http://gpu.example:8000/v1")
    connect.add_argument("--name", help="what its models' names begin with (default: its host)")
    connect.add_argument(
        "--key-env", metavar="VARIABLE", help="environment variable with its API key"
    )
    connect.add_argument(
        "--save-key",
        action="store_true",
        help="keep the key in secrets.json, readable by you alone, for later starts of the server",
    )
    connect.add_argument("--json", action="store_true", help="print JSON")
    connect.set_defaults(run=_connect)

    disconnect = commands.add_parser("disconnect", help="forget an endpoint")
    disconnect.add_argument("name", help="as shown by `lmnb endpoints`")
    disconnect.set_defaults(run=_disconnect)

    endpoints = commands.add_parser("endpoints", help="list the connected servers")
    endpoints.add_argument("--json", action="store_true", help="print JSON")
    endpoints.set_defaults(run=_endpoints)


def _connect(options: Namespace) -> None:
    row = output.connect().connect(
        options.url, name=options.name, key_env=options.key_env, save_key=options.save_key
    )
    if options.json:
        output.print_json(row)
        return
    print(f"{row['name']} ({row['url']}) is connected. Its models:")
    for model in row["models"]:
        print(f"  {row['name']}/{model}")


def _disconnect(options: Namespace) -> None:
    row = output.connect().disconnect(options.name)
    print(f"{row['name']} ({row['url']}) is disconnected.")


def _endpoints(options: Namespace) -> None:
    rows = output.connect().endpoints()
    if options.json:
        output.print_json(rows)
    elif not rows:
        output.note("No endpoint is connected. `lmnb connect URL` adds one.")
    else:
        print_endpoints(rows)


def print_endpoints(rows: list[dict[str, Any]]) -> None:
    """A table of the endpoints, and what is wrong with those that do not answer."""
    output.print_table(
        ("ENDPOINT", "URL", "STATE", "MODELS", "ACTIVE", "ANSWERED", "FAILED"),
        [
            (
                row["name"],
                row["url"],
                row["state"],
                str(len(row["models"])),
                str(row["active"]),
                str(row["answered"]),
                str(row["failed"]),
            )
            for row in rows
        ],
    )
    for row in rows:
        if row["error"]:
            again = row["retried_in"]
            when = f" It is left out for {output.duration(again)}." if again else ""
            output.note(f"{row['name']}: {row['error']}{when}")
