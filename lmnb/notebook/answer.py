"""An answer while it comes: collected by the main thread, drawn by another."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lmnb.notebook.api import End, Part, Thinking
from lmnb.notebook.markdown import CURSOR, balance, for_jupyter
from lmnb.notebook.output import Bundle, Elapsed, Live, Output, is_notebook, show
from lmnb.notebook.reply import Reply, bundle, folded, footer_bundle


class Answer:
    """Collects text and thinking, measures, and shows both as they grow.

    A notebook shows Markdown that is redrawn; a terminal gets the text as it comes.
    """

    def __init__(self) -> None:
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._output = Output()
        self._live = Live(self._output, self._draw)
        self._notebook = is_notebook()
        self._status = ""
        self._waited = Elapsed()
        self._sent = Elapsed()
        self._last = 0.0
        self.first: float | None = None
        """Seconds from the request to the first part."""
        self.end: End | None = None

    @property
    def text(self) -> str:
        """What has come of the answer."""
        return "".join(self._text)

    @property
    def thinking(self) -> str:
        """What has come of the thinking."""
        return "".join(self._thinking)

    @property
    def generation(self) -> float:
        """Seconds from the first part to the last."""
        return 0.0 if self.first is None else self._last - self.first

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

    def sent(self) -> None:
        """The request goes out now."""
        self._sent = Elapsed()

    def add(self, part: Part) -> None:
        """A part of the answer has come."""
        if isinstance(part, End):
            self.end = part
            return
        self._last = self._sent()
        if self.first is None:
            self.first = self._last
        if isinstance(part, Thinking):
            self._thinking.append(part.text)
        else:
            self._text.append(part.text)
            if not self._notebook:
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
            show(footer_bundle(reply.footer()))
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
            show(footer_bundle("✗ the answer ends here because of an error"))
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
