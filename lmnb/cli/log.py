"""`lmnb log`: the requests that the server has answered, and the server's own log."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING, Any

import msgspec

from lmnb import journal, logs, runtime
from lmnb.cli import output
from lmnb.errors import InvalidRequest
from lmnb.journal import Filter

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_commands(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Declare the command."""
    log = commands.add_parser("log", help="show the requests that were answered")
    add = log.add_argument
    add("-n", "--lines", type=_lines, default=50, metavar="N", help="the last N (default 50)")
    add("-f", "--follow", action="store_true", help="those to come, until Ctrl-C")
    add("--model", metavar="NAME", help="only those of a model; a part of its name will do")
    add("--status", metavar="CODE", help="only such as 404, 5xx, or error for all that failed")
    add("--route", metavar="PATH", help="only those whose route begins so")
    add(
        "--prompts",
        action="store_true",
        help="with the exact prompts and answers, special tokens shown; of earlier requests only if "
        "`lmnb settings log_prompts on` was set",
    )
    add("--json", action="store_true", help="print a JSON object a line")
    add(
        "--server",
        action="store_true",
        help="the server's own log instead: what it does, and faults",
    )
    log.set_defaults(run=_log)


def _lines(text: str) -> int:
    if not text.isdecimal():
        raise ArgumentTypeError(f"{text!r} is no number of lines")
    return int(text)


def _log(options: Namespace) -> None:
    wanted = Filter(model=options.model, status=options.status, route=options.route)
    wanted.check()
    if options.server:
        if wanted != Filter() or options.prompts or options.json:
            raise InvalidRequest("--server goes with --lines and --follow only.")
        _show_server(options)
    elif options.follow:
        _follow(options)
    else:
        _show_last(options, wanted)


# --- requests -----------------------------------------------------------------


def _show_last(options: Namespace, wanted: Filter) -> None:
    home = runtime.find_home()
    records = [msgspec.to_builtins(one) for one in journal.last(home, options.lines, wanted)]
    if not records:
        output.note(f"No such request is on record ({journal.journal_path(home)}).")
    elif options.prompts and not any(record.get("words") for record in records):
        output.note(
            "Prompts were not recorded: `lmnb log --follow --prompts` shows those to come, "
            "`lmnb settings log_prompts on` keeps them."
        )
    for record in records:
        words = record.pop("words", []) if not options.json or not options.prompts else []
        for one in words if options.prompts else ():
            print(_shown_words({**one, "id": record["id"], "model": record.get("model")}))
        print(json.dumps(record, ensure_ascii=False) if options.json else shown(record))


def _follow(options: Namespace) -> None:
    """Everything from now on. The server that runs tells it; nothing is read from a file."""
    client = output.connect()
    events = client.follow_requests(
        words=options.prompts, model=options.model, status=options.status, route=options.route
    )
    for event in events:
        if event["type"] == "ready":
            output.note("Following the requests to come; Ctrl-C ends that.")
        elif options.json:
            print(json.dumps(event, ensure_ascii=False), flush=True)
        elif event["type"] == "missed":
            output.note(f"{event['count']} lines were left out: they came too fast.")
        elif event["type"] == "request":
            print(shown(event), flush=True)
        else:
            print(_shown_words(event), flush=True)


def shown(record: dict[str, Any]) -> str:
    """A request as a line for people."""
    day, _, clock = record["time"].partition("T")
    what = f"{record['method']} {record['route']}".strip()
    parts = [f"{day} {clock[:8]} {record['id']} {record.get('status') or '-'} {what}"]
    if model := record.get("model"):
        parts.append(model)
    if (read := record.get("prompt_tokens")) is not None:
        cached = record.get("cached_tokens")
        written = record.get("completion_tokens")
        parts.append(
            f"{read} tokens read{f' ({cached} cached)' if cached else ''}"
            + (f", {written} written" if written is not None else "")
        )
    if (first := record.get("time_to_first_token")) is not None:
        parts.append(f"first after {first:.2f} s")
    parts.append(f"{record.get('duration') or 0:.2f} s")
    parts += [record[name] for name in ("finish_reason", "error") if record.get(name)]
    return " · ".join(parts)


def _shown_words(event: dict[str, Any]) -> str:
    cut = "" if event.get("complete", True) else " (stopped)"
    return f"--- {event['type']}{cut} · {event['id']} · {event['model']}\n{event['text']}\n---"


# --- the server ---------------------------------------------------------------


def _show_server(options: Namespace) -> None:
    path = runtime.log_path(runtime.find_home())
    if options.follow:
        for line in logs.follow(path, last=options.lines, until=lambda: False):
            print(line, flush=True)
    lines = logs.tail(path, options.lines)
    if not lines:
        output.note(f"There is no log yet ({path}).")
    for line in lines:
        print(line)
