"""`%config Lmnb`: what cells go by where their options say nothing. Imported with the extension."""

from __future__ import annotations

from argparse import ArgumentTypeError
from typing import Any

from traitlets import Bool, Dict, Float, Int, TraitError, Unicode, Union, validate
from traitlets.config import Configurable


class Lmnb(Configurable):
    """Defaults of `%%claude` and `%%openai`. None is "not said"."""

    model = Unicode(None, allow_none=True, help="model to ask").tag(config=True)
    system = Unicode(None, allow_none=True, help="system prompt").tag(config=True)
    temperature = Float(None, min=0, allow_none=True, help="0 is greedy").tag(config=True)
    top_p = Float(None, min=0, max=1, allow_none=True, help="nucleus sampling").tag(config=True)
    max_tokens = Int(None, min=1, allow_none=True, help="longest answer").tag(config=True)
    seed = Int(None, allow_none=True, help="for the same answer").tag(config=True)
    thinking = Union(
        [Bool(), Int(min=1), Unicode()],
        default_value=None,
        allow_none=True,
        help="whether, how hard (low, medium, …), or for how many tokens to think",
    ).tag(config=True)

    @validate("thinking")
    def _known_effort(self, proposal: Any) -> Any:
        value = proposal["value"]
        if isinstance(value, str):
            from lmnb.notebook.arguments import thinking

            try:
                thinking(value)
            except ArgumentTypeError as error:
                raise TraitError(str(error)) from None
        return value

    cells = Int(None, min=0, allow_none=True, help="earlier cells to show").tag(config=True)
    aliases = Dict(
        value_trait=Unicode(), key_trait=Unicode(), help="names of your own for models"
    ).tag(config=True)


def register(ipython: Any) -> None:
    """Let `%config Lmnb` know of it."""
    try:
        values = Lmnb(parent=ipython)
    except TraitError as error:
        from lmnb.notebook.output import note

        note(f"Of IPython's configuration, Lmnb is left out: {error}")
        values = Lmnb()
    ipython.configurables.append(values)


def unregister(ipython: Any) -> None:
    """Take it back."""
    ipython.configurables[:] = [one for one in ipython.configurables if not isinstance(one, Lmnb)]
