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
from round_trips.table import README, read, support, syntax_of, write
from round_trips.templates import OWN, PUBLISHED

_SUPPORT = {
    "bare_keys": "dict yn yynn yyyyy yy",
    "channels": "JSON yy ynyn yyyyy yy",
    "counted": "name, JSON yn yynn yyyyy yy",
    "history_without_thinking": "lmnb's own yy yyyy yyyyy yy",
    "json_array": "JSON yn ynnn yyyyy yy",
    "json_in_tags": "JSON yy yyyy yyyyy yy",
    "key_in_both_tags": "lmnb's own yn nnnn nnnnn nn",
    "last_answer_keeps_thinking": "lmnb's own yy yyyy yyyyy yy",
    "name_as_key": "name, JSON yn yynn yyyyy yy",
    "name_in_tag": "name, JSON yn yynn yyyyy yy",
    "parts": "name, JSON yy yyyy yyyyy yy",
    "python": "Python yn yynn yyyyy yy",
    "recipients": "name, JSON yn yynn yyyyy yy",
    "single_json": "JSON yn ynnn nyyyy yy",
    "tagged": "tags yy yyyy yyyyy yy",
    "tagged_json": "tags yn yynn yyyyy yy",
    "typed": "tags yn yynn yyyyy yy",
    "with_id": "name, JSON yn yynn yyyyy yy",
}
"""How the own templates write calls, and which features they have, in the order of the published ones'
table: words, thinking; call, after words, after thinking, after both; two calls, types, no arguments,
odd texts, own markers; answer after a result, call after one."""
_NOT_UNDERSTOOD = {"key_in_both_tags"}

_LONG = {
    "CohereForAI-c4ai-command-r-plus-tool_use",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
}
"""Their templates say thousands of tokens before the first word."""
_TEMPLATES = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.full] if path.stem in _LONG else [])
    for path in PUBLISHED
]

SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.full) for seed in (1, 2, 3))]
_NOT_HERE = "the published chat templates are not here"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_own_templates(path: Path, seed: int, tmp_path: Path) -> None:
    assert Family(path.read_text()).is_understood == (path.stem not in _NOT_UNDERSTOOD)
    assert asyncio.run(differences(path.read_text(), tmp_path / "m.gguf", seed=seed)) == []


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.stem)
def test_what_own_templates_support(path: Path) -> None:
    *syntax, words, calls, kinds, results = _SUPPORT[path.stem].split()
    family = Family(path.read_text())
    found = ["n" if said == "–" else said[0] for said in support(family)]
    assert "".join(found) == words + calls + kinds + results
    assert syntax_of(family) == " ".join(syntax)


@pytest.mark.skipif(not PUBLISHED, reason=_NOT_HERE)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("path", _TEMPLATES)
def test_published_templates(path: Path, seed: int, tmp_path: Path) -> None:
    assert Family(path.read_text()).is_understood
    assert asyncio.run(differences(path.read_text(), tmp_path / "m.gguf", seed=seed)) == []


@pytest.mark.skipif(not PUBLISHED, reason=_NOT_HERE)
def test_the_table_is_current() -> None:
    assert read(README) == write(), "run `python tests/round_trips/table.py`"
