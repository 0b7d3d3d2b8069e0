"""A worker in which a forward pass over the token `POISON` goes wrong, as LMNB_TEST_FAULT says.

Steps are given up after seconds instead of minutes.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from typing import NoReturn

from lmnb.engine import watch, worker
from lmnb.engine.context import Context
from lmnb.engine.native import L

POISON = 1234
PATIENCE = 2.0


def assertion(_context: Context) -> NoReturn:
    L._lib.ggml_abort(b"made-up.cpp", 12, b"GGML_ASSERT(%s) failed", b"n_poison == 0")
    raise AssertionError


def segfault(_context: Context) -> NoReturn:
    ctypes.string_at(0)
    raise AssertionError


def exception(_context: Context) -> NoReturn:
    """`operator new` of far too much: std::bad_alloc, which nothing between here and there catches."""
    ctypes.CDLL("libstdc++.so.6")._Znwm(ctypes.c_size_t(1 << 60))
    raise AssertionError


def python(_context: Context) -> NoReturn:
    raise RuntimeError("something unforeseen")


def memory(_context: Context) -> NoReturn:
    raise MemoryError


def kill(_context: Context) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def allocation(_context: Context) -> int:
    return -2


def hang(_context: Context) -> int:
    ctypes.CDLL(None).sleep(3600)
    return 0


def crawl(context: Context) -> int:
    while context.abort._buffer[0] == b"\x00":
        time.sleep(0.01)
    return 2


FAULTS = {
    fault.__name__: fault
    for fault in (
        assertion, segfault, exception, python, memory, kill, allocation, hang, crawl,
    )
}  # fmt: skip


def main() -> None:
    fault = FAULTS[os.environ["LMNB_TEST_FAULT"]]
    sound = Context.decode

    def decode(context: Context) -> int:
        batch = context.batch
        poisoned = POISON in batch.token[: batch.size]
        return fault(context) if poisoned else sound(context)

    Context.decode = decode  # type: ignore[method-assign, assignment]
    watch.UNKNOWN = watch.FLOOR = watch.GRACE = PATIENCE
    watch.FACTOR = 1.0
    watch.TICK = worker.TICK = 0.05  # type: ignore[attr-defined]
    worker.main()


if __name__ == "__main__":
    main()
