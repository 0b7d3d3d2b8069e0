"""The panels in a real JupyterLab in a real browser, with the real model."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import made_models
import packages
import pytest
from fake_hub import FakeHub, Repository
from server_home import CHAT, wait_for

import lmnb
from lmnb.notebook.units import size

jupyter_lab = pytest.importorskip("jupyter_lab", reason="Playwright is not installed")

if jupyter_lab.find_chromium() is None:
    pytest.skip("Chromium is not installed", allow_module_level=True)

from jupyter_lab import Jupyter, command, done, run_cell, save, wait_until_ready  # noqa: E402
from playwright.sync_api import Locator, Page, expect  # noqa: E402

REQUIREMENTS = Path(__file__).parent / "requirements"
PANEL = ".lmnb-live"
"""What is alive; the text for readers without a kernel stands beside it."""
PICTURES = os.environ.get("LMNB_TEST_PICTURES")
"""A folder for screenshots, for whoever wants to look at them."""


def picture(page: Page, name: str) -> None:
    if PICTURES:
        page.screenshot(path=str(Path(PICTURES) / f"{name}.png"))


@pytest.fixture(scope="module", autouse=True)
def hub() -> Iterator[FakeHub]:
    """The Hub, for the server that the first test starts."""
    with FakeHub() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def install_ipykernel_6(jupyter: Jupyter) -> None:
    """A kernel of this interpreter with an older ipykernel."""
    path = [
        str(packages.site(REQUIREMENTS / "ipykernel_6.txt")),
        str(Path(lmnb.__file__).parents[1]),
    ]
    arguments = ["-m", "ipykernel_launcher", "-f", "{connection_file}"]
    folder = jupyter.private / "jupyter" / "kernels" / "ipykernel6"
    folder.mkdir(parents=True, exist_ok=True)
    spec = {
        "argv": [sys.executable, *arguments],
        "display_name": "ipykernel 6",
        "language": "python",
        "env": {"PYTHONPATH": os.pathsep.join(path)},
    }
    (folder / "kernel.json").write_text(json.dumps(spec))


def slid(output: Locator, name: str, key: str, times: int) -> None:
    """Move a slider."""
    handle = output.locator(".widget-slider:visible", has_text=name).locator(".noUi-handle")
    handle.focus()
    for _ in range(times):
        handle.press(key)


def test_a_model_is_loaded_watched_and_unloaded_by_clicks(jupyter: Jupyter) -> None:
    jupyter.write("ui.ipynb", "%load_ext lmnb\n%lm ui", "import time; time.sleep(600)")
    client = jupyter.home.attach()
    with jupyter.opened("ui.ipynb") as page:
        output = run_cell(page, 0).locator(PANEL)
        expect(output.get_by_role("tab")).to_contain_text(["Get", "Loaded", "Load"])
        output.get_by_role("tab", name="Loaded").click()
        expect(output).to_contain_text("No model is loaded.")
        output.get_by_role("tab", name="Load", exact=True).click()
        output.get_by_label("Model", exact=True).select_option(label=f"{CHAT} · 98.4 MB")
        expect(output).to_contain_text("of memory (weights")
        slid(output, "Context", "ArrowRight", 2)
        expect(output).to_contain_text("context 1024 tokens")
        picture(page, "load")
        output.locator("button.mod-primary:visible").click()
        expect(output).to_contain_text(f"{CHAT} is loaded (")

        output.get_by_role("tab", name="Loaded").click()
        expect(output).to_contain_text("context 1024 tokens")
        slid(output, "Unload if idle", "ArrowRight", 3)
        expect(output).to_contain_text("unloads in")
        wait_for(lambda: client.ps()[0]["ttl"] == 300, "the slider's TTL")
        # Another program loads it anew with a TTL; a cell that runs is no obstacle.
        run_cell(page, 1)
        expect(page.locator(".jp-InputPrompt", has_text="[*]:")).to_be_visible()
        for _ in client.load(CHAT, ttl=600):
            pass
        expect(output).to_contain_text("after 10 min")
        picture(page, "loaded")
        command(page, "notebook:interrupt-kernel")
        expect(done(page.locator(".jp-CodeCell").nth(1))).to_be_visible()
        output.get_by_role("button", name="Unload").click()
        # The text beside the panel says so all the time.
        wait_for(lambda: client.ps() == [], "the end of the model")
        expect(output).to_contain_text("No model is loaded.")

        # The page is reloaded: the panel is the kernel's, and goes on.
        save(page)
        page.reload()
        wait_until_ready(page)
        expect(output).to_contain_text("No model is loaded.")
        for _ in client.load(CHAT):
            pass
        expect(output.get_by_role("button", name="Unload")).to_be_visible()
        # Not by a click: those are not always heard after a reload (README, Panels).
        client.unload(CHAT)
        expect(output).to_contain_text("No model is loaded.")
        # The kernel is restarted: the panel has no kernel any more, and leaves its text behind.
        still = page.get_by_text("The lmnb panel is live")
        expect(still).to_be_hidden()
        command(page, "kernelmenu:restart")
        page.locator(".jp-Dialog .jp-mod-accept").click()
        expect(still).to_be_visible()
        expect(output.get_by_role("tab").first).to_be_hidden()
        wait_until_ready(page)


@pytest.mark.parametrize("subshells", ["perCommTarget", "disabled"])
@pytest.mark.parametrize("kernel", ["python3", "ipykernel6"])
def test_a_panel_beside_a_cell_that_runs(
    jupyter: Jupyter, request: pytest.FixtureRequest, kernel: str, subshells: str
) -> None:
    usual = (kernel, subshells) == ("python3", "perCommTarget")
    if not usual and not request.config.getoption("--full"):
        pytest.skip("takes long; runs with --full")
    if kernel == "ipykernel6":
        install_ipykernel_6(jupyter)
    jupyter.configure("apputils-extension/kernels-settings", {"commsOverSubshells": subshells})
    signal = jupyter.folder / "go"
    signal.unlink(missing_ok=True)
    busy = "import pathlib, time\nwhile not pathlib.Path('go').exists(): time.sleep(0.05)"
    jupyter.write(
        "clicks.ipynb",
        "%load_ext lmnb\n%lm ui loaded",
        busy,
        f"%%claude -m {CHAT} --max-tokens 6000 --temperature 0\nWrite a very long story about the sea.",
        "import ipykernel; ipykernel.__version__",
        kernel=kernel,
    )
    client = jupyter.home.attach()
    client.unload(all=True)
    with jupyter.opened("clicks.ipynb") as page:
        output = run_cell(page, 0).locator(PANEL)
        expect(output).to_contain_text("No model is loaded.")
        assert output.get_by_role("tab").count() == 0
        prompt = run_cell(page, 1).locator(".jp-InputPrompt")
        expect(prompt).to_have_text("[*]:")
        for _ in client.load(CHAT):
            pass
        expect(output).to_contain_text(f"{CHAT} llm")
        expect(prompt).to_have_text("[*]:")
        # Which thread hears a click, and when, is up to the kernel; it is heard once.
        output.get_by_role("button", name="Unload").click()
        signal.touch()
        expect(output).to_contain_text("No model is loaded.")
        expect(prompt).to_have_text("[2]:")
        answer = run_cell(page, 2)
        expect(answer.locator(".jp-RenderedMarkdown")).to_contain_text("▌")
        expect(output).to_contain_text("busy, 1 now")
        page.get_by_role("button", name="Interrupt the kernel").click()
        expect(answer).to_contain_text("⏹ interrupted")
        expect(output).to_contain_text("idle")
        version = run_cell(page, 3)
        expect(version).to_contain_text("6." if kernel == "ipykernel6" else "7.")


GALLERY = (
    "%load_ext lmnb",
    "%%claude -n 2 --seed 1 --max-tokens 30\nTell me about the sea.",
    "%%openai --logprobs --max-tokens 30\nTell me about the sea.",
    "%lm",
    "%lm ui",
)
_OVERFLOWING = """
[...document.querySelectorAll('.jp-OutputArea-output *')]
    .filter(one => one.checkVisibility() && !one.closest('table'))
    .filter(one => one.getBoundingClientRect().right
        > one.closest('.jp-OutputArea-output').getBoundingClientRect().right + 1)
    .map(one => one.outerHTML.slice(0, 200))
"""
"""Of outputs: what stands out to the right, but for tables, which can be scrolled."""


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "theme", "width"),
    [("phone", "JupyterLab Light", 390), ("dark", "JupyterLab Dark", 1280)],
)
def test_it_looks_well(jupyter: Jupyter, name: str, theme: str, width: int) -> None:
    jupyter.configure("apputils-extension/themes", {"theme": theme})
    jupyter.write("gallery.ipynb", *GALLERY)
    with jupyter.opened("gallery.ipynb", width) as page:
        command(page, "application:toggle-left-area")
        expect(page.locator("#jp-left-stack")).to_be_hidden()
        command(page, "notebook:run-all-cells")
        output = page.locator(".jp-CodeCell").nth(4).locator(PANEL)
        expect(output).to_contain_text(f"{CHAT} llm")
        tabs = output.get_by_role("tab")
        for number in range(tabs.count()):
            tabs.nth(number).click()
            expect(tabs.nth(number)).to_have_attribute("aria-selected", "true")
            picture(page, f"{name}-{tabs.nth(number).inner_text()}")
            assert page.evaluate(_OVERFLOWING) == []
        page.locator(".jp-CodeCell").nth(1).scroll_into_view_if_needed()
        picture(page, f"{name}-answers")


def test_a_model_is_fetched_by_clicks(jupyter: Jupyter, hub: FakeHub, tmp_path: Path) -> None:
    """From a search to a loaded model."""
    weights = made_models.llama(tmp_path / "made.gguf").read_bytes()
    whole = size(len(weights))
    hub.repositories["maker/Nice-GGUF"] = Repository(
        {f"Nice-{name}.gguf": weights for name in ("Q4_K_M", "Q8_0")}
    )
    jupyter.write("get.ipynb", "%load_ext lmnb\n%lm ui get")
    client = jupyter.home.attach()
    with jupyter.opened("get.ipynb") as page:
        output = run_cell(page, 0).locator(PANEL)
        expect(output).to_contain_text(f"It is here, as {CHAT}.")
        search = output.get_by_label("Search")
        search.fill("nice")
        search.press("Enter")
        output.get_by_label("Variants").select_option(label=f"Q8_0 · {whole} · ✓ fits")
        expect(output).to_contain_text(f"maker/Nice-GGUF@q8_0: {whole} to download")
        hub.release.clear()
        output.get_by_role("button", name="Get").click()
        expect(output).to_contain_text(f"50% · {size(len(weights) // 2)} of {whole}")
        picture(page, "get")
        output.get_by_role("button", name="Pause").click()
        expect(output).to_contain_text("paused at ")
        output.get_by_role("button", name="Resume").click()
        expect(output.get_by_role("button", name="Pause")).to_be_visible()
        hub.release.set()
        expect(output).to_contain_text(f"is here: {whole}")
        output.get_by_role("button", name="Load").last.click()
        expect(output).to_contain_text("maker/nice is loaded (")
        expect(output).to_contain_text(f"is here: {whole}, and loaded")
        picture(page, "got")
    client.unload(all=True)


def test_the_port_is_opened_and_closed_by_clicks(jupyter: Jupyter) -> None:
    jupyter.write("server.ipynb", "%load_ext lmnb\n%lm ui server")
    client = jupyter.home.attach()
    for _ in client.load(CHAT):
        pass
    with jupyter.opened("server.ipynb") as page:
        output = run_cell(page, 0).locator(PANEL)
        expect(output).to_contain_text("Not listening.")
        output.get_by_label("Use it from").select_option(label="curl")
        expect(output).to_contain_text("Start the server, and the lines to copy are here.")
        output.get_by_role("button", name="Start").click()
        expect(output).to_contain_text("Listening on http://127.0.0.1:")
        url = client.handshake()["listening"]
        expect(output.locator("pre")).to_contain_text(f"curl {url}/v1/chat/completions")
        expect(output.locator("pre")).to_contain_text(CHAT)
        picture(page, "server")
        output.get_by_role("button", name="Stop").click()
        expect(output).to_contain_text("Not listening.")
        wait_for(lambda: client.handshake()["listening"] is None, "the port to be closed")


def end_answer(output: Locator) -> None:
    """Click Stop, which cannot be clicked any more where the answer has just ended by itself."""
    output.get_by_role("button", name="Stop").dispatch_event("click")


def test_a_chat_is_stopped_and_branched_by_clicks(jupyter: Jupyter) -> None:
    jupyter.write("chat.ipynb", "%load_ext lmnb\n%lm ui chat")
    client = jupyter.home.attach()
    for _ in client.load(CHAT):
        pass
    with jupyter.opened("chat.ipynb") as page:
        output = run_cell(page, 0).locator(PANEL)
        box = output.get_by_placeholder("Message")
        question = "Write a very long story about the sea."
        box.fill(question)
        output.get_by_role("button", name="Send").click()
        expect(output).to_contain_text("▌")
        end_answer(output)
        expect(output).not_to_contain_text("▌")
        wait_for(lambda: not any(row["active"] for row in client.ps()), "the server to stop")
        picture(page, "chat")
        # Another question in its place: both are there, as branches.
        output.get_by_role("button", name="Branch").first.click()
        expect(box).to_have_value(question)
        box.fill("Hello.")
        output.get_by_role("button", name="Send").click()
        expect(output).to_contain_text("2 of 2")
        expect(output.get_by_role("button", name="Send")).to_be_enabled()
        output.get_by_role("button", name="‹").click()
        expect(output).to_contain_text("1 of 2")
        expect(output).to_contain_text(question)
