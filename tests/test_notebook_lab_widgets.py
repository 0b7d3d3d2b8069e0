"""The panels in a real JupyterLab in a real browser, with the real model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from server_home import CHAT, ServerHome

jupyter_lab = pytest.importorskip("jupyter_lab", reason="Playwright is not installed")

if jupyter_lab.find_chromium() is None:
    pytest.skip("Chromium is not installed", allow_module_level=True)

from jupyter_lab import browser_page, command, lab, open_notebook  # noqa: E402
from playwright.sync_api import Page, expect  # noqa: E402
from test_notebook_lab import write  # noqa: E402

PICTURES = os.environ.get("LMNB_TEST_PICTURES")
"""A folder for screenshots, for whoever wants to look at them."""


def picture(page: Page, name: str) -> None:
    if PICTURES:
        page.screenshot(path=str(Path(PICTURES) / f"{name}.png"))


def test_a_model_is_loaded_by_clicks_and_followed(fresh_home: ServerHome, tmp_path: Path) -> None:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    write(folder / "ui.ipynb", "%load_ext lmnb\n%lm ui", "import time; time.sleep(600)")
    with lab(folder) as address, browser_page() as page:
        open_notebook(page, address, "ui.ipynb")
        command(page, "notebook:run-cell")
        output = page.locator(".jp-OutputArea").first
        expect(output.get_by_role("tab")).to_contain_text(["Loaded", "Load"])
        expect(output).to_contain_text("No model is loaded.")
        output.get_by_role("tab", name="Load", exact=True).click()
        output.get_by_label("Model").select_option(label=f"{CHAT} · 98.4 MB")
        expect(output).to_contain_text("of memory (weights")
        slider = output.locator(".widget-slider", has_text="Context").locator(".noUi-handle")
        slider.focus()
        for _ in range(2):
            slider.press("ArrowRight")
        expect(output).to_contain_text("context 1024 tokens")
        picture(page, "load")
        output.locator("button.mod-primary").click()
        expect(output).to_contain_text(f"{CHAT} is loaded (")

        output.get_by_role("tab", name="Loaded").click()
        expect(output).to_contain_text("context 1024 tokens")
        # Another program loads it anew with a TTL; a cell that runs is no obstacle.
        page.locator(".jp-Cell").nth(1).click()
        command(page, "notebook:run-cell")
        expect(page.locator(".jp-InputPrompt", has_text="[*]:")).to_be_visible()
        client = fresh_home.attach()
        for _ in client.load(CHAT, ttl=600):
            pass
        expect(output).to_contain_text("unloads in")
        picture(page, "loaded")
