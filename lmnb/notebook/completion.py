"""Tab in a line of `%lm`, `%%claude` or `%%openai`: commands, options, models and variables."""

from __future__ import annotations

import inspect
import re
from argparse import Action
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from lmnb.errors import LmnbError
from lmnb.notebook.arguments import Parser
from lmnb.notebook.defaults import aliases, model_name
from lmnb.notebook.known import known_models
from lmnb.notebook.lm import lm
from lmnb.notebook.magics import claude, openai
from lmnb.notebook.output import shell


def complete(context: Any) -> Any:
    """What could stand at the cursor in the line of a magic.

    `context` and the result are IPython's `CompletionContext` and `SimpleMatcherResult`.
    """
    magic, *words = context.line_with_cursor.split() or [""]
    parsers = {"%lm": lm.parser, "%%claude": claude.parser, "%%openai": openai.parser}
    if magic not in parsers:
        return _in_a_message(context)
    before = context.text_until_cursor
    typed = before.split()[1:]
    fragment = typed[-1] if typed and not before[-1].isspace() else ""
    before_it = typed[:-1] if fragment else typed
    option = before_it[-1] if before_it else ""
    if option in _VARIABLES:
        fragment = fragment.rpartition(",")[2]
        candidates = _variables(option)
    else:
        candidates = _candidates(parsers[magic], words, option)
    return _found(candidates, fragment)


def _in_a_message(context: Any) -> Any:
    """After `{{`: the variables of the notebook."""
    match = re.search(r"\{\{[ \t]*(\w*)$", context.text_until_cursor)
    if match is None:
        return {"completions": []}
    return _found(_own_variables(lambda _: True), match[1])


def _found(candidates: Iterable[str], fragment: str) -> Any:
    from IPython.core.completer import SimpleCompletion

    found = [
        SimpleCompletion(text=word, type="param")
        for word in candidates
        if word.startswith(fragment) and word != fragment
    ]
    return {"completions": found, "suppress": True, "matched_fragment": fragment}


def _variables(option: str) -> list[str]:
    """Variables of the notebook that the option can take."""
    return _own_variables(_VARIABLES[option])


def _own_variables(fits: Callable[[Any], bool]) -> list[str]:
    """Variables of the notebook without those of IPython."""
    running = shell()
    return sorted(
        name
        for name, value in running.user_ns.items()
        if name[0] != "_" and name not in running.user_ns_hidden and fits(value)
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


def _candidates(parser: Parser, words: list[str], option: str) -> list[str]:
    commands = parser.commands()
    for word in words:
        if word in commands:
            parser, commands = commands[word], {}
            break
    if (values := parser.values_of(option)) is not None:
        return _values(values)
    free = [word for place in parser.places() for word in _values(place)]
    return [*free, *commands, *parser.options()]


def _values(action: Action) -> list[str]:
    """What an option, or a place without one, can have for a value, as far as that can be listed."""
    if action.type is model_name:
        with suppress(LmnbError):  # The project's file may be half written.
            return sorted({*known_models(), *aliases()})
    return [str(choice) for choice in action.choices or ()]
