"""What a cell asks, made of its line, its text, the conversation so far, and variables."""

from __future__ import annotations

from argparse import Namespace
from typing import NamedTuple

from lmnb.notebook import images, schemas, tools
from lmnb.notebook.api import Request
from lmnb.notebook.defaults import default
from lmnb.notebook.earlier import earlier_cells
from lmnb.notebook.interpolate import interpolate
from lmnb.notebook.output import note, shell
from lmnb.notebook.schemas import Schema
from lmnb.notebook.tools import Toolbox
from lmnb.notebook.turns import Turn


class Conversation:
    """What one magic has said and heard so far. Changed only when a cell is done."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.system: str | None = None


class Question(NamedTuple):
    """`request` has all but its model, `args` the options that are not for the server."""

    args: Namespace
    request: Request
    toolbox: Toolbox | None
    schema: Schema | None


def make_question(args: Namespace, cell: str, said: Conversation) -> Question:
    """The question that goes on from what was `said`.

    Raises
    ------
    UsageMistake
        A variable, a file or a type that is named is none.
    """
    prompt, system = _texts(args, cell.removesuffix("\n"))
    variables = shell().user_ns
    turn: Turn = {"role": "user", "content": earlier_cells(args.cells or 0) + prompt}
    if args.image:
        turn["images"] = [images.load(name, variables) for name in args.image]
    toolbox = tools.find(args.tools, variables) if args.tools else None
    schema = schemas.find(args.schema, variables) if args.schema else None
    request = Request(
        model="",
        turns=(*said.turns, turn),
        system=(said.system or default("system") if system is None else system) or None,
        temperature=args.temperature,
        top_p=args.top_p,
        max_tokens=args.max_tokens,
        seed=args.seed,
        thinking=args.thinking,
        schema=schema.json if schema else None,
        tools=list(toolbox.tools.values()) if toolbox else (),
        logprobs=getattr(args, "logprobs", None),
    )
    return Question(args, request, toolbox, schema)


def _texts(args: Namespace, cell: str) -> tuple[str, str | None]:
    """The message and the system prompt, with the values of variables put in."""
    system: str | None = args.system
    if args.raw:
        return cell, system
    variables = shell().user_ns
    message, unknown = interpolate(cell, variables)
    if system is not None:
        system, unknown_too = interpolate(system, variables)
        unknown += unknown_too
    if unknown:
        left = ", ".join(f"{{{{{name}}}}}" for name in dict.fromkeys(unknown))
        note(f"Left as typed, because there is no such variable: {left}")
    return message, system
