"""Slots and saved prefixes against a model of llama.cpp's memory: what it says is there, is there."""

from __future__ import annotations

import time
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lmnb.engine import cache as module
from lmnb.engine.cache import Cache
from lmnb.engine.prefixes import Tokens

SLOTS = 3
WINDOW = 3

Kind = Literal["attention", "window", "whole window", "hybrid", "recurrent"]
KINDS: list[Kind] = ["attention", "window", "whole window", "hybrid", "recurrent"]
"""`whole window` is `swa_full`: a slot has all keys, a copy of it those in the window."""
UNCUT: list[Kind] = ["window", "hybrid", "recurrent"]


class Memory:
    """Slots of one kind of memory, holding tokens where llama.cpp holds keys and states.

    `cells` are those of attention: they can be cut. `last` is what cannot: the state after all
    tokens (as those tokens), or the keys in the window (as tokens by position).
    """

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.can_trim = kind == "attention"
        self.window = WINDOW if "window" in kind else 0
        self.partial = kind != "recurrent"
        self.cells: list[list[int]] = [[] for _ in range(SLOTS)]
        self.last: list[dict[int, int]] = [{} for _ in range(SLOTS)]
        self.saves = self.restores = self.rewinds = 0

    def compute(self, slot: int, values: list[int]) -> None:
        """Read more tokens."""
        for value in values:
            self.last[slot][len(self.cells[slot])] = value
            self.cells[slot].append(value)
        if self.kind == "window":  # As in llama.cpp, where it goes when room is needed.
            self.last[slot] = self.in_window(slot)

    def in_window(self, slot: int) -> dict[int, int]:
        first = len(self.cells[slot]) - WINDOW
        return {p: v for p, v in self.last[slot].items() if not self.window or p >= first}

    def check(self, slot: int, values: list[int]) -> None:
        """The slot holds these tokens, and can go on after them."""
        assert self.cells[slot] == values
        first = max(0, len(values) - WINDOW + 1) if self.window else 0
        expected = {p: v for p, v in enumerate(values) if p >= first}
        assert expected.items() <= self.last[slot].items()
        assert max(self.last[slot], default=-1) == len(values) - 1

    def empty(self, slot: int) -> None:
        self.cells[slot], self.last[slot] = [], {}

    # --- States ----------------------------------------------------------------------

    def trim(self, slot: int, length: int) -> bool:
        if len(self.cells[slot]) == length:
            return True
        blind = self.window and self.start(slot) > max(0, length - WINDOW + 1)
        is_short = len(self.cells[slot]) < length
        if is_short or blind or self.kind in {"hybrid", "recurrent"}:
            self.empty(slot)
            return not length
        del self.cells[slot][length:]
        self.last[slot] = {p: v for p, v in self.last[slot].items() if p < length}
        return True

    def start(self, slot: int) -> int:
        return min(self.last[slot], default=0) if self.window else 0

    def size(self, slot: int, *, partial: bool = False) -> int:
        return self.save(slot, partial=partial, count=False).nbytes

    def save(self, slot: int, *, partial: bool = False, count: bool = True) -> NDArray[np.uint8]:
        self.saves += count
        flat = [number for item in sorted(self.in_window(slot).items()) for number in item]
        cells = [] if partial else self.cells[slot]
        return np.array([len(cells), *cells, *flat], np.int32).view(np.uint8)

    def restore(self, slot: int, data: NDArray[np.uint8], length: int) -> bool:
        self.restores += 1
        self.read(slot, data)
        return len(self.cells[slot]) == length

    def read(self, slot: int, data: NDArray[np.uint8]) -> None:
        count, *numbers = data.view(np.int32).tolist()
        self.cells[slot], rest = numbers[:count], numbers[count:]
        self.last[slot] = dict(zip(rest[::2], rest[1::2], strict=True))

    def rewind(self, slot: int, data: NDArray[np.uint8], length: int) -> bool:
        self.rewinds += 1
        cells = self.cells[slot]
        self.read(slot, data)
        if self.partial:
            assert len(cells) >= length
            self.cells[slot] = cells[:length]
        return True


@pytest.fixture(autouse=True)
def small_thresholds(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that sequences of a few tokens are worth keeping."""
    monkeypatch.setattr(module, "_WORTH_SAVING", 2)
    monkeypatch.setattr(module, "_WORTH_RESTORING", 1)
    monkeypatch.setattr(module, "_CHECKPOINT_INTERVAL", 4)


def tokens(values: list[int]) -> Tokens:
    return np.array(values, np.int32)


def read(cache: Cache, memory: Memory, slot: int, values: list[int], reused: int) -> None:
    """Read a prompt, stopping at the marks."""
    done = reused
    for length, whole in cache.marks(tokens(values), reused, border=0, shared=0):
        assert done <= length < len(values)
        memory.compute(slot, values[done:length])
        cache.checkpoint(slot, tokens(values[:length]), whole=whole)
        done = length
    memory.compute(slot, values[done:])


def request(
    cache: Cache, memory: Memory, values: list[int], *, answer: int = 0, session: str | None = None
) -> int:
    """A whole request, alone; how many tokens it found."""
    slot, reused = cache.acquire(tokens(values), session)
    memory.check(slot, values[:reused])
    assert reused < len(values)
    read(cache, memory, slot, values, reused)
    values = [*values, *([7] * answer)]
    memory.compute(slot, [7] * answer)
    cache.release(slot, tokens(values))
    return reused


PROMPT = st.lists(st.integers(0, 2), min_size=1, max_size=12)
SESSION = st.sampled_from([None, "a", "b"])
ACTION = st.tuples(
    PROMPT,
    st.integers(0, SLOTS - 1),
    st.sampled_from(["save", "release", "cancel", "abort", "clear", "nothing"]),
    SESSION,
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=1500, deadline=None)
@given(st.lists(ACTION, max_size=30), st.integers(0, 400))
def test_a_slot_holds_what_was_reused(
    kind: Kind, actions: list[tuple[list[int], int, str, str | None]], budget: int
) -> None:
    memory = Memory(kind)
    cache = Cache(memory, SLOTS, budget)
    running: dict[int, list[int]] = {}
    for values, victim, action, session in actions:
        if cache.has_free_slot:
            known = cache.known(tokens(values[:-1]))
            slot, reused = cache.acquire(tokens(values), session)
            assert slot not in running
            assert reused <= known
            memory.check(slot, values[:reused])
            read(cache, memory, slot, values, reused)
            running[slot] = values
        if victim in running:
            act(cache, memory, running, victim, action)
        assert cache.saved_bytes <= budget
        for number, kept in running.items():
            memory.check(number, kept)
    for number, kept in running.items():
        cache.release(number, tokens(kept))
    assert len(cache._prefixes) == len(cache._store) + sum(
        bool(len(s.tokens)) for s in cache._slots
    )
    cache.clear()
    assert (cache.saved_bytes, cache.idle_tokens, len(cache._prefixes)) == (0, 0, 0)
    assert not any(memory.cells)


def act(
    cache: Cache, memory: Memory, running: dict[int, list[int]], slot: int, action: str
) -> None:
    values = running[slot]
    if action == "save":
        cache.save(slot, tokens(values))
    elif action == "release":
        cache.release(slot, tokens(values))
        del running[slot]
    elif action == "cancel":  # With part of the prompt read.
        half = len(values) // 2
        memory.empty(slot)
        memory.compute(slot, values[:half])
        cache.release(slot, tokens(values[:half]))
        del running[slot]
    elif action == "abort":  # In the middle of a pass: the state is that of nothing.
        if memory.kind in {"hybrid", "recurrent"}:
            memory.last[slot][len(values) - 1] = -1
        done = cache.rewind(slot, tokens(values[:-1]))
        memory.check(slot, values[:done])
        memory.compute(slot, values[done:])
    elif action == "clear":
        cache.clear()


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_turn_goes_on_in_place(kind: Kind) -> None:
    memory = Memory(kind)
    cache = Cache(memory, SLOTS, 10_000)
    request(cache, memory, [1, 2, 3])
    assert request(cache, memory, [1, 2, 3, 4, 5]) == 3
    assert (memory.restores, memory.rewinds) == (0, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_slot_gives_up_is_saved_and_found_again(kind: Kind) -> None:
    memory = Memory(kind)
    cache = Cache(memory, SLOTS, 10_000)
    for first in range(SLOTS + 1):
        request(cache, memory, [first, 9, 9, 9])
    assert request(cache, memory, [0, 9, 9, 9, 5]) == 4


def test_a_prefix_of_another_slot_is_copied_and_stays_there() -> None:
    memory = Memory("attention")
    cache = Cache(memory, SLOTS, 10_000)
    request(cache, memory, [1, 2, 3, 4, 5, 6, 7, 8])
    assert request(cache, memory, [1, 2, 3, 9]) == 3
    assert request(cache, memory, [1, 2, 3, 4, 5, 6, 7, 8, 9]) == 8


def test_the_budget_drops_the_least_recently_used() -> None:
    memory = Memory("recurrent")
    # A copy of four tokens: count, four cells, four pairs, and the tokens that name it.
    cache = Cache(memory, 1, budget=2 * 4 * (1 + 4 + 8 + 4))
    for first in (1, 2, 3):
        request(cache, memory, [first, 9, 9, 9])
    request(cache, memory, [4])
    assert request(cache, memory, [1, 9, 9, 9, 5]) == 0
    assert request(cache, memory, [3, 9, 9, 9, 5]) == 4


@pytest.mark.parametrize("kind", UNCUT)
def test_memory_that_cannot_be_cut_goes_back_to_the_prompts_end(kind: Kind) -> None:
    """As when an answer's thinking is left out of the next prompt."""
    memory = Memory(kind)
    cache = Cache(memory, SLOTS, 10_000)
    request(cache, memory, [1, 2, 3, 4, 5, 6], answer=5)
    assert request(cache, memory, [1, 2, 3, 4, 5, 9, 9]) == 5


@pytest.mark.parametrize("kind", UNCUT)
def test_the_same_prompt_again_computes_its_last_token_only(kind: Kind) -> None:
    memory = Memory(kind)
    cache = Cache(memory, SLOTS, 10_000)
    request(cache, memory, [1, 2, 3, 4, 5, 6], answer=5)
    assert request(cache, memory, [1, 2, 3, 4, 5, 6], answer=5) == 5


@pytest.mark.parametrize("kind", UNCUT)
def test_the_third_request_with_a_beginning_starts_from_the_fork(kind: Kind) -> None:
    """The second shows where the fork is, and leaves a copy there."""
    memory = Memory(kind)
    cache = Cache(memory, SLOTS, 10_000)
    head = [5, 5, 5, 5, 5, 5]
    assert request(cache, memory, [*head, 1, 1, 1, 1, 1], answer=3) == 0
    assert request(cache, memory, [*head, 2, 2, 2, 2, 2], answer=3) <= 4
    assert request(cache, memory, [*head, 3, 3, 3, 3, 3], answer=3) == 6
    assert request(cache, memory, [*head, 4], answer=3) == 6


@pytest.mark.parametrize("kind", UNCUT)
def test_checkpoints_of_one_conversation_are_few(kind: Kind) -> None:
    memory = Memory(kind)
    cache = Cache(memory, 1, 10**9)
    chat: list[int] = []
    for turn in range(30):
        reused = request(cache, memory, [*chat, turn, turn, turn])
        assert reused >= len(chat) - 1
        chat += [turn, turn, turn]
    assert len(cache._store) <= module._MOST_CHECKPOINTS


def test_a_window_that_is_still_there_needs_no_checkpoint() -> None:
    memory = Memory("window")
    cache = Cache(memory, 1, 0)
    request(cache, memory, [1, 2, 3, 4, 5, 6, 7, 8])
    # The slot keeps tokens from position 5 on; what follows position 7 sees 5, 6 and itself.
    assert request(cache, memory, [1, 2, 3, 4, 5, 6, 7, 9]) == 7
    assert request(cache, memory, [1, 2, 3, 4, 9]) == 0


def test_a_slot_with_all_keys_serves_its_prefix_where_a_copy_could_not() -> None:
    memory = Memory("whole window")
    cache = Cache(memory, 2, 10_000)
    request(cache, memory, [1, 2, 3, 4, 5, 6, 7, 8, 9, 9], session="a")
    assert request(cache, memory, [1, 2, 3, 4, 0], session="b") == 4


def test_a_sessions_slot_is_evicted_after_anonymous_ones() -> None:
    memory = Memory("attention")
    cache = Cache(memory, 2, 0)
    request(cache, memory, [1, 1, 1, 1], session="a")
    request(cache, memory, [2, 2, 2, 2])
    request(cache, memory, [3, 3, 3, 3])
    assert request(cache, memory, [1, 1, 1, 1, 5], session="a") == 4
    assert request(cache, memory, [2, 2, 2, 2, 5]) == 0


def test_an_abandoned_session_is_evicted_in_the_end() -> None:
    memory = Memory("attention")
    cache = Cache(memory, 2, 0)
    request(cache, memory, [1, 1, 1, 1], session="a")
    for turn in range(300):
        request(cache, memory, [2 + turn, 2, 2, 2])
    assert request(cache, memory, [1, 1, 1, 1, 5], session="a") == 0


def test_of_equal_prefixes_the_sessions_own_is_taken() -> None:
    memory = Memory("attention")
    cache = Cache(memory, SLOTS, 10_000)
    prompts = {"a": [1, 1, 1, 1, 2], "b": [1, 1, 1, 1, 3]}
    slots = {}
    for session, prompt in prompts.items():
        slots[session], _ = cache.acquire(tokens(prompt), session)
        memory.compute(slots[session], prompt)
    for session, prompt in prompts.items():
        cache.release(slots[session], tokens(prompt))
    for session in ("a", "b"):
        slot, reused = cache.acquire(tokens([1, 1, 1, 1, 9]), session)
        assert (slot, reused) == (slots[session], 4)
        memory.compute(slot, [9])
        cache.release(slot, tokens([1, 1, 1, 1, 9]))


def test_nobody_overwrites_what_another_session_will_need() -> None:
    memory = Memory("attention")
    cache = Cache(memory, 2, 10_000)
    request(cache, memory, [*range(20), 50, 51, 52, 53, 54], session="a")
    assert request(cache, memory, [*range(20), 60], session="b") == 20
    slot, reused = cache.acquire(tokens([*range(20), 50, 51, 52, 53, 54, 55]), "a")
    assert (slot, reused) == (0, 25)
    assert memory.restores == 1


def test_hundreds_of_prefixes_are_searched_at_once() -> None:
    """A hundred thousand tokens are compared with 400 sequences that share 50,000 of them."""
    memory = Memory("attention")
    cache = Cache(memory, SLOTS, 10**12)
    dice = np.random.default_rng(0)
    head = dice.integers(0, 50_000, 50_000).astype(np.int32)
    from lmnb.engine.saved import Saved

    for _ in range(400):
        tail = dice.integers(0, 50_000, 5_000).astype(np.int32)
        cache._store.add(Saved(np.concatenate([head, tail]), np.empty(8, np.uint8)))
    prompt = np.concatenate([head, dice.integers(0, 50_000, 50_000).astype(np.int32)])
    compared = count_comparisons(cache, prompt)
    assert compared <= 2 * len(prompt)
    began = time.perf_counter()
    for _ in range(5):
        cache.known(prompt)
    assert (
        time.perf_counter() - began
    ) / 5 < 0.1  # It takes one millisecond; this finds a blunder.


def count_comparisons(cache: Cache, prompt: Tokens) -> int:
    """How many tokens of the tree a look-up compares."""
    from lmnb.engine import prefixes

    compared = 0
    original = prefixes.common_prefix

    def counting(a: Tokens, b: Tokens) -> int:
        nonlocal compared
        compared += min(len(a), len(b))
        return original(a, b)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "common_prefix", counting)
        assert cache.known(prompt) == 50_000
    return compared


@pytest.mark.parametrize("kind", KINDS)
def test_a_busy_slot_moves_and_what_was_there_is_kept(kind: Kind) -> None:
    memory = Memory(kind)
    cache = Cache(memory, SLOTS, 10_000)
    request(cache, memory, [1, 2, 3, 4, 5])
    target = memory.cells.index([1, 2, 3, 4, 5])
    busy, _ = cache.acquire(tokens([7, 8, 9]))
    memory.compute(busy, [7, 8])
    assert busy != target
    assert cache.move(busy, target, tokens([7, 8]))
    memory.check(target, [7, 8])
    assert not memory.cells[busy]
    cache.release(target, tokens([7, 8]))
    assert request(cache, memory, [1, 2, 3, 4, 5, 6]) == 5


def test_a_slot_does_not_move_where_something_would_be_lost() -> None:
    memory = Memory("attention")
    cache = Cache(memory, SLOTS, budget=0)
    request(cache, memory, [1, 2, 3, 4, 5])
    busy, _ = cache.acquire(tokens([7, 8, 9]))
    memory.compute(busy, [7, 8])
    assert not cache.move(busy, memory.cells.index([1, 2, 3, 4, 5]), tokens([7, 8]))
    memory.check(busy, [7, 8])
    assert request(cache, memory, [1, 2, 3, 4, 5, 6]) == 5
