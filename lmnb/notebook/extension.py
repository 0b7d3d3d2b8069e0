"""`%load_ext lmnb`: names the magics, and imports what they need when they are first used."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from lmnb.notebook import tables
from lmnb.notebook.traits import register, unregister

_MAGICS = {
    "lm": ("line", "lmnb.notebook.lm"),
    "claude": ("cell", "lmnb.notebook.magics"),
    "openai": ("cell", "lmnb.notebook.magics"),
}
"""Name: its kind, and the module with an object of that name that has `__call__` and `help`."""


def load(ipython: Any) -> None:
    """Register the magics and their completion, and `.lm` of tables."""
    tables.register()
    for name, (kind, module) in _MAGICS.items():
        ipython.register_magic_function(_lazy(name, module), kind, name)
    ipython.Completer.custom_matchers.append(_matcher)
    register(ipython)


def unload(ipython: Any) -> None:
    """Take everything back: conversations are forgotten, panels closed. Models and server stay as they are."""
    tables.unregister()
    for name, (kind, _) in _MAGICS.items():
        ipython.magics_manager.magics[kind].pop(name, None)
    if _matcher in ipython.Completer.custom_matchers:
        ipython.Completer.custom_matchers.remove(_matcher)
    unregister(ipython)
    if magics := sys.modules.get("lmnb.notebook.magics"):
        magics.forget()
    if widgets := sys.modules.get("lmnb.notebook.widgets.ui"):
        widgets.close()


def _lazy(name: str, module: str) -> Callable[..., Any]:
    def magic(line: str, cell: str | None = None) -> Any:
        from lmnb.notebook.failures import short_errors

        with short_errors():
            function = getattr(import_module(module), name)
            return function(line) if cell is None else function(line, cell)

    def help_text() -> str:
        text: str = getattr(import_module(module), name).help()
        return text

    magic.__name__ = magic.__qualname__ = name
    # IPython asks for these by name: the text of `%lm?`, and not to put variables into the
    # line, where `{{name}}` and `$` are ours or the user's.
    vars(magic).update(getdoc=help_text, _ipython_magic_no_var_expand=True)
    return magic


def _matcher(context: Any) -> Any:
    """Complete lines of `%lm`, and cells of the cell magics."""
    line, cell = (text.split(None, 1) for text in (context.line_with_cursor, context.full_text))
    if (line and line[0] == "%lm") or (cell and cell[0] in {"%%claude", "%%openai"}):
        from lmnb.notebook.completion import complete

        return complete(context)
    return {"completions": []}


# What `IPython.core.completer.context_matcher` sets, without importing anything for it.
vars(_matcher).update(matcher_identifier="lmnb", matcher_api_version=2, matcher_priority=50)
