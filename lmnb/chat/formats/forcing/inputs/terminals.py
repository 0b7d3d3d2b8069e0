"""Terminals of a Lark grammar, which may be made of others, as regular expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from lmnb.chat.formats.forcing.inputs import expressions
from lmnb.chat.formats.forcing.inputs.automaton import MOST_VISITS, too_complex
from lmnb.chat.formats.forcing.inputs.expressions import (
    MOST_NESTED,
    Either,
    Expression,
    Repeated,
    Several,
)
from lmnb.chat.formats.forcing.inputs.nodes import Choice, Name, Node, Repeat, Sequence, Text
from lmnb.errors import InvalidRequest


class _Measured(NamedTuple):
    """An expression, how many parts it has, and how many of them are inside of each other."""

    expression: Expression
    size: int
    depth: int = 1


class Terminals:
    """Terminals as expressions: names in them are replaced by what they stand for.

    What is put together so is measured on the way: forty terminals, each twice the one before it,
    have a million million parts, and nobody could even compare two such expressions.
    """

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self._nodes = nodes
        self._found: dict[str, _Measured] = {}
        self._inside: set[str] = set()
        self._level = 0

    def named(self, name: str) -> Expression:
        """The one of this name.

        Raises
        ------
        InvalidRequest
            It has too many parts, or refers to itself or to none.
        """
        return self._named(name).expression

    def expression(self, node: Node) -> Expression:
        """One without a name. Raises as `named`."""
        return self._measured(node).expression

    def _named(self, name: str) -> _Measured:
        if name not in self._found:
            if name not in self._nodes or name in self._inside:
                raise InvalidRequest(
                    f"The Lark grammar has a terminal made of '{name}', "
                    + ("in a circle." if name in self._inside else "which is none.")
                )
            self._inside.add(name)
            self._found[name] = self._measured(self._nodes[name])
            self._inside.remove(name)
        return self._found[name]

    def _measured(self, node: Node) -> _Measured:
        self._level = _not_too_deep(self._level + 1)
        found = self._put_together(node)
        self._level -= 1
        return found

    def _put_together(self, node: Node) -> _Measured:
        match node:
            case Text(expression=expression):
                return _Measured(expression, expressions.size(expression))
            case Name(name=name):
                return self._named(name)
            case Sequence(parts=parts):
                return self._around(Several, parts)
            case Choice(options=options):
                return self._around(Either, options)
            case Repeat(part=part, least=least, most=most):
                return self._around(lambda inner: Repeated(inner[0], least, most), (part,))

    def _around(
        self, make: Callable[[tuple[Expression, ...]], Expression], nodes: tuple[Node, ...]
    ) -> _Measured:
        inner = [self._measured(node) for node in nodes]
        size = 1 + sum(one.size for one in inner)
        if size > MOST_VISITS:
            raise too_complex()
        depth = _not_too_deep(1 + max((one.depth for one in inner), default=0))
        return _Measured(make(tuple(one.expression for one in inner)), size, depth)


def _not_too_deep(level: int) -> int:
    if level > MOST_NESTED:
        raise InvalidRequest("The Lark grammar has terminals nested too deeply.")
    return level
