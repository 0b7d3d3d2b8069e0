"""What is in the KV cache, and how a prompt finds the prefix it shares with it.

Each *slot* is a stream of its own in llama.cpp's cache, with room for a whole context: attention
looks at one sequence's cells only, which on a CPU (and in CUDA's flash attention) is much faster
than masking everybody else's. A slot keeps its tokens when its request ends, so that the next turn
of a chat goes on in place. What a slot must give up for another request is saved to host memory,
and a prefix that another slot holds is copied the same way: saved once, restored where it is
wanted. Both are memory copies, hundreds of times faster than computing the prefix again.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]
_EMPTY: Tokens = np.empty(0, np.int32)

_WORTH_SAVING = 128
"""Tokens that would be lost from which on a slot is saved before it is reused."""
_WORTH_RESTORING = 32
"""Tokens of a common prefix from which on it is copied instead of computed."""
_MOST_WASTE = 16
"""A copy holds the whole saved sequence; it pays while that is at most so many times the prefix."""


class States(Protocol):
    """What is needed of the KV cache (`Context` has it)."""

    can_trim: bool

    def trim(self, slot: int, length: int) -> int:
        """Drop all tokens of a slot after the first `length`; how many it has now."""

    def size(self, slot: int) -> int:
        """Bytes of a copy of a slot's cells."""

    def save(self, slot: int) -> NDArray[np.uint8]:
        """A copy of a slot's cells."""

    def restore(self, slot: int, data: NDArray[np.uint8]) -> bool:
        """Replace a slot's cells by a saved copy; False if they do not fit."""


class Slot:
    """One stream of the cache. `tokens` are those in its cells, while no request runs in it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.tokens = _EMPTY
        self.busy = False
        self.last_used = 0


class Saved:
    """A sequence in host memory."""

    def __init__(self, tokens: Tokens, data: NDArray[np.uint8]) -> None:
        self.tokens = tokens
        self.data = data
        self.last_used = 0


class Cache:
    """All slots of an instance, and what was saved of them, least recently used first out."""

    def __init__(self, states: States, slots: int, budget: int) -> None:
        self._states = states
        self._slots = [Slot(number) for number in range(slots)]
        self._saved: list[Saved] = []
        self._budget = budget
        self._clock = 0

    @property
    def has_free_slot(self) -> bool:
        """Whether a request can start."""
        return not all(slot.busy for slot in self._slots)

    @property
    def saved_bytes(self) -> int:
        """Host memory in use."""
        return sum(saved.data.nbytes for saved in self._saved)

    @property
    def idle_tokens(self) -> int:
        """Tokens kept in slots for requests to come."""
        return sum(len(slot.tokens) for slot in self._slots if not slot.busy)

    def known(self, prompt: Tokens) -> int:
        """How much of a prompt `acquire` would find."""
        idle = (self._usable(slot.tokens, prompt) for slot in self._slots if not slot.busy)
        return max((*idle, self._best_saved(prompt)[1]), default=0)

    def acquire(self, prompt: Tokens) -> tuple[int, int]:
        """A slot for a prompt, and how many of its first tokens are in that slot already.

        There must be a free one. The whole prompt is never found: its last token has to be
        computed again for its logits.
        """
        prompt = prompt[:-1]
        self._clock += 1
        idle = [slot for slot in self._slots if not slot.busy]
        here = max(idle, key=lambda slot: self._usable(slot.tokens, prompt))
        in_place = self._usable(here.tokens, prompt)
        saved, elsewhere = self._best_saved(prompt)
        if saved and elsewhere >= in_place + _WORTH_RESTORING:
            slot = self._evict(idle)
            reused = self._restore(saved, slot, elsewhere)
        elif in_place and len(here.tokens) - in_place < max(_WORTH_SAVING, in_place):
            slot, reused = here, in_place  # what is lost is less than what is used
        elif pays(in_place, len(here.tokens)) and (copy := self.save(here.number, here.tokens)):
            slot = self._evict(idle)
            reused = in_place if slot is here else self._restore(copy, slot, in_place)
        else:
            slot = self._evict(idle)
            reused = self._usable(slot.tokens, prompt)
        reused = self._states.trim(slot.number, reused)
        slot.busy, slot.tokens, slot.last_used = True, _EMPTY, self._clock
        return slot.number, reused

    def release(self, number: int, tokens: Tokens) -> None:
        """End a request; its `tokens`, all of which are in the slot's cells, stay there."""
        slot = self._slots[number]
        self._clock += 1
        slot.busy, slot.tokens, slot.last_used = False, tokens.copy(), self._clock

    def save(self, number: int, tokens: Tokens) -> Saved | None:
        """Copy a slot to host memory; `tokens` are those in its cells. None if there is no room."""
        for saved in self._saved:
            if common_prefix(saved.tokens, tokens) == len(tokens):
                return saved
        size = self._states.size(number)
        if size > self._budget:
            return None
        # What this one continues is no longer needed, unless it can be had no other way.
        if self._states.can_trim:
            self._saved = [
                saved
                for saved in self._saved
                if common_prefix(saved.tokens, tokens) < len(saved.tokens)
            ]
        while self.saved_bytes + size > self._budget:
            self._saved.remove(min(self._saved, key=lambda saved: saved.last_used))
        copy = Saved(tokens.copy(), self._states.save(number))
        copy.last_used = self._clock
        self._saved.append(copy)
        return copy

    def clear(self) -> None:
        """Forget everything that no running request uses."""
        self._saved.clear()
        for slot in self._slots:
            if not slot.busy:
                self._states.trim(slot.number, 0)
                slot.tokens = _EMPTY

    # --- inside ----------------------------------------------------------------

    def _usable(self, tokens: Tokens, prompt: Tokens) -> int:
        """How many of the prompt's tokens a slot with `tokens` would spare."""
        common = common_prefix(tokens, prompt)
        return common if self._states.can_trim or common == len(tokens) else 0

    def _best_saved(self, prompt: Tokens) -> tuple[Saved | None, int]:
        """The saved sequence with the longest prefix worth restoring, and its length."""
        best, most = None, 0
        for saved in self._saved:
            common = self._usable(saved.tokens, prompt)
            if common > most and pays(common, len(saved.tokens)):
                best, most = saved, common
        return best, most

    def _evict(self, idle: list[Slot]) -> Slot:
        """The idle slot that was used least recently, its tokens saved if that is worth it."""
        slot = min(idle, key=lambda slot: (slot.last_used, slot.number))
        if len(slot.tokens) >= _WORTH_SAVING:
            self.save(slot.number, slot.tokens)
        return slot

    def _restore(self, saved: Saved, slot: Slot, length: int) -> int:
        if not self._states.restore(slot.number, saved.data):
            return 0
        saved.last_used = self._clock
        return length


def pays(common: int, length: int) -> bool:
    """Whether a prefix is worth the copy of the sequence of `length` tokens that begins with it."""
    return common >= _WORTH_RESTORING and common * _MOST_WASTE >= length


def common_prefix(a: Tokens, b: Tokens) -> int:
    """How many tokens two sequences have in common at the start."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length
