"""A worker in which a forward pass over two tokens `POISON` goes wrong, as LMNB_TEST_FAULT says.

Two in a row, so that no answer is poisonous by chance. `loading`: it goes wrong before that.
`limited:MB`: it gets that much more memory than it has at its start. Steps are given up after
seconds instead of minutes.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time
from collections.abc import Callable
from typing import NoReturn

import psutil

from lmnb.engine import watch, worker
from lmnb.engine.context import Context
from lmnb.engine.model import Model
from lmnb.engine.native import L

POISON = 250
PATIENCE = 2.0


def assertion(_context: Context) -> NoReturn:
    L._lib.ggml_abort(b"made-up.cpp", 12, b"GGML_ASSERT(%s) failed", b"n_poison == 0")
    raise AssertionError


def segfault(_context: object) -> NoReturn:
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


def load(*_arguments: object, **_options: object) -> NoReturn:
    segfault(None)


def main() -> None:
    fault, _, megabytes = os.environ["LMNB_TEST_FAULT"].partition(":")
    if fault == "loading":
        Model.load = load  # type: ignore[method-assign]
    elif fault == "limited":
        most = psutil.Process().memory_info().vms + int(megabytes) * 1_000_000
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    else:
        poison(FAULTS[fault])
    watch.UNKNOWN = watch.FLOOR = watch.GRACE = PATIENCE
    watch.FACTOR = 1.0
    watch.TICK = worker.TICK = 0.05  # type: ignore[attr-defined]
    worker.main()


def poison(fault: Callable[[Context], int]) -> None:
    sound = Context.decode

    def decode(context: Context) -> int:
        tokens = context.batch.token[: context.batch.size]
        poisoned = ((tokens[1:] == POISON) & (tokens[:-1] == POISON)).any()
        return fault(context) if poisoned else sound(context)

    Context.decode = decode  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    main()
