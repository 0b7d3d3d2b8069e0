"""The process that reads one PDF: `python -m lmnb.chat.documents.process`, a job in, an outcome out.

PDFs come from strangers, and PDFium is a large program: a few kilobytes can be made to unpack to
gigabytes, to draw for hours, or to crash it. So it runs here, with a limit on computing and on
memory, without files or processes, for one document, and then it ends.
"""

from __future__ import annotations

import sys

import msgspec

from lmnb.chat.confined import confine, limited_time
from lmnb.chat.documents.job import Job, Refused
from lmnb.chat.documents.pdf import run

CPU_SECONDS = 20.0
MEMORY = 1 << 30


def main() -> None:
    """Do one job."""
    confine(MEMORY)
    job: Job = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Job)
    with limited_time(CPU_SECONDS):
        try:
            outcome = msgspec.msgpack.encode(run(job))
        except MemoryError:
            outcome = msgspec.msgpack.encode(Refused("it takes too much memory"))
        except Exception as error:  # noqa: BLE001  Whatever a damaged file brings up, it is told.
            outcome = msgspec.msgpack.encode(Refused(f"reading it failed ({error!r})"))
    sys.stdout.buffer.write(outcome)


if __name__ == "__main__":
    main()
