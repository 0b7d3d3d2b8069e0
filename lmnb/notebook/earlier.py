"""`--cells N`: the last cells of the notebook, with what they have printed, as context."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from lmnb.notebook.code import fenced
from lmnb.notebook.conversations import replies
from lmnb.notebook.output import shell

_SOURCE = 4000
_OUTPUT = 2000
"""Characters of a cell, and of what it printed, that are shown to the model."""

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def earlier_cells(count: int) -> str:
    """The last `count` cells that were run before this one; empty if there are none."""
    running = shell()
    *sources, _this = running.history_manager.input_hist_raw
    # Some versions of IPython count a cell up before it runs, others after it.
    ahead = running.execution_count - len(sources)
    numbered = [(number, source) for number, source in enumerate(sources) if source.strip()]
    if not count or not numbered:
        return ""
    answers = {reply.shown_in: reply.text for reply in replies()}
    cells = [
        _cell(number, source, answers.get(number + ahead, ""))
        for number, source in numbered[-count:]
    ]
    return "\n\n".join(["Earlier cells of my notebook:", *cells, ""])


def _cell(number: int, source: str, answer: str) -> str:
    text = f"In [{number}]:\n{fenced(_bounded(source.strip(), _SOURCE), 'python')}"
    output = "\n".join(filter(None, (part.strip("\n") for part in (*_printed(number), answer))))
    if output:
        text += f"\nIts output:\n{fenced(_bounded(_COLOURS.sub('', output), _OUTPUT))}"
    return text


def _printed(number: int) -> Iterator[str]:
    """What IPython has kept, in order, and how the cell failed."""
    history: Any = shell().history_manager
    for output in history.outputs.get(number, ()):
        shown = output.bundle
        yield "".join(shown["stream"]) if "stream" in shown else shown.get("text/plain", "")
    if failure := history.exceptions.get(number):
        yield f"{failure['ename']}: {failure['evalue']}"


def _bounded(text: str, most: int) -> str:
    """Both ends, if it is too long: what failed stands at the end."""
    if len(text) <= most:
        return text
    return f"{text[: most // 2]}\n… ({len(text)} characters)\n{text[-most // 2 :]}"
