"""Other ways to be answered: with log probabilities, several times, as code, in the background."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import nbclient
import nbformat
import pytest
from made_models.scripted import MARKERS, Answer, scripted
from notebook_kernel import Kernel
from server_home import CHAT, ServerHome, wait_for

from lmnb.client import Client

SCORED = ("%%openai", "%%openai --api chat")
MAGICS = ("%%claude", *SCORED)
TALKS = "made-that-codes"
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
CODE = "Try this:\n\n```python\nx = 41 + 1\n```\n\nor, in a shell:\n\n```sh\nls\n```\n"
ANSWERS = [
    Answer("The sea is blue."),
    Answer(CODE, MARKERS[0]),
]
ENDLESS = (
    f"-m {CHAT} --new --max-tokens 6000 --temperature 0\nWrite a very long story about the sea."
)


@pytest.fixture(scope="module")
def kernel(server: ServerHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    client = server.attach()
    path = scripted(tmp_path_factory.mktemp("made") / "c.gguf", ANSWERS, template=TEMPLATE)
    list(client.load(str(path), identifier=TALKS))
    list(client.load(CHAT))
    with Kernel(server.path) as kernel:
        kernel.run(f"%load_ext lmnb\n%lm use {TALKS}")
        yield kernel
    client.unload(all=True)


@pytest.fixture(autouse=True)
def scripted_model(kernel: Kernel) -> None:
    kernel.run(f"%lm use {TALKS}")


def generates(client: Client) -> bool:
    return any(row["id"] == CHAT and row["running"] for row in client.ps())


@pytest.mark.parametrize("magic", SCORED)
def test_log_probabilities_are_a_table_and_colours(kernel: Kernel, magic: str) -> None:
    kernel.run("import sys\nbefore = 'pandas' in sys.modules")
    line = f"{magic} --new --logprobs 2 --temperature 0 --max-tokens 12 -m {CHAT} -o reply"
    execution = kernel.run(f"{line}\nName a colour.")
    assert kernel.value("('pandas' in sys.modules) == before")
    assert kernel.value("''.join(reply.tokens['token']) == reply.text") is True
    assert kernel.value("list(reply.tokens.columns)") == ["token", "logprob", "alternatives"]
    # Greedily, the likeliest token is taken.
    assert kernel.value(
        "all(len(row.alternatives) == 2 and max(row.alternatives.values()) <= row.logprob + 1e-3"
        " for row in reply.tokens.itertuples())"
    )
    assert len(execution.outputs) == 3  # answer, footer, colours
    colours = execution.outputs[-1]["data"]
    assert colours["text/html"].count("<span") == kernel.value("len(reply.tokens)")
    assert "rgba(" in colours["text/html"]
    assert colours["text/plain"].startswith("Least certain tokens: ")
    assert kernel.run("reply.heatmap").outputs[0]["data"] == colours


def test_how_many_alternatives_is_up_to_the_user(kernel: Kernel) -> None:
    kernel.run("%%openai --new --logprobs -o reply\nHello.")
    assert kernel.value("{len(one.alternatives) for one in reply.logprobs}") == {5}
    kernel.run("%%openai --new --logprobs 0 -o reply\nHello.")
    assert kernel.value("{len(one.alternatives) for one in reply.logprobs}") == {0}


def test_without_log_probabilities_there_is_no_table(kernel: Kernel) -> None:
    kernel.run("%%openai --new -o reply\nHello.")
    for name in ("tokens", "heatmap"):
        failed = kernel.run(f"reply.{name}", ok=False)
        assert failed.error is not None
        assert "no log probabilities" in failed.error["evalue"]
    failed = kernel.run("%%claude --logprobs\nHello.", ok=False)
    assert failed.error is not None
    assert "unknown option --logprobs" in failed.error["evalue"]


@pytest.mark.parametrize(
    ("magic", "kind", "text"),
    [
        ("%%claude", "ParsedMessage", "reply.raw.content[0].text"),
        ("%%openai", "Response", "reply.raw.output_text"),
        (SCORED[1], "ParsedChatCompletion", "reply.raw.choices[0].message.content"),
    ],
)
def test_the_raw_answer_is_the_sdks(kernel: Kernel, magic: str, kind: str, text: str) -> None:
    kernel.run(f"{magic} --new -o reply\nHello.")
    assert kernel.value("type(reply.raw).__name__").startswith(kind)
    assert kernel.value(text) == "The sea is blue."


@pytest.mark.parametrize("magic", MAGICS)
def test_several_answers_side_by_side(kernel: Kernel, magic: str) -> None:
    line = f"{magic} --new -n 3 --seed 7 --temperature 1.5 --max-tokens 8 -m {CHAT} -o all"
    execution = kernel.run(f"{line}\nTell me about the sea.")
    texts = kernel.value("[reply.text for reply in all]")
    assert len(set(texts)) == 3
    assert kernel.value("_ is all and [reply.usage.output for reply in all]") == [8, 8, 8]
    shown = execution.outputs[-1]["data"]
    assert shown["text/html"].count("<td") == 3
    assert all(
        f"── {number} ──\n{text}" in shown["text/plain"] for number, text in enumerate(texts, 1)
    )
    assert kernel.run("all").outputs[0]["data"] == shown
    # Each has a seed of its own: the second one's is the next.
    kernel.run(
        f"{line.replace('-n 3 --seed 7', '--seed 8').replace('-o all', '-o one')}\nTell me about the sea."
    )
    assert kernel.value("one.text") == texts[1]


def test_the_conversation_goes_on_from_the_first(kernel: Kernel) -> None:
    kernel.run("%%claude --new -n 2 -o all\nHello.")
    kernel.run("%%claude --dry-run -o dry\nAnd?")
    prompt = "<user>Hello.<assistant>The sea is blue.<user>And?<assistant>"
    assert kernel.value("dry.prompt") == prompt


def test_several_values(kernel: Kernel) -> None:
    kernel.run("form = {'enum': ['red', 'blue']}")
    kernel.run(f"%%openai --new -n 2 --schema form -o values -m {CHAT}\nName a colour.")
    assert set(kernel.value("values")) <= {"red", "blue"}
    assert kernel.value("len(values) == 2 and [reply.parsed for reply in _] == values") is True


def test_several_answers_are_stopped_at_once(kernel: Kernel, client: Client) -> None:
    execution = kernel.start(f"%%claude -n 2 -o all {ENDLESS}")
    kernel.wait(lambda: any("── 2 ──\n" in text and len(text) > 60 for text in execution.texts()))
    kernel.interrupt()
    kernel.finish(execution)
    assert execution.error is not None
    assert execution.error["ename"] == "Interrupted"
    wait_for(lambda: not generates(client), "the server to stop")
    assert kernel.value("[reply.interrupted and reply.text != '' for reply in all]") == [True, True]
    assert execution.text.count("⏹ interrupted") == 2


def test_code_goes_into_the_next_cell(kernel: Kernel) -> None:
    execution = kernel.run(f"%%claude --new --code -o reply\nCode, please. {MARKERS[0]}")
    [payload] = execution.reply["payload"]
    assert payload["source"] == "set_next_input"
    assert payload["text"] == kernel.value("reply.code") == "x = 41 + 1"
    assert not payload["replace"]
    execution = kernel.run("%%claude --new --code\nHello.")
    assert "There is no code in the answer." in execution.texts()
    assert not execution.reply["payload"]


def test_earlier_cells_are_shown_to_the_model(kernel: Kernel) -> None:
    kernel.run("%%claude --new -o reply\nHello.")
    kernel.run("y = 1")
    kernel.run("print('printed')\ny + 1")
    kernel.run("1 / 0", ok=False)
    kernel.run("long = 'x' * 100_000\nlong")
    kernel.run("%%claude --new --dry-run --cells 5 -o dry\nWhat {{y}}?")
    prompt = kernel.value("dry.prompt")
    assert "%%claude --new -o reply\nHello.\n```\nIts output:\n```\nThe sea is blue.\n```" in prompt
    assert "```python\ny = 1\n```\n\nIn [" in prompt
    assert "```python\nprint('printed')\ny + 1\n```\nIts output:\n```\nprinted\n2\n```" in prompt
    assert "ZeroDivisionError: division by zero" in prompt
    assert prompt.endswith("\n\nWhat 1?<assistant>")
    assert "(100002 characters)" in prompt
    assert len(prompt) < 5000
    kernel.run("z = 3")
    kernel.run("%%claude --new --dry-run --cells 1 -o dry\nWhat?")
    prompt = kernel.value("dry.prompt")
    assert "\nz = 3\n" in prompt
    assert prompt.count("In [") == 1


def test_other_cells_run_while_an_answer_comes(kernel: Kernel, client: Client) -> None:
    execution = kernel.run(f"%%claude --bg -o later {ENDLESS}")
    kernel.wait(lambda: len(kernel.run("print(later)").stdout) > 40)
    assert kernel.value("later.done") is False
    kernel.run(f"%%claude --new -m {TALKS} -o other\nHello.")
    assert kernel.value("other.text") == "The sea is blue."
    # An update shows in the cell that has asked.
    kernel.wait(lambda: len(execution.drafts) > 2)
    # The stop button is for the cell that runs.
    sleeping = kernel.start("import time; print('here'); time.sleep(60)")
    kernel.wait(lambda: sleeping.stdout)
    kernel.interrupt()
    kernel.finish(sleeping)
    assert kernel.value("later.done") is False
    kernel.run("later.stop(); reply = later.wait(30)")
    wait_for(lambda: not generates(client), "the server to stop")
    assert kernel.value("reply.interrupted and reply.text == str(later) != ''") is True
    kernel.wait(lambda: "⏹ interrupted" in execution.text)
    assert len(execution.outputs) == 2
    # The conversation has gone on without it.
    kernel.run("%%claude --dry-run -o dry\nAnd?")
    assert (
        kernel.value("dry.prompt") == "<user>Hello.<assistant>The sea is blue.<user>And?<assistant>"
    )


def test_an_answer_in_the_background_is_kept(kernel: Kernel) -> None:
    execution = kernel.run("%%openai --new --bg -o later\nHello.")
    kernel.run("reply = later.wait(60)")
    kernel.wait(lambda: execution.texts("text/markdown") == ["The sea is blue."])
    assert kernel.value("(reply.text, reply is later.reply)") == ("The sea is blue.", True)
    kernel.run("%%openai --dry-run -o dry\nAnd?")
    assert "<assistant>The sea is blue.<user>And?" in kernel.value("dry.prompt")
    assert kernel.run("%lm show").texts("text/markdown") == ["The sea is blue."]


def test_lm_stop_stops_what_reads_its_prompt(kernel: Kernel, client: Client) -> None:
    assert kernel.run("%lm stop").text == "Nothing runs in the background."
    prompt = "The sea. " * 700
    kernel.run(f"%%claude --bg --new -m {CHAT} -o later\n{prompt}")
    assert kernel.run("%lm stop").text == "Stopped: 1"
    kernel.run("reply = later.wait(30)")
    assert kernel.value("reply.interrupted") is True
    wait_for(lambda: not generates(client), "the server to stop")


def test_a_failure_in_the_background_is_shown_and_raised(kernel: Kernel) -> None:
    execution = kernel.run("%%claude --bg --new -m no-such-model -o later\nHello.")
    failed = kernel.run("later.wait(30)", ok=False)
    assert failed.error is not None
    assert failed.error["ename"] == "ModelNotFound"
    kernel.wait(lambda: "no-such-model" in execution.text)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--bg --tools f", "--bg and --tools"),
        ("--bg -n 2", "--bg and -n"),
        ("-n 2 --code", "-n and --code"),
    ],
)
def test_options_that_do_not_go_together(kernel: Kernel, options: str, words: str) -> None:
    failed = kernel.run(f"%%claude {options}\nHello.", ok=False)
    assert failed.error is not None
    assert failed.error["ename"] == "UsageMistake"
    assert f"{words} do not go together" in failed.error["evalue"]


def test_a_saved_notebook_reads_well(kernel: Kernel, server: ServerHome) -> None:
    cells = [
        f"%load_ext lmnb\n%lm use {TALKS}",
        "%%claude --bg -o later\nHello.",
        "later.wait(60);",
        "%%openai -n 2\nHello.",
        "%%openai --logprobs\nHello.",
        "%%claude --dry-run\nHello.",
    ]
    v4: Any = nbformat.v4
    notebook = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    nbformat.validate(notebook)
    behind, waited, often, scored, dry = (cell.outputs for cell in notebook.cells[1:])
    # What came while another cell ran stands where it was asked for.
    assert behind[0].data["text/markdown"] == behind[0].data["text/plain"] == "The sea is blue."
    assert behind[1].data["text/plain"].startswith(f"[{TALKS} · ")
    assert waited == []
    assert [output.data["text/plain"].count("The sea is blue.") for output in often] == [2]
    assert "<span style=" in scored[-1].data["text/html"]
    assert "POST /v1/messages" in dry[0].data["text/plain"]


def test_a_terminal_has_no_background(server: ServerHome) -> None:
    script = f"%load_ext lmnb\n%lm use {TALKS}\nask = get_ipython().run_cell_magic\n"
    script += "ask('openai', '-n 2', 'Hello.')\nask('claude', '--bg', 'Hello.')\n"
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--colors=nocolor", "--no-banner"],
        input=script,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LMNB_HOME": str(server.path)},
    )
    assert "── 2 ──\nThe sea is blue." in done.stdout
    assert "--bg needs a notebook" in done.stdout + done.stderr
