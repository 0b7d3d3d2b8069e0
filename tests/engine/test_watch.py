"""When a step counts as stuck: against a clock that the test moves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from lmnb.engine import watch
from lmnb.engine.recorder import Recorder, make_page
from lmnb.engine.watch import FACTOR, FLOOR, GRACE, TICK, UNKNOWN, Watch


@dataclass
class Clock:
    time: float = 1000.0

    def __call__(self) -> float:
        return self.time


class Case:
    def __init__(self) -> None:
        self.clock = Clock()
        self.watch = Watch(now=self.clock)

    def passes(self, tokens: int, seconds: float) -> None:
        """A pass that ends well."""
        with self.watch.passing(tokens, ()):
            self.clock.time += seconds

    def live(self, seconds: float) -> str:
        """The last verdict of the ticks in that time."""
        verdict = "fine"
        for _ in range(int(seconds / TICK)):
            self.clock.time += TICK
            verdict = self.watch.tick()
        return verdict


def test_a_pass_is_given_up_after_many_times_the_usual() -> None:
    case = Case()
    case.passes(512, 10.0)
    with case.watch.passing(512, ()):
        assert case.live(10.0 * FACTOR - 1) == "fine"
        assert case.live(3) == "abort"
        assert case.live(GRACE - 4) == "abort"
        assert case.live(4) == "kill"
        error = case.watch.broken_off()
    assert error is not None
    assert "512 tokens" in error.message
    assert "10.0 s were to be expected" in error.message
    assert error.code == "engine_stuck"


def test_short_passes_have_a_minute() -> None:
    case = Case()
    for _ in range(10):
        case.passes(1, 0.01)
    with case.watch.passing(1, ()):
        assert case.live(FLOOR - 1) == "fine"
        assert case.live(3) == "abort"


def test_the_first_pass_has_half_an_hour() -> None:
    """Weights come off a slow disk, kernels are compiled."""
    case = Case()
    with case.watch.passing(512, ()):
        assert case.live(UNKNOWN - 1) == "fine"
        assert case.live(3) == "abort"


@pytest.mark.parametrize(
    ("known", "asked", "expected"),
    [
        ((1, 2.0), 1, 2.0),
        ((1, 2.0), 512, 1024.0),  # maybe computing takes the time
        ((512, 100.0), 1, 100.0),  # maybe reading the weights takes the time
        ((512, 100.0), 600, 100.0 * 600 / 512),
        ((512, 100.0), 8192, 1600.0),
    ],
)
def test_expectations_are_rather_too_long(
    known: tuple[int, float], asked: int, expected: float
) -> None:
    case = Case()
    case.passes(*known)
    assert case.watch.expected(asked) == pytest.approx(expected)


def test_a_huge_batch_on_a_slow_processor_is_left_alone() -> None:
    case = Case()
    case.passes(1, 1.0)
    with case.watch.passing(8192, ()):
        assert case.live(7200) == "fine"


def test_expectations_follow_what_happens() -> None:
    case = Case()
    case.passes(512, 100.0)
    for _ in range(60):
        case.passes(512, 1.0)
    assert case.watch.expected(512) == pytest.approx(1.0)
    case.passes(512, 5.0)
    assert case.watch.expected(512) == pytest.approx(5.0)


def test_an_aborted_pass_teaches_nothing() -> None:
    """Else a prompt that was cancelled at once would make the next one look endless."""
    case = Case()
    with case.watch.passing(512, ()):
        case.clock.time += 0.01
        assert case.watch.broken_off() is None
    assert case.watch.expected(512) is None


def test_a_machine_that_sleeps_is_no_stuck_step() -> None:
    case = Case()
    case.passes(1, 0.01)
    with case.watch.passing(1, ()):
        for _ in range(15):
            case.live(1)
            case.clock.time += 8 * 3600  # the lid is closed, or the process stopped, or frozen
            assert case.watch.tick() == "fine"


def test_waiting_is_no_stuck_step_and_other_work_has_its_own_limit() -> None:
    case = Case()
    case.passes(1, 0.01)
    assert case.live(10_000) == "fine"
    case.watch.begin()
    case.passes(1, 0.01)
    assert case.live(UNKNOWN - 1) == "fine"
    assert case.live(3) == "abort"
    case.watch.end()
    assert case.live(10_000) == "fine"


def test_what_was_computed_outlives_the_process() -> None:
    with make_page() as page:
        ours, theirs = Recorder(page.fileno()), Recorder(page.fileno())
        watched = watch.Watch(theirs)
        assert ours.read() == frozenset()
        with watched.passing(3, (7, 8, 9)):
            assert ours.read() == {7, 8, 9}
            theirs.tokenizing(12)
            assert ours.read() == {7, 8, 9, 12}
        theirs.tokenizing(0)
        assert ours.read() == frozenset()
        watched.encoding(13)
        with watched.passing(3, (7, 8)):
            assert ours.read() == {7, 8, 13}
        watched.encoding(0)
        with watched.passing(5000, range(5000)):
            assert ours.read() < set(range(5000))
        assert ours.read() == frozenset()


@pytest.mark.parametrize(
    ("failing", "blamed"), [("encoder", {13}), ("preparer", {12}), ("engine", {7, 8})]
)
def test_an_assertion_in_one_thread_is_nobody_elses(failing: str, blamed: set[int]) -> None:
    with make_page() as page:
        recorder = Recorder(page.fileno())
        begun, done = threading.Barrier(4), threading.Barrier(4)
        work: dict[str, Callable[[], None]] = {
            "engine": lambda: recorder.passing((7, 8)),
            "preparer": lambda: recorder.tokenizing(12),
            "encoder": lambda: recorder.encoding(13),
        }

        def run(name: str) -> None:
            work[name]()
            begun.wait(10)
            if name == failing:
                recorder.failing()
            done.wait(10)

        threads = [threading.Thread(target=run, args=(name,)) for name in work]
        for thread in threads:
            thread.start()
        begun.wait(10)
        done.wait(10)
        assert recorder.read() == blamed
