"""Regular expressions as trees, and Rust's syntax of them read into such a tree.

What is a regular expression in theory is read; what looks around, refers back, or gives classes of
characters by their Unicode properties is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias

import msgspec

from lmnb.chat.formats.forcing.inputs import characters
from lmnb.chat.formats.forcing.inputs.characters import ALL, LINE_BREAK, Characters
from lmnb.errors import InvalidRequest, NotSupported

MOST_NESTED = 100
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "a": "\a", "0": "\0"}
_CODE = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|[xu]\{([0-9a-fA-F]{1,6})\}")
_COUNT = re.compile(r"\{(\d*)(,?)(\d*)\}")
_FLAGS = re.compile(r"\?([imsux]*)(?:-([imsux]+))?(:|\))")
_NAME = re.compile(r"\?P?<[A-Za-z_]\w*>")
_POSIX = re.compile(r"\[:|&&|--|~~")


class One(msgspec.Struct, frozen=True):
    """One character of a set."""

    of: Characters


class Several(msgspec.Struct, frozen=True):
    """One after the other; none at all is the empty text."""

    parts: tuple[Expression, ...] = ()


class Either(msgspec.Struct, frozen=True):
    """Any of these."""

    options: tuple[Expression, ...]


class Repeated(msgspec.Struct, frozen=True):
    """So many times, `most` None being any number."""

    part: Expression
    least: int = 0
    most: int | None = None


Expression: TypeAlias = One | Several | Either | Repeated


def literal(text: str, *, any_case: bool = False) -> Expression:
    """Exactly this text."""
    sets = (characters.of(char) for char in text)
    return Several(tuple(One(each.any_case() if any_case else each) for each in sets))


def read(pattern: str, flags: Iterable[str] = ()) -> Expression:
    """The tree of a regular expression.

    Raises
    ------
    NotSupported
        It has something that cannot be rewritten; the message names it.
    InvalidRequest
        It is none.
    """
    return _Reader(pattern, frozenset(flags)).whole()


def size(expression: Expression) -> int:
    """Its parts, itself included."""
    match expression:
        case One():
            return 1
        case Several(parts=parts) | Either(options=parts):
            return 1 + sum(map(size, parts))
        case Repeated(part=part):
            return 1 + size(part)


def regex(expression: Expression) -> str:
    """A regular expression in Rust's syntax."""
    match expression:
        case One(of=of):
            return of.regex() if of else r"[^\x{0}-\x{10ffff}]"
        case Several(parts=parts):
            return "".join(map(_grouped, parts))
        case Either(options=options):
            return "|".join(map(regex, options))
        case Repeated(part=part, least=least, most=most):
            return _grouped(part) + times(least, most)


def _grouped(part: Expression) -> str:
    """A part that is repeated, or has others beside it."""
    return regex(part) if isinstance(part, One) else f"({regex(part)})"


def times(least: int, most: int | None) -> str:
    """The mark of a repetition, in regular expressions and rules."""
    short = {(0, None): "*", (1, None): "+", (0, 1): "?"}
    return short.get((least, most)) or f"{{{least},{'' if most is None else most}}}"


class _Reader:
    def __init__(self, pattern: str, flags: frozenset[str]) -> None:
        self._text = pattern
        self._at = 0
        self._flags = flags
        self._depth = 0

    def whole(self) -> Expression:
        found = self._either()
        if self._at < len(self._text):
            raise self._wrong("a closing parenthesis that nothing opens")
        return found

    def _either(self) -> Expression:
        self._depth += 1
        if self._depth > MOST_NESTED:
            raise self._wrong(f"groups nested more than {MOST_NESTED} levels deep")
        flags = self._flags
        options = [self._several()]
        while self._take("|"):
            options.append(self._several())
        self._flags = flags  # those set inside end here
        self._depth -= 1
        return options[0] if len(options) == 1 else Either(tuple(options))

    def _several(self) -> Expression:
        parts: list[Expression] = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            if "x" in self._flags and self._skip_comment():
                continue
            found = self._single()
            if found is not None:
                parts.append(self._counted(found))
        return parts[0] if len(parts) == 1 else Several(tuple(parts))

    def _skip_comment(self) -> bool:
        found = re.compile(r"\s+|#[^\n]*").match(self._text, self._at)
        if found:
            self._at = found.end()
        return found is not None

    def _counted(self, part: Expression) -> Expression:
        while True:
            if self._take("*"):
                part = Repeated(part)
            elif self._take("+"):
                part = Repeated(part, 1)
            elif self._take("?"):
                part = Repeated(part, 0, 1)
            elif (found := _COUNT.match(self._text, self._at)) and (found[1] or found[3]):
                self._at = found.end()
                least = int(found[1] or 0)
                most = int(found[3]) if found[3] else None if found[2] else least
                if most is not None and most < least:
                    raise self._wrong(f"the repetition '{found[0]}'")
                part = Repeated(part, least, most)
            else:
                return part

    def _single(self) -> Expression | None:
        char = self._next()
        if char == "(":
            return self._group()
        if char == "[":
            return One(self._any_case(self._class()))
        if char == ".":
            return One(ALL if "s" in self._flags else ~LINE_BREAK)
        if char in "^$":
            raise self._unsupported(f"the anchor '{char}'")
        if char in "*+?":
            raise self._wrong(f"'{char}' with nothing before it")
        if char == "\\":
            return One(self._any_case(self._escape()))
        return One(self._any_case(characters.of(char)))

    def _any_case(self, found: Characters) -> Characters:
        return found.any_case() if "i" in self._flags else found

    def _group(self) -> Expression | None:
        before = self._flags
        if name := _NAME.match(self._text, self._at):
            self._at = name.end()
        elif found := _FLAGS.match(self._text, self._at):
            self._at = found.end()
            self._flags = (self._flags | set(found[1])) - set(found[2] or "")
            if found[3] == ")":
                return None
        elif self._text.startswith("?", self._at):
            raise self._unsupported(f"'({self._text[self._at : self._at + 2]}'")
        inner = self._either()
        if not self._take(")"):
            raise self._wrong("a parenthesis that nothing closes")
        self._flags = before
        return inner

    def _escape(self) -> Characters:
        if found := _CODE.match(self._text, self._at):
            self._at = found.end()
            code = int(found[1] or found[2] or found[3], 16)
            if code > 0x10FFFF:
                raise self._wrong(f"the character '\\{found[0]}'")
            return characters.of(chr(code))
        char = self._next()
        if char in "dDwWsS":
            return characters.named(char)
        if char in _ESCAPES:
            return characters.of(_ESCAPES[char])
        if char.isalnum():
            raise self._unsupported(f"'\\{char}'")
        return characters.of(char)

    def _class(self) -> Characters:
        is_negated = self._take("^")
        found = Characters(())
        is_first = True
        while is_first or not self._take("]"):
            if _POSIX.match(self._text, self._at) or self._text.startswith("[", self._at):
                raise self._unsupported("a class of characters inside of another")
            is_first = False
            low = self._member()
            after = self._text[self._at + 1 : self._at + 2]
            if after not in {"", "]"} and self._take("-"):
                high = self._member()
                ends = (*low.intervals, *high.intervals)
                if len(ends) != 2 or ends[0][0] > ends[1][0] or ends[0][0] != ends[0][1]:
                    raise self._wrong("a range of characters that is none")
                low = Characters([(ends[0][0], ends[1][1])])
            found |= low
        found = self._any_case(found)
        return ~found if is_negated else found

    def _member(self) -> Characters:
        char = self._next()
        return self._escape() if char == "\\" else characters.of(char)

    def _next(self) -> str:
        if self._at >= len(self._text):
            raise self._wrong("an end too early")
        self._at += 1
        return self._text[self._at - 1]

    def _take(self, text: str) -> bool:
        found = self._text.startswith(text, self._at)
        self._at += len(text) * found
        return found

    def _wrong(self, what: str) -> InvalidRequest:
        return InvalidRequest(f"The regular expression /{self._text[:80]}/ has {what}.")

    def _unsupported(self, what: str) -> NotSupported:
        return NotSupported(
            f"The regular expression /{self._text[:80]}/ uses {what}, which cannot be enforced in "
            "the input of a tool."
        )
