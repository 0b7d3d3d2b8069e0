"""`lmnb launch claude | codex | opencode`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lmnb.agents import targets
from lmnb.agents.all import AGENTS
from lmnb.agents.command import run, shell_lines
from lmnb.cli import output

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_commands(commands: _SubParsersAction[ArgumentParser]) -> None:
    """Declare the commands."""
    launch = commands.add_parser(
        "launch",
        help="start a coding agent with a local model",
        usage="lmnb launch [-h] {claude,codex,opencode} [options] [-- ARGUMENT …]",
        description="Start a coding agent with a local model: load one if need be, open the port, "
        "and tell the agent of both, leaving its own configuration alone. What follows -- is the "
        "agent's.",
    )
    add = launch.add_argument
    add("agent", choices=AGENTS, help="Claude Code, Codex or opencode")
    add("-m", "--model", help="a loaded or downloaded model (default: the one that is loaded)")
    add(
        "--context-length",
        type=int,
        metavar="N",
        help=f"tokens to load it with (default: {targets.WANTED}, or what fits)",
    )
    add("--port", type=int, help="port to listen on (default 1234); 0 takes a free one")
    add(
        "--print-env",
        action="store_true",
        help="get model and server ready and print the command for a shell; start nothing",
    )
    launch.set_defaults(run=_launch, parser=launch)


def split(arguments: Sequence[str]) -> tuple[Sequence[str], list[str]]:
    """What is for `lmnb launch`, and what is the agent's: argparse would mix them up."""
    if list(arguments[:1]) != ["launch"] or "--" not in arguments:
        return arguments, []
    at = list(arguments).index("--")
    return arguments[:at], list(arguments[at + 1 :])


def _launch(options: Namespace) -> None:
    agent = AGENTS[options.agent]
    path = agent.program if options.print_env else agent.find()
    client = output.connect()
    choice = targets.choose(client, options.model, options.context_length)
    row = choice.row or output.follow(f"Loading {choice.model}", choice.load(client))
    target = targets.target(client, row, options.port)
    for remark in targets.remarks(agent, row):
        output.note(remark)
    command = agent.command(target)
    if options.print_env:
        print(shell_lines(command, target, options.passed))
        return
    output.note(
        f"{agent.title} uses {target.model} with a context of {target.context} tokens, "
        f"at {target.url}. The port stays open; `lmnb serve --stop` closes it."
    )
    run(path, command, options.passed)
