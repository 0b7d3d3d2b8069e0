"""The notebooks of `notebooks/`: run from top to bottom, and fit to be read as they are committed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from run_notebooks import NAMES, execute, free_port, read
from server_home import ServerHome, link_models

WIDGET = "application/vnd.jupyter.widget-view+json"


class Ran:
    """A notebook with outputs."""

    def __init__(self, notebook: Any) -> None:
        self.cells = [cell for cell in notebook.cells if cell.cell_type == "code"]

    def outputs(self, start: str) -> list[Any]:
        """Those of the first cell that begins with the line `start`, or with such a line."""
        exact = [cell for cell in self.cells if cell.source.split("\n")[0] == start]
        begins = [cell for cell in self.cells if cell.source.startswith(start)]
        return list((exact or begins)[0].outputs)

    def text(self, start: str) -> str:
        """What they say in plain text."""
        return "\n".join(map(_plain, self.outputs(start)))

    def pictures(self) -> int:
        found = [one for cell in self.cells for one in cell.outputs if one.get("data")]
        return sum("image/png" in one.data for one in found)


def _plain(output: Any) -> str:
    return str(output.get("text") or output.get("data", {}).get("text/plain") or "")


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory, models_cache: Any, home: Any) -> Iterator[int]:
    """A home for all of them, so that the models stay loaded; the port that they open."""
    path = tmp_path_factory.mktemp("notebooks")
    link_models(models_cache, path)
    found, number = ServerHome(path), free_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMNB_HOME", str(path))
        patch.setenv("LMNB_PORT", str(number))
        yield number
        found.close()
    found.wait_until_empty()


def quickstart(ran: Ran, port: int) -> None:
    assert "smollm2-135m-instruct is here" in ran.text("%lm get")
    asked = [cell for cell in ran.cells if cell.source.startswith(("%%claude", "%%openai"))]
    assert len(asked) == 3
    for answer, footer in (cell.outputs for cell in asked):
        assert answer.data["text/markdown"]
        assert "tokens/s" in footer.data["text/plain"]
    assert "history 4 messages" in asked[1].outputs[1].data["text/plain"]
    cats, kittens, train = [
        [float(number) for number in line.split()[:3]]
        for line in ran.text("import lmnb").splitlines()[2:]
    ]
    assert cats[1] > cats[2] + 0.2
    assert kittens[0] > train[1] + 0.2
    assert f"http://127.0.0.1:{port}" in ran.text("%lm serve")
    assert ran.text("import os").strip()
    message = json.loads("".join(output.text for output in ran.outputs("%%bash")))
    assert message["type"] == "message"
    assert message["content"][0]["text"]
    assert f"http://127.0.0.1:{port}" in ran.text("%lm")


def tools_and_agents(ran: Ran, port: int) -> None:
    assert '<tools>\n{"name": "weather"' in ran.text("%%openai --tools weather --dry-run")
    calls = ran.text("questions = [").strip().splitlines()
    assert [line[37:].partition("(")[0] for line in calls] == [
        "weather", "add", "multiply", "weather",
    ]  # fmt: skip
    assert "add(a=17, b=25)" in calls[1]
    assert ran.text("def agent").startswith("⚙ weather({'city': 'Ulm'}) → {'sky': 'rain'")
    assert "tool_use weather" in ran.text("reply = lmnb.anthropic()")


def structured_output(ran: Ran, port: int) -> None:
    assert ran.text("guest").startswith("Person(name=")
    assert re.search(r"'[A-Z][a-z]+ \d\d?, \d{4}'", ran.text("import lmnb"))
    assert ran.text("import pandas").count("positive") >= 3
    assert re.search(r"age +Int64", ran.text("found.dtypes"))
    assert "'not'" in ran.text("from openai import BadRequestError")


def prompt_experiments(ran: Ran, port: int) -> None:
    assert "24 answers: {'ok': 24" in ran.text("import pandas")
    assert "Paris" in ran.text("pd.set_option")
    assert "16 of 48 were known" in ran.text("hot = ")
    assert ran.pictures() == 2
    assert "Invalid value for 'temperature'" in ran.text("odd = ")


def serving(ran: Ran, port: int) -> None:
    address = f"http://127.0.0.1:{port}"
    assert address in ran.text("%lm load")
    assert json.loads(ran.text("%%bash"))["output"][0]["content"]
    assert re.search(r"\n\d+ tokens", ran.text("from openai import OpenAI"))
    assert "tool_use list_files" in ran.text("from anthropic import Anthropic")
    assert f"ANTHROPIC_BASE_URL={address}" in ran.text("%lm launch claude")
    assert f"{address}/v1" in ran.text("%lm launch codex")
    assert "POST /v1/responses" in ran.text("%lm log")
    assert "closed" in ran.text("%lm serve --stop")


def memory_and_ttl(ran: Ran, port: int) -> None:
    totals = [int(line.split()[-1]) for line in ran.text("import pandas").splitlines()[-4:]]
    assert totals[0] < totals[1] < totals[3]
    assert "smollm2-135m-instruct" in ran.text("%lm ps")
    assert ran.text("reply = ").strip() == "384 numbers"
    assert "smollm2" in ran.text("import time")
    assert "minilm" not in ran.text("import time")
    assert "3600" in ran.text("%lm settings jit_ttl")
    assert "Unloaded: smollm2-135m-instruct" in ran.text("%lm unload --all")


def rag(ran: Ran, port: int) -> None:
    assert "20 documents, 99 chunks" in ran.text("from pathlib import Path")
    assert re.search(r"^0 +1 +power", ran.text("found = "), re.MULTILINE)
    assert re.search(r"span_recall@5 +0\.9", ran.text("questions = pd"))
    assert re.search(r"^256 +20 +", ran.text("tried = "), re.MULTILINE)
    assert "p_holm" in ran.text("single = ")
    assert ran.pictures() == 1


FACTS: dict[str, Callable[[Ran, int], None]] = {
    one.__name__: one
    for one in (
        quickstart, prompt_experiments, tools_and_agents, structured_output, serving, memory_and_ttl,
        rag,
    )
}  # fmt: skip


LONG = [name for name in FACTS if name != "quickstart"]
"""They run one by one with --full only, else in short."""
TOGETHER = [name for name in LONG if name != "rag"]
"""They take a minute, and run in one kernel."""
SHORTER = {
    ', "Italy": "Rome", "Japan": "Tokyo", "Spain": "Madrid"}': "}",
    "temperature=[0, 0.5, 1, 1.5],\n    samples=3": "temperature=[0, 1.5]",
    '    "Multiply 6 by 7",\n    "What is the weather in Paris like?",\n': "",
    "in (2048, 8192)": "in (2048,)",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.full if name in LONG else ()) for name in NAMES]
)
def test_it_runs(name: str, port: int) -> None:
    FACTS[name](Ran(execute(read(name))), port)


def test_the_long_ones_run_in_short(port: int) -> None:
    notebook = read(TOGETHER[0])
    notebook.cells = [cell for name in TOGETHER for cell in read(name).cells]
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    for long, short in SHORTER.items():
        (cell,) = [cell for cell in notebook.cells if long in cell.source]
        cell.source = cell.source.replace(long, short)
    ran = Ran(execute(notebook))
    assert "6 answers: {'ok': 6" in ran.text("import pandas")
    assert "2 of 2 were known" in ran.text("hot = ")
    assert ran.pictures() == 2
    assert ran.text("questions = [").splitlines()[1].endswith("add(a=17, b=25)")
    assert "tool_use weather" in ran.text("reply = lmnb.anthropic()")
    assert "Person(name=" in ran.text("guest")
    assert "tool_use list_files" in ran.text("from anthropic import Anthropic")
    assert f"ANTHROPIC_BASE_URL=http://127.0.0.1:{port}" in ran.text("%lm launch claude")
    assert "minilm" not in ran.text("import time")


def test_retrieval_runs_without_the_answers_that_take_long(port: int) -> None:
    notebook = read("rag")
    notebook.cells = [cell for cell in notebook.cells if "answer" not in cell.source]
    rag(Ran(execute(notebook)), port)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_committed_fit_to_be_read(name: str) -> None:
    notebook = read(name)
    assert notebook.metadata.kernelspec.name == "python3"
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if name == "quickstart":  # to be run, not read
        assert not any(cell.outputs or cell.execution_count for cell in cells)
        return
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for output in [one for cell in cells for one in cell.outputs]:
        assert output.output_type != "error"
        assert WIDGET not in output.get("data", {})
        assert _plain(output).strip()
        assert "\r" not in _plain(output)
        assert not re.search(r"/(root|tmp|var)/|/home/(?!you)", json.dumps(output))
