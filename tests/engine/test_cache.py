"""The prefix tree against a model of llama.cpp's cells: a cell is a set of sequence ids."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lmnb.engine.cache import Node, PrefixCache, Tokens, common_prefix

SLOT = 0
HOLDERS = range(1, 6)


class Cells:
    """`cells[position][n]` is one cell at that position: its token and who owns it."""

    def __init__(self) -> None:
        self.cells: list[tuple[int, int, set[int]]] = []

    def compute(self, sequence: int, tokens: Tokens, begin: int) -> None:
        for position in range(begin, len(tokens)):
            self.cells.append((position, int(tokens[position]), {sequence}))

    def copy(self, source: int, target: int, begin: int, end: int) -> None:
        for position, _, owners in self.cells:
            if source in owners and begin <= position < end:
                assert target not in self.owners_at(position) or target in owners
                owners.add(target)

    def remove(self, sequence: int, begin: int = 0, end: int = -1) -> bool:
        for position, _, owners in self.cells:
            if position >= begin and (end < 0 or position < end):
                owners.discard(sequence)
        self.cells = [cell for cell in self.cells if cell[2]]
        return True

    def owners_at(self, position: int) -> set[int]:
        return set().union(*(owners for p, _, owners in self.cells if p == position))

    def tokens_of(self, sequence: int) -> list[int]:
        mine = sorted((p, t) for p, t, owners in self.cells if sequence in owners)
        assert [position for position, _ in mine] == list(range(len(mine)))
        return [token for _, token in mine]


def tokens(values: list[int]) -> Tokens:
    return np.array(values, np.int32)


def holders(cache: PrefixCache) -> dict[int, list[int]]:
    """Each holder's id and the tokens of its path."""
    found = {}
    pending: list[tuple[Node, list[int]]] = [(cache.root, [])]
    while pending:
        node, before = pending.pop()
        path = before + node.tokens.tolist()
        if node.holder is not None:
            found[node.holder] = path
        pending += [(child, path) for child in node.children.values()]
    return found


def check(cache: PrefixCache, cells: Cells) -> None:
    for holder, path in holders(cache).items():
        assert cells.tokens_of(holder) == path
    held = [cell for cell in cells.cells if cell[2] - {SLOT}]
    assert cache.cells == len(held)


PROMPTS = st.lists(st.integers(0, 2), min_size=1, max_size=8)


@settings(max_examples=300)
@given(st.lists(st.tuples(PROMPTS, st.integers(0, 8), st.booleans()), max_size=25))
def test_holders_own_their_paths_and_no_cell_is_lost(
    requests: list[tuple[list[int], int, bool]],
) -> None:
    cells = Cells()
    cache = PrefixCache(cells, HOLDERS)
    for values, publish_at, evict in requests:
        prompt = tokens(values)
        node = cache.match(prompt)
        assert common_prefix(prompt, prompt[: node.end]) == node.end
        assert cache.matched_length(prompt) == node.end
        cache.lock(node)
        cache.share(node, SLOT)
        assert cells.tokens_of(SLOT) == values[: node.end]
        cells.compute(SLOT, prompt, node.end)
        check(cache, cells)
        if node.end < publish_at <= len(prompt):
            inner = cache.insert(prompt[:publish_at], SLOT)
            cache.lock(inner)
            cache.unlock(node)
            node = inner
            check(cache, cells)
        if evict:
            cache.evict_one()
        assert cells.tokens_of(SLOT) == values
        cache.insert(prompt, SLOT)
        assert cells.tokens_of(SLOT) == values
        cache.unlock(node)
        cells.remove(SLOT)
        check(cache, cells)
    cache.clear()
    assert cache.cells == 0
    assert not cells.cells


def test_a_locked_prefix_is_never_evicted() -> None:
    cells = Cells()
    cache = PrefixCache(cells, HOLDERS)
    for values in ([1, 2, 3], [1, 2, 4], [5]):
        cells.compute(SLOT, tokens(values), 0)
        cache.insert(tokens(values), SLOT)
        cells.remove(SLOT)
    locked = cache.match(tokens([1, 2]))
    cache.lock(locked)
    cache.clear()
    assert cache.matched_length(tokens([1, 2, 3])) == 2
    assert cache.cells == 2
    cache.unlock(locked)
    cache.clear()
    assert cache.cells == 0


def test_the_least_recently_used_goes_first() -> None:
    cells = Cells()
    cache = PrefixCache(cells, HOLDERS)
    for value in (1, 2, 3):
        cells.compute(SLOT, tokens([value]), 0)
        cache.insert(tokens([value]), SLOT)
        cells.remove(SLOT)
    cache.match(tokens([1]))
    cache.evict_one()
    assert [cache.matched_length(tokens([value])) for value in (1, 2, 3)] == [1, 0, 1]


def test_equal_prefixes_computed_twice_are_stored_once() -> None:
    cells = Cells()
    cache = PrefixCache(cells, HOLDERS)
    for sequence, values in ((0, [1, 2, 3, 4]), (7, [1, 2, 3, 9])):
        cells.compute(sequence, tokens(values), 0)
    cache.insert(tokens([1, 2, 3, 4]), 0)
    cache.insert(tokens([1, 2, 3, 9]), 7)
    assert cells.tokens_of(7) == [1, 2, 3, 9]
    cells.remove(0)
    cells.remove(7)
    assert len(cells.cells) == cache.cells == 5
