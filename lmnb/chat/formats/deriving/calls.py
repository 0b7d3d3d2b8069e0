"""How a template writes tool calls, found by comparing what it prints for several of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from lmnb.chat.formats.deriving.arguments import WrittenArguments, find_arguments
from lmnb.chat.formats.deriving.borders import common_prefix, common_suffix, markers, without_empty
from lmnb.chat.formats.deriving.probe import IDS, KEYS, NAMES, THOUGHT, VALUES, WORDS, Probe, call
from lmnb.chat.formats.format import (
    ARGUMENTS,
    ID,
    INDEX,
    NAME,
    Call,
    Calls,
    JsonCall,
    PythonCall,
    WrittenCall,
)
from lmnb.chat.formats.write import write_calls

_JSON = json.JSONDecoder()
_TWO = (call(0), call(1))


@dataclass(frozen=True)
class _Found:
    """A call in printed text, where it begins and where it ends."""

    call: Call
    begin: int
    end: int


_Find = Callable[[str, int, int], _Found | None]
"""Finds the call `index` in a text, from a position on."""


def derive_calls(probe: Probe, header: str, tail: str) -> Calls | None:
    """The syntax of calls; None if the template prints none that is understood.

    `header` and `tail` are what stands around every turn of the assistant.
    """
    finders: list[_Find] = [_find_json, _find_python]
    if arguments := find_arguments(probe):
        finders.append(_finder(arguments))
    found = (_derive(probe, header, tail, find) for find in finders)
    return next((calls for calls in found if calls and _holds(probe, calls)), None)


def _holds(probe: Probe, calls: Calls) -> bool:
    """Whether calls that are written so are what the template prints, white space aside.

    A syntax that `Calls` cannot say (the key in the closing tag, …) is told from others by that.
    """
    both = dict(zip(KEYS, VALUES, strict=True))
    said = (call(0, both), call(1)) if calls.parallel else (call(0, both),)
    counted = [msgspec.structs.replace(each, id=str(index)) for index, each in enumerate(said)]
    printed = _without_space(probe.turn(calls=said))
    return any(_without_space(write_calls(calls, ids)) in printed for ids in (said, counted))


def _without_space(text: str) -> str:
    return "".join(text.split())


def _derive(probe: Probe, header: str, tail: str, find: _Find) -> Calls | None:
    double = probe.turn(calls=_TWO)
    several = NAMES[1] in double
    text = double if several else probe.turn(calls=_TWO[:1])
    first = find(text, 0, 0)
    if first is None:
        return None
    if not several:
        before = _before(probe, find, header, "")
        form = _wrap(first.call, before, _until(text[first.end :], tail))
        calls = Calls(call=form, parallel=False)
    else:
        second = find(text, 1, first.end)
        if second is None:
            return None
        between = text[first.end : second.begin]
        before = _before(probe, find, header, between)
        after = _until(text[second.end :], tail)
        calls = _arrange(before, between, after, _with_index(first.call, second.call))
    return msgspec.structs.replace(
        calls,
        after_words=_after_words(probe, find, before),
        string_arguments=probe.string_arguments,
    )


def _until(text: str, tail: str) -> str:
    """`text` less `tail`, and less what follows the marker that the tail begins with."""
    text = text.removesuffix(tail)
    first = next(iter(markers(tail)), "")
    return text.partition(first)[0] if first and tail.startswith(first) else text


def _before(probe: Probe, find: _Find, header: str, between: str) -> str:
    """What is printed before the first call because there is one.

    That is what turns with calls alone, with thinking and with words have in common there. It may
    begin in the header if it is repeated before every call (Functionary's `>>>`).
    """
    texts = []
    for words, thinking in (("", ""), (WORDS, ""), ("", THOUGHT)):
        text = probe.turn(words, thinking, _TWO[:1])
        found = find(text, 0, 0)
        said = words + thinking
        if found and said in text[: found.begin]:
            texts.append(text[: found.begin].rpartition(said)[2] if said else text[: found.begin])
    own = without_empty(texts[0].removeprefix(header))
    shared = common_suffix(texts if len(texts) > 1 else [*texts, between])
    repeated = between.endswith(shared) and len(shared.strip()) > len(own.strip())
    return shared if repeated else common_suffix([own, *texts[1:]])


def _after_words(probe: Probe, find: _Find, before: str) -> str:
    """White space that is printed before `before` where words precede it."""
    text = probe.turn(WORDS, calls=_TWO[:1])
    found = find(text, 0, 0)
    if found is None or WORDS not in text[: found.begin]:
        return ""
    space = text[: found.begin].rpartition(WORDS)[2].removesuffix(before)
    return "" if space.strip() else space


def _arrange(before: str, between: str, after: str, form: Call) -> Calls:
    """Tell what belongs to each call from what belongs to all of them."""
    opens = common_suffix((before, between)).lstrip()
    closes = common_prefix((between, after)).rstrip()
    if isinstance(form, PythonCall) or not between.strip(" \n\t,;"):
        opens = closes = ""
    if len(opens) + len(closes) > len(between):
        closes = ""
    return Calls(
        call=_wrap(form, opens, closes),
        begin=before[: len(before) - len(opens)],
        separator=between[len(closes) : len(between) - len(opens)],
        end=after[len(closes) :],
    )


def _wrap(form: Call, opens: str, closes: str) -> Call:
    if isinstance(form, JsonCall):
        return msgspec.structs.replace(form, begin=opens, end=closes)
    if isinstance(form, WrittenCall):
        pieces = tuple(filter(None, (opens, *form.pieces, closes)))
        return msgspec.structs.replace(form, pieces=pieces)
    return form


# --- JSON objects ---------------------------------------------------------------------


def _find_json(text: str, index: int, start: int) -> _Found | None:
    position = text.find("{", start)
    while position >= 0:
        try:
            value, end = _JSON.raw_decode(text, position)
        except (ValueError, RecursionError):
            value, end = None, position + 1
        found = _json_call(value, index, text[position:end])
        if found and NAMES[1 - index] not in text[position:end]:
            return _Found(found, position, end)
        position = text.find("{", position + 1)
    return None


def _json_call(value: Any, index: int, text: str) -> JsonCall | None:
    """The form of a call that is the JSON object `value`, written as `text`."""
    path = _path(value, index)
    if path is None:
        return None
    *keys, name_key, arguments_key = path
    inner = value
    for key in keys:
        inner = inner[key]
    ids = {IDS[index], str(index), index}
    id_key = next(
        (
            key
            for holder in (inner, value)
            for key, held in holder.items()
            if isinstance(held, str | int) and not isinstance(held, bool) and held in ids
        ),
        None,
    )
    example = text.replace(NAMES[index], NAME)
    start = example.find("{", example.find(f'"{arguments_key}"'))
    _, end = _JSON.raw_decode(example, start)
    example = example[:start] + ARGUMENTS + example[end:]
    if id_key is not None:
        example = re.sub(
            rf'("{re.escape(id_key)}":\s*)("?)\w+("?)', rf"\g<1>\g<2>{ID}\g<3>", example
        )
    return JsonCall(
        keys=tuple(keys),
        name_key=name_key,
        arguments_key=arguments_key,
        id_key=id_key,
        example=example,
    )


def _path(value: Any, index: int) -> tuple[str, ...] | None:
    """Keys to the object that has the name, then those of the name and of the arguments in it."""
    if not isinstance(value, dict):
        return None
    names = [key for key, held in value.items() if held == NAMES[index]]
    arguments = [key for key, held in value.items() if held == {KEYS[index]: VALUES[index]}]
    if names and arguments:
        return names[0], arguments[0]
    for key, held in value.items():
        if (path := _path(held, index)) is not None:
            return key, *path
    return None


# --- names in text --------------------------------------------------------------------


def _find_python(text: str, index: int, start: int) -> _Found | None:
    pattern = rf"{NAMES[index]}\({KEYS[index]}=([\"']){VALUES[index]}\1\)"
    found = re.compile(pattern).search(text, start)
    return _Found(PythonCall(), *found.span()) if found else None


def _finder(arguments: WrittenArguments) -> _Find:
    def find(text: str, index: int, start: int) -> _Found | None:
        at = text.find(NAMES[index], start)
        if at < 0:
            return None
        name_end = at + len(NAMES[index])
        span = arguments.span(text, index, name_end)
        if span is None:
            return None
        places = [(at, name_end, NAME), (*span, ARGUMENTS)]
        if (id_at := text.find(IDS[index], start)) >= 0:
            places.append((id_at, id_at + len(IDS[index]), ID))
        places.sort()
        form = WrittenCall(pieces=tuple(_pieces(text, places)), arguments=arguments.form)
        return _Found(form, places[0][0], places[-1][1])

    return find


def _pieces(text: str, places: list[tuple[int, int, str]]) -> Iterator[str]:
    position = places[0][0]
    for begin, end, place in places:
        if begin > position:
            yield text[position:begin]
        yield place
        position = end


def _with_index(first: Call, second: Call) -> Call:
    """`first` with `INDEX` where the two count: `functions.name:0`, `functions.name:1`."""
    if not isinstance(first, WrittenCall) or not isinstance(second, WrittenCall):
        return first
    pieces: list[str] = []
    for one, other in zip(first.pieces, second.pieces, strict=False):
        at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
        if at is not None and (one[at], other[at]) == ("0", "1"):
            pieces += filter(None, (one[:at], INDEX, one[at + 1 :]))
        else:
            pieces.append(one)
    return msgspec.structs.replace(first, pieces=tuple(pieces))
