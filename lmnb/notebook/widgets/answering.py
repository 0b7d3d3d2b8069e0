"""An answer for the panel *Chat*, under way on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import closing

from lmnb.attaching import attach
from lmnb.client import Client
from lmnb.errors import LmnbError, ServerError
from lmnb.notebook.api import Request
from lmnb.notebook.collected import Collected
from lmnb.notebook.cuttable import Cuttable
from lmnb.notebook.defaults import default
from lmnb.notebook.reply import Reply, Timings
from lmnb.notebook.turns import Turn

_DEFAULTS = ("system", "temperature", "top_p", "max_tokens", "seed", "thinking")


class Answering:
    """Asks, and collects what comes. Both callbacks are called on its thread.

    changed
        More has come.
    ended
        Nothing more will come: the answer is whole or was stopped, or there was an error.
    """

    def __init__(
        self,
        model: str,
        turns: Sequence[Turn],
        *,
        changed: Callable[[], None],
        ended: Callable[[LmnbError | None], None],
    ) -> None:
        self.collected = Collected()
        self.is_stopped = False
        self._model = model
        self._turns = turns
        self._changed = changed
        self._ended = ended
        self._line: Cuttable | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """End it at once, also while the prompt is being read. From any thread."""
        self.is_stopped = True
        if self._line is not None:
            self._line.cut()

    def footer(self) -> str:
        """How it came about, as below an answer in a cell."""
        step = self.collected.step()
        return Reply(
            step.text,
            self._model,
            stop_reason=step.stop_reason,
            usage=step.usage,
            timings=Timings(self.collected.first, self.collected.generation),
            interrupted=self.is_stopped and step.stop_reason is None,
        ).footer()

    def _run(self) -> None:
        error: LmnbError | None = None
        try:
            self._ask()
        except LmnbError as found:
            error = found
        except Exception as found:  # noqa: BLE001 - a traceback would end in a log that nobody sees
            error = ServerError(f"lmnb has a fault: {found!r}.")
        # What was cut fails like a server that has gone, in whatever way.
        self._ended(None if self.is_stopped else error)

    def _ask(self) -> None:
        self._line = Cuttable(attach())
        with closing(self._line.client) as client:
            if not self.is_stopped:
                self._collect(client)

    def _collect(self, client: Client) -> None:
        from lmnb.notebook import chat_completions  # The SDK takes a second to import.

        given = {name: default(name) for name in _DEFAULTS}
        resource = chat_completions.connect(client)
        self.collected.sent()
        request = Request(self._model, self._turns, **given)
        with closing(chat_completions.stream(resource, request)) as parts:
            for part in parts:
                self.collected.add(part)
                self._changed()
