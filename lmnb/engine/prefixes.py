"""A radix tree over token sequences: which of those that are kept begin as a prompt does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]
Entry = TypeVar("Entry")


class _Node(Generic[Entry]):
    """The tokens between two forks, and what ends there."""

    __slots__ = ("children", "entries", "label", "parent")

    def __init__(self, label: Tokens, parent: _Node[Entry] | None) -> None:
        self.label = label
        self.parent = parent
        self.children: dict[int, _Node[Entry]] = {}
        self.entries: list[Entry] = []


class Prefixes(Generic[Entry]):
    """Entries by the tokens they stand for. An entry is in the tree at most once.

    A look-up compares each token of the prompt once, whatever the number of entries: comparing
    with hundreds of sequences one by one would take milliseconds, in each step, for each prompt
    that waits.
    """

    def __init__(self) -> None:
        self._root: _Node[Entry] = _Node(np.empty(0, np.int32), None)
        self._at: dict[Entry, _Node[Entry]] = {}

    def __len__(self) -> int:
        return len(self._at)

    def __contains__(self, entry: Entry) -> bool:
        return entry in self._at

    def add(self, tokens: Tokens, entry: Entry) -> None:
        """Enter what stands for `tokens`."""
        assert entry not in self._at
        node, rest = self._root, tokens
        while len(rest):
            child = node.children.get(int(rest[0]))
            if child is None:
                child = _Node(rest, node)
                node.children[int(rest[0])] = child
                node = child
                break
            common = common_prefix(child.label, rest)
            if common < len(child.label):
                child = _split(child, common)
            node, rest = child, rest[common:]
        node.entries.append(entry)
        self._at[entry] = node

    def discard(self, entry: Entry) -> None:
        """Take an entry out, if it is in."""
        node = self._at.pop(entry, None)
        if node is None:
            return
        node.entries.remove(entry)
        while node.parent is not None and not node.entries and not node.children:
            del node.parent.children[int(node.label[0])]
            node = node.parent
        if node.parent is not None and not node.entries and len(node.children) == 1:
            _join(node)

    def clear(self) -> None:
        """Take all entries out."""
        self._root = _Node(np.empty(0, np.int32), None)
        self._at.clear()

    def matches(self, prompt: Tokens) -> Iterator[tuple[int, Entry]]:
        """Entries with the number of tokens they share with the prompt's beginning, most first.

        Those that share nothing are left out. The tree must not change meanwhile.
        """
        path: list[tuple[int, _Node[Entry]]] = []
        node, depth = self._root, 0
        while depth < len(prompt):
            child = node.children.get(int(prompt[depth]))
            if child is None:
                break
            common = common_prefix(child.label, prompt[depth:])
            depth += common
            path.append((depth, child))
            if common < len(child.label):
                break
            node = child
        done: _Node[Entry] | None = None
        for shared, node in reversed(path):
            yield from ((shared, entry) for entry in _below(node, done))
            done = node

    def nodes(self) -> int:
        """How many edges the tree has; at most two per entry."""
        return sum(1 for _ in _walk(self._root, None)) - 1


def common_prefix(a: Tokens, b: Tokens) -> int:
    """How many tokens two sequences have in common at the start."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length


def _walk(node: _Node[Entry], without: _Node[Entry] | None) -> Iterator[_Node[Entry]]:
    """A node and all below it, except a branch."""
    stack = [node]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(child for child in node.children.values() if child is not without)


def _below(node: _Node[Entry], without: _Node[Entry] | None) -> Iterator[Entry]:
    for found in _walk(node, without):
        yield from found.entries


def _split(node: _Node[Entry], at: int) -> _Node[Entry]:
    """Put a node between this one and its parent; the new one has the label's first `at` tokens."""
    assert node.parent is not None
    upper: _Node[Entry] = _Node(node.label[:at], node.parent)
    node.parent.children[int(node.label[0])] = upper
    node.label, node.parent = node.label[at:], upper
    upper.children[int(node.label[0])] = node
    return upper


def _join(node: _Node[Entry]) -> None:
    """Merge a node that no longer forks with its only child."""
    (child,) = node.children.values()
    assert node.parent is not None
    child.label = np.concatenate([node.label, child.label])
    child.parent = node.parent
    node.parent.children[int(child.label[0])] = child
