"""How much to think, in OpenAI's words."""

from __future__ import annotations

from lmnb.chat.conversation import Reasoning

_THOROUGH = ("low", "medium", "high", "xhigh", "max")


def reasoning(
    effort: str | None, *, enabled: bool | None = None, budget: int | None = None
) -> Reasoning:
    """The setting for an `effort`: "none" is not to think at all, and "low" is to think.

    What else is said about thinking has the last word.
    """
    if effort == "none":
        return Reasoning(enabled=bool(enabled), budget=budget)
    if enabled is None and effort in _THOROUGH:
        enabled = True
    return Reasoning(enabled=enabled, effort=effort, budget=budget)
