"""The process that renders chat templates: `python -m lmnb.chat.rendering.process FD`.

Templates come out of downloaded files. The sandbox keeps them from Python's insides, but not from
running for ever or from building strings of gigabytes, and no code of ours can interrupt them. So
this process holds nothing of value and may die: the kernel ends it after `CPU_SECONDS` of
computing on one job (more if the conversation is long: templates often look at all messages for
each of them), it cannot get more than `MEMORY` on top of what it started with, nor write
files, nor start processes. The server (`lmnb.chat.rendering.renderer`) starts another.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import msgspec
from jinja2 import TemplateError

from lmnb.chat.formats.deriving.derive import derive
from lmnb.chat.rendering.environment import make_environment
from lmnb.chat.rendering.job import AnyJob, Derived, FormatJob, Job, Outcome, Refused
from lmnb.chat.rendering.template import Template, refusal

CPU_SECONDS = 0.8
CPU_SECONDS_PER_TURN = 0.002
"""For every turn and every tool."""
MEMORY = 512 * 1024 * 1024

_environment = make_environment()


@lru_cache(maxsize=32)
def _template(source: str) -> Template:
    return Template(source, _environment)


def run(job: AnyJob) -> Outcome:
    """Do one job. A `MemoryError` leaves no safe state behind: end the process after it."""
    try:
        template = _template(job.template)
        if isinstance(job, FormatJob):
            return Derived(derive(template, bos_text=job.bos_text, eos_text=job.eos_text))
        return template.render(job)
    except MemoryError:
        return Refused("memory", "")
    except (TemplateError, RecursionError, ValueError, SyntaxError) as error:  # it does not compile
        return refusal(error)


def main() -> None:
    """Serve jobs until the socket ends."""
    decoder: msgspec.msgpack.Decoder[AnyJob] = msgspec.msgpack.Decoder(AnyJob)
    run(
        Job(
            template=_WARM_UP,
            turns=(),
            bos_text="",
            eos_text="",
            continue_final=False,
            arguments={},
        )
    )
    confine()
    with socket.socket(fileno=int(sys.argv[1])) as connection, connection.makefile("rwb") as stream:
        while len(header := stream.read(4)) == 4:
            (size,) = struct.unpack("!I", header)
            job = decoder.decode(stream.read(size))
            turns = len(job.turns) + len(job.tools) if isinstance(job, Job) else 0
            with limited_time(CPU_SECONDS + CPU_SECONDS_PER_TURN * turns):
                outcome = run(job)
                answer = msgspec.msgpack.encode(outcome)
            stream.write(struct.pack("!I", len(answer)) + answer)
            stream.flush()
            if isinstance(outcome, Refused) and outcome.kind == "memory":
                return


_WARM_UP = (
    "{% for m in messages %}{{ m | tojson | trim }}{% endfor %}{{ strftime_now('%d %b %Y') }}"
)


@contextlib.contextmanager
def limited_time(seconds: float) -> Iterator[None]:
    """Let the kernel end this process if the block computes for longer than that."""
    if sys.platform == "win32":
        yield
        return
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def confine() -> None:
    """Give up what rendering does not need. Where the system offers no limits, nothing happens."""
    if sys.platform == "win32":
        return
    import resource

    limits = {
        resource.RLIMIT_AS: _address_space() + MEMORY,
        resource.RLIMIT_DATA: _address_space() + MEMORY,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_NOFILE: 64,
    }
    for limit, value in limits.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (value, value))
    with contextlib.suppress(OSError):
        os.chdir("/")


def _address_space() -> int:
    """Bytes of address space in use; a generous guess where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError):
        return MEMORY
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
