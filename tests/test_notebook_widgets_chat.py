"""The panel *Chat* without a front end: boxes are filled and buttons clicked as one does it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ipywidgets
import pytest
from comm import DummyComm
from panels import GREEN, LONG, STORY, TALKS, THINKS, opened, stage_of, talking_model
from server_home import CHAT, ServerHome, wait_for

from lmnb.client import Client
from lmnb.notebook.widgets.bubble import Bubble
from lmnb.notebook.widgets.chat import Chat
from lmnb.notebook.widgets.pace import ENVELOPE, Pace
from lmnb.notebook.widgets.rendered import finished, rendered
from lmnb.notebook.widgets.tree import Message, Tree


@pytest.fixture(scope="module")
def talking(server: ServerHome, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], None]:
    """Has the scripted model loaded, and no other."""
    client = server.attach()
    path = talking_model(tmp_path_factory.mktemp("made"))

    def load() -> None:
        for row in client.ps():
            if row["id"] != TALKS:
                client.unload(row["id"])
        list(client.load(str(path), identifier=TALKS))

    return load


@pytest.fixture
def panel(server: ServerHome, talking: Callable[[], None]) -> Iterator[Any]:
    talking()
    with stage_of(server) as stage:
        found = opened(Chat(stage))
        wait_for(lambda: found.model.value == TALKS, "the model")
        yield found


def said(panel: Any) -> list[str]:
    """What is shown, without what belongs to no text."""
    return [
        "".join(piece.value for piece in bubble.pieces).strip() for bubble in panel.bubbles.values()
    ]


def idle(panel: Any) -> bool:
    return not panel.send.disabled and panel.stop.disabled


def ask(panel: Any, words: str) -> None:
    before = panel.tree.end
    panel.box.value = words
    panel.send.click()
    wait_for(
        lambda: panel.tree.end is not before and panel.tree.end.footer and idle(panel), "the answer"
    )


def question(words: str) -> str:
    return f'<div style="white-space: pre-wrap">{words}</div>'


BLUE, IS_GREEN = "<p>The <strong>sea</strong> is blue.</p>", "<p>It is green.</p>"


def test_an_answer_is_shown_as_markdown(panel: Any) -> None:
    ask(panel, "<b>What</b> is\nthe sea?")
    asked, answered = panel.bubbles.values()
    assert not isinstance(asked.pieces[0], ipywidgets.HTMLMath)  # "$5 to $10" is no formula
    assert isinstance(answered.pieces[0], ipywidgets.HTMLMath)
    assert said(panel) == [question("&lt;b&gt;What&lt;/b&gt; is\nthe sea?"), BLUE]
    footer = panel.bubbles[panel.tree.end].footer.value
    assert TALKS in footer
    assert "tokens" in footer
    assert panel.box.value == ""
    # The model reads all that was said.
    before = panel.tree.end.text
    ask(panel, "And then?")
    assert [turn["content"] for turn in panel.tree.turns[:3]][1] == before
    assert len(panel.bubbles) == 4


def test_thinking_is_folded(panel: Any) -> None:
    ask(panel, f"Think. {THINKS}")
    bubble = panel.bubbles[panel.tree.end]
    assert bubble.thinking.value.startswith("<details><summary>Thinking · 2 words</summary>")
    assert said(panel)[1] == "<p>Forty-two.</p>"
    assert panel.tree.turns[1] == {"role": "assistant", "content": "Forty-two."}


def test_branches(panel: Any) -> None:
    ask(panel, "The sea?")
    first = list(panel.bubbles.values())
    ask(panel, "And then?")
    # Back to the first answer, and on from there.
    first[1].branch.click()
    wait_for(lambda: len(panel.bubbles) == 2, "what is looked at")
    assert panel.branching.value == "The next message begins a new branch."
    panel.back.click()
    wait_for(lambda: len(panel.bubbles) == 4, "what was there")
    assert not panel.branching.value
    first[1].branch.click()
    wait_for(lambda: len(panel.bubbles) == 2, "what is looked at")
    ask(panel, f"Another {GREEN}")
    assert said(panel)[1:] == [BLUE, question(f"Another {GREEN}"), IS_GREEN]
    # Between branches.
    third = list(panel.bubbles.values())[2]
    assert third.switch.place.value == "2 of 2"
    third.switch.later.click()
    wait_for(lambda: said(panel)[2:3] == [question("And then?")], "the other branch")
    assert len(panel.bubbles) == 4
    third = list(panel.bubbles.values())[2]
    assert third.switch.place.value == "1 of 2"
    # A question is asked anew, in other words.
    first[0].branch.click()
    wait_for(lambda: panel.box.value == "The sea?", "the words")
    assert not panel.bubbles
    ask(panel, f"The sea? {GREEN}")
    assert said(panel)[1] == IS_GREEN
    assert next(iter(panel.bubbles.values())).switch.place.value == "2 of 2"
    # A new chat is a branch from the very beginning.
    panel.new.click()
    wait_for(lambda: panel.branching.value == "The next message begins a new chat.", "the start")
    ask(panel, "New.")
    assert next(iter(panel.bubbles.values())).switch.place.value == "3 of 3"
    assert panel.tree.turns == [
        {"role": "user", "content": "New."},
        {"role": "assistant", "content": "The **sea** is blue."},
    ]


def test_what_cannot_be_sent_says_so(panel: Any, client: Client) -> None:
    panel.box.value = " \n"
    panel.send.click()
    wait_for(lambda: "The message is empty." in panel.failure.value, "the refusal")
    # What it was to be sent to is gone.
    client.unload(TALKS)
    wait_for(lambda: f"{TALKS} is not loaded any more" in panel.note.value, "the news")
    assert "No chat model is loaded" in panel.note.value
    panel.box.value = "Hello?"
    panel.send.click()
    wait_for(lambda: "No chat model is loaded." in panel.failure.value, "the refusal")
    assert panel.box.value == "Hello?"
    assert not panel.bubbles


def test_a_prompt_that_is_too_long_is_given_back(panel: Any) -> None:
    ask(panel, "The sea?")
    words = "word " * 5000
    panel.box.value = words
    panel.send.click()
    wait_for(lambda: "a context of" in panel.failure.value, "the refusal")
    assert "Go on from an earlier message" in panel.failure.value
    assert panel.box.value == words
    assert len(panel.bubbles) == 2
    ask(panel, f"Short. {GREEN}")
    assert said(panel)[-1] == IS_GREEN


def test_stop_and_a_model_that_goes_away(
    panel: Any, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The defaults of cells hold here, too; without chance, this answer is very long.
    (tmp_path / "pyproject.toml").write_text("[tool.lmnb]\ntemperature = 0\n")
    monkeypatch.chdir(tmp_path)
    story = "Write a very long story about the sea."
    for _ in client.load(CHAT):
        pass
    wait_for(lambda: CHAT in panel.model.options, "the model")
    assert panel.model.value == TALKS
    panel.model.value = CHAT
    # While the prompt is read: nothing was said.
    words = "Tell me a story about the sea, and the wind. " * 600
    panel.box.value = words
    panel.send.click()
    wait_for(lambda: bool(panel.state["requests"]), "the request")
    panel.stop.click()
    wait_for(lambda: idle(panel) and panel.box.value == words, "the end")
    assert not panel.bubbles
    wait_for(lambda: not panel.state["requests"], "the server to be told")
    # While it is written: what has come stays, and is gone on from.
    panel.box.value = story
    panel.send.click()
    wait_for(lambda: "▌" in "".join(said(panel)), "the answer to stream")
    panel.stop.click()
    wait_for(lambda: idle(panel), "the end")
    assert panel.tree.end.text
    assert "⏹ interrupted" in panel.tree.end.footer
    assert "▌" not in "".join(said(panel))
    assert not panel.failure.value
    # The model is unloaded by somebody else in the midst of an answer.
    panel.new.click()
    wait_for(lambda: not panel.bubbles, "the new chat")
    panel.box.value = story
    panel.send.click()
    wait_for(lambda: "▌" in "".join(said(panel)), "the answer to stream")
    client.unload(CHAT)
    wait_for(lambda: "unloaded" in panel.failure.value, "the error")
    assert "✗" in panel.tree.end.footer
    wait_for(lambda: panel.model.value == TALKS, "the other model")
    assert panel.note.value == f"{CHAT} is not loaded any more; {TALKS} answers from now on."
    ask(panel, f"Still there? {GREEN}")
    assert said(panel)[-1] == IS_GREEN


def test_it_goes_on_where_it_is_shown_again(panel: Any, server: ServerHome) -> None:
    ask(panel, "The sea?")
    panel.close()
    with stage_of(server) as stage:
        again = opened(Chat(stage))
        again.resume(panel)
        wait_for(lambda: said(again)[1:] == [BLUE], "the chat")
        left = again.left()
        assert "The **sea** is blue." in left["text/plain"]
        again.close()


def test_little_is_sent_for_a_long_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []

    def publish(_: Any, kind: str, data: Any = None, **more: Any) -> None:
        sent.append(ENVELOPE + len(json.dumps(data, ensure_ascii=False).encode()))

    monkeypatch.setattr(DummyComm, "publish_msg", publish)
    text = "".join(
        f"Sentence number {number} of *many* of them." + (" " if number % 9 else "\n\n")
        for number in range(1060)
    )
    assert len(text) > 40_000
    message = Message("assistant")
    bubble = Bubble(message, branch=lambda _: None, switch=lambda *_: None)
    pace = Pace()
    drawn = sum(bubble.grow(text[:end], pace) for end in range(80, len(text), 80))
    message.text = text
    bubble.draw()
    assert drawn > 25
    assert sum(sent) < 200_000
    assert pace.sent > 0.7 * sum(sent)  # What is counted is what is sent.
    assert "".join(piece.value for piece in bubble.pieces) == rendered(text)
    bubble.close()


def test_a_growing_answer_is_cut_between_blocks(panel: Any) -> None:
    ask(panel, f"A story. {LONG}")
    assert panel.tree.end.text == STORY
    code = "```\n" + "x\n\n" * 1000
    assert finished(code) == 0
    assert finished(code + "```\n\nDone.") == len(code + "```\n\n")
    assert finished("- " + "word " * 500 + "\n\n  more of it") == 0
    assert finished("word " * 500) == 0


LINK = '<a href="http://a.example/y" target="_blank" rel="noopener noreferrer">x</a>'


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("<script>x</script>", "&lt;script&gt;x&lt;/script&gt;"),
        ("[x](http://a.example/y)", LINK),
        ("![x](http://a.example/y)", f"!{LINK}"),  # Nothing is fetched.
        ("[x](javascript:alert(1))", "[x](javascript:alert(1))"),
        ("$a_1 b_2$ and \\(c\\)", "$a_1 b_2$ and $c$"),
        ("`$a` and $a < b$", "<code>$a</code> and $a &lt; b$"),
    ],
)
def test_what_a_model_writes_is_rendered_safely(text: str, html: str) -> None:
    assert rendered(text) == f"<p>{html}</p>\n"


def test_money_is_no_formula() -> None:
    assert "$" not in rendered("From $5 to $10, and \\$3.")


def test_a_tree_forgets_nothing() -> None:
    tree = Tree()
    first, answer = tree.add("user", "a"), tree.add("assistant", "b")
    tree.go_back(first)
    other = tree.add("assistant", "c")
    assert [one.text for one in tree.path] == ["a", "c"]
    assert list(answer.siblings) == [answer, other]
    tree.switch(other, 1)
    assert tree.end is answer
    tree.switch(answer, -1)
    assert tree.end is other
    tree.drop(other)
    assert [one.text for one in tree.path] == ["a"]
    tree.go_on()
    assert tree.end is answer
