"""Slots and saved prefixes against a model of llama.cpp's cache: what it says is there, is there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lmnb.engine import cache as module
from lmnb.engine.cache import Cache, Tokens, common_prefix

SLOTS = 3


class Streams:
    """The tokens in each slot. A saved copy is their bytes."""

    def __init__(self, *, can_trim: bool = True) -> None:
        self.can_trim = can_trim
        self.tokens: list[list[int]] = [[] for _ in range(SLOTS)]
        self.saves = self.restores = 0

    def trim(self, slot: int, length: int) -> int:
        if not self.can_trim and length < len(self.tokens[slot]):
            length = 0
        del self.tokens[slot][length:]
        return len(self.tokens[slot])

    def size(self, slot: int) -> int:
        return 4 * len(self.tokens[slot])

    def save(self, slot: int) -> NDArray[np.uint8]:
        self.saves += 1
        return np.array(self.tokens[slot], np.int32).view(np.uint8)

    def restore(self, slot: int, data: NDArray[np.uint8]) -> bool:
        self.restores += 1
        self.tokens[slot] = data.view(np.int32).tolist()
        return True


@pytest.fixture(autouse=True)
def small_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that sequences of a few tokens are worth keeping."""
    monkeypatch.setattr(module, "_WORTH_SAVING", 2)
    monkeypatch.setattr(module, "_WORTH_RESTORING", 1)


def tokens(values: list[int]) -> Tokens:
    return np.array(values, np.int32)


def request(cache: Cache, streams: Streams, values: list[int]) -> int:
    """A whole request, alone; how many tokens it found."""
    slot, reused = cache.acquire(tokens(values))
    assert streams.tokens[slot] == values[:reused]
    assert reused < len(values)
    streams.tokens[slot] += values[reused:]
    cache.release(slot, tokens(values))
    return reused


PROMPT = st.lists(st.integers(0, 2), min_size=1, max_size=10)
ACTION = st.tuples(PROMPT, st.integers(0, SLOTS - 1), st.booleans())


@settings(max_examples=300)
@pytest.mark.parametrize("can_trim", [True, False])
@given(st.lists(ACTION, max_size=30), st.integers(0, 200))
def test_a_slot_holds_what_was_reused(
    can_trim: bool, actions: list[tuple[list[int], int, bool]], budget: int
) -> None:
    streams = Streams(can_trim=can_trim)
    cache = Cache(streams, SLOTS, budget)
    running: dict[int, list[int]] = {}
    for values, victim, save in actions:
        if cache.has_free_slot:
            prompt = tokens(values)
            known = cache.known(prompt[:-1])
            slot, reused = cache.acquire(prompt)
            assert slot not in running
            assert reused <= known
            assert streams.tokens[slot] == values[:reused]
            streams.tokens[slot] += values[reused:]
            running[slot] = values
        if save and victim in running:
            cache.save(victim, tokens(running[victim]))
        elif victim in running:
            cache.release(victim, tokens(running.pop(victim)))
        assert cache.saved_bytes <= budget
        for number, kept in running.items():
            assert streams.tokens[number] == kept


def test_the_next_turn_goes_on_in_place() -> None:
    streams = Streams()
    cache = Cache(streams, SLOTS, 1000)
    request(cache, streams, [1, 2, 3])
    assert request(cache, streams, [1, 2, 3, 4, 5]) == 3
    assert (streams.saves, streams.restores) == (0, 0)


def test_what_a_slot_gives_up_is_saved_and_found_again() -> None:
    streams = Streams()
    cache = Cache(streams, SLOTS, 1000)
    for first in range(SLOTS + 1):
        request(cache, streams, [first, 9, 9, 9])
    assert request(cache, streams, [0, 9, 9, 9, 5]) == 4


def test_a_prefix_of_another_slot_is_copied_and_stays_there() -> None:
    streams = Streams()
    cache = Cache(streams, SLOTS, 1000)
    request(cache, streams, [1, 2, 3, 4, 5, 6, 7, 8])
    assert request(cache, streams, [1, 2, 3, 9]) == 3
    assert request(cache, streams, [1, 2, 3, 4, 5, 6, 7, 8, 9]) == 8


def test_the_budget_drops_the_least_recently_used() -> None:
    streams = Streams()
    cache = Cache(streams, 1, budget=2 * 4 * 4)
    for first in (1, 2, 3):
        request(cache, streams, [first, 9, 9, 9])
    request(cache, streams, [4, 9, 9, 9])
    assert request(cache, streams, [1, 9, 9, 9, 5]) == 0
    assert request(cache, streams, [3, 9, 9, 9, 5]) == 4


def test_recurrent_memory_is_reused_whole_or_not_at_all() -> None:
    streams = Streams(can_trim=False)
    cache = Cache(streams, SLOTS, 1000)
    request(cache, streams, [1, 2, 3, 4])
    assert request(cache, streams, [1, 2, 3, 9]) == 0
    assert request(cache, streams, [1, 2, 3, 4, 5]) == 4


@given(st.lists(st.integers(0, 1)), st.lists(st.integers(0, 1)))
def test_common_prefix(a: list[int], b: list[int]) -> None:
    length = common_prefix(tokens(a), tokens(b))
    assert a[:length] == b[:length]
    assert length == min(len(a), len(b)) or a[length] != b[length]
