"""How calls of tools are shown while they run, and when they are done."""

from __future__ import annotations

import html
import json
from typing import Any

from lmnb.notebook.output import Bundle, Elapsed, Output, is_notebook, show
from lmnb.notebook.tools import Toolbox, ToolRun
from lmnb.notebook.turns import Call

_WIDE = 80
"""Characters of a result that stand on the line; more are folded away."""
_LONG = 4000
_PLAIN = 300
"""Characters of a result that are shown at all, folded and as plain text. The model gets them all."""


def run_shown(toolbox: Toolbox, call: Call) -> ToolRun:
    """Run a call, with its arguments and then its result in sight.

    In a notebook one output shows both; in a terminal, where the function may print between them,
    each has a line.
    """
    written = spelled(call)
    output = Output()
    if is_notebook():
        output.draft({"text/html": _html(f"{written} …"), "text/plain": f"⚙ {written} …"})
    else:
        show({"text/plain": f"⚙ {written}"})
    elapsed = Elapsed()
    try:
        run = toolbox.run(call)
    except BaseException:
        output.show(_stopped(written))
        raise
    output.show(_done(written, run, elapsed()))
    return run


def skipped(call: Call, reason: str) -> None:
    """Show a call that is not run."""
    text = f"{spelled(call)} – {reason}"
    show({"text/html": _html(text), "text/plain": f"⚙ {text}"})


def spelled(call: Call) -> str:
    """The call as Python has it: `weather(city='Ulm', days=3)`."""
    try:
        arguments = json.loads(call["arguments"] or "{}")
        inside = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    except (ValueError, AttributeError):
        inside = call["arguments"]
    return f"{call['name']}({_shortened(inside, 300)})"


def _done(written: str, run: ToolRun, seconds: float) -> Bundle:
    mark = "→" if run.error is None else "✗"
    text = run.text if run.error is None else run.error
    took = f" ({seconds:.1f} s)" if seconds >= 1 else ""
    plain = f"{mark} {_shortened(text, _PLAIN)}{took}"
    if not is_notebook():
        return {"text/plain": f"  {plain}"}
    short = len(text) <= _WIDE and "\n" not in text
    head = text if short else _shortened(text.strip().splitlines()[0], _WIDE)
    line = f"{_html_code(written)} {mark} {_html_code(head)}{took}"
    body = f"<small>⚙ {line}</small>"
    if not short:
        shown = html.escape(_shortened(text, _LONG))
        full = f'<pre style="white-space: pre-wrap">{shown}</pre>'
        body = f"<details><summary>{body}</summary>{full}</details>"
    return {"text/html": body, "text/plain": f"⚙ {written} {plain}"}


def _stopped(written: str) -> Bundle:
    if not is_notebook():
        return {"text/plain": "  ⏹ interrupted"}
    return {
        "text/html": f"<small>⚙ {_html_code(written)} ⏹ interrupted</small>",
        "text/plain": f"⚙ {written} ⏹ interrupted",
    }


def _html(text: str) -> str:
    return f"<small>⚙ {_html_code(text)}</small>"


def _html_code(text: Any) -> str:
    return f"<code>{html.escape(str(text))}</code>"


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]} … ({len(text)} characters)"
