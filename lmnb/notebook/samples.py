"""`-n N`: several answers to one question, side by side."""

from __future__ import annotations

import contextvars
import html
import threading
from collections.abc import Iterable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, overload

from lmnb.errors import LmnbError
from lmnb.notebook.api import Api, Part, Request
from lmnb.notebook.collected import Collected
from lmnb.notebook.models import Ready
from lmnb.notebook.output import Bundle, Live, Output, shell
from lmnb.notebook.parsing import parsed
from lmnb.notebook.reply import Reply, Timings
from lmnb.notebook.schemas import Schema
from lmnb.notebook.turns import Turn

if TYPE_CHECKING:
    from lmnb.client import Client
    from lmnb.notebook.cuttable import Cuttable

_FAREWELL = 2.0
"""Seconds for threads to end after their connections were cut."""


class Samples(Sequence[Reply]):
    """Replies to the same question, in the order of their seeds."""

    # No tuple: IPython would show it as one.
    def __init__(self, replies: Iterable[Reply]) -> None:
        self._replies = tuple(replies)

    def __len__(self) -> int:
        return len(self._replies)

    @overload
    def __getitem__(self, index: int) -> Reply: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Reply, ...]: ...
    def __getitem__(self, index: int | slice) -> Reply | tuple[Reply, ...]:
        return self._replies[index]

    def __repr__(self) -> str:
        return f"<{len(self)} answers of {self[0].model}>"

    def _ipython_display_(self) -> None:
        """Show nothing in the cell that has streamed them; see `Reply`."""
        if self[0].shown_in != getattr(shell(), "execution_count", None):
            raise NotImplementedError

    def _repr_mimebundle_(self, **_: Any) -> Bundle:
        return self.bundle()

    def bundle(self) -> Bundle:
        """A column each, in plain text below each other."""
        return _columns([(reply.text, reply.footer()) for reply in self])


class Sampling:
    """Some requests under way. The main thread waits, so that ■ reaches it.

    Each has a thread, a connection and, if a seed was given, the next seed.
    """

    def __init__(
        self, client: Client, api: Api, request: Request, count: int, model: Ready
    ) -> None:
        from lmnb.notebook.cuttable import Cuttable

        self._model = model
        self._turns = tuple(request.turns)
        self._output = Output()
        self._live = Live(self._output, self._draw)
        self._columns = [
            _Column(Cuttable(client), api, _numbered(request, number), self._live.touch)
            for number in range(count)
        ]

    def run(self) -> None:
        """Have all of them answered.

        Raises
        ------
        LmnbError
            One of them failed; what has come is shown.
        """
        with self._live.running():
            try:
                for column in self._columns:
                    column.start()
                for column in self._columns:
                    column.wait()
            except BaseException:
                for column in self._columns:
                    column.stop()
                raise
        failures = [column.error for column in self._columns if column.error is not None]
        if failures:
            if any(column.text for column in self._columns):
                self._output.show(Samples(map(self._reply, self._columns)).bundle())
            else:
                self._output.clear()
            raise failures[0]

    def finish(self, schema: Schema | None = None, *, interrupted: bool = False) -> Samples:
        """What has come, shown in its last state. Answers that do not fit have no value."""
        wanted = None if interrupted else schema
        samples = Samples(
            parsed(self._reply(column), wanted, complete=column.complete)[0]
            for column in self._columns
        )
        self._output.show(samples.bundle())
        return samples

    def _reply(self, column: _Column) -> Reply:
        step = column.step()
        turn: Turn = {"role": "assistant", "content": step.text}
        return Reply(
            text=step.text,
            thinking=step.thinking,
            model=self._model.identifier,
            stop_reason=step.stop_reason,
            usage=step.usage,
            timings=Timings(column.first, column.generation, self._model.load_seconds),
            interrupted=column.end is None,
            conversation=(*self._turns, turn) if step.text else self._turns[:-1],
            steps=(step,),
            shown_in=shell().execution_count,
        )

    def _draw(self) -> Bundle | None:
        texts = [(column.text, "") for column in self._columns]
        return _columns(texts) if any(text for text, _ in texts) else None


class _Column(Collected):
    """One of the answers, and the thread that hears it."""

    def __init__(self, line: Cuttable, api: Api, request: Request, touch: Any) -> None:
        super().__init__()
        self._line = line
        self._api = api
        self._request = request
        self._touch = touch
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._hear,), daemon=True)
        self.error: LmnbError | None = None

    def start(self) -> None:
        self._thread.start()

    def wait(self) -> None:
        while self._thread.is_alive():
            # In pieces, since a wait without end would keep ■ away on some systems.
            self._thread.join(0.2)

    def stop(self) -> None:
        self._line.cut()
        if self._thread.ident is not None:
            self._thread.join(_FAREWELL)

    def add(self, part: Part) -> None:
        super().add(part)
        self._touch()

    def _hear(self) -> None:
        try:
            resource = self._api.connect(self._line.client)
            self.sent()
            with closing(self._api.stream(resource, self._request)) as parts:
                for part in parts:
                    self.add(part)
        except LmnbError as error:
            if not self._line.is_cut:
                self.error = error


def _numbered(request: Request, number: int) -> Request:
    return request if request.seed is None else request._replace(seed=request.seed + number)


def _columns(texts: Sequence[tuple[str, str]]) -> Bundle:
    """Texts, with a line below each."""
    style = 'style="text-align: left; vertical-align: top; white-space: pre-wrap"'
    cells = "".join(
        f"<td {style}>{html.escape(text)}<br><small>{html.escape(line)}</small></td>"
        for text, line in texts
    )
    heads = "".join(f"<th {style}>{number}</th>" for number in range(1, len(texts) + 1))
    plain = "\n\n".join(
        f"── {number} ──\n{text}" + (f"\n[{line}]" if line else "")
        for number, (text, line) in enumerate(texts, 1)
    )
    return {
        "text/html": f"<table><thead><tr>{heads}</tr></thead><tr>{cells}</tr></table>",
        "text/plain": plain,
    }
