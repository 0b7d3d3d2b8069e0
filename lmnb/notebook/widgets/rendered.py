"""Markdown of a model as HTML, for widgets: they know none, and show any HTML as it is.

What a model writes is not trusted: of HTML in it the text is shown, pictures are not fetched, and
links lead to the web only.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline

from lmnb.notebook.markdown import FORMULA, MONEY, fences

_PIECE = 2000
"""Characters from which a piece of an answer is long enough to be done with."""
_GAP = re.compile(r"\n\n(?=\S)")


def rendered(text: str) -> str:
    """HTML of a Markdown text. Formulas are left to the front end's MathJax, in dollars."""
    return str(_parser().render(text))


def finished(text: str) -> int:
    """How much of a growing text is a piece that stays as it is; 0 if none is yet.

    It ends between blocks: not within code, or a list's item.
    """
    code = fences(text)
    for match in _GAP.finditer(text, _PIECE):
        if not any(begin < match.end() < end for begin, end in code):
            return match.end()
    return 0


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("js-default", {"html": False})
    parser.disable("image")
    parser.inline.ruler.before("escape", "formula", _formula)
    parser.add_render_rule("formula", _show_formula)
    parser.add_render_rule("money", _show_money)
    parser.add_render_rule("link_open", _open_link)
    return parser


def _formula(state: StateInline, silent: bool) -> bool:
    """TeX is no Markdown; and a dollar that is money is no TeX."""
    match = FORMULA.match(state.src, state.pos)
    if match is None:
        return False
    if not silent:
        inner = match["inline"] and f"${match['inline'].strip()}$"
        block = match["block"] and f"$${match['block']}$$"
        formula = inner or block or match["math"]
        token = state.push("formula" if formula else "money", "", 0)
        token.content = formula or ""
    state.pos = match.end()
    return True


def _show_formula(_: Any, tokens: Sequence[Any], at: int, *__: Any) -> str:
    return html.escape(tokens[at].content)


def _show_money(*_: Any) -> str:
    return MONEY


def _open_link(renderer: Any, tokens: Sequence[Any], at: int, options: Any, env: Any) -> str:
    tokens[at].attrSet("target", "_blank")
    tokens[at].attrSet("rel", "noopener noreferrer")
    return str(renderer.renderToken(tokens, at, options, env))
