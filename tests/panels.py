"""What tests of panels have in common: no front end, a server of its own, a scripted model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from made_models.scripted import MARKERS, Answer, scripted
from server_home import ServerHome, wait_for

from lmnb.engine.options import Segment
from lmnb.notebook.widgets.panel import Panel
from lmnb.notebook.widgets.stage import Stage

TALKS = "made-that-talks"
GREEN, THINKS, LONG = MARKERS[:3]
"""What stands in a message decides the answer."""
STORY = "\n\n".join(f"{number}. part of *{number * 7}*." for number in range(1, 30))
_TEMPLATE = (Path(__file__).parent / "templates" / "json_in_tags.jinja").read_text()
_CONTROLS = ("<|system|>", "<|user|>", "<|bot|>", "<|tool|>", "<|tools|>", "<call>", "</call>")


def talking_model(folder: Path) -> Path:
    """It answers at once, the same words each time."""
    return scripted(
        folder / "talks.gguf",
        [
            Answer("The **sea** is blue."),
            Answer("It is green.", GREEN),
            Answer(
                [Segment("<think>\nHm, hm."), Segment("\n</think>\n\n"), Segment("Forty-two.")],
                THINKS,
            ),
            Answer(STORY, LONG),
        ],
        template=_TEMPLATE,
        controls=_CONTROLS,
        end="<|end|>",
        seed=None,
        context=16384,
    )


@contextmanager
def stage_of(server: ServerHome) -> Iterator[Stage]:
    """A stage whose panels follow this server."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMNB_HOME", str(server.path))
        found = Stage()
        yield found
        found.close()


def opened(panel: Panel) -> Any:
    """The panel, once it knows of the server."""
    wait_for(lambda: panel.state is not None, "the first state")
    return panel
