"""What templates write for thinking, words and calls, said by models in the real engine, comes back.

`round_trips.family` states what counts as supported. Seeds decide where answers are cut into tokens,
which markers are control tokens, and the temperature.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from round_trips.family import Family
from round_trips.played import differences
from round_trips.table import README, read, write
from round_trips.templates import OWN, PUBLISHED

SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.full) for seed in (1, 2, 3))]
_NOT_HERE = "the published chat templates are not here"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_own_templates(path: Path, seed: int, tmp_path: Path) -> None:
    assert asyncio.run(differences(path.read_text(), tmp_path / "m.gguf", seed=seed)) == []


@pytest.mark.skipif(not PUBLISHED, reason=_NOT_HERE)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_templates(path: Path, seed: int, tmp_path: Path) -> None:
    assert Family(path.read_text()).is_understood
    assert asyncio.run(differences(path.read_text(), tmp_path / "m.gguf", seed=seed)) == []


@pytest.mark.skipif(not PUBLISHED, reason=_NOT_HERE)
def test_the_table_is_current() -> None:
    assert read(README) == write(), "run `python tests/round_trips/table.py`"
