"""`--schema`, `--thinking` and `--image` in a real kernel, each seen by its effect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import made_models
import pytest
from made_models.projector import PATCHES, projector
from made_models.scripted import MARKERS, Answer, scripted
from notebook_kernel import Kernel
from pictures import picture
from server_home import CHAT, ServerHome

MAGICS = ("%%claude", "%%openai", "%%openai --api chat")
SEES, THINKS = "made-that-sees", "made-that-thinks"
TEMPLATE = (
    "{% for m in messages %}{{ m.content }}{% endfor %}"
    f"{{% if enable_thinking is defined %}}{{{{ '{MARKERS[0]}' if enable_thinking else '{MARKERS[1]}' }}}}{{% endif %}}"
    f"{{% if reasoning_effort == 'high' %}}{MARKERS[2]}{{% endif %}}"
)
ANSWERS = [
    Answer("As it likes."),
    Answer("With thoughts.", MARKERS[0]),
    Answer("Straight away.", MARKERS[1]),
    Answer("Very thoroughly.", MARKERS[2]),
]


@pytest.fixture(scope="module")
def kernel(server: ServerHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("made")
    client = server.attach()
    list(
        client.load(str(scripted(folder / "t.gguf", ANSWERS, template=TEMPLATE)), identifier=THINKS)
    )
    model = made_models.llama(folder / "base.gguf")
    projector(folder / "mmproj-base.gguf")
    list(client.load(str(model), identifier=SEES, context_length=1024))
    list(client.load(CHAT))
    with Kernel(server.path) as kernel:
        kernel.run("%load_ext lmnb")
        yield kernel
    client.unload(all=True)


@pytest.fixture(params=MAGICS)
def magic(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_value_of_an_answer(kernel: Kernel, magic: str) -> None:
    kernel.run(
        "import pydantic\n"
        "class Person(pydantic.BaseModel):\n    name: str\n    age: int\n"
        "raw = {'type': 'object', 'properties': {'colour': {'enum': ['red', 'blue']}},"
        " 'required': ['colour'], 'additionalProperties': False}"
    )
    options = f"-m {CHAT} --new --max-tokens 60 --temperature 0"
    execution = kernel.run(f"{magic} {options} --schema Person -o ada\nInvent a person.")
    assert kernel.value("type(ada) is Person and type(ada.age) is int and _.parsed is ada")
    assert execution.texts("text/markdown")[-1].startswith("```json\n{")
    kernel.run(f"{magic} {options} --schema raw -o colour\nName a colour.")
    assert kernel.value("colour['colour']") in {"red", "blue"}


def test_an_answer_that_was_cut_has_no_value(kernel: Kernel, magic: str) -> None:
    kernel.run("ada = 'before'")
    options = f"-m {CHAT} --new --max-tokens 3 --schema dict_of_names -o ada"
    kernel.run(
        "dict_of_names = {'type': 'object', 'properties': {'a_long_name': {'type': 'integer'}},"
        " 'required': ['a_long_name']}"
    )
    execution = kernel.run(f"{magic} {options}\nHello.", ok=False)
    assert execution.error is not None
    assert execution.error["ename"] == "UnfitAnswer"
    assert "was cut" in execution.error["evalue"]
    assert "--max-tokens" in execution.error["evalue"]
    assert kernel.value("(ada, _.text != '', _.parsed)") == (None, True, None)


@pytest.mark.parametrize(
    ("option", "answer"),
    [
        ("", "As it likes."),
        ("--thinking", "With thoughts."),
        ("--thinking 200", "With thoughts."),
        ("--no-thinking", "Straight away."),
        ("--thinking high", "Very thoroughly."),
    ],
)
def test_thinking(kernel: Kernel, magic: str, option: str, answer: str) -> None:
    kernel.run(f"{magic} -m {THINKS} --new -o r {option}\nHello.")
    assert kernel.value("r.text") == answer


def test_images(kernel: Kernel, magic: str, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(picture(1))
    kernel.run(
        "import numpy as np\n"
        "noise = np.random.default_rng(2).integers(0, 256, (40, 48, 3))\n"
        f"dots = open({str(file)!r}, 'rb').read()"
    )
    told = {}
    for options in (
        "",
        f"--image {file}",
        "--image noise",
        "--image dots",
        "--image noise --image dots",
    ):
        line = f"{magic} -m {SEES} --new --temperature 0 --max-tokens 12 -o r {options}"
        kernel.run(f"{line}\nWhat is it?")
        told[options] = kernel.value("(r.text, r.usage.input)")
    tokens = [count - told[""][1] for _, count in told.values()]
    assert tokens == [0, PATCHES, PATCHES, PATCHES, 2 * PATCHES]
    assert told["--image dots"] == told[f"--image {file}"] != told["--image noise"]
    # The picture is part of the conversation.
    kernel.run(f"{magic} -m {SEES} --max-tokens 2 -o r\nAnd now?")
    assert kernel.value("len(r.conversation[0]['images'])") == 2
    assert kernel.value("r.usage.input") > told["--image noise --image dots"][1]


def test_a_model_that_does_not_see(kernel: Kernel, magic: str) -> None:
    kernel.run(f"dots = {picture(1)!r}")
    execution = kernel.run(f"{magic} -m {CHAT} --new --image dots\nWhat is it?", ok=False)
    assert execution.error is not None
    assert "cannot read images" in execution.error["evalue"]
