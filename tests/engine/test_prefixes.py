"""The radix tree against a list that is searched one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lmnb.engine.prefixes import Prefixes, Tokens, common_prefix

SEQUENCE = st.lists(st.integers(0, 1), max_size=8)


def tokens(values: list[int]) -> Tokens:
    return np.array(values, np.int32)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(SEQUENCE, st.booleans()), max_size=20), SEQUENCE)
def test_it_finds_what_a_list_would(steps: list[tuple[list[int], bool]], prompt: list[int]) -> None:
    tree: Prefixes[int] = Prefixes()
    kept: dict[int, list[int]] = {}
    for number, (values, removes) in enumerate(steps):
        if removes and kept:
            victim = min(kept, key=lambda n: (kept[n], n))
            tree.discard(victim)
            del kept[victim]
        else:
            tree.add(tokens(values), number)
            kept[number] = values
        assert len(tree) == len(kept)
        assert tree.nodes() <= 2 * len(kept)
    found = list(tree.matches(tokens(prompt)))
    lengths = [length for length, _ in found]
    assert lengths == sorted(lengths, reverse=True)
    expected = {n: common_prefix(tokens(v), tokens(prompt)) for n, v in kept.items()}
    assert {n: length for length, n in found} == {n: c for n, c in expected.items() if c}
    assert len(found) == len({n for _, n in found})
    for number in list(kept):
        tree.discard(number)
    assert (len(tree), tree.nodes()) == (0, 0)


def test_taking_out_what_is_not_in_is_nothing() -> None:
    tree: Prefixes[str] = Prefixes()
    tree.discard("a")
    tree.add(tokens([1, 2]), "a")
    tree.clear()
    tree.discard("a")
    assert list(tree.matches(tokens([1, 2]))) == []


@given(st.lists(st.integers(0, 1)), st.lists(st.integers(0, 1)))
def test_common_prefix(a: list[int], b: list[int]) -> None:
    length = common_prefix(tokens(a), tokens(b))
    assert a[:length] == b[:length]
    assert length == min(len(a), len(b)) or a[length] != b[length]
