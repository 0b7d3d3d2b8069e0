from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmnb.notebook.markdown import CURSOR, balance, closed, for_jupyter

PIECES = [
    "word", " ", "\n", "\n\n", "**", "*", "`", "```", "````", "```python\n", "~~~", "> ", "- ", "1. ",
    "# ", "| a | b |\n", "|---|---|\n", "| half", "[text](http://a.b)", "[", "](", ")", "![", "$", "$$",
    "\\(", "\\)", "\\[", "\\]", "\\", "$5", "$x$", "é", "\u2028", "\t",
]  # fmt: skip
MONEY = '<span class="mathjax_ignore tex2jax_ignore">&#36;</span>'
markdown = st.lists(st.sampled_from(PIECES), max_size=25).map("".join)
CLOSERS = re.compile(r"(\*\*|`+|`+\*\*|\n[ \t>]*(`{3,}|~{3,}))?")


def fences_open(text: str) -> bool:
    """An independent reading of the fence rule, line by line."""
    mark = ""
    for line in text.split("\n"):
        bare = re.sub(r"^([ \t>]|[-*+][ \t]|\d{1,9}[.)][ \t])*", "", line) if not mark else line
        bare = bare.strip(" \t>") if mark else bare
        if mark:
            if len(bare) >= len(mark) and set(bare) == {mark[0]}:
                mark = ""
        elif found := re.match(r"`{3,}(?=[^`]*$)|~{3,}", bare):
            mark = found[0]
    return bool(mark)


@given(markdown)
@example("```python\nx = `")
@example("- ```\n  code\n  ``")
@example("> ~~~\n> ~~")
def test_no_fence_is_left_open(text: str) -> None:
    assert not fences_open(balance(text))
    assert not fences_open(closed(text))


@given(markdown)
def test_what_is_shown_is_a_beginning_of_the_text_and_what_closes_it(text: str) -> None:
    shown = balance(text)
    assert any(
        text.startswith(shown[:cut]) and CLOSERS.fullmatch(shown[cut:])
        for cut in range(len(shown) + 1)
    )


@given(markdown)
def test_what_is_held_back_is_bounded(text: str) -> None:
    shown = balance(text)
    common = next(
        (i for i, (a, b) in enumerate(zip(shown, text, strict=False)) if a != b),
        min(len(shown), len(text)),
    )
    held = text[common:]
    # Never more than one paragraph (a table's head is one too).
    assert "\n\n" not in held.strip("\n")


@given(markdown)
def test_a_cursor_is_never_inside_a_fence(text: str) -> None:
    shown = balance(text, CURSOR)
    assert shown.endswith(CURSOR)
    assert not fences_open(shown.removesuffix(CURSOR).rstrip())


@given(st.text(st.characters(exclude_characters="`~*|[]$\\#-+=_>0123456789"), max_size=80))
def test_plain_words_pass_unchanged(text: str) -> None:
    assert balance(text) == text
    assert for_jupyter(text) == text
    assert closed(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Hello **wor", "Hello **wor**"),
        ("Hello **", "Hello "),
        ("Hello **bold*", "Hello **bold**"),
        ("use `f(x", "use `f(x`"),
        ("use `", "use "),
        ("**a `b", "**a `b`**"),
        ("see [the docs](http://exam", "see "),
        ("see [the docs](http://example.org) now", "see [the docs](http://example.org) now"),
        ("| a | b |\n|--", ""),
        ("| a | b |\n|---|---|\n| 1 |", "| a | b |\n|---|---|\n"),
        ("```py\nx = 1\n``", "```py\nx = 1\n```"),
        ("- ```\n  x", "- ```\n  x\n  ```"),
        ("area $$\\frac{1}{", "area "),
        ("so \\[x", "so "),
        ("Title\n---", "Title\n"),
        ("one\n- **", "one\n"),
        ("x = a[0] + 1", "x = a[0] + 1"),
    ],
)
def test_half_written(text: str, shown: str) -> None:
    assert balance(text) == shown


def test_a_dollar_pair_that_never_ends_does_not_hold_the_text_for_ever() -> None:
    text = "Give me $$ " + "and more " * 400
    assert balance(text) == text


@pytest.mark.parametrize("size", [1, 7])
def test_a_stream_only_grows(size: int) -> None:
    """Without spans that need closing, every shown text begins with the one before it."""
    text = "# Head\n\nSome words.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nAnd [a link](http://x.y/z) end.\n"
    shown = ""
    for end in range(0, len(text) + 1, size):
        now = balance(text[:end])
        assert now.startswith(shown.rstrip("\n"))
        shown = now


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\(a+b\) and \[c\]", "$a+b$ and $$c$$"),
        ("$x^2$ stays", "$x^2$ stays"),
        ("$$\nx\n$$", "$$\nx\n$$"),
        ("from $5 to $10", f"from {MONEY}5 to {MONEY}10"),
        ("from $5 to $x^2$", f"from {MONEY}5 to $x^2$"),
        ("only $5", "only $5"),
        ("`$5` and `$6`", "`$5` and `$6`"),
        ("```sh\necho $A $B\n```\n", "```sh\necho $A $B\n```\n"),
        (r"`\(a\)`", r"`\(a\)`"),
    ],
)
def test_dollars(text: str, expected: str) -> None:
    assert for_jupyter(text) == expected


@given(markdown)
def test_code_is_never_touched(code: str) -> None:
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    block = f"{fence}\n{code}\n{fence}\n"
    assert for_jupyter(f"before\n\n{block}") == f"before\n\n{block}"
