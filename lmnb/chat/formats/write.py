"""Answers written as a `Format` says: what its readers and grammars take apart again."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from lmnb.chat.conversation import ToolCall
from lmnb.chat.formats.format import (
    ARGUMENTS,
    HARMONY_START,
    ID,
    INDEX,
    NAME,
    Arguments,
    Calls,
    DictArguments,
    Format,
    HarmonyCall,
    JsonArguments,
    JsonCall,
    PythonCall,
    Span,
    TaggedArguments,
    WrittenCall,
)

_PLACE = re.compile("|".join(map(re.escape, (NAME, ID, INDEX, ARGUMENTS))))


def write_answer(
    form: Format, *, thinking: str = "", words: str = "", said: Sequence[ToolCall] = ()
) -> str:
    """A whole answer, from where the prompt leaves off without having opened anything.

    Raises
    ------
    ValueError
        There are calls, and the format has none.
    """
    pieces = []
    if thinking and form.thinking is not None:
        pieces.append(form.thinking.begin + thinking + form.thinking.end)
    if words:
        around = form.answer or Span("", "")
        pieces.append(around.begin + words + around.end)
    if said:
        if form.calls is None:
            raise ValueError("This format has no calls.")
        pieces.append(form.calls.after_words * bool(words) + write_calls(form.calls, said))
    harmony = form.calls is not None and isinstance(form.calls.call, HarmonyCall)
    return (HARMONY_START if harmony else "").join(pieces)


def write_calls(calls: Calls, said: Sequence[ToolCall]) -> str:
    """All the calls of a turn; arguments that are no JSON object are written as they are."""
    written = (_call(calls.call, call, index) for index, call in enumerate(said))
    return calls.begin + calls.separator.join(written) + calls.end if said else ""


def _call(form: WrittenCall | JsonCall | PythonCall | HarmonyCall, call: ToolCall, at: int) -> str:
    match form:
        case WrittenCall():
            places = {
                NAME: call.name,
                ID: call.id,
                INDEX: str(at),
                ARGUMENTS: _arguments(form.arguments, call.arguments),
            }
            return "".join(places.get(piece, piece) for piece in form.pieces)
        case JsonCall():
            return form.begin + _json_call(form, call) + form.end
        case PythonCall():
            values = _mapping(call.arguments)
            if values is None:
                return f"{call.name}({call.arguments})"
            given = ", ".join(f"{key}={_python(value)}" for key, value in values.items())
            return f"{call.name}({given})"
        case HarmonyCall():
            return (
                f"<|channel|>commentary to=functions.{call.name} <|constrain|>json<|message|>"
                f"{call.arguments}<|call|>"
            )


def _json_call(form: JsonCall, call: ToolCall) -> str:
    places = {NAME: _quoted(call.name)[1:-1], ID: _quoted(call.id)[1:-1]}
    places[ARGUMENTS] = call.arguments
    return _PLACE.sub(lambda place: places.get(place[0], place[0]), example(form))


def example(form: JsonCall) -> str:
    """The object of a call, with its places; where the format has no example, the plainest."""
    if form.example:
        return form.example
    entries = [f'{_quoted(form.name_key)}: "{NAME}"']
    if form.id_key is not None:
        entries.append(f'{_quoted(form.id_key)}: "{ID}"')
    entries.append(f"{_quoted(form.arguments_key)}: {ARGUMENTS}")
    written = "{" + ", ".join(entries) + "}"
    for key in reversed(form.keys):
        written = f"{{{_quoted(key)}: {written}}}"
    return written


def _arguments(form: Arguments, text: str) -> str:
    values = _mapping(text)
    if values is None or isinstance(form, JsonArguments):
        return text
    if isinstance(form, DictArguments):
        return _bare(values, form.quote)
    return form.separator.join(_tagged(form, key, value) for key, value in values.items())


def _tagged(form: TaggedArguments, key: str, value: Any) -> str:
    is_text = isinstance(value, str)
    kind = "" if form.typed is None else form.typed[0 if is_text else 1]
    shown = value if is_text and form.raw_strings else _quoted(value)
    return f"{form.key_begin}{key}{form.key_end}{kind}{shown}{form.value_end}"


def _python(value: Any) -> str:
    """A JSON value as Python writes it, strings in double quotes and as readable as in JSON."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quoted(key)}: {_python(v)}" for key, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_python, value)) + "]"
    return _quoted(value) if isinstance(value, str) else repr(value)


def _bare(value: Any, quote: str) -> str:
    """A JSON-like value with bare keys, strings between `quote`."""
    if isinstance(value, str):
        return quote + value + quote
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_bare(item, quote)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_bare(item, quote) for item in value) + "]"
    return _quoted(value)


def _mapping(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _quoted(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
