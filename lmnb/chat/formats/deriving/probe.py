"""Small conversations printed by a template, to be compared with one another.

Every word of them is made up and occurs nowhere else, so that it is found again in the output.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lmnb.chat.conversation import Tool, ToolCall
from lmnb.chat.rendering.job import Turn
from lmnb.chat.rendering.messages import SWITCHES

if TYPE_CHECKING:
    from lmnb.chat.rendering.template import Template

QUESTION = "Questionqq"
WORDS = "Wordsww"
THOUGHT = "Thoughttt"
NAMES = ("toolaa", "toolbb")
KEYS = ("keyaa", "keybb")
VALUES = ("valueaa", "valuebb")
IDS = ("callaaaa1", "callbbbb2")
"""Nine letters and digits, as Mistral's templates insist on."""

LATER = (Turn("user", "Moreuu"), Turn("assistant", "Moreaa"))
"""Turns that may follow: some templates leave thinking out of the answers before the last question,
others out of those before the last answer."""

_SECONDS = 1.0
_RAW = re.compile(r"""["'](type|role)["']: ["'](text|thinking|assistant)["']""")
"""A message or its content printed as it is: the template does not take it apart."""


class Probe:
    """Prints a turn of the assistant in many forms; None where the template fails on one.

    Stops printing after a second: a template that slow has no format.
    """

    def __init__(self, template: Template, *, bos_text: str = "", eos_text: str = "") -> None:
        self._template = template
        self._until = time.monotonic() + _SECONDS
        self._texts: dict[str, Any] = {"bos_token": bos_text, "eos_token": eos_text}
        self._tools = [_tool(name) for name in NAMES]
        takes = template.takes_with_tools
        self._takes = replace(takes, thinking="") if takes.thinking == "tags" else takes

    @property
    def string_arguments(self) -> bool:
        """Whether the template wants the arguments of calls as JSON text."""
        return self._takes.arguments == "text"

    def opening(self, **variables: Any) -> str:
        """What stands after the user's words where the assistant is to begin; "" if it fails."""
        return self._after_question([Turn("user", QUESTION)], variables, generate=True)

    def turn(
        self,
        words: str = "",
        thinking: str = "",
        calls: Sequence[ToolCall] = (),
        *,
        after: Sequence[Turn] = (),
    ) -> str:
        """What is printed after the user's words for such a turn; "" if the template fails on it.

        White space at the end is left out. Thinking is switched on where there is some: several
        templates leave it out otherwise. `after`: the turns that follow.
        """
        turns = [Turn("user", QUESTION), Turn("assistant", words, thinking, calls=tuple(calls))]
        turns += after
        variables = dict.fromkeys(SWITCHES, True) if thinking else {}
        shown = self._after_question(turns, variables)
        return "" if _RAW.search(shown) else shown.rstrip()

    def _after_question(
        self, turns: list[Turn], variables: dict[str, Any], *, generate: bool = False
    ) -> str:
        if time.monotonic() > self._until:
            return ""
        try:
            output = self._template.print(
                turns,
                self._tools,
                self._takes,
                variables=self._texts | variables,
                generate=generate,
            )
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - templates fail in every way there is
            return ""
        return output.rpartition(QUESTION)[2] if QUESTION in output else ""


def call(index: int, arguments: Mapping[str, Any] | None = None) -> ToolCall:
    """The first or second call, with these arguments or its own single one."""
    given = {KEYS[index]: VALUES[index]} if arguments is None else arguments
    return ToolCall(IDS[index], NAMES[index], json.dumps(given))


def _tool(name: str) -> Tool:
    properties = {key: {"type": "string", "description": "Some text."} for key in KEYS}
    parameters = {"type": "object", "properties": properties, "required": [KEYS[0]]}
    return Tool(name, "Does something.", parameters)
