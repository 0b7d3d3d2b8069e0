"""What has come of an answer, and when."""

from __future__ import annotations

from lmnb.notebook.api import End, Part, Thinking
from lmnb.notebook.output import Elapsed
from lmnb.notebook.reply import Step
from lmnb.notebook.tokens import Token


class Collected:
    """Puts the parts of an answer together, and measures."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._tokens: list[Token] = []
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

    @property
    def complete(self) -> bool:
        """Whether the model ended it, rather than a limit."""
        return self.end is not None and self.end.complete

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
            self._tokens.extend(part.tokens)

    def step(self) -> Step:
        """What has come, as a part of a reply."""
        end = self.end
        return Step(
            self.text,
            self.thinking,
            stop_reason=end.stop_reason if end else None,
            usage=end.usage if end else None,
            logprobs=tuple(self._tokens),
            raw=end.raw if end else None,
        )
