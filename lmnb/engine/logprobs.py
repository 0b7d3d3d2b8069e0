"""Log probabilities of tokens, as the protocols report them."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from lmnb.engine.constraint import Row
from lmnb.engine.model import Model
from lmnb.engine.options import TokenLogprob
from lmnb.engine.sampling import best, peaks


def logprob(row: Row, token: int, top: int, model: Model) -> TokenLogprob:
    """The token's log probability and those of the `top` most likely, best first.

    `row`, (vocabulary,), are the model's logits before any bias, penalty, grammar or temperature:
    the probabilities are the model's own, as OpenAI reports them, and a token that a bias forced
    can be a very unlikely one.
    """
    highest = row.max()
    shares = row - highest
    np.exp(shares, out=shares)
    normaliser = float(highest) + math.log(float(shares.sum()))

    def entry(candidate: int) -> tuple[str, bytes, float]:
        raw = model.pieces[candidate]
        return raw.decode("utf-8", "replace"), raw, float(row[candidate]) - normaliser

    text, raw, value = entry(token)
    return TokenLogprob(text, raw, value, tuple(entry(candidate) for candidate in _top(row, top)))


def _top(row: Row, count: int) -> list[int]:
    """Ids of the highest logits, highest first, equal ones by id."""
    if not count:
        return []
    ids = best(row, peaks(row), count)
    return ids[np.lexsort((ids, -row[ids]))][:count].tolist()  # type: ignore[no-any-return]


def certain(token: int, top: int, model: Model) -> TokenLogprob:
    """The entry of a token about which there was no choice: probability 1."""
    raw = model.pieces[token]
    text = raw.decode("utf-8", "replace")
    return TokenLogprob(text, raw, 0.0, ((text, raw, 0.0),) if top else ())


def spelled(entry: TokenLogprob, token: int, model: Model) -> TokenLogprob:
    """The entry of a prompt's token: of a control token with the text that the prompt has for it."""
    text = "" if entry.raw else model.text(token)
    return msgspec.structs.replace(entry, token=text, raw=text.encode()) if text else entry
