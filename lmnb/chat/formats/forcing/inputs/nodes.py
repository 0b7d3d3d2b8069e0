"""The trees that the rules and terminals of a Lark grammar are read into."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from lmnb.chat.formats.forcing.inputs.expressions import Expression


class Name(msgspec.Struct, frozen=True):
    """A reference to a rule or a terminal."""

    name: str


class Sequence(msgspec.Struct, frozen=True):
    """One after the other."""

    parts: tuple[Node, ...]


class Choice(msgspec.Struct, frozen=True):
    """Any of these."""

    options: tuple[Node, ...]


class Repeat(msgspec.Struct, frozen=True):
    """So many times, `most` None being any number."""

    part: Node
    least: int
    most: int | None


class Text(msgspec.Struct, frozen=True):
    """A terminal without a name."""

    expression: Expression


Node: TypeAlias = Name | Sequence | Choice | Repeat | Text
