"""The command that starts an agent, to be run or to be printed for a shell."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from lmnb.errors import NotFound

NO_TOKEN = "lmnb"  # noqa: S105 - said to a server that asks for none, since clients want to say one


@dataclass(frozen=True)
class Target:
    """What an agent is to talk to.

    url
        Of the server, without a path.
    model
        The id of a loaded model.
    context
        Its context, in tokens.
    sees
        Whether it takes images.
    folder
        Where files for agents may be written. The user's own configuration is never touched.
    token
        What the server asks for, and the private file it is kept in; None if it asks for nothing.
    """

    url: str
    model: str
    context: int
    folder: Path
    sees: bool = False
    token: str | None = None
    token_file: Path | None = None

    @property
    def key(self) -> str:
        """What to say where a client has to say something."""
        return self.token or NO_TOKEN

    @property
    def output(self) -> int:
        """Tokens that an answer may have: the more, the earlier an agent has to sum up."""
        return min(32_000, max(1024, self.context // 8))


@dataclass(frozen=True)
class Command:
    """A program with its arguments; `environment` is added to the user's, `removed` taken from it."""

    program: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    removed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Agent:
    """An agent that can be launched.

    title
        Its name, for people.
    program, install
        The name of its program, and the command that installs it.
    least
        Tokens of context below which hardly more than its first prompt fits.
    command
        How it is started for a target.
    """

    title: str
    program: str
    install: str
    least: int
    command: Callable[[Target], Command]

    def find(self) -> str:
        """The path of its program.

        Raises
        ------
        NotFound
            It is not installed.
        """
        path = shutil.which(self.program)
        if path is None:
            raise NotFound(
                f"{self.title} is not installed: there is no `{self.program}` in the PATH.",
                hint=f"Install it with `{self.install}`.",
            )
        return path


def run(path: str, command: Command, arguments: Sequence[str]) -> NoReturn:
    """Become the agent: its exit status is this process's, and signals reach it."""
    environment = {k: v for k, v in os.environ.items() if k not in command.removed}
    os.execve(  # noqa: S606 - no shell is wanted
        path,
        [command.program, *command.arguments, *arguments],
        {**environment, **command.environment},
    )


def shell_lines(command: Command, target: Target, arguments: Sequence[str] = ()) -> str:
    """The same for a POSIX shell: one command, on lines that can be copied.

    The token does not appear in it: the lines may end up in a saved notebook.
    """
    parts = [f"-u {name}" for name in command.removed]
    for name, value in command.environment.items():
        secret = target.token_file is not None and value == target.token
        text = f'"$(cat {shlex.quote(str(target.token_file))})"' if secret else shlex.quote(value)
        parts.append(f"{name}={text}")
    parts.append(shlex.join([command.program, *command.arguments, *arguments]))
    return " \\\n  ".join([f"env {parts[0]}", *parts[1:]])
