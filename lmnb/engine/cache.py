"""What is in the KV cache, and how a prompt finds the prefix it shares with it.

Each *slot* is a stream of its own in llama.cpp's cache, with room for a whole context: attention
looks at one sequence's cells only, which on a CPU (and in CUDA's flash attention) is much faster
than masking everybody else's. A slot keeps its tokens when its request ends, so that the next turn
of a chat goes on in place. What a slot must give up for another request is saved to host memory,
and a prefix that another slot holds is copied the same way: saved once, restored where it is
wanted. Both are memory copies, hundreds of times faster than computing the prefix again.

All of it, idle slots and saved states, stands in one radix tree over tokens (`prefixes`). Its nodes
own no cells, as those of engines with paged attention do: a stream's cells belong to one sequence,
and llama.cpp copies between streams whole or not at all. What the requests of an instance share
are the copies.

Memory that cannot be cut at any place needs *checkpoints*. A recurrent state is overwritten by
every token, and a sliding window forgets the keys behind it, so that going back to a prefix takes
a copy made when the prompt had been read just so far. `marks` says where: near the end of the
prompt, before the header of the answer, where the next turn will differ; where other requests have
forked off; and at intervals. For models with some attention layers a checkpoint is small, since
only the rest is in it: it completes any slot whose cells begin with its tokens.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from lmnb.engine.positions import positions
from lmnb.engine.prefixes import Prefixes, Tokens, common_prefix
from lmnb.engine.saved import Files, Kept, Saved, Store

_EMPTY: Tokens = np.empty(0, np.int32)

_WORTH_SAVING = 128
"""Tokens that would be lost from which on a slot is saved before it is reused."""
_WORTH_RESTORING = 32
"""Tokens of a common prefix from which on it is copied instead of computed."""
_BESIDE = 64
"""A slot beside a busy one is taken as if it had been used so much earlier: neighbours are computed
together."""
_MOST_WASTE = 16
"""A copy holds the whole saved sequence; it pays while that is at most so many times the prefix."""
_MOST_CHECKPOINTS = 8
"""On the way to the end of one conversation; the next replaces the one used least recently."""
_CHECKPOINT_INTERVAL = 2048
"""Tokens between the checkpoints of a long prompt: a multiple of the usual batch."""


class States(Protocol):
    """What is needed of the KV cache (`Context` has it). Lengths are in positions, not in tokens.

    can_trim
        Any number of last tokens can be dropped.
    window
        Where not: how many last tokens each token sees in a sliding-window model. Tokens can be
        dropped while all keys in the window before them are there. 0: none can be dropped.
    partial
        Where not: whether a checkpoint holds only what cannot be trimmed, beside cells that can.
    """

    can_trim: bool
    window: int
    partial: bool

    def trim(self, slot: int, length: int) -> bool:
        """Drop all of a slot from position `length` on; False, and an empty slot, if it cannot."""

    def start(self, slot: int) -> int:
        """First position of which all keys are there."""

    def size(self, slot: int, *, partial: bool = False) -> int:
        """Bytes of a copy of a slot's cells."""

    def save(self, slot: int, *, partial: bool = False) -> NDArray[np.uint8]:
        """A copy of a slot's cells."""

    def restore(self, slot: int, data: NDArray[np.uint8], length: int) -> bool:
        """Replace a slot's cells by a saved copy of so many positions; False, and an empty slot, if
        they do not fit.
        """

    def rewind(self, slot: int, data: NDArray[np.uint8], length: int) -> bool:
        """Go back to a checkpoint of the slot's first `length` positions; False, and an empty slot,
        if that fails.
        """


class Mark(NamedTuple):
    """How far a prompt is to be read before a copy is made of the memory: all of it, for others
    to start from, or a checkpoint.
    """

    length: int
    whole: bool


class Slot(Kept):
    """One stream of the cache. `tokens` are those in its cells, while no request runs in it."""

    def __init__(self, number: int) -> None:
        super().__init__(_EMPTY)
        self.number = number
        self.busy = False
        self.on_disk = False


class _Plan(NamedTuple):
    """How to get at the first `reach` tokens of a prompt: from these cells, cut or rewound."""

    reach: int
    body: Kept | None
    checkpoint: Saved | None

    @property
    def tokens(self) -> Tokens:
        """Those of the prompt."""
        return _EMPTY if self.body is None else self.body.tokens[: self.reach]


class Cache:
    """All slots of an instance, and what was saved of them, least recently used first out."""

    def __init__(self, states: States, slots: int, budget: int, files: Files | None = None) -> None:
        self._states = states
        self._slots = [Slot(number) for number in range(slots)]
        self._prefixes: Prefixes[Kept] = Prefixes()
        self._files = files
        self._store = Store(budget, self._prefixes, files)
        self._clock = 0

    @property
    def has_free_slot(self) -> bool:
        """Whether a request can start."""
        return not all(slot.busy for slot in self._slots)

    @property
    def saved_bytes(self) -> int:
        """Host memory in use."""
        return self._store.bytes

    @property
    def idle_tokens(self) -> int:
        """Tokens kept in slots for requests to come."""
        return sum(len(slot.tokens) for slot in self._slots if not slot.busy)

    def known(self, prompt: Tokens) -> int:
        """How much of a prompt `acquire` would find."""
        return max(plan.reach for plan in self._plans(prompt, None))

    def acquire(self, prompt: Tokens, session: str | None = None) -> tuple[int, int]:
        """A slot for a prompt, and how many of its first tokens are in that slot already.

        There must be a free one. The whole prompt is never found: its last token has to be
        computed again for its logits. Of equal prefixes the session's own is taken.
        """
        prompt = prompt[:-1]
        self._clock += 1
        here, elsewhere = self._plans(prompt, session)
        while isinstance(elsewhere.body, Saved) and not self._store.holds(elsewhere.body):
            here, elsewhere = self._plans(prompt, session)
        slot, reused = self._start(prompt, here, elsewhere, session)
        self._prefixes.discard(slot)
        slot.busy, slot.tokens, slot.session = True, _EMPTY, session
        slot.last_used = self._clock
        return slot.number, reused

    def release(self, number: int, tokens: Tokens) -> None:
        """End a request; its `tokens`, all of which are in the slot's cells, stay there."""
        slot = self._slots[number]
        self._clock += 1
        slot.busy, slot.tokens, slot.last_used = False, tokens.copy(), self._clock
        slot.start, slot.on_disk = self._states.start(number), False
        if len(tokens):
            self._prefixes.add(slot.tokens, slot)

    def move(self, number: int, to: int, tokens: Tokens) -> bool:
        """Carry a busy slot's cells, those of `tokens`, over to an idle slot, which is busy then
        instead; False if that cannot be.
        """
        slot, target = self._slots[number], self._slots[to]
        if len(target.tokens) >= _WORTH_SAVING and self.save(to, target.tokens) is None:
            return False
        self._prefixes.discard(target)
        target.tokens = _EMPTY
        if not self._states.restore(to, self._states.save(number), positions(tokens)):
            return False
        self._states.trim(number, 0)
        target.busy, target.session, target.last_used = True, slot.session, self._clock
        slot.busy, slot.tokens, slot.session = False, _EMPTY, None
        return True

    def save(self, number: int, tokens: Tokens) -> Saved | None:
        """Copy a slot to host memory; `tokens` are those in its cells. None if there is no room."""
        for common, kept in self._prefixes.matches(tokens):
            if common < len(tokens):
                break
            is_same = self._states.can_trim or len(kept.tokens) == len(tokens)
            if isinstance(kept, Saved) and is_same and not kept.partial:
                return kept
        if not self._store.fits(self._states.size(number) + tokens.nbytes):
            return None
        if self._states.can_trim:  # What this one continues is no longer needed.
            for saved in self._store.beginning(tokens):
                self._store.drop(saved)
        return self._keep(number, tokens, partial=False)

    def checkpoint(self, number: int, tokens: Tokens, *, whole: bool) -> None:
        """Note the state after `tokens`, those in the slot's cells, if there is room for it.

        With `whole` a request in another slot can start from it; else there has to be one, idle or
        saved, whose cells begin with these tokens.
        """
        partial = self._states.partial and not whole
        for saved in self._store.beginning(tokens):
            if len(saved.tokens) == len(tokens) and saved.partial == partial:
                saved.last_used = self._clock
                return
        if self._store.fits(self._states.size(number, partial=partial) + tokens.nbytes):
            self._thin(tokens)
            self._keep(number, tokens, partial=partial)

    def marks(self, prompt: Tokens, reused: int, *, border: int, shared: int) -> list[Mark]:
        """Where to make copies while a prompt is read, in order.

        border
            Where the last message begins, or 0.
        shared
            How many tokens running requests have in common with it.
        """
        if self._states.can_trim:
            return []
        last = border or len(prompt) - 1
        kept = next((common for common, _ in self._prefixes.matches(prompt[:-1])), 0)
        first = reused - reused % _CHECKPOINT_INTERVAL + _CHECKPOINT_INTERVAL
        marks = dict.fromkeys(range(first, last, _CHECKPOINT_INTERVAL), False)
        marks |= {last: False, max(kept, shared): True}
        least = reused + _WORTH_RESTORING
        return [Mark(length, marks[length]) for length in sorted(marks) if length >= least]

    def rewind(self, number: int, tokens: Tokens) -> int:
        """After a pass that was broken off: go back to what is whole of a slot's `tokens`.

        Their state may be half that of tokens which follow. How many are there now.
        """
        if self._states.can_trim or self._states.window:
            return self._cut(number, tokens)
        for saved in self._checkpoints(list(self._prefixes.matches(tokens))):
            if self._rewind(self._slots[number], saved):
                return len(saved.tokens)
        return self._cut(number, _EMPTY)

    def _cut(self, number: int, tokens: Tokens) -> int:
        """Drop what a slot has after `tokens`; how many it has now: all of them, or none."""
        return len(tokens) if self._states.trim(number, positions(tokens)) else 0

    def persist(self) -> bool:
        """Put an idle slot on disk that is not there yet; False if there is none.

        For times when nobody waits: the process may end without notice.
        """
        for slot in self._slots if self._files is not None else ():
            if slot.busy or slot.on_disk or len(slot.tokens) < _WORTH_SAVING:
                continue
            slot.on_disk = True
            if self._states.can_trim:
                for saved in self._store.beginning(slot.tokens):
                    self._store.drop(saved)
            self._store.put_on_disk(self._copy(slot.number, slot.tokens, partial=False))
            return True
        return False

    def clear(self) -> None:
        """Forget everything that no running request uses."""
        self._store.clear()
        self._prefixes.clear()
        for slot in self._slots:
            if not slot.busy:
                self._states.trim(slot.number, 0)
                slot.tokens = _EMPTY

    # --- how a prompt is found -----------------------------------------------------

    def _plans(self, prompt: Tokens, session: str | None) -> tuple[_Plan, _Plan]:
        """The best that an idle slot has for a prompt, and the best that is saved and pays."""
        here = elsewhere = _Plan(0, None, None)
        matches = list(self._prefixes.matches(prompt))
        checkpoints = self._checkpoints(matches)
        for common, kept in matches:
            if common < here.reach:
                break
            if isinstance(kept, Saved) and (kept.partial or not _may_beat(kept, common, elsewhere)):
                continue
            plan = self._reach(kept, common, checkpoints)
            if isinstance(kept, Slot):
                here = max(here, plan, key=lambda plan: _merit(plan, session))
            elif pays(plan.reach, len(kept.tokens)) and plan.reach >= elsewhere.reach:
                elsewhere = plan
        return here, elsewhere

    def _first_seen(self, tokens: Tokens) -> int:
        """The first position that the next one after `tokens` sees in a sliding window."""
        return max(0, positions(tokens) - self._states.window + 1)

    def _plan(self, body: Kept, prompt: Tokens) -> _Plan:
        """What this very slot or copy has for a prompt."""
        checkpoints = self._checkpoints(list(self._prefixes.matches(prompt)))
        return self._reach(body, common_prefix(body.tokens, prompt), checkpoints)

    def _reach(self, body: Kept, common: int, checkpoints: list[Saved]) -> _Plan:
        """How far cells that share `common` tokens with a prompt lead."""
        states = self._states
        in_window = states.window and body.start <= self._first_seen(body.tokens[:common])
        if states.can_trim or in_window or common == len(body.tokens):
            return _Plan(common, body, None)
        for saved in checkpoints:
            if len(saved.tokens) <= common:
                return _Plan(len(saved.tokens), body, saved)
        return _Plan(0, body, None)

    def _checkpoints(self, matches: list[tuple[int, Kept]]) -> list[Saved]:
        """The states a prompt goes through, deepest first."""
        if self._states.can_trim:
            return []
        return [
            kept
            for common, kept in matches
            if isinstance(kept, Saved)
            and common == len(kept.tokens)
            and kept.partial == self._states.partial
        ]

    # --- how it gets into a slot ---------------------------------------------------

    def _start(
        self, prompt: Tokens, here: _Plan, elsewhere: _Plan, session: str | None
    ) -> tuple[Slot, int]:
        """The slot a prompt gets, and how much of it is there then."""
        own = here.body
        if isinstance(own, Slot) and 0 < here.reach > elsewhere.reach - _WORTH_RESTORING:
            if self._may_overwrite(own, here, session):
                return own, self._follow(here, own)
            is_worth = here.reach > elsewhere.reach and pays(here.reach, len(own.tokens))
            if is_worth and (copy := self.save(own.number, own.tokens)) is not None:
                elsewhere = self._plan(copy, prompt)
                if elsewhere.reach < here.reach:  # A copy has fewer keys of a window.
                    return own, self._follow(here, own)
        slot = self._evict(elsewhere)
        if elsewhere.body is None:
            return slot, self._follow(self._plan(slot, prompt), slot)
        in_place = slot is own and here.reach >= elsewhere.reach
        return slot, self._follow(here if in_place else elsewhere, slot)

    def _may_overwrite(self, slot: Slot, plan: _Plan, session: str | None) -> bool:
        """Whether what a slot loses is less than what is used of it, and nobody else's."""
        lost = len(slot.tokens) - plan.reach
        is_others = slot.session is not None and slot.session != session
        return lost < (_WORTH_SAVING if is_others else max(_WORTH_SAVING, plan.reach))

    def _follow(self, plan: _Plan, slot: Slot) -> int:
        """Make a slot begin with what was planned; how many tokens it has then."""
        for kept in (plan.body, plan.checkpoint):
            if kept is not None:
                kept.last_used = self._clock
        if isinstance(plan.body, Saved):
            data = self._store.data(plan.body)
            length = positions(plan.body.tokens)
            if data is None or not self._states.restore(slot.number, data, length):
                return self._cut(slot.number, _EMPTY)
        if plan.checkpoint is None:
            return self._cut(slot.number, plan.tokens)
        if self._rewind(slot, plan.checkpoint):
            return len(plan.checkpoint.tokens)
        return self._cut(slot.number, _EMPTY)

    def _rewind(self, slot: Slot, checkpoint: Saved) -> bool:
        data, length = self._store.data(checkpoint), positions(checkpoint.tokens)
        return data is not None and self._states.rewind(slot.number, data, length)

    def _evict(self, plan: _Plan) -> Slot:
        """The idle slot that was used least recently, its tokens saved if that is worth it.

        What the plan needs has just been used, and is the last to make room for them.
        """
        for kept in (plan.body, plan.checkpoint):
            if isinstance(kept, Saved):
                kept.last_used = self._clock
        idle = (slot for slot in self._slots if not slot.busy)
        slot = min(
            idle, key=lambda slot: (slot.rank - _BESIDE * self._is_beside(slot), slot.number)
        )
        if len(slot.tokens) >= _WORTH_SAVING:
            self.save(slot.number, slot.tokens)
        return slot

    def _is_beside(self, slot: Slot) -> bool:
        around = (slot.number - 1, slot.number + 1)
        return any(self._slots[n].busy for n in around if 0 <= n < len(self._slots))

    def _thin(self, tokens: Tokens) -> None:
        """Make room for one more checkpoint on the way to `tokens`."""
        checkpoints = self._checkpoints(list(self._prefixes.matches(tokens)))
        if len(checkpoints) >= _MOST_CHECKPOINTS:
            self._store.drop(min(checkpoints, key=lambda saved: saved.last_used))

    def _keep(self, number: int, tokens: Tokens, *, partial: bool) -> Saved:
        saved = self._copy(number, tokens, partial=partial)
        self._store.add(saved)
        return saved

    def _copy(self, number: int, tokens: Tokens, *, partial: bool) -> Saved:
        slot, window = self._slots[number], self._states.window
        start = max(0, positions(tokens) - window) if window else 0
        data = self._states.save(number, partial=partial)
        saved = Saved(tokens.copy(), data, partial=partial, start=start, session=slot.session)
        saved.last_used = self._clock
        return saved


def pays(common: int, length: int) -> bool:
    """Whether a prefix is worth the copy of the sequence of `length` tokens that begins with it."""
    return common >= _WORTH_RESTORING and common * _MOST_WASTE >= length


def _may_beat(saved: Saved, common: int, plan: _Plan) -> bool:
    """Whether a copy may lead further than a plan, or as far with less to copy."""
    if common != plan.reach or plan.body is None:
        return common > plan.reach
    return len(saved.tokens) < len(plan.body.tokens)


def _merit(plan: _Plan, session: str | None) -> tuple[int, bool, int]:
    """By what slots are preferred: how far they lead; the session's own; the one used last."""
    body = plan.body
    if body is None:
        return plan.reach, False, -1
    return plan.reach, session is not None and body.session == session, body.last_used
