"""Tab in a line of `%lm`, `%%claude` or `%%openai`: commands and options, from memory only."""

from __future__ import annotations

from typing import Any

from lmnb.notebook.arguments import Parser
from lmnb.notebook.lm import lm
from lmnb.notebook.magics import claude, openai


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
    found = [
        SimpleCompletion(text=word, type="param")
        for word in _candidates(parsers[magic], words)
        if word.startswith(fragment) and word != fragment
    ]
    return {"completions": found, "suppress": True, "matched_fragment": fragment}


def _candidates(parser: Parser, words: list[str]) -> list[str]:
    commands = parser.commands()
    for word in words:
        if word in commands:
            return commands[word].options()
    return [*commands, *parser.options()]
