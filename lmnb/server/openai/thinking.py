"""How much to think, in OpenAI's words."""

from __future__ import annotations

from lmnb.chat.conversation import Reasoning
from lmnb.server.openai.body import Fields, Int

_THOROUGH = ("low", "medium", "high", "xhigh", "max")


class BudgetFields(Fields):
    """The most tokens to think, as other servers call it; -1 is any number.

    llama.cpp's server has the first two, vLLM the third, Alibaba's and SiliconFlow's the last.
    """

    reasoning_budget_tokens: Int | None = None
    thinking_budget_tokens: Int | None = None
    thinking_token_budget: Int | None = None
    thinking_budget: Int | None = None

    def thinking_bound(self, *others: int | None) -> int | None:
        """The first that is given of these, and `others` before them."""
        given = (
            *others,
            self.reasoning_budget_tokens,
            self.thinking_budget_tokens,
            self.thinking_token_budget,
            self.thinking_budget,
        )
        return next((budget for budget in given if budget is not None), None)


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
