"""`%lm alias`: names of the user's own for models."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from lmnb.errors import NotFound
from lmnb.notebook.defaults import aliases, configured
from lmnb.notebook.failures import UsageMistake
from lmnb.notebook.output import note, show
from lmnb.notebook.table import table


def add_alias(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "alias",
        help="names of your own for models",
        description="Name a model, in this notebook. For a project: [tool.lmnb.aliases] in its "
        "pyproject.toml. Alone: the names there are.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the new name")
    parser.add_argument("model", nargs="?", metavar="MODEL", help="what it means")
    parser.add_argument("--remove", action="store_true", help="forget the name")
    parser.set_defaults(run=run_alias, needs_server=False)


def run_alias(args: Namespace) -> None:
    """Show, add or remove.

    Raises
    ------
    UsageMistake, NotFound
        The name comes without a model, or is none.
    """
    if args.name is None:
        rows = sorted(aliases().items())
        show(table(("name", "model"), rows) if rows else {"text/plain": "There are no aliases."})
    elif args.remove:
        own = dict(configured().aliases)
        if own.pop(args.name, None) is None:
            raise NotFound(f"This notebook has given no model the name {args.name!r}.")
        configured().aliases = own
        note(f"{args.name} is forgotten.")
    elif args.model is None:
        raise UsageMistake(f"%lm alias {args.name}: which model does it mean?")
    else:
        meant = aliases().get(args.model, args.model)
        configured().aliases = {**configured().aliases, args.name: meant}
        note(f"{args.name} is {meant}.")
