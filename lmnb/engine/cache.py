"""The prefix cache: a radix tree over token sequences whose KV cells are in memory.

An edge of the tree is a run of tokens, a *holder* a llama.cpp sequence id that owns the cells of
the path from the root to one leaf. Every leaf has one holder; inner nodes live on the holders of
the leaves below them. llama.cpp counts the owners of a cell itself (a cell is a set of sequence
ids), so that sharing a prefix is one `copy`, and dropping a leaf frees just the cells that nobody
else owns. Running sequences lock the node they started from; unlocked leaves go, oldest first,
when room is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]


class Memory(Protocol):
    """What the tree needs of the KV cache (`Context` has it)."""

    def copy(self, source: int, target: int, begin: int, end: int) -> None:
        """Let `target` share the cells of `source` at [begin, end)."""

    def remove(self, sequence: int, begin: int = 0, end: int = -1) -> bool:
        """Drop [begin, end) of a sequence."""


class Node:
    """The tokens [begin, end) of all cached sequences that run through here."""

    def __init__(self, tokens: Tokens, begin: int, parent: Node | None) -> None:
        self.tokens = tokens
        self.begin = begin
        self.parent = parent
        self.children: dict[int, Node] = {}
        self.holder: int | None = None
        self.locks = 0
        self.last_used = 0

    @property
    def end(self) -> int:
        """Length of the prefix that ends here."""
        return self.begin + len(self.tokens)

    def path(self) -> Iterator[Node]:
        """The node and its ancestors, the root excluded."""
        node: Node = self
        while node.parent is not None:
            yield node
            node = node.parent


class PrefixCache:
    """Cached prefixes of one instance. `cells` counts the KV cells they occupy."""

    def __init__(self, memory: Memory, holder_ids: range) -> None:
        self._memory = memory
        self._free_holders = list(reversed(holder_ids))
        self._clock = 0
        self.root = Node(np.empty(0, np.int32), 0, None)
        self.cells = 0

    def match(self, tokens: Tokens) -> Node:
        """The node that ends the longest cached prefix of `tokens`; the root if there is none."""
        node = self.root
        self._clock += 1
        while node.end < len(tokens):
            child = node.children.get(int(tokens[node.end]))
            if child is None:
                break
            common = common_prefix(child.tokens, tokens[node.end :])
            if common < len(child.tokens):
                return self._touch(self._split(child, common))
            node = child
        return self._touch(node)

    def matched_length(self, tokens: Tokens) -> int:
        """How long a prefix `match` would find, without touching the tree."""
        node = self.root
        while node.end < len(tokens):
            child = node.children.get(int(tokens[node.end]))
            if child is None:
                break
            common = common_prefix(child.tokens, tokens[node.end :])
            if common < len(child.tokens):
                return node.end + common
            node = child
        return node.end

    def share(self, node: Node, sequence: int) -> None:
        """Give `sequence` the cells of the prefix that ends at `node`."""
        if node.end:
            self._memory.copy(self._holder_below(node), sequence, 0, node.end)

    def insert(self, tokens: Tokens, sequence: int) -> Node:
        """Cache `tokens`, whose cells `sequence` owns; the node that ends what is now cached.

        What the tree already has of them is replaced in `sequence` by the tree's own cells, so
        that equal prefixes computed twice are stored once. If every holder is in use, that part
        is all that is kept.
        """
        node = self.match(tokens)
        if node.end:
            self._memory.remove(sequence, 0, node.end)
            self.share(node, sequence)
        if node.end == len(tokens):
            return node
        holder = self._holder_for_leaf_below(node)
        if holder is None:
            return node
        self._memory.copy(sequence, holder, node.end, len(tokens))
        leaf = Node(tokens[node.end :].copy(), node.end, node)
        leaf.holder = holder
        node.children[int(leaf.tokens[0])] = leaf
        self.cells += len(leaf.tokens)
        return self._touch(leaf)

    def lock(self, node: Node) -> None:
        """Keep the prefix that ends at `node`."""
        for step in node.path():
            step.locks += 1

    def unlock(self, node: Node) -> None:
        """Undo one `lock`."""
        for step in node.path():
            step.locks -= 1

    def evict_one(self, keep: Node | None = None) -> int:
        """Drop the least recently used unlocked leaf; the number of cells freed (0: none left)."""
        leaves = [node for node in self._leaves() if node.locks == 0 and node is not keep]
        if not leaves:
            return 0
        leaf = min(leaves, key=lambda node: node.last_used)
        self._remove_leaf(leaf)
        return len(leaf.tokens)

    def clear(self) -> None:
        """Drop everything that is not locked."""
        while self.evict_one():
            pass

    def evictable(self) -> int:
        """Cells that `evict_one` could free, one call after the other."""
        return sum(len(node.tokens) for node in self._nodes() if node.locks == 0)

    # --- inside ----------------------------------------------------------------

    def _touch(self, node: Node) -> Node:
        for step in node.path():
            step.last_used = self._clock
        return node

    def _nodes(self) -> Iterator[Node]:
        pending = list(self.root.children.values())
        while pending:
            node = pending.pop()
            pending.extend(node.children.values())
            yield node

    def _leaves(self) -> Iterator[Node]:
        return (node for node in self._nodes() if not node.children)

    def _holder_below(self, node: Node) -> int:
        while node.holder is None:
            node = next(iter(node.children.values()))
        return node.holder

    def _split(self, node: Node, at: int) -> Node:
        """Cut a node's edge after `at` tokens; the new upper half."""
        upper = Node(node.tokens[:at], node.begin, node.parent)
        upper.locks, upper.last_used = node.locks, node.last_used
        upper.children[int(node.tokens[at])] = node
        if node.parent is not None:
            node.parent.children[int(node.tokens[0])] = upper
        node.tokens, node.begin, node.parent = node.tokens[at:], node.begin + at, upper
        return upper

    def _remove_leaf(self, leaf: Node) -> None:
        parent, holder = leaf.parent, leaf.holder
        assert parent is not None
        assert holder is not None
        del parent.children[int(leaf.tokens[0])]
        self.cells -= len(leaf.tokens)
        if parent is not self.root and not parent.children:
            # The parent is a leaf now and takes over the holder of what it has.
            self._memory.remove(holder, leaf.begin)
            parent.holder = holder
        else:
            self._memory.remove(holder)
            self._free_holders.append(holder)

    def _holder_for_leaf_below(self, node: Node) -> int | None:
        """A holder that owns the prefix ending at `node`: its own if it is a leaf, or a free one."""
        while node.holder is None and not self._free_holders:
            if not self.evict_one(keep=node):
                return None
        if node.holder is not None:
            holder, node.holder = node.holder, None
        else:
            holder = self._free_holders.pop()
            self.share(node, holder)
        return holder


def common_prefix(a: Tokens, b: Tokens) -> int:
    """How many tokens two sequences have in common at the start."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length
