"""How things are shown, with a front end that only records what it is sent."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Generator
from contextlib import redirect_stdout
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lmnb.notebook import output
from lmnb.notebook.answer import Answer
from lmnb.notebook.api import Api, End, Part, Request, Text, Thinking
from lmnb.notebook.exchange import Exchange
from lmnb.notebook.models import Ready
from lmnb.notebook.output import Elapsed, Live, Output, redraw_seconds, rest
from lmnb.notebook.progress import Progress, transient
from lmnb.notebook.reply import Reply, Timings, Usage
from lmnb.notebook.turns import Turn

USAGE = Usage(input=10, output=5)


class FrontEnd:
    """A shell as ipykernel's, as far as it matters here."""

    def __init__(self) -> None:
        self.kernel = object()
        self.execution_count = 1
        self.user_ns: dict[str, Any] = {}
        self.display_pub = self
        self.shown: dict[str, dict[str, str]] = {}
        self.sent: list[dict[str, str]] = []
        self.changed = threading.Condition()

    def publish(
        self,
        data: dict[str, str],
        metadata: dict[str, Any],
        transient: dict[str, str],
        *,
        update: bool,
    ) -> None:
        key = transient["display_id"]
        assert update == (key in self.shown)
        with self.changed:
            self.shown[key] = data
            self.sent.append(data)
            self.changed.notify_all()

    @property
    def outputs(self) -> list[dict[str, str]]:
        return list(self.shown.values())

    def wait_for(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.sent) >= count, timeout=30)


@pytest.fixture
def front_end(monkeypatch: pytest.MonkeyPatch) -> FrontEnd:
    front_end = FrontEnd()
    monkeypatch.setattr("IPython.core.getipython.get_ipython", lambda: front_end)
    output._vacant.clear()
    return front_end


class Screen(io.StringIO):
    tty = True

    def isatty(self) -> bool:
        return self.tty


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Screen:
    shell = SimpleNamespace(execution_count=1, user_ns={})
    monkeypatch.setattr("IPython.core.getipython.get_ipython", lambda: shell)
    return Screen()


def test_an_output_is_updated_in_place(front_end: FrontEnd) -> None:
    one, two = Output(), Output()
    one.draft({"text/plain": "1"})
    two.show({"text/plain": "2"})
    one.show({"text/plain": "3"})
    assert front_end.outputs == [{"text/plain": "3"}, {"text/plain": "2"}]


def test_the_place_of_a_cleared_output_is_taken_by_the_next_one(front_end: FrontEnd) -> None:
    first, second = Output(), Output()
    first.draft({"text/plain": "wait"})
    first.clear()
    second.show({"text/plain": "here"})
    Output().show({"text/plain": "there"})
    assert [data["text/plain"] for data in front_end.outputs] == ["here", "there"]


def test_a_place_is_not_taken_from_another_cell(front_end: FrontEnd) -> None:
    first = Output()
    first.draft({"text/plain": "wait"})
    first.clear()
    front_end.execution_count += 1
    Output().show({"text/plain": "here"})
    assert len(front_end.outputs) == 2


def test_in_a_terminal_drafts_are_overwritten(terminal: Screen) -> None:
    with redirect_stdout(terminal):
        shown = Output()
        shown.draft({"text/plain": "50 % of it"})
        shown.show({"text/plain": "done"})
    assert terminal.getvalue() == "50 % of it\rdone      \n"


def test_in_a_file_there_are_no_drafts(terminal: Screen) -> None:
    terminal.tty = False
    with redirect_stdout(terminal):
        shown = Output()
        shown.draft({"text/plain": "50 %"})
        shown.clear()
        shown.show({"text/plain": "done"})
    assert terminal.getvalue() == "done\n"


def test_live_draws_what_changes_and_nothing_afterwards(front_end: FrontEnd) -> None:
    state = ["a"]
    live = Live(Output(), lambda: {"text/plain": state[0]})
    with live.running():
        live.touch()
        front_end.wait_for(1)
        state[0] = "b"
        live.touch()
        front_end.wait_for(2)
    assert [data["text/plain"] for data in front_end.sent] == ["a", "b"]
    state[0] = "c"
    live.touch()
    assert front_end.outputs == [{"text/plain": "b"}]


def test_live_waits_longer_after_longer_texts() -> None:
    """Jupyter's limit is 1 MB/s; every update sends the whole text."""
    assert rest({"text/markdown": "x" * 40_000}) == pytest.approx(40_000 / 150_000)
    assert rest({"text/markdown": "é" * 40_000}) == pytest.approx(80_000 / 150_000)


def test_vs_code_is_redrawn_less_often(front_end: FrontEnd) -> None:
    usual = redraw_seconds()
    front_end.user_ns["__vsc_ipynb_file__"] = "/notebook.ipynb"
    assert redraw_seconds() > 2 * usual


def play(*parts: Part | Callable[[], object]) -> Reply:
    """What a cell shows and has in the end, if this is what comes; between parts things are done."""

    def stream(_resource: object, _request: Request) -> Generator[Part, None, None]:
        for part in parts:
            if callable(part):
                part()
            else:
                yield part

    exchange = Exchange([{"role": "user", "content": "hi"}])
    api = cast("Api", SimpleNamespace(stream=stream))
    exchange.run(api, None, Request("m", ()), Ready("m", None))
    reply = exchange.reply()
    exchange.answer.finish(reply)
    return reply


def test_an_answer_grows_and_ends(front_end: FrontEnd) -> None:
    wait = partial(front_end.wait_for, 1)
    reply = play(Text("Hello **wor"), wait, Text("ld**"), End("stop", USAGE))
    assert front_end.sent[0] == {"text/markdown": "Hello **wor**▌"}
    text, footer = front_end.outputs
    assert text == {"text/markdown": "Hello **world**", "text/plain": "Hello **world**"}
    assert footer["text/plain"].startswith("[m · 10 → 5 tokens · ")
    assert reply.conversation[1] == {"role": "assistant", "content": "Hello **world**"}


def test_thinking_is_folded_and_not_part_of_the_text(front_end: FrontEnd) -> None:
    reply = play(Thinking("let me see"), Text("42"), End("stop", USAGE))
    shown = front_end.outputs[0]
    assert shown["text/plain"] == "42"
    assert "<details><summary>Thinking · 3 words</summary>" in shown["text/markdown"]
    assert (reply.text, reply.thinking) == ("42", "let me see")
    assert reply.conversation[1] == {"role": "assistant", "content": "42"}


def test_a_silent_server_is_shown_as_waiting(
    front_end: FrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Elapsed, "__call__", lambda _self: 3.2)
    answer = Answer()
    answer.waiting("Loading m · 40%")
    assert answer._draw() == {"text/plain": "⏳ Loading m · 40% · 3 s"}
    answer.add(Thinking("let me see"))
    assert answer._draw() == {"text/plain": "⏳ Thinking · 3 words · 3 s"}
    monkeypatch.setattr(Elapsed, "__call__", lambda _self: 0.5)
    assert Answer()._draw() is None


def test_an_answer_that_fails_keeps_its_beginning(front_end: FrontEnd) -> None:
    answer = Answer()
    answer.add(Text("Once upon"))
    answer.fail()
    text, footer = front_end.outputs
    assert text["text/plain"] == "Once upon"
    assert "error" in footer["text/plain"]


def test_an_answer_that_fails_at_once_leaves_nothing(front_end: FrontEnd) -> None:
    Answer().fail()
    assert front_end.outputs == []


def test_an_open_fence_does_not_swallow_what_follows(front_end: FrontEnd) -> None:
    play(Text("```python\nx = 1"))
    assert front_end.outputs[0]["text/markdown"] == "```python\nx = 1\n```"
    assert front_end.outputs[0]["text/plain"] == "```python\nx = 1"


def test_a_terminal_gets_the_text_as_it_comes(terminal: Screen) -> None:
    seen: list[str] = []
    with redirect_stdout(terminal):
        play(
            Text("Hello "),
            lambda: seen.append(terminal.getvalue()),
            Text("world"),
            End("stop", USAGE),
        )
    assert seen == ["Hello "]
    first, second = terminal.getvalue().splitlines()
    assert first == "Hello world"
    assert second.startswith("[m · ")


def test_a_bar_becomes_a_line(front_end: FrontEnd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Elapsed, "__call__", lambda _self: 2.0)
    progress = Progress("Fetching <m>")
    with progress.running():
        progress.set(0.5, "1 MB of 2 MB")
        front_end.wait_for(1)
    assert front_end.sent[-1]["text/plain"] == "Fetching <m> 50% · 1 MB of 2 MB"
    assert '<progress max=1 value="0.500">' in front_end.sent[-1]["text/html"]
    assert "&lt;m&gt;" in front_end.sent[-1]["text/html"]
    progress.finish({"text/plain": "m is here"})
    assert front_end.outputs == [{"text/plain": "m is here"}]


def test_a_bar_of_something_quick_never_appears(front_end: FrontEnd) -> None:
    with transient("Starting"):
        pass
    assert front_end.outputs == []


def test_a_bar_is_taken_away_when_its_work_fails(
    front_end: FrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Elapsed, "__call__", lambda _self: 2.0)
    progress = Progress("Loading")

    def fail() -> None:
        front_end.wait_for(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), progress.running():
        fail()
    assert front_end.outputs == [{"text/html": "", "text/plain": ""}]


def test_a_footer_says_what_is_known() -> None:
    hi: Turn = {"role": "user", "content": "hi"}
    full = Reply(
        text="x",
        model="m",
        stop_reason="stop",
        usage=Usage(input=10, output=11, cached=4),
        timings=Timings(first_token=0.25, generation=0.5, load=1.5),
        conversation=(hi, hi),
    )
    assert full.footer() == (
        "m · 10 (4 cached) → 11 tokens · 20.0 tokens/s · first token 0.25 s · loaded in 1.5 s · "
        "stop · history 2 messages"
    )
    assert Reply(text="", model="", interrupted=True).footer() == "⏹ interrupted"
    assert Reply(text="x", model="m").tokens_per_second is None


def test_a_reply_is_shown_again_only_in_another_cell(front_end: FrontEnd) -> None:
    reply = Reply(text="a *b*", model="m", shown_in=1)
    reply._ipython_display_()
    front_end.execution_count = 2
    with pytest.raises(NotImplementedError):
        reply._ipython_display_()
    assert reply._repr_mimebundle_() == {"text/markdown": "a *b*", "text/plain": "a *b*"}
    assert str(reply) == "a *b*"
