"""An answer while it comes: collected by the main thread, drawn by another."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lmnb.notebook.api import Part, Text
from lmnb.notebook.collected import Collected
from lmnb.notebook.markdown import CURSOR, balance, for_jupyter
from lmnb.notebook.output import NOTHING, Bundle, Elapsed, Live, Output, is_notebook
from lmnb.notebook.reply import Reply, bundle, folded, footer_bundle


class Answer(Collected):
    """Shows text and thinking as they grow.

    A notebook shows Markdown that is redrawn; a terminal gets the text as it comes.
    """

    def __init__(self) -> None:
        super().__init__()
        self._output = Output()
        self._live = Live(self._output, self._draw)
        self._notebook = is_notebook()
        self._footer = Output()
        self._status = ""
        self._waited = Elapsed()

    def reserve(self) -> None:
        """Take the place in the notebook now; what comes later may come while another cell runs."""
        self._output.draft(NOTHING)
        self._footer.draft(NOTHING)

    def break_off(self, why: str) -> None:
        """The answer ends in an error that nobody else shows."""
        self._output.show(bundle(self.text, self.thinking) if self.text else NOTHING)
        self._footer.show(footer_bundle(f"✗ {why}"))

    @contextmanager
    def streaming(self) -> Iterator[None]:
        """Show the answer as it grows while the block runs."""
        with self._live.running():
            yield

    def waiting(self, status: str) -> None:
        """Say what is being waited for; it is shown if it takes a second."""
        if status != self._status:
            self._status, self._waited = status, Elapsed()
        self._live.touch()

    def add(self, part: Part) -> None:
        """A part of the answer has come."""
        super().add(part)
        if isinstance(part, Text) and not self._notebook:
            self._type(part.text)
        self._live.touch()

    def settle(self) -> None:
        """Show the last state of an answer that is not the cell's last."""
        if not self._notebook:
            sys.stdout.write("\n" if self.text and not self.text.endswith("\n") else "")
        elif self.text.strip() or self.thinking:
            self._output.show(bundle(self.text, self.thinking))
        else:
            self._output.clear()

    def finish(self, reply: Reply) -> None:
        """Show the last state, and the footer."""
        if self._notebook:
            if self.text or self.thinking:
                self._output.show(reply.bundle(), reply.metadata())
            else:
                self._output.clear()
            self._footer.show(footer_bundle(reply.footer()))
        else:
            gap = "\n" if self.text and not self.text.endswith("\n") else ""
            sys.stdout.write(f"{gap}[{reply.footer()}]\n")
            sys.stdout.flush()

    def fail(self) -> None:
        """The answer ends in an error: show what came, if anything did, and that it is not all."""
        if not self.text:
            self._output.clear()
        elif self._notebook:
            self._output.show(bundle(self.text, self.thinking))
            self._footer.show(footer_bundle("✗ the answer ends here because of an error"))
        else:
            sys.stdout.write("\n")

    def _type(self, text: str) -> None:
        if len(self._text) == 1:
            self._output.clear()
        sys.stdout.write(text)
        sys.stdout.flush()

    def _draw(self) -> Bundle | None:
        text, thinking = self.text, self.thinking
        if text:
            if not self._notebook:
                return None
            return {"text/markdown": folded(thinking) + for_jupyter(balance(text, CURSOR))}
        seconds = self._waited()
        if seconds < 1 or not self._status:
            return None
        status = f"Thinking · {len(thinking.split())} words" if thinking else self._status
        return {"text/plain": f"⏳ {status} · {seconds:.0f} s"}
