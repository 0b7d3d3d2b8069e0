"""The number of threads follows what others leave of the machine."""

from __future__ import annotations

import pytest

from lmnb.engine.threads import Threads


class Machine:
    """A clock, and seconds of CPU used by all and by this process."""

    def __init__(self) -> None:
        self.now = self.busy = self.own = 0.0

    def run(self, threads: Threads, *, seconds: float, own: float, others: float) -> int:
        """Let time pass; `own` and `others` in cores."""
        threads.update()  # the first look begins the time that is looked at
        for _ in range(round(seconds / 0.3)):
            self.now += 0.3
            self.own += 0.3 * own
            self.busy += 0.3 * (own + others)
            count = threads.update()
        return count


def threads(machine: Machine, most: int, cores: int, *, adaptive: bool = True) -> Threads:
    return Threads(
        most,
        adaptive=adaptive,
        cores=cores,
        busy=lambda: machine.busy,
        own=lambda: machine.own,
        now=lambda: machine.now,
    )


def test_alone_all_are_used() -> None:
    machine = Machine()
    assert machine.run(threads(machine, 2, 2), seconds=3, own=2, others=0.2) == 2


def test_a_busy_neighbour_gets_its_core_and_gives_it_back() -> None:
    machine = Machine()
    chosen = threads(machine, 2, 2)
    assert machine.run(chosen, seconds=3, own=1, others=1) == 1
    assert machine.run(chosen, seconds=3, own=1, others=0.1) == 2


@pytest.mark.parametrize(("others", "expected"), [(0, 4), (2.2, 4), (6, 2), (8, 1), (30, 1)])
def test_on_many_cores(others: float, expected: int) -> None:
    machine = Machine()
    assert machine.run(threads(machine, 4, 8), seconds=4, own=2, others=others) == expected


def test_one_look_back_at_a_long_pass_is_enough() -> None:
    machine = Machine()
    chosen = threads(machine, 2, 2)
    chosen.update()
    for others, expected in ((1.0, 1), (0.0, 2)):
        machine.now += 1.0
        machine.own += 1.0
        machine.busy += 1.0 + others
        assert chosen.update() == expected


def test_a_load_in_the_middle_does_not_make_it_flap() -> None:
    machine = Machine()
    chosen = threads(machine, 2, 2)
    counts = [
        machine.run(chosen, seconds=0.3, own=1, others=0.5 + 0.1 * (step % 2)) for step in range(40)
    ]
    assert len(set(counts)) == 1


def test_a_number_that_was_asked_for_is_kept() -> None:
    machine = Machine()
    assert machine.run(threads(machine, 2, 2, adaptive=False), seconds=3, own=1, others=2) == 2


@pytest.mark.parametrize(("others", "expected"), [(10.0, 2), (90.0, 1)])
def test_of_a_pause_the_mean_counts(others: float, expected: int) -> None:
    """A neighbour who was busy just before it is forgotten, one who still is is not."""
    machine = Machine()
    chosen = threads(machine, 2, 2)
    assert machine.run(chosen, seconds=3, own=1, others=1) == 1
    machine.now += 100.0
    machine.busy += others
    assert chosen.update() == expected


def test_who_was_busy_in_a_pause_only_may_be_waiting_for_the_answer() -> None:
    machine = Machine()
    chosen = threads(machine, 2, 2)
    assert machine.run(chosen, seconds=3, own=0, others=1) == 2
    assert machine.run(chosen, seconds=1, own=2, others=0) == 2
    assert machine.run(chosen, seconds=3, own=0.1, others=1) == 2
    assert machine.run(chosen, seconds=1, own=1, others=1) == 1


def test_a_process_that_others_leave_no_time_does_not_pause() -> None:
    machine = Machine()
    assert machine.run(threads(machine, 2, 2), seconds=3, own=0.2, others=1.8) == 1


def test_what_was_before_the_first_pass_does_not_count() -> None:
    machine = Machine()
    chosen = threads(machine, 2, 2)
    chosen.update()
    machine.now, machine.own, machine.busy = 2.0, 2.0, 4.0  # the model is loaded, others as well
    chosen.forget()
    assert chosen.update() == 2
    assert machine.run(chosen, seconds=1, own=2, others=0) == 2
