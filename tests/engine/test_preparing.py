"""The preparing thread: order, and requests that are given up before the engine has them."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass, field
from typing import IO

import pytest

from lmnb.engine.preparing import Preparer
from lmnb.engine.protocol import Abort, Command, Tokenize
from lmnb.engine.recorder import Recorder, make_page

SECONDS = 10


@dataclass
class Case:
    """A preparer whose work waits for `go`, and what it has delivered."""

    page: IO[bytes]
    began: queue.Queue[int] = field(default_factory=queue.Queue)
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    delivered: queue.Queue[tuple[Command, object]] = field(default_factory=queue.Queue)

    def __post_init__(self) -> None:
        self.recorder = Recorder(self.page.fileno())
        self.preparer = Preparer(
            self.prepare, lambda *pair: self.delivered.put(pair), self.recorder
        )
        self.preparer.start()

    def prepare(self, command: Command) -> object | None:
        assert isinstance(command, Tokenize)
        self.began.put(command.id)
        assert self.go.acquire(timeout=SECONDS)
        return f"prepared {command.id}" if command.id % 10 else None

    def put(self, *ids: int) -> None:
        for request in ids:
            self.preparer.put(Tokenize(id=request, segments=()))

    def next(self) -> tuple[int, object]:
        command, prepared = self.delivered.get(timeout=SECONDS)
        assert isinstance(command, Tokenize | Abort)
        return command.id, "abort" if isinstance(command, Abort) else prepared


@pytest.fixture
def case() -> Case:
    return Case(make_page())


def test_requests_are_prepared_in_their_order(case: Case) -> None:
    case.put(1, 2, 3)
    case.go.release(3)
    assert [case.next() for _ in range(3)] == [(n, f"prepared {n}") for n in (1, 2, 3)]


def test_a_request_that_has_been_answered_is_not_delivered(case: Case) -> None:
    case.put(10, 1)
    case.go.release(2)
    assert case.next() == (1, "prepared 1")


def test_a_request_given_up_while_it_waits_is_never_prepared(case: Case) -> None:
    case.put(1, 2, 3)
    assert case.began.get(timeout=SECONDS) == 1
    assert case.preparer.cancel(2)
    case.go.release(2)
    assert case.next() == (1, "prepared 1")
    assert case.next() == (3, "prepared 3")
    assert case.began.get(timeout=SECONDS) == 3


def test_a_request_given_up_while_it_is_prepared_is_aborted_in_the_engine(case: Case) -> None:
    """Only the engine can give back what has been prepared for it."""
    case.put(1, 2)
    assert case.began.get(timeout=SECONDS) == 1
    assert case.recorder.read() == {1}
    assert case.preparer.cancel(1)
    case.go.release(2)
    assert case.next() == (1, "prepared 1")
    assert case.next() == (1, "abort")
    assert case.next() == (2, "prepared 2")


def test_what_the_engine_has_is_for_the_engine_to_abort(case: Case) -> None:
    case.put(1)
    case.go.release()
    assert case.next() == (1, "prepared 1")
    assert not case.preparer.cancel(1)
    assert not case.preparer.cancel(99)
