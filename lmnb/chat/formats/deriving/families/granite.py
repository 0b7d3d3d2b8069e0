"""Granite 3: the template asks for `<|tool_call|>` and a JSON list, and writes no calls itself.

With `thinking` its system message asks for `<think>…</think><response>…</response>`.
"""

from __future__ import annotations

import msgspec

from lmnb.chat.formats.format import ARGUMENTS, NAME, Calls, Format, JsonCall, Span

_CALLS = Calls(
    call=JsonCall(example=f'{{"name": "{NAME}", "arguments": {ARGUMENTS}}}'),
    begin="<|tool_call|>[",
    separator=", ",
    end="]",
)


def recognise(source: str, derived: Format) -> Format | None:
    """The family, if the template asks for calls and answers in its words."""
    if derived.calls is not None or "<|tool_call|> followed by a JSON list" not in source:
        return None
    thinks = "<response></response>" in source
    return msgspec.structs.replace(
        derived,
        thinking=Span("<think>", "</think>") if thinks else derived.thinking,
        answer=Span("<response>", "</response>") if thinks else derived.answer,
        calls=_CALLS,
        family="granite",
    )
