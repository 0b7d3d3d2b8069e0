"""How much of a prompt is read at once follows what reading takes, at any depth."""

from __future__ import annotations

import random

import pytest

from lmnb.engine.slices import STEP, TILE, Slices

ATTENTION = 1.5e-6
"""Seconds per token and token before it, in tiles: SmolLM2 on an EPYC."""


class Machine:
    """What a slice takes: `base` seconds a token, and attention."""

    def __init__(self, base: float, one_by_one: float) -> None:
        self.base, self.one_by_one = base, one_by_one
        self.dice = random.Random(1)

    def seconds(self, tokens: int, depth: int) -> float:
        slope = ATTENTION * (1 if tokens >= TILE else self.one_by_one)
        exact = tokens * (self.base + slope * (depth + tokens / 2))
        return exact * self.dice.uniform(0.95, 1.05)

    def read(self, slices: Slices, target: float, length: int = 8000) -> list[tuple[int, float]]:
        """A prompt beside answers, from end to end: tokens and seconds of its slices."""
        depth, taken = 0, []
        while depth < length:
            count = slices.whole_steps(length - depth, length, depth, target)
            count = count or min(length - depth, slices.least(depth))
            taken.append((count, self.seconds(count, depth)))
            slices.observe(count, depth + count / 2, taken[-1][1], tiled=count >= TILE)
            depth += count
        return taken


@pytest.mark.parametrize("base", [0.0005, 0.003, 0.01])
def test_the_time_is_kept_at_any_depth(base: float) -> None:
    slices, target, machine = Slices(flash=False), 0.25, Machine(base, 1.0)
    slices.observe(128, 64, machine.seconds(128, 0), tiled=True)
    machine.read(slices, target)
    taken = [seconds for _, seconds in machine.read(slices, target)][:-1]
    assert max(taken) < 1.4 * target
    assert sum(taken) / len(taken) > 0.6 * target  # in whole steps


@pytest.mark.parametrize("one_by_one", [1.5, 2.1])
def test_small_slices_are_given_up_where_they_would_read_much_slower(one_by_one: float) -> None:
    slices, target, machine = Slices(flash=True), 0.25, Machine(0.003, one_by_one)
    slices.observe(128, 64, machine.seconds(128, 0), tiled=True)
    machine.read(slices, target)
    taken = [count for count, _ in machine.read(slices, target)]
    assert any(count < TILE for count in taken[:20])
    assert all(count == TILE for count in taken[-30:-10])  # the rest is less than a tile


def test_slow_models_are_read_in_slices_below_a_tile() -> None:
    slices = Slices(flash=True)
    slices.observe(32, 16, 32 * 0.05, tiled=False)
    assert STEP > slices.fit(1000, 0, 0.25) > 0
    assert slices.least(0) == STEP
    assert slices.fit(1000, 0, 2.0) == 40


def test_nothing_is_known_of_the_first() -> None:
    assert Slices(flash=True).fit(512, 0, 0.25) == 512


def test_short_rests_are_read_whole() -> None:
    slices = Slices(flash=True)
    slices.observe(128, 64, 0.128, tiled=True)
    assert slices.fit(3, 5000, 0.25) == 3
