"""What the benchmark's figures are computed with: the reading of streams, gaps, ratios."""

from __future__ import annotations

import load
import pytest
import rows
import servers
import table

EVENTS = [
    b'data: {"choices":[{"text":""}]}\n\n',
    b': keep-alive\n\ndata: {"choices":[{"delta":{"content":"one\\n\\n"}}]}\n\n',
    b'data: {"choices":[{"text":" two"}]}\n\n',
    b'data: {"choices":[],"usage":{"completion_tokens":2}}\n\ndata: [DONE]\n\n',
]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def response(*, chunked: bool) -> tuple[bytes, list[int]]:
    """A whole answer, and where each of `EVENTS` ends in it."""
    raw = HEAD + (b"Transfer-Encoding: chunked\r\n\r\n" if chunked else b"\r\n")
    ends = []
    for event in EVENTS:
        raw += b"%x\r\n" % len(event) * chunked + event
        ends.append(len(raw))
        raw += b"\r\n" * chunked
    return raw + b"0\r\n\r\n" * chunked, ends


def received(raw: bytes, ends: list[int]) -> load.Answer:
    """`raw`, read up to each of `ends`, a second apart."""
    answer = load.Answer(sent=0.0)
    for second, end in enumerate([*ends, len(raw)], 1):
        answer.raw += raw[len(answer.raw) : end]
        answer.marks.append((end, float(second)))
    return answer


@pytest.mark.parametrize("chunked", [False, True])
def test_each_text_has_the_time_at_which_it_was_there(chunked: bool) -> None:
    raw, ends = response(chunked=chunked)
    answer = received(raw, ends)
    assert answer.texts() == [(2.0, "one\n\n"), (3.0, " two")]
    assert answer.first_token() == 2.0
    assert answer.usage() == {"completion_tokens": 2}


@pytest.mark.parametrize("chunked", [False, True])
def test_any_split_of_the_stream_says_the_same(chunked: bool) -> None:
    raw, _ = response(chunked=chunked)
    for cut in range(1, len(raw)):
        assert received(raw, [cut]).text() == "one\n\n two", cut


@pytest.mark.parametrize("chunked", [False, True])
def test_half_a_stream_can_be_read(chunked: bool) -> None:
    raw, ends = response(chunked=chunked)
    for cut in range(len(HEAD) + 40, len(raw)):
        texts = [text for _, text in received(raw[:cut], []).texts()]
        assert texts == ["one\n\n", " two"][: sum(cut >= end for end in ends[1:3])], cut


def test_errors_are_errors() -> None:
    refused = received(b'HTTP/1.1 400 Bad Request\r\n\r\n{"error":"no"}', [])
    with pytest.raises(load.Refused, match=r'status 400: {"error":"no"}') as caught:
        refused.check()
    assert caught.value.status == 400
    with pytest.raises(load.Refused, match="status 0"):
        load.Answer(0.0).check()
    broken = received(HEAD + b'\r\ndata: {"error":{"message":"gone"}}\n\n', [])
    with pytest.raises(RuntimeError, match="gone"):
        broken.texts()


def test_only_gaps_that_touch_the_span_count() -> None:
    times = [0.0, 9.0, 9.5, 12.0, 12.1, 30.0]
    assert rows.longest_gap(times, 9.2, 12.05) == 2.5
    assert rows.longest_gap(times, 9.2, 12.2) == pytest.approx(17.9)


def test_a_ratio_is_the_median_of_the_rounds_and_needs_both() -> None:
    line = table.Line(rows.Figure("x", "tokens/s", at_least=1.05))
    for ours, theirs in ((110.0, 100.0), (300.0, 100.0), (90.0, 100.0), (None, 100.0), (5.0, None)):
        line.add(ours, theirs, comparable=True)
    assert line.ratios == [1.1, 3.0, 0.9]
    assert line.reached is True
    assert "| 1.10 (0.900 to 3.00) | ≥ 1.05 | yes |" in line.markdown()
    other = table.Line(line.figure)
    other.add(110.0, 100.0, comparable=False)
    assert other.reached is None


def test_an_own_target_is_about_the_value() -> None:
    line = table.Line(rows.Figure("x", "s", more_is_better=False, at_most=0.15, own=True))
    line.add(0.2, 4.0, comparable=True)
    assert line.reached is False
    assert "| 0.200 | 4.00 | 0.050 | ≤ 0.15 s | no |" in line.markdown()


def test_system_info_is_compared_without_its_surroundings() -> None:
    one = servers.system_info("system_info: n_threads = 2 | CPU : SSE3 = 1 | AVX2 = 1 | \n")
    assert one == servers.system_info("CPU : SSE3 = 1 | AVX2 = 1") == "SSE3 = 1 AVX2 = 1"
