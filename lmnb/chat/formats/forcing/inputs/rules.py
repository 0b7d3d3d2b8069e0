r"""A Lark grammar as rules of the grammar of a call, for a text as it is written there.

llguidance cuts an answer into terminals before it looks at rules, takes the longest, and does not
go back. In a JSON string that goes wrong: after a backslash nobody knows yet whether a line goes on
(`\t`) or the next terminal has begun (`\n`). So a terminal that may have special characters becomes
a rule: runs of plain characters are one lexeme, each special one is a lexeme of its own, and the
terminal's automaton says which may follow which. The rule is left-linear, so that long texts cost no
more per character than short ones.

Every text that is allowed is one of the grammar. Where terminals compete, the longest run of plain
characters wins, as the longest terminal does in llguidance.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache

from lmnb.chat.conversation import Tool
from lmnb.chat.formats.forcing.inputs.automaton import (
    MOST_WORK,
    Automaton,
    automaton,
    too_complex,
)
from lmnb.chat.formats.forcing.inputs.characters import Characters
from lmnb.chat.formats.forcing.inputs.expressions import Expression, regex, times
from lmnb.chat.formats.forcing.inputs.nodes import Choice, Name, Node, Repeat, Sequence, Text
from lmnb.chat.formats.forcing.inputs.source import Grammar, read
from lmnb.chat.formats.forcing.inputs.writing import Escaped, Writing
from lmnb.chat.formats.forcing.lark import Lark, either, sequence
from lmnb.engine import grammar_source
from lmnb.engine.options import ConstraintSpec
from lmnb.errors import LmnbError

_START = "start"
_CACHED = 64
_MOST_WORK = 2 * MOST_WORK
"""For all terminals of a grammar together."""

_read = lru_cache(_CACHED)(read)
_automaton = lru_cache(16 * _CACHED)(automaton)


def rules(lark: Lark, definition: str, writing: Writing) -> str:
    """An expression for the texts of a Lark grammar, as they are written.

    Raises
    ------
    NotSupported, InvalidRequest
        As `check`.
    """
    return _Rules(lark, _read(definition), writing).start()


def check(tool: Tool) -> None:
    """Refuse a custom tool whose grammar, or regular expression, cannot be enforced.

    Raises
    ------
    NotSupported
        It has something that cannot be enforced in the input of a tool; the message names it.
    InvalidRequest
        It is wrong, or too costly.
    """
    if tool.input_format is None:
        return
    try:
        _check(tool.input_format.type, tool.input_format.definition)
    except LmnbError as error:
        message = f"The input of the tool {tool.name!r} cannot be enforced. {error.message}"
        raise type(error)(message, hint=error.hint, param="tools") from error


@lru_cache(_CACHED)
def _check(kind: str, definition: str) -> None:
    if kind == "regex":
        grammar_source.check(ConstraintSpec(kind="regex", text=definition))
        return
    grammar_source.check(ConstraintSpec(kind="lark", text=definition))
    lark = Lark({})
    text = lark.text(rules(lark, definition, Escaped()))
    grammar_source.check(ConstraintSpec(kind="lark", text=text))


class _Rules:
    """The rules of one grammar."""

    def __init__(self, lark: Lark, grammar: Grammar, writing: Writing) -> None:
        self._lark = lark
        self._grammar = grammar
        self._writing = writing
        self._names: dict[str, str] = {}
        self._pending: list[str] = []
        self._terminals: dict[Expression, str] = {}
        self._work = 0
        ignored = [self._terminal(expression) for expression in grammar.ignored]
        self._between = lark.rule(f"{either(ignored)}*") if ignored else ""

    def start(self) -> str:
        """The text of the whole grammar."""
        start = self._rule(_START)
        while self._pending:
            name = self._pending.pop()
            self._lark.define(self._names[name], self._node(self._grammar.rules[name]) or '""')
        return start

    def _rule(self, name: str) -> str:
        """What the rule is called. It is defined later: chains of rules may be long."""
        if name not in self._names:
            self._names[name] = self._lark.name()
            self._pending.append(name)
        return self._names[name]

    def _node(self, node: Node) -> str:
        match node:
            case Name(name=name) if name in self._grammar.rules:
                return self._rule(name)
            case Name(name=name):
                return sequence(self._terminal(self._grammar.terminals[name]), self._between)
            case Text(expression=expression):
                return sequence(self._terminal(expression), self._between)
            case Sequence(parts=parts):
                return sequence(*(self._node(part) for part in parts))
            case Choice(options=options):
                return either(self._node(option) for option in options)
            case Repeat(part=part, least=least, most=most):
                return f"({self._node(part)}){times(least, most)}"

    def _terminal(self, expression: Expression) -> str:
        if expression not in self._terminals:
            found = _automaton(expression)
            self._work += found.work
            if self._work > _MOST_WORK:
                raise too_complex()
            if any(of & self._writing.special for moves in found.moves for of in moves.values()):
                self._terminals[expression] = self._cut(found)
            else:
                pattern = regex(expression)
                self._terminals[expression] = self._lexeme(pattern) if pattern else ""
        return self._terminals[expression]

    def _lexeme(self, pattern: str) -> str:
        return self._lark.terminal(f"/{pattern}/")

    def _cut(self, found: Automaton) -> str:
        """A rule for each state: what is written until it is reached."""
        ways: dict[int, list[str]] = {}
        chained = _reached_once(found)
        names = {0: ""}
        pending = [0]
        while pending:
            state = pending.pop()
            for target, of in found.moves[state].items():
                if target == state:
                    continue
                end, lexemes = self._entry(found, chained, target, of)
                if end not in names:
                    names[end] = self._lark.name()
                    pending.append(end)
                ways.setdefault(end, []).append(sequence(names[state], lexemes))
        for state, way in ways.items():
            self._lark.define(names[state], sequence(either(way), self._loop(found, state)))
        return self._lark.rule(either(names[state] for state in sorted(found.accepting)))

    def _entry(
        self, found: Automaton, chained: set[int], target: int, of: Characters
    ) -> tuple[int, str]:
        """One of these characters, and a run of those that stay at the target; where it ends.

        What can only go on with one more plain character goes on, in the same lexeme.
        """
        special = self._writing.special
        pattern = ""
        while not of & special and (onward := _only(found, chained, target)):
            if onward[1] & special:
                break
            pattern += of.regex()
            target, of = onward
        run = found.moves[target].get(target, Characters(()))
        return target, self._characters(pattern, of, run)

    def _characters(self, before: str, of: Characters, run: Characters) -> str:
        special, plain, rest = of & self._writing.special, of - self._writing.special, ""
        if run - self._writing.special:
            rest = f"{(run - self._writing.special).regex()}*"
        options = [self._lexeme(before + plain.regex() + rest)] if plain else []
        if special:
            options.append(self._lexeme(self._writing.one(special, run)))
        return either(options)

    def _loop(self, found: Automaton, state: int) -> str:
        """Any number of characters that stay at the state."""
        run = found.moves[state].get(state)
        return f"{self._characters('', run, run)}*" if run else ""


def _reached_once(found: Automaton) -> set[int]:
    """The states that are reached in one way only."""
    ways = Counter(target for moves in found.moves for target in moves)
    return {state for state, count in ways.items() if count == 1}


def _only(found: Automaton, chained: set[int], state: int) -> tuple[int, Characters] | None:
    """The only way on from a state that is reached in one way only, if there is one."""
    moves = found.moves[state]
    if state in found.accepting or len(moves) != 1 or state not in chained:
        return None
    return next(iter(moves.items()))
