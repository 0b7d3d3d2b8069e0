"""`%lm`: one line magic for the models and the server."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lmnb.notebook.aliases import add_alias, run_alias
from lmnb.notebook.arguments import Parser
from lmnb.notebook.conversations import (
    add_history,
    add_reset,
    add_show,
    add_stop,
    run_history,
    run_reset,
    run_show,
    run_stop,
)
from lmnb.notebook.failures import HelpShown
from lmnb.notebook.inspecting import add_inspect, run_inspect
from lmnb.notebook.model_commands import (
    add_downloads,
    add_get,
    add_load,
    add_ls,
    add_ps,
    add_unload,
    add_use,
    run_downloads,
    run_get,
    run_load,
    run_ls,
    run_ps,
    run_unload,
    run_use,
)
from lmnb.notebook.output import show
from lmnb.notebook.progress import transient
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
    run_connect,
    run_disconnect,
    run_endpoints,
    run_launch,
    run_log,
    run_mcp,
    run_serve,
    run_settings,
    run_ui,
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
        commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
        for add in _PARSERS:
            add(commands)
        return parser

    def __call__(self, line: str) -> None:
        """Do what the line says."""
        args = self.parser.parse_line(line)
        if args.command == "help":
            raise HelpShown(self._help_for(args.topic))
        if args.command in _LOCAL:
            _LOCAL[args.command](args)
            return
        with transient("Starting the lmnb server"):
            from lmnb.attaching import attach

            client = attach()
        _COMMANDS[args.command or "status"](client, args)

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


_COMMANDS: dict[str, Callable[[Client, Namespace], None]] = {
    "status": _show_status,
    "get": run_get,
    "downloads": run_downloads,
    "ls": run_ls,
    "ps": run_ps,
    "load": run_load,
    "use": run_use,
    "unload": run_unload,
    "inspect": run_inspect,
    "serve": run_serve,
    "settings": run_settings,
    "mcp": run_mcp,
    "launch": run_launch,
    "connect": run_connect,
    "disconnect": run_disconnect,
    "endpoints": run_endpoints,
    "ui": run_ui,
    "log": run_log,
}

_LOCAL: dict[str, Callable[[Namespace], None]] = {
    "alias": run_alias,
    "history": run_history,
    "reset": run_reset,
    "show": run_show,
    "stop": run_stop,
}
"""Those that need no server."""

lm = LmMagic()
