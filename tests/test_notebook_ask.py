"""`%%claude` and `%%openai` in a real kernel, with the real model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from notebook_kernel import Execution, Kernel
from server_home import ServerHome, wait_for

import lmnb
from lmnb.client import Client
from lmnb.notebook.markdown import CURSOR

MODEL = "smollm2-135m-instruct"
MAGICS = ("%%claude", "%%openai", "%%openai --api chat")


@pytest.fixture(scope="module")
def kernel(server: ServerHome) -> Iterator[Kernel]:
    with Kernel(server.path) as kernel:
        kernel.run("%load_ext lmnb")
        kernel.run(f"%lm load {MODEL}")
        yield kernel


@pytest.fixture(params=MAGICS)
def magic(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def ask(kernel: Kernel, line: str, body: str = "Name a colour.") -> dict[str, Any]:
    """Run a cell; the reply's fields as plain values."""
    kernel.run(f"{line} -o reply\n{body}")
    values = kernel.value(
        "{'text': reply.text, 'model': reply.model, 'stop_reason': reply.stop_reason, "
        "'usage': tuple(reply.usage), 'conversation': reply.conversation}"
    )
    assert isinstance(values, dict)
    return values


def new_notebook(*cells: str) -> Any:
    v4: Any = nbformat.v4
    return v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells])


def assert_short_error(execution: Execution, name: str, *words: str) -> None:
    assert execution.status == "error"
    assert execution.error is not None
    assert execution.error["ename"] == name
    shown = "\n".join(execution.error["traceback"])
    assert len(execution.error["traceback"]) <= 2
    assert "File " not in shown
    for word in words:
        assert word in shown


def test_an_answer_streams_and_ends_as_text_and_markdown(kernel: Kernel, magic: str) -> None:
    execution = kernel.run(f"{magic} --new --max-tokens 25\nTell me about the sea.")
    answer, footer = execution.outputs
    *drafts, last = execution.drafts
    assert len(drafts) > 1
    assert all(draft.endswith(CURSOR) for draft in drafts)
    assert [len(draft) for draft in drafts] == sorted(len(draft) for draft in drafts)
    assert set(answer["data"]) == {"text/markdown", "text/plain"}
    assert answer["data"]["text/markdown"] == last
    assert CURSOR not in last
    assert answer["metadata"]["lmnb"]["model"] == MODEL
    for part in (MODEL, "tokens/s", "first token", "history 2 messages"):
        assert part in footer["data"]["text/html"]
        assert part in footer["data"]["text/plain"]


def test_the_reply_is_an_object_in_underscore_and_out(kernel: Kernel, magic: str) -> None:
    execution = kernel.run(f"{magic} --new -o kept --max-tokens 8\nHello.")
    number = execution.reply["execution_count"]
    assert not [m for m in execution.messages if m["msg_type"] == "execute_result"]
    assert kernel.value("_ is kept")
    assert kernel.value(f"Out[{number}] is kept and str(kept) == kept.text")
    shown = kernel.run("kept").outputs[0]["data"]
    assert shown["text/plain"] == kernel.value("kept.text")


@pytest.mark.parametrize(
    ("magic", "reason"),
    [("%%claude", "max_tokens"), ("%%openai", "max_output_tokens"), (MAGICS[2], "length")],
)
def test_max_tokens(kernel: Kernel, magic: str, reason: str) -> None:
    reply = ask(kernel, f"{magic} --new --max-tokens 5", "Tell me a long story.")
    assert reply["stop_reason"] == reason
    assert reply["usage"][1] == 5


def test_a_conversation_goes_on_until_new(kernel: Kernel, magic: str) -> None:
    first = ask(kernel, f"{magic} --new --max-tokens 6", "My name is Ada.")
    second = ask(kernel, f"{magic} --max-tokens 6", "What is my name?")
    assert [turn["role"] for turn in second["conversation"]] == ["user", "assistant"] * 2
    assert second["conversation"][:2] == first["conversation"]
    # The model has read it all, most of it from its cache.
    assert second["usage"][0] > first["usage"][0] + 6
    third = ask(kernel, f"{magic} --new --max-tokens 6", "What is my name?")
    assert len(third["conversation"]) == 2
    assert third["usage"][0] < second["usage"][0]


def test_the_two_magics_have_conversations_of_their_own(kernel: Kernel) -> None:
    ask(kernel, "%%claude --new --max-tokens 4")
    ask(kernel, "%%openai --new --max-tokens 4")
    assert len(ask(kernel, "%%claude --max-tokens 4")["conversation"]) == 4
    # One magic has one conversation, whichever API carries it.
    assert len(ask(kernel, "%%openai --api chat --max-tokens 4")["conversation"]) == 4


def test_a_system_prompt_stays_until_another_is_given(kernel: Kernel, magic: str) -> None:
    long = "You are a pirate and answer in rhymes. " * 8
    with_system = ask(kernel, f'{magic} --new --max-tokens 4 -s "{long}"')["usage"][0]
    without = ask(kernel, f"{magic} --new --max-tokens 4")["usage"][0]
    assert with_system > without + 20
    ask(kernel, f'{magic} --new --max-tokens 4 -s "{long}"')
    kept = ask(kernel, f"{magic} --max-tokens 4")["usage"][0]
    replaced = ask(kernel, f'{magic} --max-tokens 4 -s "Be brief."')["usage"][0]
    assert replaced < kept + 15


def test_sampling_options_reach_the_engine(kernel: Kernel, magic: str) -> None:
    def text(options: str) -> str:
        reply = ask(kernel, f"{magic} --new --max-tokens 8 {options}", "Invent a strange animal.")
        return str(reply["text"])

    greedy = text("--temperature 0")
    # Of a nucleus that small only the most likely token is left, however hot the rest is.
    assert text("--temperature 2 --top-p 0.0001") == greedy
    hot = text("--temperature 2 --seed 1")
    assert text("--temperature 2 --seed 1") == hot
    assert {text(f"--temperature 2 --seed {seed}") for seed in (2, 3)} != {hot}


def test_variables_are_put_in(kernel: Kernel, magic: str) -> None:
    kernel.run("name, role = 'Ada', 'poet'")
    body = "I am {{name}} and {{ nobody }} {'a': {name}}."
    execution = kernel.run(f'{magic} --new -o r --max-tokens 2 -s "Be a {{{{role}}}}."\n{body}')
    sent = kernel.value("r.conversation[0]['content']")
    assert sent == "I am Ada and {{ nobody }} {'a': {name}}."
    assert "Left as typed" in execution.texts()[0]
    assert "{{nobody}}" in execution.texts()[0]
    assert "{{role}}" not in execution.texts()[0]


def test_raw_takes_the_cell_as_it_is(kernel: Kernel, magic: str) -> None:
    kernel.run("name = 'Ada'")
    body = "  {{name}} {{nobody}}\n  $HOME {x}"
    execution = kernel.run(f"{magic} --new --raw -o r --max-tokens 2\n{body}")
    assert kernel.value("r.conversation[0]['content']") == body
    assert "Left as typed" not in execution.text


def test_a_model_that_is_not_there(kernel: Kernel, magic: str) -> None:
    execution = kernel.run(f"{magic} -m no-such-model\nhello", ok=False)
    assert_short_error(execution, "ModelNotFound", "no-such-model", "Hint:")


def test_an_embedding_model_does_not_chat(kernel: Kernel, magic: str) -> None:
    execution = kernel.run(f"{magic} -m all-minilm-l6-v2\nhello", ok=False)
    assert_short_error(execution, "NotSupported", "all-minilm-l6-v2")


def test_a_prompt_that_is_too_long(kernel: Kernel, magic: str) -> None:
    kernel.run("book = 'word ' * 10000")
    execution = kernel.run(f"{magic} --new\n{{{{book}}}}", ok=False)
    assert_short_error(execution, "ContextOverflow", "8192", "--new")
    # A question that failed is not part of the conversation.
    assert len(ask(kernel, f"{magic} --max-tokens 2")["conversation"]) == 2


def test_the_model_loaded_or_asked_last_is_asked(kernel: Kernel, client: Client) -> None:
    kernel.run(f"%lm load {MODEL} --identifier second")
    assert ask(kernel, "%%claude --new --max-tokens 2")["model"] == "second"
    assert ask(kernel, f"%%openai --new --max-tokens 2 -m {MODEL}")["model"] == MODEL
    assert ask(kernel, "%%claude --max-tokens 2")["model"] == MODEL
    kernel.run(f"%lm unload {MODEL}")
    # Gone; what is left is the only one.
    assert ask(kernel, "%%claude --max-tokens 2")["model"] == "second"
    kernel.run("%lm unload second")
    # Nothing is loaded: the model asked last has no file of that name, so it is the default.
    assert ask(kernel, "%%claude --max-tokens 2")["model"] == MODEL
    assert client.ps()[0]["jit"]
    kernel.run(f"%lm load {MODEL}")
    assert not client.ps()[0]["jit"]


def test_several_loaded_models_are_named(kernel: Kernel, client: Client) -> None:
    kernel.run("%lm unload --all")
    for name in ("one", "two"):
        list(client.load(MODEL, identifier=name))
    execution = kernel.run("%%claude --new\nhello", ok=False)
    assert_short_error(execution, "ModelNotFound", "one", "two", "-m")
    kernel.run(f"%lm unload --all\n%lm load {MODEL}")


def test_a_capture_gets_the_answer(kernel: Kernel) -> None:
    code = "get_ipython().run_cell_magic('claude', '--new --max-tokens 3', 'hello')"
    execution = kernel.run(f"%%capture seen\nr = {code}")
    assert execution.outputs == []
    assert kernel.value("seen.outputs[-1].data['text/plain'].startswith('[')")


def test_clients_of_the_sdks_are_independent(server: ServerHome) -> None:
    for _ in range(2):
        with lmnb.openai() as one, lmnb.anthropic() as other:
            assert MODEL in {model.id for model in one.models.list()}
            assert MODEL in {model.id for model in other.models.list()}
    assert lmnb.attach().handshake()["pid"] == server.pid


def test_nothing_downloaded(tmp_path: Path) -> None:
    empty = ServerHome(tmp_path / "empty")
    try:
        with Kernel(empty.path, HF_HOME=str(tmp_path / "hf"), HOME=str(tmp_path)) as kernel:
            kernel.run("%load_ext lmnb")
            execution = kernel.run("%%claude\nhello", ok=False)
            assert_short_error(execution, "ModelNotFound", "%lm get", MODEL)
            assert "%lm get" in kernel.run("%lm ls").text
    finally:
        empty.close()


def test_a_killed_worker_ends_the_answer_and_the_next_cell_works(fresh_home: ServerHome) -> None:
    with Kernel(fresh_home.path) as kernel:
        kernel.run("%load_ext lmnb\nprecious = 42")
        execution = kernel.start("%%claude --max-tokens 3000\nWrite a very long story.")
        kernel.wait(lambda: len(execution.drafts) > 2)
        fresh_home.workers()[0].kill()
        kernel.wait(lambda: execution.done)
        assert execution.status == "error"
        assert execution.error is not None
        assert len(execution.error["traceback"]) <= 2
        # What came stays in sight, without its cursor, and is said not to be all.
        assert CURSOR not in execution.texts()[0]
        assert "because of an error" in execution.text
        assert kernel.value("precious") == 42
        again = kernel.run("%%claude --max-tokens 3\nhello")
        assert "loaded in" in again.texts()[-1]


def test_a_killed_server_ends_the_answer_and_the_next_cell_works(fresh_home: ServerHome) -> None:
    with Kernel(fresh_home.path) as kernel:
        kernel.run("%load_ext lmnb\nprecious = 42")
        execution = kernel.start("%%openai --max-tokens 3000\nWrite a very long story.")
        kernel.wait(lambda: len(execution.drafts) > 2)
        fresh_home.kill()
        kernel.wait(lambda: execution.done)
        assert_short_error(execution, "ServerError", "Run the cell again")
        assert kernel.value("precious") == 42
        assert ask(kernel, "%%openai --max-tokens 3")["text"]


def test_two_kernels_share_one_server_and_one_model(fresh_home: ServerHome) -> None:
    with Kernel(fresh_home.path) as one, Kernel(fresh_home.path) as two:
        for kernel in (one, two):
            kernel.run("%load_ext lmnb")
        # Neither finds a server; both answer at the same time.
        cells = [
            kernel.start(f"{magic} --max-tokens 40\nTell me about {{{{1}}}} rivers.")
            for kernel, magic in ((one, "%%claude"), (two, "%%openai"))
        ]
        for kernel, cell in zip((one, two), cells, strict=True):
            kernel.finish(cell)
            assert cell.status == "ok", cell.error
        servers = {k.value("__import__('lmnb').attach().handshake()['pid']") for k in (one, two)}
        assert servers == {fresh_home.pid}
        assert len(fresh_home.workers()) == 1


def test_terminal_ipython_prints_the_text(server: ServerHome, tmp_path: Path) -> None:
    script = tmp_path / "script.ipy"
    script.write_text(
        "%load_ext lmnb\n"
        f"%lm load {MODEL} --identifier typed\n"
        "get_ipython().run_cell_magic('claude', '-m typed --max-tokens 6 -o r', 'Say hello.')\n"
        "%lm unload typed\n"
        "print(repr(r.text))\n"
    )
    command = [sys.executable, "-m", "IPython", "--no-banner", "--colors=nocolor", str(script)]
    environment = {**os.environ, "IPYTHONDIR": str(tmp_path / "ipython")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    loaded, *answer, footer, unloaded, text = done.stdout.splitlines()
    assert "typed is loaded" in loaded
    assert repr("\n".join(answer)).strip("'\"") in text
    assert footer.startswith("[typed · ")
    assert unloaded == "Unloaded: typed"


def test_a_saved_notebook_reads_well(server: ServerHome) -> None:
    cells = ["%load_ext lmnb", "%%claude --max-tokens 12\nTell me about the sea.", "%lm ls"]
    notebook = new_notebook(*cells)
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    answer, footer = notebook.cells[1].outputs
    assert answer.data["text/markdown"]
    assert answer.data["text/plain"]
    assert CURSOR not in answer.data["text/markdown"]
    assert footer.data["text/plain"].startswith(f"[{MODEL}")
    assert "<table " in notebook.cells[2].outputs[0].data["text/html"]
    nbformat.validate(notebook)


def test_a_run_of_a_notebook_fails_where_a_cell_fails(server: ServerHome) -> None:
    cells = ["%load_ext lmnb", "%%claude -m no-such-model\nhello", "1 / 0"]
    notebook = new_notebook(*cells)
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="ModelNotFound"):
        nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()


@pytest.mark.parametrize("magic", ["%%claude", "%%openai"])
class TestInterrupt:
    """■, as Jupyter does it: a signal to the kernel."""

    def test_a_decode_stops_and_keeps_what_came(
        self, kernel: Kernel, client: Client, magic: str
    ) -> None:
        kernel.run("after = False")
        cell = kernel.start(f"{magic} --new -o part --max-tokens 4000\nWrite a very long story.")
        queued = kernel.start("after = True")
        kernel.wait(lambda: len(cell.drafts) > 3)
        kernel.interrupt()
        kernel.wait(lambda: cell.done and queued.done)
        assert_short_error(cell, "Interrupted", "kept in part and _")
        # Run All stops here.
        assert queued.status == "aborted"
        assert kernel.value("after") is False
        text = kernel.value("part.text")
        assert text
        assert cell.texts()[0] == text
        assert "⏹ interrupted" in cell.texts()[1]
        assert kernel.value("(part.interrupted, part is Out[max(Out)])") == (True, True)
        # The server has stopped too: nobody uses the model any more.
        wait_for(lambda: all(row["active"] == 0 for row in client.ps()), "the generation to stop")
        # The partial answer is part of the conversation.
        following = ask(kernel, f"{magic} --max-tokens 3", "Go on.")
        assert [turn["content"] for turn in following["conversation"]][1] == text

    def test_a_prefill_stops(self, kernel: Kernel, client: Client, magic: str) -> None:
        kernel.run("book = ' '.join(str(n) for n in range(1500))")
        cell = kernel.start(f"{magic} --new -o none\n{{{{book}}}}")
        kernel.wait(lambda: any(row["active"] for row in client.ps()))
        kernel.interrupt()
        kernel.wait(lambda: cell.done)
        assert_short_error(cell, "Interrupted", "nothing of the answer")
        assert cell.drafts == []
        wait_for(lambda: all(row["active"] == 0 for row in client.ps()), "the prefill to stop")
        # An older value would be taken for this answer.
        assert kernel.value("(none.text, none.interrupted)") == ("", True)
        assert ask(kernel, f"{magic} --max-tokens 3")["text"]
