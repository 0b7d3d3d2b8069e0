"""What a grammar has to offer to the generator, the sampler and the drafts."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Row = NDArray[np.float32]


def only(token: int, row: Row) -> None:
    """Forbid all but this token, which has not been forbidden then, whoever did so."""
    logit = row[token]
    row.fill(-np.inf)
    row[token] = 0 if logit == -np.inf else logit


class Constraint(Protocol):
    """The grammar of one answer, at the place the answer has reached.

    Every token of the answer, sampled or forced, goes through `accept`; nothing else advances it.
    """

    @property
    def begun(self) -> bool:
        """Whether the answer that it binds has begun. What is thought before is none of its business."""

    @property
    def finished(self) -> bool:
        """Whether only the end of the text may follow."""

    def mask(self, row: Row) -> None:
        """Set the logits of forbidden tokens to -inf, in place. `row` is (vocabulary,)."""

    def accept(self, token: int) -> None:
        """Advance by a token.

        Raises
        ------
        LmnbError
            The grammar does not allow it: an error of the engine.
        """

    def forced(self) -> list[int]:
        """The next tokens, as far as the grammar leaves no choice about them; at most 64."""

    def allowed(self, tokens: list[int]) -> int:
        """How many of these, in order, the grammar would accept."""
