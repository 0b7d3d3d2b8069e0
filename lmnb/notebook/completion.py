"""Tab in a line of `%lm`, `%%claude` or `%%openai`: commands, options and variables, from memory."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from lmnb.notebook.arguments import Parser
from lmnb.notebook.lm import lm
from lmnb.notebook.magics import claude, openai
from lmnb.notebook.output import shell


def complete(context: Any) -> Any:
    """What could stand at the cursor in the line of a magic.

    `context` and the result are IPython's `CompletionContext` and `SimpleMatcherResult`.
    """
    from IPython.core.completer import SimpleCompletion

    magic, *words = context.line_with_cursor.split() or [""]
    parsers = {"%lm": lm.parser, "%%claude": claude.parser, "%%openai": openai.parser}
    if magic not in parsers:
        return {"completions": []}
    before = context.text_until_cursor
    typed = before.split()[1:]
    fragment = typed[-1] if typed and not before[-1].isspace() else ""
    before_it = typed[:-1] if fragment else typed
    option = before_it[-1] if before_it else ""
    if option in _VARIABLES:
        fragment = fragment.rpartition(",")[2]
        candidates = _variables(option)
    else:
        candidates = _candidates(parsers[magic], words)
    found = [
        SimpleCompletion(text=word, type="param")
        for word in candidates
        if word.startswith(fragment) and word != fragment
    ]
    return {"completions": found, "suppress": True, "matched_fragment": fragment}


def _variables(option: str) -> list[str]:
    """Variables of the notebook that the option can take, without those of IPython."""
    running = shell()
    return sorted(
        name
        for name, value in running.user_ns.items()
        if name[0] != "_" and name not in running.user_ns_hidden and _VARIABLES[option](value)
    )


def _is_type(value: Any) -> bool:
    return isinstance(value, type | dict)


def _is_function(value: Any) -> bool:
    return inspect.isroutine(value)


def _is_picture(value: Any) -> bool:
    shows = ("savefig", "_repr_png_", "__array__")
    return isinstance(value, bytes) or any(hasattr(type(value), name) for name in shows)


_VARIABLES: dict[str, Callable[[Any], bool]] = {
    "--tools": _is_function,
    "--schema": _is_type,
    "--image": _is_picture,
}
"""Options that take variables, and which."""


def _candidates(parser: Parser, words: list[str]) -> list[str]:
    commands = parser.commands()
    for word in words:
        if word in commands:
            return commands[word].options()
    return [*commands, *parser.options()]
