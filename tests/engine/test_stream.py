"""Text out of tokens: whatever the split, the same text, and never a stop string."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmnb.engine.options import TokenLogprob
from lmnb.engine.stream import TextStream

TEXTS = st.text(alphabet="abSTOP é漢🦊\n<|>", max_size=40)
STOPS = st.lists(st.sampled_from(["STOP", "STO", "\n\n", "🦊", "ab", "<|>"]), max_size=3)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def run(pieces: list[bytes], stops: tuple[str, ...]) -> tuple[list[str], str | None]:
    stream, out = TextStream(stops), []
    for piece in pieces:
        met = stream.push(piece)
        out.append(stream.take()[0])
        if met:
            return out, stream.stop
    stream.finish()
    out.append(stream.take()[0])
    return out, None


@given(TEXTS, STOPS, st.lists(st.integers(0, 200), max_size=20))
def test_any_split_gives_the_text_up_to_the_first_stop_string(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    out, met = run(split(text.encode(), cuts), tuple(stops))
    found = [position for stop in stops if (position := text.find(stop)) >= 0]
    if not found:
        assert "".join(out) == text
        assert met is None
    else:
        # Where one stop string overlaps another, the one completed first counts.
        ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
        joined = "".join(out)
        assert text.startswith(joined)
        assert min(found) <= len(joined) <= max(min(found), min(ends))
        assert met in stops


@given(TEXTS, STOPS, st.lists(st.integers(0, 200), max_size=20))
def test_no_stop_string_comes_out(text: str, stops: list[str], cuts: list[int]) -> None:
    pieces = split(text.encode(), cuts)
    if all(len(stop) > 0 for stop in stops) and len(set(stops)) == 1:
        out, _ = run(pieces, tuple(stops))
        assert stops[0] not in "".join(out)


@given(st.text(alphabet="aé漢🦊", max_size=30), st.lists(st.integers(0, 200), max_size=20))
def test_half_characters_are_never_shown(text: str, cuts: list[int]) -> None:
    out, _ = run(split(text.encode(), cuts), ())
    assert all("\N{REPLACEMENT CHARACTER}" not in part for part in out)


def test_broken_utf8_at_the_end_is_shown_as_such() -> None:
    assert "".join(run(["é".encode()[:1]], ())[0]) == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("stops", [(), ("xyz",)])
def test_each_logprob_leaves_with_the_text_of_its_token(stops: tuple[str, ...]) -> None:
    stream = TextStream(stops)
    seen: list[str] = []
    text = ""
    for piece in ["ab", "x", "y", "q", "x"]:
        stream.push(piece.encode(), TokenLogprob(piece, piece.encode(), -1.0))
        new, entries, _ = stream.take()
        text += new
        seen += [entry.token for entry in entries]
        assert "".join(seen) == text
    stream.finish()
    new, entries, _ = stream.take()
    assert text + new == "abxyqx"
    assert [*seen, *(entry.token for entry in entries)] == ["ab", "x", "y", "q", "x"]


def test_logprobs_of_a_cut_stop_string_are_dropped() -> None:
    stream = TextStream(("end",))
    for piece in ["so", " e", "nd"]:
        stream.push(piece.encode(), TokenLogprob(piece, piece.encode(), -1.0))
    text, entries, _ = stream.take()
    assert text == "so "
    assert [entry.token for entry in entries] == ["so"]
