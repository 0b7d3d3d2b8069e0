"""Notebook 7, which has JupyterLab's parts in another house: an answer, ■ and the panels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import packages
import pytest
from server_home import CHAT, ServerHome, link_models

import lmnb

jupyter_lab = pytest.importorskip("jupyter_lab", reason="Playwright is not installed")

if jupyter_lab.find_chromium() is None:
    pytest.skip("Chromium is not installed", allow_module_level=True)

from jupyter_lab import Jupyter, run_cell  # noqa: E402
from playwright.sync_api import expect  # noqa: E402

REQUIREMENTS = Path(__file__).parent / "requirements" / "notebook_7.txt"

pytestmark = pytest.mark.full


@pytest.fixture
def notebook(
    tmp_path: Path, models_cache: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Jupyter]:
    site = packages.site(REQUIREMENTS)
    own = ServerHome(tmp_path / "home")
    link_models(models_cache, own.path)
    monkeypatch.setenv("LMNB_HOME", str(own.path))
    folder = tmp_path / "notebooks"
    folder.mkdir()
    path = os.pathsep.join((str(site), str(Path(lmnb.__file__).parents[1])))
    shared = str(site.parents[2] / "share" / "jupyter")
    found = Jupyter(folder, own, "notebook", PYTHONPATH=path, JUPYTER_PATH=shared)
    with found.running():
        yield found
    own.close()
    own.wait_until_empty()


def test_cells_and_panels(notebook: Jupyter) -> None:
    notebook.write(
        "seven.ipynb",
        f"%load_ext lmnb\n%lm load {CHAT}\n%lm ui",
        "%%claude --max-tokens 6000 --temperature 0\nWrite a very long story about the sea.",
        "%lm show",
    )
    with notebook.opened("seven.ipynb") as page:
        output = run_cell(page, 0).locator(".lmnb-live")
        expect(output.get_by_role("tab").first).to_be_visible()
        expect(page.get_by_text("The lmnb panel is live")).to_be_hidden()
        output.get_by_role("tab", name="Loaded").click()
        expect(output).to_contain_text(f"{CHAT} llm")
        answer = run_cell(page, 1)
        expect(answer.locator(".jp-RenderedMarkdown")).to_contain_text("▌")
        expect(output).to_contain_text("busy, 1 now")
        page.get_by_role("button", name="Interrupt the kernel").click()
        expect(answer).to_contain_text("⏹ interrupted")
        expect(run_cell(page, 2)).to_contain_text("⏹ interrupted")
        output.get_by_role("button", name="Unload").click()
        expect(output).to_contain_text("No model is loaded.")
