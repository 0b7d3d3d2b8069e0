"""`lmnb`, the command line."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmnb import __version__
from lmnb.errors import LmnbError

if TYPE_CHECKING:
    import argparse

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status. 1 is a failure told in one line, 2 is wrong usage."""
    try:
        from lmnb.cli import agents

        own, passed = agents.split(sys.argv[1:] if arguments is None else arguments)
        if list(own[:1]) == ["help"]:
            own = [*own[1:], "--help"]
        parser = make_parser()
        options, unknown = parser.parse_known_args(own)
        if unknown:
            # argparse would show the usage of `lmnb`, not of the command that is meant.
            getattr(options, "parser", parser).error(f"unrecognized arguments: {' '.join(unknown)}")
        options.passed = passed
        status: int | None = options.run(options)
        sys.stdout.flush()
    except LmnbError as error:
        print(f"lmnb: {error.message}", file=sys.stderr)
        if error.hint:
            print(error.hint, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read us (`| head`) has seen enough; the interpreter must not try to flush again.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status or 0


def make_parser() -> argparse.ArgumentParser:
    """All commands and options."""
    # Here, as it takes a moment in which Ctrl-C may come: `main` knows what to do then.
    import argparse

    from lmnb.cli import (
        agents,
        convert,
        downloads,
        endpoints,
        inspect,
        log,
        mcp,
        models,
        search,
        server,
        settings,
        tokens,
    )

    parser = argparse.ArgumentParser(
        prog="lmnb",
        description="Local language models: download them, load them, serve them.",
        epilog="`lmnb COMMAND --help` has the options. "
        "Models, settings and logs are in $LMNB_HOME (default ~/.lmnb).",
    )
    parser.add_argument("--version", action="version", version=f"lmnb {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    models.add_commands(commands)
    search.add_commands(commands)
    downloads.add_commands(commands)
    convert.add_commands(commands)
    inspect.add_commands(commands)
    server.add_commands(commands)
    endpoints.add_commands(commands)
    log.add_commands(commands)
    tokens.add_commands(commands)
    settings.add_commands(commands)
    mcp.add_commands(commands)
    agents.add_commands(commands)
    return parser
