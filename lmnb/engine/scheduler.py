"""Who is computed next: admission, and how much of which prompt is read in a step.

Every running answer gets its next token in every step. Besides, a step reads a slice of the prompts
that wait: shortest rest first, with a share kept for the oldest, so that short prompts start fast
and long ones still move. While answers are running the slice follows the clock, so that they do
not pause for more than about `TARGET_SLICE_SECONDS` (`slices` tells how many tokens that is). With more prompts waiting than answers running
it grows in that proportion: many answers at once cost less per token than few, so that a burst of
requests is done sooner if it is read first. With nobody waiting for tokens it is a whole batch.

A request that finds all slots taken waits, unless one of them belongs to a request of lower
priority: that one then gives way. Its cells are saved to host memory and it goes on where it was as
soon as there is a slot again.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from lmnb.engine.adapters import PLAIN, AdapterSet
from lmnb.engine.cache import Cache, Mark, pays
from lmnb.engine.context import Context
from lmnb.engine.positions import positions
from lmnb.engine.prefixes import common_prefix
from lmnb.engine.saved import Files
from lmnb.engine.sequence import Sequence
from lmnb.engine.slices import TILE, Slices
from lmnb.engine.turns import Turns

TARGET_SLICE_SECONDS = 0.25
_NO_HURRY = 1e6
"""Seconds, where nobody waits for a token."""
_OLDEST_SHARE = 1 / 4
"""Of a slice, for the prompt that came first where others are shorter."""
_WORTH_BEGINNING = 32
"""Room in a batch for which one more prompt is begun, unless it lacks fewer tokens."""
_WORTH_MOVING, _MOST_MOVED = 16, 1 << 25
"""An answer changes its slot only if it may have so many more tokens, and its cells so few bytes,
that the copy costs less than the passes it spares."""
_WORTH_AWAITING = 32
"""Tokens of a common prefix that another request is computing from which on waiting for it pays."""


class Scheduler:
    """The sequences of one instance, waiting and running."""

    def __init__(self, context: Context, cache_bytes: int, files: Files | None = None) -> None:
        self._context = context
        self.cache = Cache(context, context.parallel, cache_bytes, files)
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.suspended: list[Sequence] = []
        """Those that gave way in this step."""
        self._turns = Turns(PLAIN)
        self._slices = Slices(flash=context.flash_attention)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence behind those of its priority."""
        insort(self.waiting, sequence, key=_queue_order)

    def admit(self) -> None:
        """Start as many waiting sequences as there are slots, in order.

        One whose prefix another sequence is just computing lets others pass until it is there.
        """
        self.suspended.clear()
        position = 0
        while position < min(len(self.waiting), self._context.parallel):
            sequence = self.waiting[position]
            if not self._has_slot_for(sequence):
                return
            if self._should_await_prefix(sequence):
                position += 1
            else:
                self._make_room()
                self._take_from_queue(sequence)
                self._start(sequence)

    def _take_from_queue(self, sequence: Sequence) -> None:
        position = bisect_left(self.waiting, _queue_order(sequence), key=_queue_order)
        assert self.waiting[position] is sequence
        del self.waiting[position]

    def _has_slot_for(self, sequence: Sequence) -> bool:
        """Whether there is a free slot, or one whose sequence has to give way."""
        if self.cache.has_free_slot:
            return True
        return self._last_of_all().command.priority > sequence.command.priority

    def _make_room(self) -> None:
        """Unless there is a free slot, take that of the last in the queue's order.

        It waits again, and what it has computed is kept.
        """
        if self.cache.has_free_slot:
            return
        last = self._last_of_all()
        assert last.slot is not None
        self._unsee(last)
        computed = last.keys[: last.computed]
        self.cache.save(last.slot, computed)
        self.cache.release(last.slot, computed)
        self.running.remove(last)
        last.suspend()
        self.suspended.append(last)
        self.add(last)

    def _last_of_all(self) -> Sequence:
        return max(self.running, key=_queue_order)

    def _should_await_prefix(self, sequence: Sequence) -> bool:
        readers = [leader for leader in self.running if leader.reading]
        known = self.cache.known(sequence.keys) if readers else 0
        for leader in readers:
            common = self._common(leader, sequence)
            if common >= max(known, leader.computed) + _WORTH_AWAITING:
                if not self._context.can_trim:
                    # Others can start from there only if it is copied in passing.
                    leader.mark(Mark(common, whole=True))
                return True
        return False

    @staticmethod
    def _common(leader: Sequence, sequence: Sequence) -> int:
        return min(common_prefix(leader.keys, sequence.keys), sequence.length - 1)

    def _start(self, sequence: Sequence) -> None:
        self._offer_running_prefix(sequence)
        keys = sequence.keys
        slot, reused = self.cache.acquire(keys, sequence.command.cache_key)
        if (usable := min(sequence.whole(reused), sequence.reusable)) < reused:
            is_there = self._context.trim(slot, positions(keys[:usable]))
            reused = usable if is_there else 0
        sequence.start(slot, reused)
        shared = max((self._common(other, sequence) for other in self.running), default=0)
        border = self._context.model.border(sequence.tokens)
        sequence.marks = self.cache.marks(keys, reused, border=border, shared=shared)
        self.running.append(sequence)

    def _offer_running_prefix(self, sequence: Sequence) -> None:
        """Save the prefix that a running sequence has in common with this one, if it is news."""
        if not self._context.can_trim:
            return
        best, leader = self.cache.known(sequence.keys) + _WORTH_AWAITING - 1, None
        for running in self.running:
            common = min(self._common(running, sequence), running.computed)
            if common > best:
                best, leader = common, running
        # Part of an image may come along in the copy; it goes when that is cut to the prefix.
        if leader is not None and leader.slot is not None and pays(best, leader.computed):
            self.cache.save(leader.slot, leader.keys[: leader.computed])

    def close_gap(self) -> None:
        """Move one answer into an idle slot between others.

        llama.cpp computes a run of neighbouring slots together; every gap costs a pass of its own.
        """
        if len(self.running) == self._context.parallel:
            return
        answers = {s.slot: s for s in self._active() if s.slot is not None and not s.reading}
        if len(answers) < 2 or max(answers) - min(answers) < len(answers):
            return
        busy = {sequence.slot for sequence in self.running}
        gaps = [n for n in range(min(answers), max(answers)) if n not in busy]
        last = answers[max(answers)]
        # What a draft model has read belongs to a slot, and would be read again.
        if not gaps or last.assisted is not None or last.limit - last.length < _WORTH_MOVING:
            return
        gap, slot = gaps[0], max(answers)
        if self._context.size(slot) + self._context.size(gap) > _MOST_MOVED:
            return
        if self.cache.move(slot, gap, last.keys[: last.computed]):
            last.slot = gap

    # --- the plan of a step --------------------------------------------------------

    def take_turn(self) -> AdapterSet:
        """The adapters of this step: only sequences that use just these are computed in it."""
        return self._turns.take(s.adapters for s in self.running if not s.awaits_encoding)

    def _active(self) -> list[Sequence]:
        turn = self._turns.current
        return [s for s in self.running if s.adapters is turn and s.reason is None]

    def decoding(self) -> list[tuple[Sequence, int]]:
        """Sequences that wait for their next token, and how many tokens are computed of each.

        That is the last sampled one, and those a grammar added to it as far as the batch has room.
        """
        answering = [sequence for sequence in self._active() if not sequence.reading]
        room = self._context.batch_size - len(answering)
        plan = []
        for sequence in answering:
            extra = min(sequence.missing - 1, room)
            room -= extra
            plan.append((sequence, 1 + extra))
        return plan

    def prefilling(self) -> list[tuple[Sequence, int]]:
        """Sequences whose prompts are read in this step, and how many tokens of each."""
        waiting = [s for s in self._active() if s.reading and s.readable]
        if not waiting:
            return []
        scored = [s for s in waiting if s.command.score_prompt]
        waiting = [s for s in waiting if s not in scored[1:]]  # their logits would not fit
        answers = sum(not sequence.reading for sequence in self.running)
        seconds, room = _seconds(len(waiting), answers), self._context.batch_size
        waiting.sort(key=lambda s: (s.missing, *_queue_order(s)))
        oldest = min(waiting, key=_queue_order)
        share = 1.0 if oldest is waiting[0] else _OLDEST_SHARE
        readable, depth = self._readable(oldest), oldest.computed
        count = self._slices.whole_steps(readable, int(share * room), depth, share * seconds)
        count = count or min(self._slices.least(depth), readable, room)
        plan = [(oldest, count)]
        seconds -= self._slices.seconds(count, oldest.computed)
        room -= count
        for sequence in waiting:
            readable, depth = self._readable(sequence), sequence.computed
            if sequence is oldest or room < min(readable, _WORTH_BEGINNING):
                continue
            if count := self._slices.whole_steps(readable, room, depth, seconds):
                plan.append((sequence, count))
                seconds -= self._slices.seconds(count, depth)
                room -= count
        return plan

    def _readable(self, sequence: Sequence) -> int:
        """Tokens of a prompt that may be read in one pass."""
        if not sequence.command.score_prompt:
            return sequence.readable
        # Each token has logits, besides those that every other sequence may need.
        return min(sequence.readable, max(1, self._context.max_outputs - self._context.parallel))

    def seeing(self) -> tuple[Sequence, int] | None:
        """The first sequence whose next medium is encoded, and how many of its tokens are computed
        in this step: all of them, where they see each other.
        """
        ready = [s for s in self._active() if s.medium_here and not s.awaits_encoding]
        if not ready:
            return None
        sequence = min(ready, key=_queue_order)
        span = sequence.medium_here
        assert span is not None
        missing = span.medium.length - sequence.seen
        if not span.medium.causal:
            return sequence, missing
        answers = sum(not sequence.reading for sequence in self.running)
        seconds, room = _seconds(1, answers), self._context.batch_size
        depth = sequence.computed + sequence.seen
        count = self._slices.whole_steps(missing, room, depth, seconds)
        return sequence, count or min(self._slices.least(depth), missing, room)

    def observe(self, plan: list[tuple[Sequence, int]], seconds: float) -> None:
        """Learn how long the slices of a plan took that have just been read."""
        tokens = sum(count for _, count in plan)
        before = sum(count * (s.computed + s.seen - count / 2) for s, count in plan)
        tiled = all(count >= TILE for _, count in plan)
        self._slices.observe(tokens, before / tokens, seconds, tiled=tiled)

    def keep(self, sequence: Sequence) -> None:
        """Copy the memory of a sequence that has been read up to a mark."""
        while sequence.marks and sequence.marks[0].length <= sequence.computed:
            mark = sequence.marks.pop(0)
            if mark.length == sequence.computed and sequence.slot is not None:
                keys = sequence.keys[: mark.length]
                self.cache.checkpoint(sequence.slot, keys, whole=mark.whole)

    def rewind(self, sequence: Sequence) -> None:
        """After a pass that was broken off: go back to where the sequence's memory is whole."""
        assert sequence.slot is not None
        context = self._context
        # Parts of the batch may be done, but the logits of a last token are lost. Memory that
        # cannot be trimmed is half changed by then. Of an image there must be all.
        done = sequence.computed
        if context.can_trim or context.window:
            if sequence.medium_here is None:
                done += max(0, context.length(sequence.slot) - sequence.position)
            done = sequence.whole(min(done, sequence.length - 1, sequence.reusable))
        sequence.computed = self.cache.rewind(sequence.slot, sequence.keys[:done])
        sequence.seen = 0
        sequence.cached = min(sequence.cached, sequence.computed)

    def _unsee(self, sequence: Sequence) -> None:
        """Drop what was read of an image that is not read to its end: nobody can go on from there."""
        if sequence.seen:
            self.rewind(sequence)

    # --- leaving -----------------------------------------------------------------------

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is. What was computed of it stays in the cache."""
        if sequence.slot is None:
            self._take_from_queue(sequence)
            return
        self._unsee(sequence)
        self.running.remove(sequence)
        self.cache.release(sequence.slot, sequence.keys[: sequence.computed])


def _seconds(readers: int, answers: int) -> float:
    """How long the next slice may take."""
    return TARGET_SLICE_SECONDS * max(1.0, readers / answers) if answers else _NO_HURRY


def _queue_order(sequence: Sequence) -> tuple[int, int]:
    return (sequence.command.priority, sequence.id)
