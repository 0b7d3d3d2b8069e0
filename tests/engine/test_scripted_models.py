"""The scripted models say what they are to say: nothing else, however it is cut, at any temperature."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from made_models.scripted import MARKERS, Answer, scripted

from lmnb.engine.client import Worker
from lmnb.engine.config import LoadConfig
from lmnb.engine.options import Sampling, Segment
from lmnb.engine.protocol import Delta, End, Generate

CALLS = (
    '<tool_call>\n{"name": "look", "arguments": {"at": "Zürich 🏔"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "look", "arguments": {"at": ""}}\n</tool_call>'
)
CONTROLS = ("<tool_call>", "</tool_call>", "<|im_start|>", '<|"|>')


async def play(
    path: Path, prompts: list[str], *, temperature: float = 0.0, context: int = 2048
) -> list[tuple[str, End]]:
    worker = await Worker.start(path, LoadConfig(context_length=context, parallel=2))
    try:
        return list(
            await asyncio.gather(*(_answer(worker, prompt, temperature) for prompt in prompts))
        )
    finally:
        await worker.stop()


async def _answer(worker: Worker, prompt: str, temperature: float) -> tuple[str, End]:
    text = ""
    command = Generate(
        id=0,
        segments=(Segment(prompt, special=True),),
        sampling=Sampling(temperature=temperature, seed=1),
        show_special=CONTROLS,
        max_tokens=1000,
    )
    async for update in worker.generate(command):
        if isinstance(update, Delta):
            text += update.text
        elif isinstance(update, End):
            return text, update
    raise AssertionError("no end")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_answers_are_played(tmp_path: Path, seed: int, temperature: float) -> None:
    first, second, third = MARKERS[:3]
    answers = [
        Answer(CALLS),
        Answer("It is 3 °C there.", first),
        Answer(CALLS, second),
        Answer('<|"|><|"|><|"|><|"|><|"|>\n\n<|"|>', third),
    ]
    path = scripted(tmp_path / "m.gguf", answers, controls=CONTROLS, seed=seed)
    prompts = {
        "What? <tool_call>": CALLS,
        f"What? {CALLS} {first} and so on": "It is 3 °C there.",
        f"What? {first} {CALLS} {second}": CALLS,
        f"{second} {CALLS}{first}\n": CALLS,
        f"{third}": '<|"|><|"|><|"|><|"|><|"|>\n\n<|"|>',
        f"{first}" + "long " * 300: "It is 3 °C there.",
    }
    found = asyncio.run(play(path, list(prompts), temperature=temperature))
    assert [text for text, _ in found] == list(prompts.values())
    assert {end.reason for _, end in found} == {"stop"}


def test_the_context_may_be_long(tmp_path: Path) -> None:
    path = scripted(
        tmp_path / "m.gguf",
        [Answer(CALLS), Answer("Done. " * 20, MARKERS[0])],
        controls=CONTROLS,
        context=16384,
    )
    prompts = ["word " * 2000, MARKERS[0] + "word " * 2000]
    found = asyncio.run(play(path, prompts, context=16384))
    assert [text for text, _ in found] == [CALLS, "Done. " * 20]


def test_cuts_differ_by_seed(tmp_path: Path) -> None:
    files = [
        scripted(tmp_path / f"{n}.gguf", [Answer(CALLS)], seed=seed).read_bytes()
        for n, seed in enumerate((1, 1, 2))
    ]
    assert files[0] == files[1] != files[2]
