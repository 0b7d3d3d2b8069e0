"""`--bg`: an answer that comes while other cells run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lmnb.errors import LmnbError
from lmnb.notebook.api import Api
from lmnb.notebook.exchange import Exchange
from lmnb.notebook.models import ready
from lmnb.notebook.output import Bundle, shell
from lmnb.notebook.parsing import parsed
from lmnb.notebook.question import Question
from lmnb.notebook.reply import Reply, bundle

if TYPE_CHECKING:
    from lmnb.client import Client

_running: list[Background] = []


class Background:
    """An answer under way. `str()` of it is what has come so far.

    The ■ button does not stop it; `stop()` does, and so does `%lm stop`, which stops all.
    """

    def __init__(self, question: Question, client: Client, keep: Callable[[Reply], None]) -> None:
        from lmnb.notebook.cuttable import Cuttable

        self._question = question
        self._keep = keep
        self._line = Cuttable(client)
        self._exchange = Exchange(question.request.turns)
        self._ended = threading.Event()
        self._cell = shell().execution_count
        self.reply: Reply | None = None
        """The answer, once it has ended or was stopped."""
        self.error: LmnbError | None = None
        """Why there is none, or why it has no value."""

    @property
    def text(self) -> str:
        """What has come."""
        return self._exchange.answer.text

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self._ended.is_set()

    def begin(self, api: Callable[[], Api], model: str) -> None:
        """Start. Its place in the notebook is below the running cell."""
        self._exchange.answer.reserve()
        _running.append(self)
        # Without this context, what the thread sends belongs to whatever cell runs then: nbclient hears
        # nothing else. Its outputs are found by their display ids, so they stay in their cell.
        threading.Thread(target=self._run, args=(api, model), daemon=True).start()

    def stop(self) -> None:
        """Stop it, and keep what has come. Nothing happens if it has ended."""
        self._line.cut()

    def wait(self, timeout: float | None = None) -> Reply:
        """The answer, once it is there; `timeout` in seconds.

        Raises
        ------
        TimeoutError
            It is still coming.
        LmnbError
            There is none.
        """
        if not self._ended.wait(timeout):
            raise TimeoutError("The answer is still coming.")
        if self.error is not None:
            raise self.error
        assert self.reply is not None
        return self.reply

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        state = "running" if not self.done else "failed" if self.reply is None else "done"
        return f"<answer in the background, {state}: {self.text[:60]!r}>"

    def _ipython_display_(self) -> None:
        """Show nothing in its own cell, where it streams."""
        if self._cell != getattr(shell(), "execution_count", None):
            raise NotImplementedError

    def _repr_mimebundle_(self, **_: Any) -> Bundle:
        return self.reply.bundle() if self.reply is not None else bundle(self.text)

    def _run(self, api: Callable[[], Api], model: str) -> None:
        try:
            self._answer(api, model)
        except LmnbError as error:
            if not self._line.is_cut:
                self.error = error
        finally:
            self._end()

    def _answer(self, api: Callable[[], Api], model: str) -> None:
        asked, client = self._exchange, self._line.client
        with asked.answer.streaming():
            found = ready(client, model, asked.answer.waiting)
            asked.answer.waiting("Importing the SDK")
            module = api()
            resource = module.connect(client)
        asked.run(module, resource, self._question.request._replace(model=found.identifier), found)

    def _end(self) -> None:
        asked = self._exchange
        try:
            if self.error is not None:
                asked.answer.break_off(str(self.error))
                return
            reply = asked.reply(interrupted=asked.answer.end is None)
            if not reply.interrupted:
                reply, self.error = parsed(reply, self._question.schema, complete=asked.complete)
            self.reply = reply
            asked.answer.finish(reply)
            self._keep(reply)
        finally:
            _running.remove(self)
            self._ended.set()


def stop_all() -> int:
    """Stop what is running in this notebook; how many there were."""
    stopped = list(_running)
    for one in stopped:
        one.stop()
    return len(stopped)
