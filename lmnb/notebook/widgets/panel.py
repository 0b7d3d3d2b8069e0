"""What all panels have: a place for failures, and work in the background."""

from __future__ import annotations

import html
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Self, TypeVar

import ipywidgets

from lmnb.attaching import attach
from lmnb.client import Client
from lmnb.errors import LmnbError, ServerError
from lmnb.follow import State
from lmnb.notebook.failures import in_magics
from lmnb.notebook.output import Bundle
from lmnb.notebook.status import ps
from lmnb.notebook.table import joined, paragraph
from lmnb.notebook.widgets.stage import Stage, Task

T = TypeVar("T")

_RED = "var(--jp-error-color1, #c62828)"


class Panel(ABC):
    """A panel on a stage. Its widgets change on the stage's thread only.

    root
        What is displayed.
    state
        What the server said last; None if there is no server.
    """

    title: str

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.state: State | None = None
        self.failure = text()
        self.root = column(*self.build(), self.failure)
        stage.add(self)

    @abstractmethod
    def build(self) -> list[Any]:
        """The widgets, from above to below."""

    @abstractmethod
    def draw(self, state: State) -> None:
        """Show the server's state."""

    @staticmethod
    def summary(client: Client) -> Bundle:
        """What is to be read in the panel's place where no kernel runs, as of now."""
        return joined(paragraph("What was loaded when it was shown:"), ps(client.ps()))

    def left(self) -> Bundle | None:
        """What is to be read besides once it is closed."""
        return None

    def resume(self, former: Self) -> None:  # noqa: B027 - most panels keep nothing to themselves
        """Go on where a panel that is closed now was."""

    def tick(self) -> None:  # noqa: B027 - most panels count nothing
        """A second has passed."""

    def follow(self, state: State | None) -> None:
        """Show the server's state; with no server, an empty one."""
        self.state = state
        self.guarded(lambda: self.draw(state or _NOTHING))

    def close(self) -> None:
        """Take the widgets away."""
        self.stage.remove(self)
        self.stage.post(lambda: close_tree(self.root))

    def act(
        self,
        work: Callable[[Client], T],
        then: Callable[[T], None] | None = None,
        *,
        failed: Callable[[LmnbError], None] | None = None,
        button: Any = None,
    ) -> None:
        """Do something that takes time, on a thread of its own.

        `then` gets the result, `failed` (default: it is shown) the error, on the stage's thread.
        `button` cannot be pressed meanwhile.
        """
        self.post(lambda: self._begin(button))
        arguments = (work, then, failed or self.fail, button)
        threading.Thread(target=self._work, args=arguments, daemon=True).start()

    def post(self, task: Task) -> None:
        """Have something done on the stage's thread; what goes wrong there is shown, too."""
        self.stage.post(lambda: self.guarded(task))

    def guarded(self, task: Task) -> None:
        """Do it now; what goes wrong is shown."""
        try:
            task()
        except Exception as error:  # noqa: BLE001 - a traceback would end in a log that nobody sees
            self.fail(_fault(error))

    def fail(self, error: LmnbError) -> None:
        """Show what went wrong, until the next thing is done."""
        show(self.failure, failure(error))

    def _begin(self, button: Any) -> None:
        show(self.failure, "")
        if button is not None:
            button.disabled = True

    def _work(
        self,
        work: Callable[[Client], T],
        then: Callable[[T], None] | None,
        failed: Callable[[LmnbError], None],
        button: Any,
    ) -> None:
        outcome: Task | None = None
        try:
            result = work(attach())
        except LmnbError as error:
            outcome = partial(failed, error)
        except Exception as error:  # noqa: BLE001 - as in `guarded`
            outcome = partial(failed, _fault(error))
        else:
            if then is not None:
                outcome = partial(then, result)
        if button is not None:
            self.post(lambda: setattr(button, "disabled", False))
        if outcome is not None:
            self.post(outcome)


_NOTHING: State = {
    "loaded": [],
    "loading": [],
    "unloading": [],
    "resting": [],
    "listener": None,
    "requests": [],
    "downloads": [],
    "tokens": [],
    "settings": {},
}


def text(value: str = "") -> Any:
    """A place for HTML, which takes no room while it is empty."""
    place = ipywidgets.HTML()
    show(place, value)
    return place


def show(place: Any, value: str) -> None:
    """Put HTML into a place."""
    place.value = value
    place.layout.display = None if value else "none"


def hide(widget: Any, *, unless: bool) -> None:
    """Take a widget away, or show it."""
    widget.layout.display = None if unless else "none"


def column(*children: Any) -> Any:
    """Widgets below each other."""
    return ipywidgets.VBox(children, layout=ipywidgets.Layout(width="100%"))


def row(*children: Any) -> Any:
    """Widgets side by side, on a narrow screen below each other."""
    layout = ipywidgets.Layout(flex_flow="row wrap", align_items="center", width="100%")
    return ipywidgets.HBox(children, layout=layout)


def wide() -> dict[str, Any]:
    """Arguments of a widget with a description that is to be read whole, on phones too."""
    return {
        "layout": ipywidgets.Layout(width="min(100%, 34em)"),
        "style": {"description_width": "8em"},
    }


def sliding() -> dict[str, Any]:
    """As `wide`, for a slider: on a phone it stands below its description, to be long enough."""
    found = wide()
    found["layout"].height, found["layout"].flex_flow = "auto", "row wrap"
    return found


def offer(choice: Any, names: list[str]) -> None:
    """Names to choose from; the chosen one stays while it is among them, else it is the first."""
    if names == list(choice.options):
        return
    chosen = choice.value
    choice.options = names
    if names:
        choice.value = chosen if chosen in names else names[0]


def failure(error: LmnbError) -> str:
    """An error as HTML."""
    hint = f"<br>{html.escape(in_magics(error.hint))}" if error.hint else ""
    return f'<span style="color: {_RED}">{html.escape(in_magics(error.message))}</span>{hint}'


def close_tree(widget: Any) -> None:
    """Close a widget and all in it: ipywidgets keeps every one that was ever made."""
    for child in getattr(widget, "children", ()):
        close_tree(child)
    for part in (getattr(widget, "layout", None), getattr(widget, "style", None), widget):
        if part is not None:
            part.close()


def _fault(error: Exception) -> LmnbError:
    return ServerError(f"lmnb has a fault: {error!r}.")
