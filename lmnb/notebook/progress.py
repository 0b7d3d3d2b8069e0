"""A progress bar that ends as a line of text."""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import contextmanager

from lmnb.notebook.output import Bundle, Elapsed, Live, Output


class Progress:
    """What a long command is doing. The main thread sets it, the display follows by itself.

    The bar appears only when the command takes longer than a moment. `finish` replaces it by a
    line that stays, so that the saved notebook holds a sentence and no dead bar.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.fraction: float | None = None
        self.detail = ""
        self._elapsed = Elapsed()
        self._output = Output()
        self._live = Live(self._output, self._draw)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show the bar while the block runs, and take it away if the block fails."""
        try:
            with self._live.running():
                yield
        except BaseException:
            self._output.clear()
            raise

    def remove(self) -> None:
        """Leave nothing behind. Call it after the block."""
        self._output.clear()

    def set(self, fraction: float | None, detail: str = "") -> None:
        """`fraction` is from 0 to 1; None is "nobody knows"."""
        self.fraction, self.detail = fraction, detail
        self._live.touch()

    def finish(self, bundle: Bundle) -> None:
        """What stays. Call it after the block."""
        self._output.show(bundle)

    def seconds(self) -> float:
        """How long it has taken so far."""
        return self._elapsed()

    def _draw(self) -> Bundle | None:
        if self._elapsed() < 0.3:
            return None
        value = "" if self.fraction is None else f' value="{self.fraction:.3f}"'
        share = "" if self.fraction is None else f"{self.fraction:.0%}"
        waited = f"{self._elapsed():.0f} s" if not self.detail and self._elapsed() >= 1 else ""
        text = " · ".join(part for part in (share, self.detail, waited) if part)
        return {
            "text/html": f"<div>{html.escape(self.label)} <progress max=1{value}></progress>"
            f" {html.escape(text)}</div>",
            "text/plain": f"{self.label} {text}".rstrip(),
        }


@contextmanager
def transient(label: str) -> Iterator[None]:
    """A bar without an end for something that should take no time; nothing of it stays."""
    progress = Progress(label)
    with progress.running():
        yield
    progress.remove()
