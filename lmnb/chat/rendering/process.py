"""The process that renders chat templates: `python -m lmnb.chat.rendering.process FD`.

Templates come out of downloaded files. The sandbox keeps them from Python's insides, but not from
running for ever or from building strings of gigabytes, and no code of ours can interrupt them. So
this process holds nothing of value and may die: the kernel ends it after `CPU_SECONDS` of
computing on one job (more if the conversation is long: templates often look at all messages for
each of them), it cannot get more than `MEMORY` on top of what it started with, nor write
files, nor start processes. The server (`lmnb.chat.rendering.renderer`) starts another.
"""

from __future__ import annotations

import socket
import struct
import sys
from functools import lru_cache

import msgspec
from jinja2 import TemplateError

from lmnb.chat.confined import confine, limited_time
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
    confine(MEMORY)
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


if __name__ == "__main__":
    main()
