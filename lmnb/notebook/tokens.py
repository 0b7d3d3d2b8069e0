"""How sure the model was of each token: as a table, and as colours."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lmnb.errors import NotFound
from lmnb.notebook.output import Bundle

if TYPE_CHECKING:
    import pandas as pd

_PLAIN = 10
"""The least certain tokens, so many, stand for the colours in plain text."""
_LONGEST = 5000
"""Tokens that are coloured; each takes some 150 bytes of the saved notebook."""


class Token(NamedTuple):
    """A token of an answer. Logarithms to the base e; alternatives the likeliest first."""

    token: str
    logprob: float
    alternatives: tuple[tuple[str, float], ...] = ()

    @property
    def probability(self) -> float:
        """0 to 1."""
        return math.exp(self.logprob)


def frame(tokens: Sequence[Token]) -> pd.DataFrame:
    """A row for each token: `token`, `logprob` and `alternatives` (token: log probability).

    Raises
    ------
    NotFound
        There are none.
    """
    _need(tokens)
    import pandas as pd

    rows = [(one.token, one.logprob, dict(one.alternatives)) for one in tokens]
    return pd.DataFrame(rows, columns=["token", "logprob", "alternatives"])


class Heatmap:
    """The text of an answer. The redder a token, the less sure the model was of it.

    Static HTML that needs no kernel; in plain text, the least certain tokens.
    """

    def __init__(self, tokens: Sequence[Token]) -> None:
        _need(tokens)
        self._tokens = tokens

    def _repr_mimebundle_(self, **_: Any) -> Bundle:
        return self.bundle()

    def bundle(self) -> Bundle:
        """What is shown."""
        spans = "".join(map(_span, self._tokens[:_LONGEST]))
        left = len(self._tokens) - _LONGEST
        more = f"<small>… {left} more tokens</small>" if left > 0 else ""
        least = sorted(self._tokens, key=lambda one: one.logprob)[:_PLAIN]
        listed = ", ".join(f"{one.token!r} {one.probability:.0%}" for one in least)
        return {
            "text/html": f'<div style="white-space: pre-wrap">{spans}</div>{more}',
            "text/plain": f"Least certain tokens: {listed}",
        }


def _span(one: Token) -> str:
    # Over the page's own colour, so that it suits light and dark themes.
    opacity = round(0.75 * (1 - one.probability), 2)
    others = "".join(f"\n{token!r} {math.exp(logprob):.1%}" for token, logprob in one.alternatives)
    title = html.escape(f"{one.token!r} {one.probability:.1%}{others}").replace("\n", "&#10;")
    colour = f"background: rgba(225, 60, 40, {opacity})"
    return f'<span style="{colour}" title="{title}">{html.escape(one.token)}</span>'


def _need(tokens: Sequence[Token]) -> None:
    if not tokens:
        raise NotFound(
            "This answer has no log probabilities.", hint="%%openai --logprobs asks for them."
        )
