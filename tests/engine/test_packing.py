"""Which text goes next into a pass."""

from __future__ import annotations

import random

import numpy as np
import pytest

from lmnb.engine.packing import BLOCK, Row, Texts


def waiting(*lengths: int) -> Texts:
    return Texts(np.zeros(length, np.int32) for length in lengths)


@pytest.mark.parametrize(
    ("lengths", "used", "size", "expected"),
    [
        ((10, 40, 24), 0, 192, 40),  # with 24 it fills the block
        ((10, 40, 25), 0, 192, 40),  # nothing fills it: the longest
        ((10, 50, 40, 24), 0, 192, 40),  # rather than 50, which nothing completes
        ((32, 20), 0, 192, 32),  # it would take two of 32
        ((32, 32, 50), 0, 192, 32),
        ((64, 60), 128, 192, 64),
        ((10, 40, 24), 40, 192, 24),  # 24 are left of the block
        ((100, 90), 150, 300, 100),  # none fits the block, 100 fits the pass
        ((100, 90), 150, 240, 90),
        ((100, 90), 150, 200, None),
        ((10,), 192, 192, None),
        ((10,), 300, 192, None),
        ((), 0, 192, None),
    ],
)
def test_the_text_that_fills_its_block(
    lengths: tuple[int, ...], used: int, size: int, expected: int | None
) -> None:
    assert waiting(*lengths).next_to(used, size) == expected


def test_texts_of_usual_lengths_fill_nearly_all_blocks() -> None:
    dice = random.Random(1)
    texts = waiting(*(dice.randint(8, 42) for _ in range(400)))
    blocks, crossed = -(-texts.tokens // BLOCK), 0
    while texts:
        used = 0
        while (length := texts.next_to(used, 3 * BLOCK)) is not None:
            texts.take(length)
            crossed += used // BLOCK != (used + length - 1) // BLOCK
            used += length
    assert crossed < blocks / 10


def test_every_text_is_taken_once() -> None:
    texts = waiting(5, 3, 5, 9)
    assert texts
    assert (texts.longest, texts.tokens) == (9, 22)
    taken = [texts.take(length) for length in (9, 5, 3)]
    assert (texts.longest, texts.tokens) == (5, 5)
    texts.add(taken[0])  # its pass was broken off
    assert (texts.longest, texts.tokens) == (9, 14)
    taken = [*taken[1:], texts.take(9), texts.take(5)]
    assert not texts
    assert sorted(row.number for row in taken) == [0, 1, 2, 3]
    assert {row.number: len(row.tokens) for row in taken} == {0: 5, 1: 3, 2: 5, 3: 9}


def test_rows_know_their_texts() -> None:
    row = Row(7, np.arange(4, dtype=np.int32))
    texts = waiting()
    texts.add(row)
    assert texts.take(4) is row
