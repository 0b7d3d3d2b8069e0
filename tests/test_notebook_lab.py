"""Cells in a real JupyterLab in a real browser, with the real model."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from run_notebooks import FOLDER
from server_home import CHAT, wait_for

jupyter_lab = pytest.importorskip("jupyter_lab", reason="Playwright is not installed")

if jupyter_lab.find_chromium() is None:
    pytest.skip("Chromium is not installed", allow_module_level=True)

from jupyter_lab import (  # noqa: E402
    CONTEXT,
    Jupyter,
    cell,
    command,
    done,
    run_cell,
    save,
    wait_until_ready,
)
from playwright.sync_api import Locator, Page, expect  # noqa: E402

LOAD = f"%load_ext lmnb\n%lm load {CHAT}"
# The likeliest tokens go round in circles: it does not end while a test runs.
STORY = "%%claude --new --max-tokens 6000 --temperature 0 -o story\nWrite a very long story about the sea."


def tell_story(page: Page) -> Locator:
    """Run all cells, until a story is coming in one; that cell."""
    command(page, "notebook:run-all-cells")
    story = cell(page, "%%claude")
    shown = story.locator(".jp-RenderedMarkdown").first
    expect(shown).to_have_text(re.compile(r".{60,}▌", re.DOTALL))
    return story


def stop(page: Page) -> None:
    page.get_by_role("button", name="Interrupt the kernel").click()


def assert_has_not_run(page: Page, start: str) -> None:
    queued = cell(page, start)
    expect(queued.locator(".jp-InputPrompt")).to_have_text("[ ]:")
    assert queued.locator(".jp-OutputArea-output").count() == 0
    expect(page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]")).to_be_visible()


def test_quick_start(jupyter: Jupyter) -> None:
    shutil.copy(FOLDER / "quickstart.ipynb", jupyter.folder)
    with jupyter.opened("quickstart.ipynb") as page:
        command(page, "notebook:run-all-cells")
        answer = cell(page, "%%openai").locator(".jp-RenderedMarkdown").first
        seen: list[str] = []
        while not seen or "▌" in seen[-1]:
            text = answer.inner_text()
            if not seen or text != seen[-1]:
                seen.append(text)
        # It was seen to grow, and the cursor has gone.
        assert len(seen) > 2
        assert [len(text) for text in seen[:-1]] == sorted(len(text) for text in seen[:-1])

        last = cell(page, "%lm serve --stop")
        expect(last.locator(".jp-OutputArea")).to_contain_text("Unloaded", timeout=280_000)
        assert page.locator(".jp-OutputArea-output[data-mime-type*=error]").count() == 0
        footer = cell(page, "%%openai").locator("small")
        expect(footer).to_contain_text("tokens/s")
        expect(cell(page, "%lm serve").locator(".jp-OutputArea")).to_contain_text("Listening on")
        expect(page.locator(".jp-RenderedHTML table")).to_contain_text("all 30 layers")
        # Bars and status lines are gone; what remains are sentences.
        assert page.locator("progress").count() == 0
        assert page.get_by_text("⏳").count() == 0


def test_the_stop_button_and_a_reload_while_an_answer_comes(jupyter: Jupyter) -> None:
    jupyter.write("story.ipynb", LOAD, STORY, "print('this must not run')", "%lm show")
    with jupyter.opened("story.ipynb") as page:
        story = tell_story(page)
        answer = story.locator(".jp-RenderedMarkdown").first
        stop(page)
        expect(story.locator(".jp-OutputArea")).to_contain_text("⏹ interrupted")
        expect(story.locator(".jp-OutputArea")).to_contain_text("Interrupted: what came")
        assert "▌" not in answer.inner_text()
        assert len(answer.inner_text()) > 30
        assert_has_not_run(page, "print")

        tell_story(page)
        save(page)
        page.reload()
        # What had come when the notebook was saved is there. The kernel goes on.
        expect(answer).to_contain_text("▌")
        before = answer.inner_text().rstrip("▌\n ")
        page.wait_for_function(f"{CONTEXT}?.session?.kernel")
        stop(page)
        wait_until_ready(page)
        again = run_cell(page, 3).locator(".jp-OutputArea")
        expect(again).to_contain_text("⏹ interrupted")
        whole = again.locator(".jp-RenderedMarkdown").inner_text()
        assert whole.startswith(before)
        assert len(whole) > len(before)


def test_the_stop_button_stops_the_reading_of_a_prompt(jupyter: Jupyter) -> None:
    jupyter.write(
        "book.ipynb",
        f"{LOAD}\nbook = ' '.join(map(str, range(1500)))",
        "%%openai --new\n{{book}}",
        "print('this must not run')",
    )
    with jupyter.opened("book.ipynb") as page:
        run_cell(page, 0)
        expect(done(cell(page, "%load_ext"))).to_be_visible()
        client = jupyter.home.attach()
        command(page, "notebook:run-all-cells")
        wait_for(lambda: any(row["active"] for row in client.ps()), "the prefill")
        stop(page)
        read = cell(page, "%%openai").locator(".jp-OutputArea")
        expect(read).to_contain_text("Interrupted: nothing of the answer had come yet")
        expect(read).not_to_contain_text("⏳")
        assert_has_not_run(page, "print")
        wait_for(lambda: not any(row["active"] for row in client.ps()), "the server to stop")


def test_a_page_that_is_reloaded_after_an_answer_and_a_kernel_that_is_restarted(
    jupyter: Jupyter,
) -> None:
    jupyter.write("again.ipynb", LOAD, "%%claude --new --max-tokens 12 -o reply\nHello.", "reply")
    with jupyter.opened("again.ipynb") as page:
        command(page, "notebook:run-all-cells")
        expect(done(cell(page, "reply"))).to_be_visible()
        answer, footer = (
            cell(page, "%%claude").locator(f".jp-Rendered{kind}").first.inner_text()
            for kind in ("Markdown", "HTMLCommon >> small")
        )
        save(page)
        page.reload()
        wait_until_ready(page)
        shown = cell(page, "%%claude")
        expect(shown.locator(".jp-RenderedMarkdown")).to_have_text(answer)
        expect(shown.locator("small")).to_have_text(footer)
        # The same kernel: it still knows the answer.
        again = run_cell(page, 2)
        expect(done(again)).to_have_text("[4]:")
        expect(again.locator(".jp-RenderedMarkdown")).to_have_text(answer)

        (worker,) = jupyter.home.workers()
        command(page, "kernelmenu:restart")
        page.locator(".jp-Dialog .jp-mod-accept").click()
        expect(page.locator(".jp-Dialog")).to_have_count(0)
        wait_until_ready(page)
        run_cell(page, 0)
        expect(cell(page, "%load_ext")).to_contain_text("is loaded already")
        expect(done(run_cell(page, 1))).to_have_text("[2]:")
        # Nothing had to be loaded: server and model have lived on.
        expect(shown.locator("small")).not_to_contain_text("loaded in")
        assert jupyter.home.workers() == [worker]


def test_a_notebook_that_was_saved_reads_well(
    jupyter: Jupyter, request: pytest.FixtureRequest
) -> None:
    path = jupyter.write(
        "kept.ipynb", LOAD, "%%openai --new --max-tokens 8\nHello.", "%lm ui", "%lm ps"
    )
    with jupyter.opened("kept.ipynb") as page:
        command(page, "notebook:run-all-cells")
        expect(done(cell(page, "%lm ps"))).to_be_visible()
        panel = cell(page, "%lm ui").locator(".jp-OutputArea")
        expect(panel.get_by_role("tab").first).to_be_visible()
        # Beside a panel that is alive there is no word of one that is not.
        expect(panel.get_by_text("The lmnb panel is live")).to_be_hidden()
        answer = cell(page, "%%openai").locator(".jp-RenderedMarkdown").inner_text()
        save(page)
    with jupyter.opened("kept.ipynb") as page:  # with another kernel
        expect(page.locator(".jp-mod-trusted").first).to_be_visible()
        assert_reads_well(page, answer)
    if not request.config.getoption("--full"):
        return
    _move_to_another_machine(path)
    with jupyter.opened("kept.ipynb", kernel=False) as page:
        page.locator(".jp-Dialog .jp-mod-reject").click()  # no kernel at all
        assert_reads_well(page, answer)


def assert_reads_well(page: Page, answer: str) -> None:
    expect(cell(page, "%%openai").locator(".jp-RenderedMarkdown")).to_have_text(answer)
    expect(cell(page, "%%openai").locator("small")).to_contain_text(CHAT)
    panel = cell(page, "%lm ui").locator(".jp-OutputArea")
    expect(panel.get_by_text("The lmnb panel is live")).to_be_visible()
    expect(panel.locator("table")).to_contain_text(CHAT)
    expect(panel.get_by_text("widget")).to_be_hidden()
    expect(cell(page, "%lm ps").locator("table")).to_contain_text(CHAT)


def _move_to_another_machine(path: Path) -> None:
    """Where there is no such kernel, and nobody trusts the notebook."""
    notebook: dict[str, Any] = json.loads(path.read_text())
    notebook["metadata"] = {"kernelspec": {"name": "elsewhere", "display_name": "Elsewhere"}}
    path.write_text(json.dumps(notebook))


def test_money_is_no_formula(jupyter: Jupyter) -> None:
    text = r"It costs $5 to $10, but \(x^2\) and $y^3$ are formulas. `$a $b` is code."
    jupyter.write(
        "money.ipynb", f"from lmnb.notebook.reply import Reply\nReply(text={text!r}, model='m')"
    )
    with jupyter.opened("money.ipynb") as page:
        command(page, "notebook:run-all-cells")
        shown = page.locator(".jp-RenderedMarkdown").first
        expect(shown.locator("mjx-container")).to_have_count(2)
        expect(shown).to_contain_text("It costs $5 to $10, but")
        expect(shown.locator("code")).to_have_text("$a $b")
