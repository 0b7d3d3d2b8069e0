"""`--tools` in a real kernel: a scripted model calls, gets the results, and answers from them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_models.scripted import MARKERS, Answer, scripted
from notebook_kernel import Execution, Kernel
from server_home import ServerHome

from lmnb.engine.options import Segment

MODEL = "made-that-calls"
MAGICS = ("%%claude", "%%openai", "%%openai --api chat")
TEMPLATE = (Path(__file__).parent / "templates" / "json_in_tags.jinja").read_text()
CONTROLS = ("<|system|>", "<|user|>", "<|bot|>", "<|tool|>", "<|tools|>", "<call>", "</call>")
DONE, WHY, AGAIN = MARKERS[:3]

FUNCTIONS = f'''
import asyncio, time
from dataclasses import dataclass
from typing import Literal

seen = []

def weather(city: str):
    """Tells the weather."""
    seen.append(city)
    print("looking it up")
    return {{"sky": "clear {DONE}", "city": city}}

def failing(city: str):
    raise KeyError("no {DONE} such place")

def endless(city: str):
    return "{AGAIN}"

def slow(city: str):
    time.sleep(60)

async def waits(city: str) -> str:
    seen.append(asyncio.get_running_loop())
    await asyncio.sleep(0.01)
    return "{DONE}"

async def waits_long(city: str) -> str:
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        seen.append("cancelled")
        raise
    return ""
'''


CALLS = {
    "weather": "Ulm",
    "failing": "Oslo",
    "endless": "Berne",
    "slow": "Lisbon",
    "waits": "Hamburg",
    "waits_long": "Helsinki",
    "once_more": "Edinburgh",
}
"""What the model calls each function with. No two texts of a scripted model may be alike."""


def calling(name: str, tool: str | None = None) -> list[Segment]:
    """A thought, words and a call. A segment begins wherever a grammar leaves a choice."""
    city = CALLS[name]
    return [
        Segment(f"<think>\nIn {city}?"),
        Segment("\n</think>\n\n"),
        Segment(f"Of {city}.\n<call>", special=True),
        Segment(f'\n{{"name": "{tool or name}", "arguments": {{"city": "'),
        Segment(f'{city}"}}}}\n</call>', special=True),
    ]


@pytest.fixture(scope="module")
def kernel(server: ServerHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    names = [name for name in CALLS if name != "once_more"]
    markers = MARKERS[3 : 3 + len(names)]
    path = scripted(
        tmp_path_factory.mktemp("model") / "calls.gguf",
        [
            *(Answer(calling(name), mark) for name, mark in zip(names, markers, strict=True)),
            Answer(calling("once_more", "endless"), AGAIN),
            Answer("It is clear.", DONE),
            Answer("Because the wind is gone.", WHY),
        ],
        template=TEMPLATE,
        controls=CONTROLS,
        end="<|end|>",
        seed=None,
        context=16384,
    )
    client = server.attach()
    list(client.load(str(path), identifier=MODEL, context_length=16384))
    with Kernel(server.path) as kernel:
        kernel.run("%load_ext lmnb")
        kernel.run(FUNCTIONS)
        for name, mark in zip(names, markers, strict=True):
            kernel.run(f"ask_{name} = 'How is the weather in Ulm? {mark}'")
        yield kernel
    client.unload(MODEL)


@pytest.fixture(params=MAGICS)
def magic(request: pytest.FixtureRequest) -> str:
    return f"{request.param} -m {MODEL}"


def ask(kernel: Kernel, magic: str, tool: str, options: str = "", *, ok: bool = True) -> Execution:
    kernel.run("seen.clear()")
    return kernel.run(
        f"{magic} --new --max-tokens 300 --tools {tool} -o r {options}\n{{{{ask_{tool}}}}}", ok=ok
    )


def test_a_model_calls_a_function_and_answers_from_its_result(kernel: Kernel, magic: str) -> None:
    execution = ask(kernel, magic, "weather")
    assert kernel.value("seen") == ["Ulm"]
    words, call, answer, footer = execution.texts()
    assert (words, answer) == ("Of Ulm.", "It is clear.")
    result = f'{{"sky":"clear {DONE}","city":"Ulm"}}'
    assert call == f"⚙ weather(city='Ulm') → {result}"
    assert execution.stdout == "looking it up\n"
    assert "2 steps" in footer
    assert "history 4 messages" in footer
    assert kernel.value("(r.text, r.stop_reason == r.steps[1].stop_reason)") == (answer, True)
    assert kernel.value("[(c.name, c.arguments, c.result['city'], c.error) for c in r.calls]") == [
        ("weather", {"city": "Ulm"}, "Ulm", None)
    ]
    assert kernel.value("[step.thinking.strip() for step in r.steps]") == ["In Ulm?", ""]
    used = kernel.value("[tuple(step.usage) for step in r.steps]")
    assert kernel.value("tuple(r.usage)") == tuple(map(sum, zip(*used, strict=True)))
    # The second prompt is the first one, the call and its result: all but the end was read before.
    assert used[1][2] > 0.9 * used[0][0]
    roles = kernel.value("[turn['role'] for turn in r.conversation]")
    assert roles == ["user", "assistant", "tool", "assistant"]


def test_the_next_cell_goes_on_from_the_calls(kernel: Kernel, magic: str) -> None:
    ask(kernel, magic, "weather")
    before = kernel.value("r.steps[1].usage.input")
    kernel.run(f"{magic} --tools weather -o r\nWhy? {WHY}")
    assert kernel.value("(r.text, len(r.conversation))") == ("Because the wind is gone.", 6)
    # Call and result are still in the prompt, and cached.
    assert kernel.value("r.usage.input") > before
    assert kernel.value("r.usage.cached") > 0.9 * before


def test_an_exception_goes_back_to_the_model_and_is_shown(kernel: Kernel, magic: str) -> None:
    execution = ask(kernel, magic, "failing")
    reason = f"KeyError: 'no {DONE} such place'"
    assert f"⚙ failing(city='Oslo') ✗ {reason}" in execution.texts()
    assert kernel.value("(r.text, r.calls[0].error)") == ("It is clear.", reason)
    turn = kernel.value("r.conversation[2]")
    assert (turn["content"], turn["failed"]) == (f"Error: {reason}", True)


def test_the_limit_of_steps(kernel: Kernel, magic: str) -> None:
    execution = ask(kernel, magic, "endless", "--max-steps 2")
    assert "--max-steps" in execution.text
    assert "not run, as this is step 2 of 2" in execution.text
    assert kernel.value("(len(r.steps), len(r.calls))") == (2, 1)
    # The conversation is whole: every call has a result.
    execution = kernel.run(f"{magic} --tools endless -o r\nWhy? {WHY}")
    assert kernel.value("r.text") == "Because the wind is gone."


def test_async_functions_run_on_the_loop_of_the_notebook(kernel: Kernel) -> None:
    kernel.run("import asyncio\nloop = asyncio.get_running_loop()\nafter = []")
    magic = f"%%claude -m {MODEL}"
    cell = kernel.start(f"{magic} --new --tools waits -o r\n{{{{ask_waits}}}}")
    queued = [kernel.start(f"after.append({number})") for number in range(3)]
    kernel.wait(lambda: all(one.done for one in (cell, *queued)))
    assert cell.status == "ok", cell.error
    assert kernel.value("(r.text, seen[-1] is loop, after)") == ("It is clear.", True, [0, 1, 2])


@pytest.mark.parametrize("tool", ["slow", "waits_long"])
def test_a_tool_can_be_interrupted(kernel: Kernel, tool: str) -> None:
    magic = f"%%claude -m {MODEL}"
    kernel.run("seen.clear()")
    cell = kernel.start(f"{magic} --new --tools {tool} -o r\n{{{{ask_{tool}}}}}")
    queued = kernel.start("1")
    kernel.wait(lambda: any(text.endswith(" …") for text in cell.texts()))
    kernel.interrupt()
    kernel.wait(lambda: cell.done and queued.done)
    assert cell.error is not None
    assert cell.error["ename"] == "Interrupted"
    assert queued.status == "aborted"
    assert f"⚙ {tool}(city={CALLS[tool]!r}) ⏹ interrupted" in cell.texts()
    assert kernel.value("seen") == (["cancelled"] if tool == "waits_long" else [])
    kernel.run(f"{magic} --tools {tool} -o r\nWhy? {WHY}")
    assert kernel.value("(r.text, r.conversation[2]['failed'])") == (
        "Because the wind is gone.",
        True,
    )


def test_a_terminal_prints_a_line_for_the_call_and_one_for_the_result(
    kernel: Kernel, server: ServerHome, tmp_path: Path
) -> None:
    question = kernel.value("ask_weather")
    script = tmp_path / "script.ipy"
    line = f"-m {MODEL} --new --tools weather,waits"
    script.write_text(
        f"%load_ext lmnb\n{FUNCTIONS}\n"
        f"get_ipython().run_cell_magic('claude', '{line}', {question!r})\n"
        f"get_ipython().run_cell_magic('claude', '{line}', {kernel.value('ask_waits')!r})\n"
    )
    command = [sys.executable, "-m", "IPython", "--no-banner", "--colors=nocolor", str(script)]
    environment = {**os.environ, "IPYTHONDIR": str(tmp_path / "ipython")}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("[")]
    assert lines == [
        "Of Ulm.",
        "⚙ weather(city='Ulm')",
        "looking it up",
        f'  → {{"sky":"clear {DONE}","city":"Ulm"}}',
        "It is clear.",
        "Of Hamburg.",
        "⚙ waits(city='Hamburg')",
        f"  → {DONE}",
        "It is clear.",
    ]
