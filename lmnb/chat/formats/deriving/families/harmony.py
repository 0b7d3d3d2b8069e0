"""gpt-oss: every message has a channel, and a call a recipient, before the channel or after it.

The form is OpenAI's harmony (github.com/openai/harmony). The template shows thinking and calls in
places where the model writes them otherwise, and one call of several.
"""

from __future__ import annotations

from lmnb.chat.formats.format import Calls, Format, HarmonyCall, Span


def recognise(source: str, _derived: Format) -> Format | None:
    """Harmony, if the template writes its channels."""
    if "<|channel|>final<|message|>" not in source or "<|channel|>analysis" not in source:
        return None
    return Format(
        thinking=Span("<|channel|>analysis<|message|>", "<|end|>"),
        answer=Span("<|channel|>final<|message|>", ""),
        calls=Calls(call=HarmonyCall(), parallel=False),
        ends=("<|return|>", "<|call|>"),
        family="harmony",
    )
