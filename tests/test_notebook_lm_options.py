"""Options of `%lm` seen by their effect, as far as `test_notebook_lm.py` does not; and that none is
left out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import fake_endpoint
import pytest
from fake_endpoint import FakeEndpoint
from fake_hub import FakeHub, Repository
from gguf_bytes import small_model
from notebook_kernel import Kernel
from server_home import CHAT, ServerHome, link_models, wait_for
from tiny_bert import write_model

from lmnb.client import Client
from lmnb.notebook.arguments import Parser
from lmnb.notebook.lm import lm
from lmnb.notebook.magics import claude, openai

NAME = "maker/Two-GGUF"
KEY = "sk-of-a-test-0001"


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        files = {f"Two-{kind}.gguf": small_model(1, kilobytes=size, file_type=number)
                 for kind, size, number in (("Q4_K_M", 3000, 15), ("Q8_0", 3000, 7))}  # fmt: skip
        hub.repositories[NAME] = Repository(files)
        yield hub


@pytest.fixture(scope="module")
def own(
    tmp_path_factory: pytest.TempPathFactory, models_cache: Path, home: Path, hub: FakeHub
) -> Iterator[ServerHome]:
    """A server whose Hub is ours."""
    found = ServerHome(tmp_path_factory.mktemp("own"))
    link_models(models_cache, found.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMNB_HOME", str(found.path))
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("HF_HOME", str(found.path / "huggingface"))
        yield found
    found.close()
    found.wait_until_empty()


@pytest.fixture(scope="module")
def kernel(own: ServerHome) -> Iterator[Kernel]:
    with Kernel(own.path) as kernel:
        kernel.run("import os\n%load_ext lmnb")
        yield kernel


@pytest.fixture
def client(own: ServerHome) -> Client:
    return own.attach()


def test_downloads_are_listed_paused_resumed_and_cancelled(
    kernel: Kernel, client: Client, hub: FakeHub
) -> None:
    hub.release.clear()
    events = client.get(NAME, "Q4_K_M")
    next(events)
    assert hub.started.wait(60)
    (job,) = client.downloads()
    assert re.search(
        rf"^{job['id']} .* downloading ", kernel.run("%lm downloads").text, re.MULTILINE
    )
    assert "paused" in kernel.run(f"%lm downloads pause {job['id']}").text
    assert client.downloads()[0]["status"] == "paused"
    kernel.run(f"%lm downloads resume {job['id']}")
    wait_for(lambda: client.downloads()[0]["status"] != "paused", "the download to go on")
    kernel.run(f"%lm downloads cancel {job['id']}")
    wait_for(lambda: not client.downloads(), "the end of it")
    assert kernel.run("%lm downloads").text == "There are no downloads."
    hub.release.set()
    failed = kernel.run("%lm downloads pause", ok=False)
    assert failed.error is not None
    assert "say which one to pause" in failed.error["evalue"]


def test_get_takes_the_quantization_that_is_asked_for(
    kernel: Kernel, client: Client, hub: FakeHub
) -> None:
    hub.release.set()
    hub.seen.clear()
    assert "Two-Q8_0.gguf" in kernel.run(f"%lm get {NAME} -q Q8_0").text
    assert {Path(one.path).name for one in hub.transfers()} == {"Two-Q8_0.gguf"}
    assert [row["quantization"] for row in client.ls() if "two" in row["key"]] == ["Q8_0"]


def test_convert_takes_a_name_and_a_type(kernel: Kernel, client: Client, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "Tiny")
    text = kernel.run(f"%lm convert {folder} --name maker/small --type Q8_0").text
    assert text.startswith("maker/small is here: ")
    (row,) = (row for row in client.ls() if row["key"] == "maker/small")
    assert (row["kind"], row["quantization"]) == ("embedding", "Q8_0")


def test_load_can_estimate_only(kernel: Kernel, client: Client) -> None:
    text = kernel.run(f"%lm load {CHAT} --context-length 1024 --estimate-only").text
    assert f"{CHAT} would take " in text
    assert "context of 1024 tokens" in text
    assert client.ps() == []


def test_unload_can_wait_for_what_is_being_answered(kernel: Kernel, client: Client) -> None:
    kernel.run(f"%lm load {CHAT}")
    body = {"model": CHAT, "prompt": "One,", "max_tokens": 60, "stream": True,
            "logit_bias": {"0": -100, "2": -100}}  # fmt: skip
    with client.http.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        unloading = kernel.start("%lm unload --wait")
        rest = "".join(lines)
    kernel.finish(unloading)
    assert unloading.text == f"Unloaded: {CHAT}"
    # The answer came to its own end.
    assert '"finish_reason":"length"' in rest.replace(" ", "")
    assert client.ps() == []


def test_the_log_can_be_filtered_and_has_words(kernel: Kernel, client: Client) -> None:
    kernel.run("%lm settings log_prompts on")
    client.openai().completions.create(model=CHAT, prompt="One, two,", max_tokens=2)
    missing = client.http.get("/v1/models/none").headers["x-request-id"]
    answered = client.requests(1, model=CHAT)[0]["id"]
    both = kernel.run("%lm log").text
    assert missing in both
    assert answered in both
    by_model = kernel.run("%lm log --model smollm2").text
    assert answered in by_model
    assert missing not in by_model
    for status in ("404", "4xx", "error"):
        failed = kernel.run(f"%lm log --status {status}").text
        assert missing in failed
        assert answered not in failed
    assert "One, two," not in both
    assert "One, two," in kernel.run("%lm log --model smollm2 --prompts").text
    # A line for the request, one for the headers.
    assert len(kernel.run("%lm log -n 1").text.splitlines()) == 2
    kernel.run("%lm settings log_prompts --reset\n%lm unload --all")


def test_connect_takes_a_key_from_a_variable_and_keeps_it(kernel: Kernel, own: ServerHome) -> None:
    with fake_endpoint.running(FakeEndpoint("locked", ["good"], key=KEY)) as locked:
        kernel.run(f"os.environ['OF_A_TEST'] = {KEY!r}")
        where = f"{locked.url} --name far"
        assert kernel.run(f"%lm connect {where}", ok=False).error is not None
        connected = kernel.run(f"%lm connect {where} --key-env OF_A_TEST")
        assert "Its models: far/good" in connected.text
        secrets = own.path / "secrets.json"
        assert not secrets.exists()
        kernel.run(f"%lm connect {where} --key-env OF_A_TEST --save-key")
        assert KEY in secrets.read_text()
        assert json.loads(secrets.read_text())
        endpoints = kernel.run("%lm endpoints").text
        assert "far" in endpoints
        assert KEY not in endpoints
        kernel.run("%lm disconnect far")


def test_ui_shows_all_panels_or_one(kernel: Kernel) -> None:
    def made(line: str) -> list[str]:
        shown = kernel.run(line)
        assert "The lmnb panel is live" in shown.text
        states = [
            m["content"]["data"]["state"] for m in shown.messages if m["msg_type"] == "comm_open"
        ]
        return [state["_model_name"] for state in states]

    assert "TabModel" in made("%lm ui")
    for panel in lm.parser.commands()["ui"].places()[0].choices or ():
        assert "TabModel" not in made(f"%lm ui {panel}")
    kernel.run("%unload_ext lmnb\n%load_ext lmnb")


SOURCES = {
    path.name: path.read_text()
    for path in Path(__file__).parent.glob("test_*.py")
    if path.name != "test_notebook_arguments.py"
}


def spellings(parser: Parser) -> dict[str, Sequence[str]]:
    """The options, each with all its spellings, by its first."""
    options = [action.option_strings for action in parser._actions if action.option_strings]
    return {option[0]: option for option in options if "--help" not in option}


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (name, option)
        for name, parser in lm.parser.commands().items()
        for option in spellings(parser)
    ],
)
def test_every_option_of_lm_is_used_by_a_test(command: str, option: str) -> None:
    words = "|".join(map(re.escape, spellings(lm.parser.commands()[command])[option]))
    # `%lm get …`, or lm("get …") where no kernel is needed.
    used = re.compile(rf"\blm\W{{1,2}}{command}\b[^\n]*[ \"]({words})\b")
    assert any(used.search(text) for text in SOURCES.values())


@pytest.mark.parametrize(
    ("magic", "option"),
    [(magic.name, option) for magic in (claude, openai) for option in spellings(magic.parser)],
)
def test_every_option_of_a_cell_is_used_by_a_test(magic: str, option: str) -> None:
    found = {claude.name: claude, openai.name: openai}[magic]
    words = "|".join(map(re.escape, spellings(found.parser)[option]))
    used = re.compile(rf"(?<![\w-])({words})(?![\w-])")
    texts = [text for name, text in SOURCES.items() if name.startswith("test_notebook_")]
    assert any(used.search(text) for text in texts)
