"""LFM2 and LFM2.5: the template lists tools and leaves it to the caller to write calls.

They are a Python list: `<|tool_call_start|>[name(key="text", n=1)]<|tool_call_end|>`
(docs.liquid.ai, tool use).
"""

from __future__ import annotations

import msgspec

from lmnb.chat.formats.format import Calls, Format, PythonCall

_CALLS = Calls(
    call=PythonCall(),
    begin="<|tool_call_start|>[",
    separator=", ",
    end="]<|tool_call_end|>",
)


def recognise(source: str, derived: Format) -> Format | None:
    """The family, if tools are listed in its words and no calls are written."""
    if derived.calls is not None or "List of tools: " not in source:
        return None
    return msgspec.structs.replace(derived, calls=_CALLS, family="lfm2")
