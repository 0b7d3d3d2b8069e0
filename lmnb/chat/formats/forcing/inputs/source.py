"""Lark grammars read: their rules as trees over terminals, and their terminals as expressions.

The syntax is that of Lark's own grammar files (lark-parser.readthedocs.io, grammar) as far as
OpenAI's custom tools take it, which is what llguidance takes: no templates, no priorities, imports
of `common` only. What is wrong with a grammar is for llguidance to say, and is said before it gets
here (`lmnb.engine.grammar_source.check`); what llguidance adds to Lark is refused here, by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NamedTuple

from lmnb.chat.formats.forcing.inputs import expressions
from lmnb.chat.formats.forcing.inputs.characters import Characters
from lmnb.chat.formats.forcing.inputs.expressions import MOST_NESTED, Expression, One
from lmnb.chat.formats.forcing.inputs.nodes import Choice, Name, Node, Repeat, Sequence, Text
from lmnb.chat.formats.forcing.inputs.terminals import Terminals
from lmnb.errors import InvalidRequest, NotSupported

_TOKEN = re.compile(
    r"""
    (?P<skip>[ \t\f]+|(?://|\#)[^\n]*|\r)
  | (?P<line>\n)
  | (?P<string>"(?:\\.|[^"\\\n])*"i?)
  | (?P<regex>/(?:\\.|[^/\\\n])+/[imslux]*)
  | (?P<arrow>->)
  | (?P<dots>\.\.)
  | (?P<number>\d+)
  | (?P<statement>%[a-z]+)
  | (?P<name>(?:[!?]+(?=_?[a-z]))?_?[A-Za-z](?:\w|-(?=\w))*)
  | (?P<mark>[:|()\[\]{}*+?~.,])
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_SPEECH = {
    "&": "the operator '&'",
    "<": "special tokens",
    "@": "references to other grammars",
}
_COMMON = {
    "DIGIT": "[0-9]",
    "HEXDIGIT": "[0-9a-fA-F]",
    "INT": "[0-9]+",
    "SIGNED_INT": "[+-]?[0-9]+",
    "DECIMAL": r"[0-9]+\.[0-9]*|\.[0-9]+",
    "_EXP": "[eE][+-]?[0-9]+",
    "FLOAT": r"[0-9]+[eE][+-]?[0-9]+|([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?",
    "SIGNED_FLOAT": r"[+-]?([0-9]+[eE][+-]?[0-9]+|([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?)",
    "NUMBER": r"([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?",
    "SIGNED_NUMBER": r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?",
    "ESCAPED_STRING": r'"([^"\\\n]|\\[^\n])*"',
    "LCASE_LETTER": "[a-z]",
    "UCASE_LETTER": "[A-Z]",
    "LETTER": "[a-zA-Z]",
    "WORD": "[a-zA-Z]+",
    "CNAME": "[_a-zA-Z][_a-zA-Z0-9]*",
    "WS_INLINE": r"[ \t]+",
    "WS": r"[ \t\f\r\n]+",
    "CR": r"\r",
    "LF": r"\n",
    "NEWLINE": r"(\r?\n)+",
    "SH_COMMENT": r"#[^\n]*",
    "CPP_COMMENT": r"//[^\n]*",
    "C_COMMENT": r"/\*([^*]|\*+[^*/])*\*+/",
    "SQL_COMMENT": r"--[^\n]*",
}
"""What Lark's module `common` defines (lark/grammars/common.lark), as regular expressions."""


class Grammar(NamedTuple):
    """A grammar as it was read.

    rules, terminals
        By their names; rules without the marks for what happens to their trees (`?`, `!`).
    ignored
        What may stand between any two terminals.
    """

    rules: Mapping[str, Node]
    terminals: Mapping[str, Expression]
    ignored: tuple[Expression, ...]


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


def read(text: str) -> Grammar:
    """Read a grammar that llguidance takes.

    Raises
    ------
    NotSupported
        It has something of llguidance's own; the message names it.
    InvalidRequest
        It cannot be understood.
    """
    reader = _Reader(_tokens(text))
    reader.all()
    terminals = Terminals(reader.terminals)
    return Grammar(
        rules=reader.rules,
        terminals={name: terminals.named(name) for name in reader.terminals},
        ignored=tuple(terminals.expression(node) for node in reader.ignored),
    )


def _tokens(text: str) -> list[_Token]:
    found = []
    line = 1
    for match in _TOKEN.finditer(text):
        kind = str(match.lastgroup)
        if kind == "other":
            what = _SPEECH.get(match[0], f"'{match[0]}'")
            raise NotSupported(f"The Lark grammar uses {what} in line {line}, {_NOT_HERE}")
        if kind != "skip":
            found.append(_Token(kind, match[0], line))
        line += match[0].count("\n")
    found.append(_Token("end", "", line))
    return found


_NOT_HERE = "which cannot be enforced in the input of a tool."


class _Reader:
    """Reads definitions and statements, one a line, `|` going on with the one before."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self.rules: dict[str, Node] = {}
        self.terminals: dict[str, Node] = {}
        self.ignored: list[Node] = []

    def all(self) -> None:
        while self._skip_lines().kind != "end":
            token = self._next()
            if token.kind == "statement":
                self._statement(token)
            elif token.kind == "name":
                self._definition(token.text.lstrip("!?"))
            else:
                raise self._wrong(token)

    def _definition(self, name: str) -> None:
        for mark, what in (("{", "templates"), (".", "priorities"), ("[", "options of rules")):
            if self._peek().text == mark:
                raise self._unsupported(what)
        self._expect(":")
        if self._peek().text == ":":
            raise self._unsupported("parameters of rules")
        node = self._choice()
        (self.terminals if _is_terminal(name) else self.rules)[name] = node

    def _statement(self, token: _Token) -> None:
        if token.text == "%ignore":
            self.ignored.append(self._choice())
        elif token.text == "%import":
            self._import()
        else:
            raise self._unsupported(f"'{token.text}'")

    def _import(self) -> None:
        path = [self._next().text]
        while self._take("."):
            path.append(self._next().text)
        if self._take("("):
            names = [self._next().text]
            while self._take(","):
                names.append(self._next().text)
            self._expect(")")
            for name in names:
                self.terminals[name] = self._common([*path, name])
            return
        alias = self._next().text if self._take("->") else path[-1]
        self.terminals[alias] = self._common(path)

    def _common(self, path: list[str]) -> Node:
        if path[:-1] != ["common"] or path[-1] not in _COMMON:
            raise self._unsupported(f"the import of '{'.'.join(path)}'")
        return Text(expressions.read(_COMMON[path[-1]]))

    # --- what stands behind a colon -----------------------------------------------------

    def _choice(self) -> Node:
        self._depth += 1
        if self._depth > MOST_NESTED:
            raise InvalidRequest("The Lark grammar is nested too deeply.")
        options = [self._sequence()]
        while self._goes_on():
            options.append(self._sequence())
        self._depth -= 1
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _goes_on(self) -> bool:
        """Whether another alternative follows, perhaps in the next line."""
        before = self._at
        self._skip_lines()
        if self._take("|"):
            return True
        self._at = before
        return False

    def _sequence(self) -> Node:
        parts = []
        while self._peek().text not in {"|", ")", "]"} and self._peek().kind not in {"line", "end"}:
            if self._take("->"):
                self._next()  # a name for the tree
            else:
                parts.append(self._repeated(self._atom()))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _atom(self) -> Node:
        token = self._next()
        if token.text in {"(", "["}:
            self._skip_lines()
            inner = self._choice()
            self._skip_lines()
            self._expect(")" if token.text == "(" else "]")
            return inner if token.text == "(" else Repeat(inner, 0, 1)
        if token.kind == "string":
            if self._take(".."):
                return Text(One(_span(_string(token), _string(self._next()))))
            return Text(expressions.literal(_string(token), any_case=token.text.endswith("i")))
        if token.kind == "regex":
            body, _, flags = token.text[1:].rpartition("/")
            return Text(expressions.read(body.replace(r"\/", "/"), flags))
        if token.kind == "name":
            return Name(token.text)
        if token.text == "~":
            raise self._unsupported("the operator '~' before what it negates")
        if token.kind == "statement":
            raise self._unsupported(f"'{token.text}'")
        raise self._wrong(token)

    def _repeated(self, node: Node) -> Node:
        if self._take("*"):
            return Repeat(node, 0, None)
        if self._take("+"):
            return Repeat(node, 1, None)
        if self._take("?"):
            return Repeat(node, 0, 1)
        if self._take("~"):
            least = int(self._next().text)
            return Repeat(node, least, int(self._next().text) if self._take("..") else least)
        if self._take("{"):
            return self._counted(node)
        return node

    def _counted(self, node: Node) -> Node:
        """The repetitions `{2}`, `{2,}`, `{,3}`, `{2,3}`, which llguidance knows."""
        if self._peek().kind not in {"number", "mark"}:
            raise self._unsupported("templates")
        least = int(self._next().text) if self._peek().kind == "number" else 0
        most: int | None = least
        if self._take(","):
            most = int(self._next().text) if self._peek().kind == "number" else None
        self._expect("}")
        return Repeat(node, least, most)

    # --- tokens -------------------------------------------------------------------------

    def _peek(self) -> _Token:
        return self._tokens[self._at]

    def _next(self) -> _Token:
        token = self._peek()
        if token.kind == "end":
            raise self._wrong(token)
        self._at += 1
        return token

    def _take(self, text: str) -> bool:
        found = self._peek().text == text and self._peek().kind not in {"string", "regex"}
        self._at += found
        return found

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise self._wrong(self._peek())

    def _skip_lines(self) -> _Token:
        while self._peek().kind == "line":
            self._at += 1
        return self._peek()

    def _wrong(self, token: _Token) -> InvalidRequest:
        what = f"'{token.text}'" if token.text.strip() else "an end"
        return InvalidRequest(f"The Lark grammar has {what} in line {token.line}, unexpectedly.")

    def _unsupported(self, what: str) -> NotSupported:
        line = self._tokens[max(self._at - 1, 0)].line
        return NotSupported(f"The Lark grammar uses {what} in line {line}, {_NOT_HERE}")


def _is_terminal(name: str) -> bool:
    return name.lstrip("_")[:1].isupper()


def _string(token: _Token) -> str:
    r"""What a string literal says: JSON's escapes, and `\x41`."""
    body = token.text[1 : token.text.rindex('"')]
    body = re.sub(r"((?:[^\\]|\\[^x])+)|\\x([0-9a-fA-F]{2})", _plain_escape, body)
    try:
        return str(json.loads(f'"{body}"', strict=False))
    except ValueError:
        raise InvalidRequest(
            f"The Lark grammar has the string {token.text}, which is none."
        ) from None


def _plain_escape(match: re.Match[str]) -> str:
    return match[1] or f"\\u00{match[2]}"


def _span(low: str, high: str) -> Characters:
    if len(low) != 1 or len(high) != 1 or low > high:
        raise InvalidRequest(f'The Lark grammar has the range "{low}".."{high}", which is none.')
    return Characters([(ord(low), ord(high))])
