"""Who is computed next: admission, the plan of a step, room in the KV cache.

The rules: every running answer gets its next token in every step; what is left of the step's
budget reads prompts, shortest rest first, with a share kept for the oldest, so that short prompts
start fast and long ones still move. While answers are running the budget follows the clock, so
that a step stays near `TARGET_STEP_SECONDS`; with nobody waiting for tokens it is the whole batch.
"""

from __future__ import annotations

from bisect import insort

from lmnb.engine.cache import PrefixCache, Tokens, common_prefix
from lmnb.engine.context import MAX_SEQUENCE_IDS, Context
from lmnb.engine.sequence import Sequence

TARGET_STEP_SECONDS = 0.1
_SLICE = 32
"""Slices of a prompt are multiples of this: llama.cpp reuses its graph for equal shapes."""
_WORTH_SHARING = 16
"""Tokens of a common prefix below which waiting for it, or copying it, does not pay."""
_ANSWER_RESERVE = 64
"""Cells an answer must find free to be started."""


class Scheduler:
    """The sequences of one instance, waiting and running."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.cache = PrefixCache(context, range(context.parallel, MAX_SEQUENCE_IDS))
        self._free_slots = list(reversed(range(context.parallel)))
        self._seconds_per_token = 0.0

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence behind those of its priority."""
        insort(self.waiting, sequence, key=_queue_order)

    @property
    def used_cells(self) -> int:
        """KV cells in use, cached prefixes included."""
        return self.cache.cells + sum(sequence.private_cells for sequence in self.running)

    # --- admission ---------------------------------------------------------------

    def admit(self) -> None:
        """Start as many waiting sequences as slots and cells allow, in order.

        One whose prefix another sequence is just computing lets others pass until it is there.
        """
        position = 0
        while self._free_slots and position < len(self.waiting):
            sequence = self.waiting[position]
            if self._should_await_prefix(sequence):
                position += 1
            elif self._has_room(sequence):
                self._start(self.waiting.pop(position))
            else:
                break

    def _should_await_prefix(self, sequence: Sequence) -> bool:
        if not self.context.can_share_prefixes:
            return False
        tokens = sequence.tokens
        known = self.cache.matched_length(tokens)
        for leader in self.running:
            if leader.missing <= 1:
                continue
            common = min(common_prefix(leader.tokens, tokens), sequence.length - 1)
            if common >= max(known, leader.computed) + _WORTH_SHARING:
                return True
        return False

    def _has_room(self, sequence: Sequence) -> bool:
        reserve = min(sequence.limit - sequence.length, _ANSWER_RESERVE)
        known = self.cache.matched_length(sequence.tokens) if self.context.can_share_prefixes else 0
        committed = sum(
            max(running.private_cells, running.length - (running.node.end if running.node else 0))
            for running in self.running
        )
        # What is cached of this prompt is in use already, and may not be evicted for it.
        free = self.context.context_length - committed - self.cache.cells
        free += max(0, self.cache.evictable() - known)
        return sequence.length - known + reserve <= free or not self.running

    def _start(self, sequence: Sequence) -> None:
        sequence.slot = self._free_slots.pop()
        self.running.append(sequence)
        if self.context.can_share_prefixes:
            # The last token must be computed anew: its logits are wanted.
            prompt = sequence.tokens[: sequence.length - 1]
            self._publish_leader(prompt)
            node = self.cache.match(prompt)
            self.cache.lock(node)
            self.cache.share(node, sequence.slot)
            sequence.node, sequence.computed = node, node.end
        sequence.start()

    def _publish_leader(self, prompt: Tokens) -> None:
        """Put the prefix that a running sequence has in common with `prompt` into the tree."""
        best, leader = self.cache.matched_length(prompt) + _WORTH_SHARING - 1, None
        for running in self.running[:-1]:
            common = common_prefix(running.tokens[: running.computed], prompt)
            if common > best:
                best, leader = common, running
        if leader is not None:
            self._publish(leader, best)

    def _publish(self, sequence: Sequence, length: int) -> None:
        """Cache the first `length` tokens of a running sequence, which then borrows them."""
        assert sequence.slot is not None
        node = self.cache.insert(sequence.tokens[:length], sequence.slot)
        self.cache.lock(node)
        if sequence.node is not None:
            self.cache.unlock(sequence.node)
        sequence.node = node

    # --- the plan of a step --------------------------------------------------------

    def plan(self) -> list[tuple[Sequence, int]]:
        """Sequences of the next step and how many tokens of each are computed in it."""
        decoding = [s for s in self.running if s.missing == 1]
        prefilling = [s for s in self.running if s.missing > 1]
        plan = [(sequence, 1) for sequence in decoding]
        if not prefilling:
            return plan
        budget = self._prefill_budget(len(decoding))
        oldest = min(prefilling, key=_queue_order)
        shares = {oldest.id: min(oldest.missing, budget, max(_SLICE, budget // 4))}
        budget -= shares[oldest.id]
        for sequence in sorted(prefilling, key=lambda s: s.missing):
            taken = shares.get(sequence.id, 0)
            extra = min(sequence.missing - taken, budget)
            if extra < sequence.missing - taken:
                extra -= extra % _SLICE
            if extra + taken:
                plan.append((sequence, taken + extra))
                budget -= extra
        return plan

    def _prefill_budget(self, decoding: int) -> int:
        room = self.context.batch_size - decoding
        if not decoding or not self._seconds_per_token:
            return room
        wanted = int(TARGET_STEP_SECONDS / self._seconds_per_token)
        return max(_SLICE, min(room, wanted - wanted % _SLICE))

    def observe(self, tokens: int, seconds: float) -> None:
        """Learn from a step that read prompts how long a token takes."""
        if tokens >= _SLICE:
            measured = seconds / tokens
            last = self._seconds_per_token or measured
            self._seconds_per_token = 0.7 * last + 0.3 * measured

    # --- room ------------------------------------------------------------------------

    def ensure_room(self, cells: int) -> bool:
        """Free cached prefixes until `cells` fit; False if something running is in the way."""
        while self.used_cells + cells > self.context.context_length:
            if not self.cache.evict_one():
                return False
        return True

    def preempt(self) -> bool:
        """Send the youngest running sequence back to the queue; False if there is only one.

        Its tokens are kept and computed again, as far as the prefix cache has not kept them.
        """
        if len(self.running) < 2:
            return False
        youngest = max(self.running, key=_queue_order)
        self.release(youngest)
        self.add(youngest)
        return True

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, wherever it is."""
        if sequence.slot is None:
            self.waiting.remove(sequence)
        else:
            self.release(sequence)

    def release(self, sequence: Sequence) -> None:
        """Take a sequence off its slot. What was computed stays in the prefix cache."""
        self.running.remove(sequence)
        assert sequence.slot is not None
        if sequence.node is not None:
            self.cache.insert(sequence.tokens[: sequence.computed], sequence.slot)
            self.cache.unlock(sequence.node)
        self.context.remove(sequence.slot)
        self._free_slots.append(sequence.slot)
        sequence.slot, sequence.node, sequence.computed = None, None, 0


def _queue_order(sequence: Sequence) -> tuple[int, int]:
    return (sequence.command.priority, sequence.id)
