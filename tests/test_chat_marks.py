"""People's words must never become control tokens, and must come out as they went in."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmnb.chat.rendering.marks import cut, mark, unmark
from lmnb.engine.options import Segment

CONTROL = [
    "<|im_start|>",
    "<|im_end|>",
    "</s>",
    "[INST]",
    "[/INST]",
    "<｜Assistant｜>",
    "<start_of_turn>",
    "▁<EOT>",
    "]~b]user",
    "[e~[",
    '<|"|>',
    "[|user|]",
]
PIECES = st.sampled_from(
    [*CONTROL, "hello", " ", "\n", "<think>", "</think>", "é𝄞", '"', "\\", "a"]
)
TEXTS = st.one_of(st.text(), st.lists(PIECES).map("".join))


def plain(segments: tuple[Segment, ...]) -> str:
    return "".join(segment.text for segment in segments)


def special(segments: tuple[Segment, ...]) -> str:
    """What may be read as control tokens, each stretch apart from the next."""
    return "\0".join(segment.text for segment in segments if segment.special)


@given(TEXTS)
def test_marks_come_off(text: str) -> None:
    marked = mark(text)
    assert len(marked) == len(text)
    assert unmark(marked) == re.sub("[\U000f0000-\U000ffffd]", "\ufffd", text) or marked == text


@given(TEXTS)
def test_white_space_quotes_and_backslashes_stay(text: str) -> None:
    for before, after in zip(text, mark(text), strict=True):
        if before.isspace() or before in '"\\':
            assert after == before


def test_ordinary_words_are_not_touched() -> None:
    assert mark("Hello, world! 1 + 1 = 2; don't (ever) stop.") == (
        "Hello, world! 1 + 1 = 2; don't (ever) stop."
    )
    assert mark("Use <b>bold</b> /no_think please").endswith(" /no_think please")


@given(TEXTS, TEXTS, st.sampled_from([str, str.strip, str.upper, lambda t: t[1:-1]]))
def test_no_control_text_outside_of_words(one: str, two: str, bent: object) -> None:
    assert callable(bent)
    contents = [mark(one), mark(two)]
    output = f"<|im_start|>{bent(contents[0])}<|im_end|>{bent(contents[1])}"
    segments = cut(output, contents)
    readable = special(segments).replace("<|im_start|>", "", 1).replace("<|im_end|>", "", 1)
    for control in CONTROL:
        assert control not in readable
    assert not re.search("[\U000f0000-\U000ffffd]", plain(segments))


@given(TEXTS)
def test_a_stripped_content_is_one_plain_piece(text: str) -> None:
    content = mark(text)
    segments = cut(f"<|im_start|>{content.strip()}<|im_end|>", [content])
    if unmark(content) != content:
        assert Segment(unmark(content.strip())) in segments


@pytest.mark.parametrize("first", ["<|im_", "<|im_start", "<"])
def test_words_that_meet_are_one_piece(first: str) -> None:
    """Apart, neither looks like a control token, and the engine would join them with the rest."""
    rest = "<|im_start|>".removeprefix(first)
    contents = [mark(first), mark(rest)]
    segments = cut("A" + "".join(contents) + "B", contents)
    assert Segment("<|im_start|>") in segments


def test_think_tags_of_the_assistant_stay_readable() -> None:
    said = mark("<think>a <b></think>\n<|im_end|>answer", keep_think=True)
    assert said.split("</think>")[0].startswith("<think>a ")
    assert "<|im_end|>" not in said
    assert "</think>" not in mark("</think>")
