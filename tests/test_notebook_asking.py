"""What a cell would ask, what has been said, which model is meant: with a scripted model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from made_models.scripted import MARKERS, Answer, scripted
from notebook_kernel import Kernel
from server_home import CHAT, ServerHome

from lmnb.client import Client

MAGICS = ("%%claude", "%%openai", "%%openai --api chat")
TALKS = "made-that-talks"
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
ANSWERS = [Answer("The sea is blue."), Answer("It is green.", MARKERS[0])]


@pytest.fixture(scope="module")
def kernel(server: ServerHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    client = server.attach()
    path = scripted(tmp_path_factory.mktemp("made") / "t.gguf", ANSWERS, template=TEMPLATE)
    list(client.load(str(path), identifier=TALKS))
    with Kernel(server.path) as kernel:
        kernel.run(f"%load_ext lmnb\n%lm use {TALKS}")
        yield kernel
    client.unload(all=True)


@pytest.fixture(params=MAGICS)
def magic(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_dry_run_shows_request_and_prompt_and_asks_nothing(
    kernel: Kernel, client: Client, magic: str
) -> None:
    kernel.run(f"{magic} --new -s Short.\nTell me about the sea.")
    before = len(client.requests(1000))
    line = f"{magic} --dry-run --temperature 0.5 -o dry"
    execution = kernel.run(f"{line}\nAnd the {{{{word}}}}?\nword = 3")
    prompt = (
        "<system>Short.<user>Tell me about the sea.<assistant>The sea is blue."
        "<user>And the {{word}}?\nword = 3<assistant>"
    )
    assert kernel.value("dry.prompt") == prompt
    assert kernel.value("(dry.body['temperature'], dry.body['model'])") == (0.5, TALKS)
    assert kernel.value("str(dry)") == prompt
    assert kernel.value("dry.tokens") == len(prompt)  # A byte is a token here.
    for mime in ("text/plain", "text/html"):
        assert any("POST /v1/" in text for text in execution.texts(mime))
    assert f"The prompt, {len(prompt)} tokens" in execution.text
    assert len(client.requests(1000)) == before
    # The conversation is where it was, also after a dry run of a new one.
    kernel.run(f"{magic} --dry-run --new -o dry\nHello.")
    assert kernel.value("dry.prompt") == "<user>Hello.<assistant>"
    kernel.run(f"{magic} --dry-run -o dry\nHello.")
    assert kernel.value("dry.prompt").startswith("<system>Short.")


def test_a_dry_run_loads_nothing(kernel: Kernel, client: Client) -> None:
    kernel.run(f"%%claude --new --dry-run -m {CHAT} -o dry\nHello.")
    assert kernel.value("dry.prompt").endswith("Hello.<|im_end|>\n<|im_start|>assistant\n")
    assert [row["id"] for row in client.ps()] == [TALKS]


def test_a_model_is_chosen(kernel: Kernel, client: Client) -> None:
    assert kernel.run("%lm use").text == f"Cells ask {TALKS}."
    try:
        assert CHAT in kernel.run(f"%lm use {CHAT}").text
        kernel.run("%%openai --new --max-tokens 2\nHello.")
        assert kernel.value("_.model") == CHAT
        # Another one, once, changes it: what was named last is meant.
        kernel.run(f"%%openai --new -m {TALKS}\nHello.")
        assert kernel.run("%lm use").text == f"Cells ask {TALKS}."
    finally:
        kernel.run(f"%lm use {TALKS}")
        client.unload(CHAT)
    failed = kernel.run("%lm use no-such-model", ok=False)
    assert failed.error is not None
    assert failed.error["ename"] == "ModelNotFound"


def test_inspect_shows_template_format_and_metadata(kernel: Kernel) -> None:
    execution = kernel.run(f"%lm inspect {CHAT}")
    [plain], [html] = execution.texts(), execution.texts("text/html")
    for text in (plain, html):
        assert "derived from its template" in text
        assert "general.architecture = llama" in text
        assert "Template: default" in text
    assert "{% for message in messages %}" in plain
    assert "chat_template =" not in plain
    assert "<summary>Metadata</summary>" in html


def test_history_and_reset(kernel: Kernel) -> None:
    kernel.run("%lm reset")
    assert kernel.run("%lm history").text == "Nothing has been said yet."
    kernel.run("%%claude -s Short.\n" + "Tell me. " * 100)
    kernel.run("%%openai\nHello.")
    shown = kernel.run("%lm history claude").text
    assert shown.splitlines()[0] == "%%claude"
    assert "system     Short." in shown
    assert "assistant  The sea is blue." in shown
    assert "(900 characters)" in shown
    assert "Tell me. " * 99 in kernel.run("%lm history claude --full").text
    both = kernel.run("%lm history").text
    assert "%%claude" in both
    assert "%%openai" in both
    assert kernel.run("%lm reset claude").text == "%%claude starts anew; 2 messages are forgotten."
    assert "%%claude" not in kernel.run("%lm history").text
    kernel.run("%%claude --dry-run -o dry\nHello.")
    assert kernel.value("dry.prompt") == "<user>Hello.<assistant>"


def test_the_last_answers_are_shown_again(kernel: Kernel) -> None:
    kernel.run("%%claude --new\nHello.")
    kernel.run(f"%%openai --new\nHello {MARKERS[0]}.")
    last = kernel.run("%lm show")
    assert last.texts("text/markdown") == ["It is green."]
    assert TALKS in last.texts("text/html")[-1]
    assert kernel.run("%lm show 2").texts("text/markdown") == ["The sea is blue.", "It is green."]


def test_nothing_to_show_is_an_error(server: ServerHome) -> None:
    with Kernel(server.path) as fresh:
        failed = fresh.run("%load_ext lmnb\n%lm show", ok=False)
        assert failed.error is not None
        assert "There is no answer to show yet." in failed.error["evalue"]
