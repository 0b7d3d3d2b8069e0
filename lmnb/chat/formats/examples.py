"""What answers in a format look like, for people."""

from __future__ import annotations

from lmnb.chat.conversation import ToolCall
from lmnb.chat.formats.default import CALLS
from lmnb.chat.formats.format import Format
from lmnb.chat.formats.write import write_answer, write_calls

_SAID = (
    ToolCall("call00001", "get_weather", '{"city": "Oslo", "days": 3}'),
    ToolCall("call00002", "get_time", '{"zone": "Europe/Oslo"}'),
)


def examples(form: Format) -> dict[str, str]:
    """An `answer` (after thinking, if there is some), a `call`, and two `calls` if they may be."""
    calls = form.calls or CALLS
    found = {
        "answer": write_answer(form, thinking="What the model thinks.", words="What it says."),
        "call": write_calls(calls, _SAID[:1]),
    }
    if calls.parallel:
        found["calls"] = write_calls(calls, _SAID)
    return found
