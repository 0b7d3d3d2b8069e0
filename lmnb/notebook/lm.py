"""`%lm`: one line magic for the models and the server."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lmnb.notebook.aliases import add_alias
from lmnb.notebook.arguments import Parser
from lmnb.notebook.conversations import (
    add_history,
    add_reset,
    add_show,
    add_stop,
)
from lmnb.notebook.failures import HelpShown
from lmnb.notebook.inspecting import add_inspect
from lmnb.notebook.model_commands import (
    add_convert,
    add_downloads,
    add_get,
    add_load,
    add_ls,
    add_ps,
    add_unload,
    add_use,
)
from lmnb.notebook.output import show
from lmnb.notebook.progress import transient
from lmnb.notebook.searching import add_search
from lmnb.notebook.server_commands import (
    add_connect,
    add_disconnect,
    add_endpoints,
    add_launch,
    add_log,
    add_mcp,
    add_serve,
    add_settings,
    add_ui,
)
from lmnb.notebook.status import status

if TYPE_CHECKING:
    from lmnb.client import Client


class LmMagic:
    """The magic: it reads the line, and calls the function of the command."""

    @cached_property
    def parser(self) -> Parser:
        """All commands with their options."""
        parser = Parser(
            prog="%lm", description="Models and server of lmnb. Alone: what there is, and where."
        )
        parser.set_defaults(run=_show_status, needs_server=True)
        commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
        for add in _PARSERS:
            add(commands)
        return parser

    def __call__(self, line: str) -> None:
        """Do what the line says."""
        args = self.parser.parse_line(line)
        if args.command == "help":
            raise HelpShown(self._help_for(args.topic))
        if not args.needs_server:
            args.run(args)
            return
        with transient("Starting the lmnb server"):
            from lmnb.attaching import attach

            client = attach()
        args.run(client, args)

    def help(self) -> str:
        """What `%lm?` shows."""
        return self.parser.format_help()

    def _help_for(self, topic: str | None) -> str:
        if topic is None:
            return self.parser.format_help()
        commands = self.parser.commands()
        if topic not in commands:
            self.parser.error(f"argument command: invalid choice: '{topic}'")
        return commands[topic].format_help()


def _help(commands: Any) -> None:
    parser = commands.add_parser("help", help="this, or help about a command")
    parser.add_argument("topic", nargs="?", metavar="COMMAND")


_PARSERS: tuple[Callable[[Any], None], ...] = (
    add_get,
    add_convert,
    add_search,
    add_downloads,
    add_ls,
    add_ps,
    add_load,
    add_use,
    add_alias,
    add_unload,
    add_inspect,
    add_history,
    add_reset,
    add_show,
    add_stop,
    add_serve,
    add_launch,
    add_connect,
    add_disconnect,
    add_endpoints,
    add_settings,
    add_mcp,
    add_ui,
    add_log,
    _help,
)


def _show_status(client: Client, _: Namespace) -> None:
    show(status(client.status()))


lm = LmMagic()
