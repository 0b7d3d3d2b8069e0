"""`lmnb downloads`: what is being fetched, and what is to become of it."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from lmnb.cli import output
from lmnb.errors import InvalidRequest

if TYPE_CHECKING:
    from argparse import _SubParsersAction

_CHANGED = {"pause": "paused", "resume": "going on", "cancel": "cancelled"}


def add_commands(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Declare the command."""
    downloads = commands.add_parser("downloads", help="list downloads; pause, resume or cancel one")
    downloads.add_argument(
        "action",
        nargs="?",
        choices=("ls", *_CHANGED, "watch"),
        default="ls",
        metavar="ACTION",
        help="ls (default), pause, resume, cancel, or watch, which is left with Ctrl-C",
    )
    downloads.add_argument("name", nargs="?", metavar="ID", help="of a download, or its model")
    downloads.add_argument("--json", action="store_true", help="print JSON")
    downloads.set_defaults(run=_downloads)


def _downloads(options: Namespace) -> None:
    if (options.name is None) != (options.action == "ls"):
        raise InvalidRequest(
            "ls takes no ID." if options.name else f"Say which download to {options.action}.",
            hint="`lmnb downloads` lists them with their ids.",
        )
    client = output.connect()
    if options.action == "ls":
        _list(client.downloads(), options)
        return
    if options.action == "watch":
        found = output.follow_download(client.follow_download(options.name))
        text = f"{found['key']} is ready ({output.size(found['size_bytes'])}, {found['path']})."
    else:
        found = client.change_download(options.name, options.action)
        text = f"{found['model']} is {_CHANGED[options.action]}."
    if options.json:
        output.print_json(found)
    else:
        print(text)


def _list(jobs: list[dict[str, Any]], options: Namespace) -> None:
    if options.json:
        output.print_json(jobs)
    elif not jobs:
        output.note("There are no downloads.")
    else:
        output.print_table(
            ("ID", "MODEL", "STATUS", "DONE", "OF", "SPEED", "LEFT"), [_row(job) for job in jobs]
        )
    for job in () if options.json else jobs:
        if job["error"]:
            output.note(f"{job['id']}: {job['error']['message']}")


def _row(job: dict[str, Any]) -> tuple[str, ...]:
    model = job["key"] or job["model"] or "the default model"
    wanted = f"@{job['quantization']}" if job["quantization"] and not job["key"] else ""
    speed, left = job["bytes_per_second"], job["eta_seconds"]
    running = job["status"] == "downloading"
    return (
        job["id"],
        f"{model}{wanted}",
        "waiting" if job["is_waiting"] else job["status"],
        output.size(job["done"]),
        output.size(job["total"]),
        f"{output.size(speed)}/s" if running and speed is not None else "",
        output.duration(left) if running and left is not None else "",
    )
