"""The quick start and ■ in a real JupyterLab in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from server_home import ServerHome
from test_notebook_quickstart import NOTEBOOK, free_port

jupyter_lab = pytest.importorskip("jupyter_lab", reason="Playwright is not installed")

if jupyter_lab.find_chromium() is None:
    pytest.skip("Chromium is not installed", allow_module_level=True)

from jupyter_lab import browser_page, command, lab, open_notebook  # noqa: E402
from playwright.sync_api import Locator, Page, expect  # noqa: E402


@pytest.fixture
def page() -> Iterator[Page]:
    with browser_page() as page:
        yield page


def cell(page: Page, start: str) -> Locator:
    """The first cell that begins with this text."""
    editor = page.locator(".cm-line:first-child", has_text=start)
    return page.locator(".jp-CodeCell").filter(has=editor).first


def done(found: Locator) -> Locator:
    """The prompt of a cell that has run: a number in brackets."""
    return found.locator(".jp-InputPrompt").filter(has_text="]:")


def write(path: Path, *cells: str) -> None:
    v4: Any = nbformat.v4
    notebook = v4.new_notebook(
        cells=[v4.new_code_cell(source) for source in cells],
        metadata={
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}
        },
    )
    path.write_text(v4.writes(notebook))


def test_quick_start(fresh_home: ServerHome, tmp_path: Path, page: Page) -> None:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    shutil.copy(NOTEBOOK, folder)
    with lab(folder, LMNB_PORT=str(free_port())) as address:
        open_notebook(page, address, NOTEBOOK.name)
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


def test_the_stop_button_stops_run_all(fresh_home: ServerHome, tmp_path: Path, page: Page) -> None:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    write(
        folder / "stop.ipynb",
        "%load_ext lmnb",
        "%%claude --max-tokens 4000 -o story\nWrite a very long story about a dragon.",
        "print('this must not run')",
    )
    with lab(folder) as address:
        open_notebook(page, address, "stop.ipynb")
        command(page, "notebook:run-all-cells")
        story = cell(page, "%%claude")
        answer = story.locator(".jp-RenderedMarkdown").first
        page.wait_for_function(
            "text => document.querySelector('.jp-RenderedMarkdown')?.innerText.length > 60", arg=""
        )
        page.get_by_role("button", name="Interrupt the kernel").click()
        expect(story.locator(".jp-OutputArea")).to_contain_text("⏹ interrupted")
        expect(story.locator(".jp-OutputArea")).to_contain_text("Interrupted: what came")
        assert "▌" not in answer.inner_text()
        assert len(answer.inner_text()) > 30
        queued = cell(page, "print")
        expect(queued.locator(".jp-InputPrompt")).to_have_text("[ ]:")
        assert queued.locator(".jp-OutputArea-output").count() == 0
        wait = page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]")
        expect(wait).to_be_visible()


def test_money_is_no_formula(tmp_path: Path, page: Page) -> None:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    text = r"It costs $5 to $10, but \(x^2\) and $y^3$ are formulas. `$a $b` is code."
    write(
        folder / "money.ipynb",
        f"from lmnb.notebook.reply import Reply\nReply(text={text!r}, model='m')",
    )
    with lab(folder) as address:
        open_notebook(page, address, "money.ipynb")
        command(page, "notebook:run-all-cells")
        shown = page.locator(".jp-RenderedMarkdown").first
        expect(shown.locator("mjx-container")).to_have_count(2)
        expect(shown).to_contain_text("It costs $5 to $10, but")
        expect(shown.locator("code")).to_have_text("$a $b")
