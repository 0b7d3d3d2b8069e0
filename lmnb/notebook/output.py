"""The one door through which magics show anything.

A notebook output is published once and then updated in place through its display id: it never
flickers, and the saved notebook holds its last state. A terminal has no display ids; there a
line is overwritten, or, if the output goes to a file, only the last state is written.
"""

from __future__ import annotations

import contextvars
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

Bundle: TypeAlias = dict[str, str]
"""What to show, by MIME type. `text/plain` is always there in a final state."""

NOTHING: Bundle = {"text/html": "", "text/plain": ""}
"""Takes no room, being HTML; as text alone it would be an empty line."""

_BYTES_PER_SECOND = 150_000
"""Each update sends the whole text again. Jupyter drops output beyond 1 MB/s; stay far below."""


def shell() -> Any:
    """The running IPython shell, or None outside of IPython."""
    from IPython.core.getipython import get_ipython

    return get_ipython()


def is_notebook() -> bool:
    """Whether what is shown goes to a front end that knows display ids."""
    return getattr(shell(), "kernel", None) is not None


def redraw_seconds() -> float:
    """The least time between two updates. VS Code lays the output out anew for each one."""
    return 0.2 if "__vsc_ipynb_file__" in getattr(shell(), "user_ns", {}) else 0.08


def rest(bundle: Bundle) -> float:
    """Seconds to wait after sending this, so that the wire stays below the limit."""
    return sum(len(text.encode()) for text in bundle.values()) / _BYTES_PER_SECOND


def show(bundle: Bundle) -> None:
    """Show something that stays as it is."""
    Output().show(bundle)


def note(text: str) -> None:
    """Show a line of plain text."""
    show({"text/plain": text})


_vacant: list[tuple[object, str]] = []
"""The cell and the display id of an output that was cleared: the next one takes its place, so that
no empty output stays in the notebook."""


def _new_id() -> str:
    return os.urandom(16).hex()


class Output:
    """One output of the running cell; each `show` replaces what the last one showed."""

    def __init__(self) -> None:
        self._notebook = is_notebook()
        self._id = _new_id()
        self._published = False
        self._width = 0

    def show(self, bundle: Bundle, metadata: dict[str, Any] | None = None) -> None:
        """Show the final state. In a terminal this is the plain text and the end of the line."""
        if self._notebook:
            self._publish(bundle, metadata)
        else:
            sys.stdout.write(self._overwrite(bundle["text/plain"]) + "\n")
            sys.stdout.flush()

    def show_widget(self, model_id: str) -> None:
        """Show a widget, in a notebook; nothing where nobody knows of widgets."""
        view = {"version_major": 2, "version_minor": 0, "model_id": model_id}
        self._publish({**NOTHING, "application/vnd.jupyter.widget-view+json": view}, None)

    def draft(self, bundle: Bundle) -> None:
        """Show an intermediate state."""
        if self._notebook:
            self._publish(bundle, None)
        elif sys.stdout.isatty():
            line = bundle["text/plain"]
            sys.stdout.write(self._overwrite(line))
            sys.stdout.flush()
            self._width = len(line)

    def clear(self) -> None:
        """Take an intermediate state away again."""
        if self._notebook and self._published:
            self._publish(NOTHING, None)
            self._published = False
            _vacant[:] = [(self._cell(), self._id)]
            self._id = _new_id()
        elif self._width:
            sys.stdout.write(self._overwrite("") + "\r")
            self._width = 0

    def _cell(self) -> object:
        return getattr(shell(), "execution_count", None)

    def _overwrite(self, line: str) -> str:
        return f"\r{line.ljust(self._width)}" if self._width else line

    def _publish(self, bundle: Mapping[str, Any], metadata: dict[str, Any] | None) -> None:
        if not self._published and _vacant and _vacant[0][0] == self._cell():
            self._id, self._published = _vacant.pop()[1], True
        update, self._published = self._published, True
        shell().display_pub.publish(
            data=bundle,
            metadata=metadata or {},
            transient={"display_id": self._id},
            update=update,
        )


class Live:
    """Keeps an output up to date from a thread of its own while the main thread works or waits.

    The main thread changes its own state and calls `touch`; `draw` turns that state into what is
    shown. So nothing is missed while the main thread waits for a silent server, and an interrupt,
    which only ever reaches the main thread, cannot cut a message to the front end in two.
    """

    def __init__(self, output: Output, draw: Callable[[], Bundle | None]) -> None:
        self._output = output
        self._draw = draw
        self._changed = threading.Event()
        self._stopped = threading.Event()

    def touch(self) -> None:
        """Say that there is something new to draw."""
        self._changed.set()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Redraw as long as the block runs; afterwards nothing more is drawn."""
        self._stopped.clear()
        # The thread inherits the context, and with it the cell its output belongs to.
        context = contextvars.copy_context()
        thread = threading.Thread(target=context.run, args=(self._redraw,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            self._changed.set()
            thread.join()

    def _redraw(self) -> None:
        last: Bundle | None = None
        while not self._stopped.is_set():
            self._changed.wait(0.25)
            self._changed.clear()
            if self._stopped.is_set():
                return
            bundle = self._draw()
            if bundle is None or bundle == last:
                continue
            self._output.draft(bundle)
            last = bundle
            self._stopped.wait(max(redraw_seconds(), rest(bundle)))


class Elapsed:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() - self._start
