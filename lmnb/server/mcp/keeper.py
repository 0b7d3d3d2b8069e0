"""Runs an MCP server's program and sees to it that it ends: `python keeper.py COMMAND [ARGUMENT…]`.

The program gets standard input and output as they are; this process only watches the input. Once
nobody can write to it any more, because the server has let go of it or was killed, the program has
a moment to end by itself, and then it is ended, with all that it started and that is in its process
group. A program that ignores the end of its input would otherwise stay for ever.

Whoever starts this makes it the leader of a session. It stands alone, and imports nothing of lmnb:
it has to start at once.
"""

import os
import select
import signal
import sys
import time

_GRACE = 2.0
"""Seconds to end after the input has ended, and once more after SIGTERM (the protocol's lifecycle,
"Shutdown")."""
NO_COMMAND = 127
"""Exit status if the program cannot be started, as shells have it."""


def main() -> int:
    """Run the program; its exit status."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: None)  # Its own `killpg` reaches it, too.
    program = _start(sys.argv[1:])
    # Where the program's output ends is where the program says so, not where this process does.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    status = _wait(program, woken)
    if status is None:
        status = _end(program)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)  # What it has left behind.
    return os.waitstatus_to_exitcode(status) & 0xFF


def _start(command: list[str]) -> int:
    program = os.fork()
    if program == 0:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and that is inherited.
        try:
            os.execvp(command[0], command)  # noqa: S606 - it is what the user has configured
        except OSError:
            os._exit(NO_COMMAND)
    return program


def _wait(program: int, woken: int) -> "int | None":
    """How the program ended, or None: its input has ended first."""
    poll = select.poll()
    poll.register(0, 0)  # Only its hang-up: what is written there is for the program.
    poll.register(woken, select.POLLIN)
    while True:
        done, status = os.waitpid(program, os.WNOHANG)
        if done:
            return status
        for fd, _ in poll.poll():
            if fd == 0:
                return None
            os.read(woken, 4096)


def _end(program: int) -> int:
    for force in (None, signal.SIGTERM):
        if force is not None:
            os.killpg(0, force)
        deadline = time.monotonic() + _GRACE
        while time.monotonic() < deadline:
            done, status = os.waitpid(program, os.WNOHANG)
            if done:
                return status
            time.sleep(0.01)
    os.killpg(0, signal.SIGKILL)  # Including this process.
    return 0


if __name__ == "__main__":
    sys.exit(main())
