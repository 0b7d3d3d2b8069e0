"""A real JupyterLab (or Notebook 7) and a real Chromium, for tests: one of each for a whole file."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

import nbformat
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from server_home import ServerHome

import lmnb

PATIENCE = 90.0
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_SETTINGS: dict[str, dict[str, Any]] = {
    # Cells out of sight are otherwise not in the page.
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
_OPEN = {
    "jupyterlab": ("lab/tree/", "--LabApp.expose_app_in_browser=True"),
    "notebook": ("notebooks/", "--JupyterNotebookApp.expose_app_in_browser=True"),
}
"""For each application: where its notebooks are, and what lets a test give it commands."""
CONTEXT = "window.jupyterapp?.shell?.currentWidget?.sessionContext"
"""In the page: what ties the notebook to its kernel."""


def find_chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Jupyter:
    """A JupyterLab that serves `folder`, a browser, and the home of the lmnb server in `kernels`' sight.

    address
        Of JupyterLab.
    """

    def __init__(
        self, folder: Path, home: ServerHome, application: str, **environment: str
    ) -> None:
        self.folder = folder
        self.home = home
        self.private = folder / ".jupyter"
        self._application = application
        for name, values in _SETTINGS.items():
            self.configure(name, values)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self._variables = {
            **os.environ,
            "LMNB_HOME": str(home.path),
            "JUPYTERLAB_SETTINGS_DIR": str(self.private / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(self.private / "workspaces"),
            "JUPYTER_PATH": str(self.private / "jupyter"),
            "IPYTHONDIR": str(self.private / "ipython"),
            # Kernels start in `folder`; lmnb may be imported from the source tree.
            "PYTHONPATH": str(Path(lmnb.__file__).parents[1]),
            **environment,
        }

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve while the block runs, with a browser."""
        command = [
            *(sys.executable, "-m", self._application, "--no-browser", "--allow-root"),
            *(f"--port={self.address.rpartition(':')[2]}", "--ip=127.0.0.1"),
            *("--ServerApp.port_retries=0", f"--ServerApp.root_dir={self.folder}"),
            *("--IdentityProvider.token=", "--ServerApp.password="),
            *("--ServerApp.disable_check_xsrf=True", _OPEN[self._application][1]),
        ]
        path = self.private / "lab.log"
        with path.open("wb") as log:
            process = subprocess.Popen(command, env=self._variables, stdout=log, stderr=log)
        try:
            _wait_for(self.address + "/api/status", process, path)
            with sync_playwright() as playwright:
                self._browser: Browser = playwright.chromium.launch(
                    executable_path=find_chromium(), args=list(FLAGS)
                )
                yield
                self._browser.close()
        finally:
            process.terminate()
            process.wait(30)

    def configure(self, name: str, values: dict[str, Any]) -> None:
        """Set what the user can, for the pages that are opened from now on."""
        path = self.private / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))

    def write(self, name: str, *cells: str, kernel: str = "python3") -> Path:
        """Put a notebook into the folder."""
        v4: Any = nbformat.v4
        notebook = v4.new_notebook(
            cells=[v4.new_code_cell(source) for source in cells],
            metadata={"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}},
        )
        path = self.folder / name
        path.write_text(v4.writes(notebook))
        return path

    @contextmanager
    def opened(
        self, name: str, width: int = 1280, height: int = 900, *, kernel: bool = True
    ) -> Iterator[Page]:
        """A page with the notebook, whose kernel is ready; without a `kernel` nothing is waited for.

        In the end the page is closed, and every kernel ended.
        """
        page = self._browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(PATIENCE * 1000)
        expect.set_options(timeout=PATIENCE * 1000)
        try:
            page.goto(f"{self.address}/{_OPEN[self._application][0]}{name}?reset")
            if kernel:
                wait_until_ready(page)
            yield page
        finally:
            page.close()
            self._end_kernels()

    def _end_kernels(self) -> None:
        with urllib.request.urlopen(f"{self.address}/api/kernels", timeout=30) as answer:
            found = json.load(answer)
        for one in found:
            url = f"{self.address}/api/kernels/{one['id']}"
            urllib.request.urlopen(
                urllib.request.Request(url, method="DELETE"), timeout=PATIENCE
            ).close()


def wait_until_ready(page: Page) -> None:
    """Wait for the notebook's kernel, which may be busy with a cell that began before."""
    expect(page.locator(".jp-Notebook-ExecutionIndicator").first).to_have_attribute(
        "data-status", "idle"
    )
    # What is run before the kernel has said who it is, is dropped without a word.
    page.evaluate(f"{CONTEXT}.ready.then(() => {CONTEXT}.session.kernel.info).then(() => true)")


def command(page: Page, name: str) -> None:
    """Start a command of JupyterLab, not waiting for its end."""
    page.evaluate(f"void window.jupyterapp.commands.execute('{name}')")


def run_cell(page: Page, number: int) -> Locator:
    """Start the cell of that number, from 0, as a click on ▶ does."""
    found = page.locator(".jp-CodeCell").nth(number)
    found.locator(".cm-content").click()
    command(page, "notebook:run-cell")
    return found


def save(page: Page) -> None:
    """Save the notebook, and wait for it."""
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save').then(() => true)")


def cell(page: Page, start: str) -> Locator:
    """The first cell that begins with this text."""
    editor = page.locator(".cm-line:first-child", has_text=start)
    return page.locator(".jp-CodeCell").filter(has=editor).first


def done(found: Locator) -> Locator:
    """The prompt of a cell that has run: a number in brackets."""
    return found.locator(".jp-InputPrompt").filter(has_text=re.compile(r"\[\d+\]:"))


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except (URLError, ConnectionError):
            time.sleep(0.1)
        else:
            return
