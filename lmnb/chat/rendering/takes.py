"""Finding out what a template takes, by trying it with small conversations.

Nothing is known of families here, nor read from a template's text: what shows in the prompt is
taken, what is missing or comes out as Python writes it is not. Every question is asked of one small
conversation, in the manners that are in use, the commonest first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import product
from typing import Any, Literal, TypeAlias

import msgspec

from lmnb.chat.conversation import Tool, ToolCall
from lmnb.chat.rendering.job import Turn
from lmnb.chat.rendering.messages import Ids, Takes, ThinkingKey, messages
from lmnb.chat.rendering.schemas import Schemas

Print: TypeAlias = Callable[[Sequence[Turn], Sequence[Tool], Takes], str]
"""A template printed with turns and tools in a manner; the answer is to be begun."""

_USER, _MORE = Turn("user", "QQuery"), Turn("user", "MMore")
_ANSWER, _SYSTEM = Turn("assistant", "AAnswer"), Turn("system", "SSystem")
_THOUGHT = "TThought"
_FIRST = ToolCall("call_first", "nfirst", '{"kfirst": "vfirst"}')
_SECOND = ToolCall("call_second", "nsecond", '{"ksecond": "vsecond"}')
_RESULT = Turn("tool", "rfirst", call_id=_FIRST.id, name=_FIRST.name)
_LATER = Turn("tool", "rsecond", call_id=_SECOND.id, name=_SECOND.name)
_TOOL = Tool(
    "nother",
    "dother",
    {"type": "object", "properties": {"pother": {"type": "string", "description": "dpother"}}},
)
_RICH = Tool(
    "nother",
    "dother",
    {
        "type": "object",
        "properties": {
            "plist": {"type": ["string", "null"], "description": "dlist"},
            "pchoice": {"anyOf": [{"type": "string"}, {"type": "integer", "title": "tchoice"}]},
            "pref": {"$ref": "#/$defs/Shape"},
        },
        "$defs": {"Shape": {"type": "object", "properties": {"pshape": {"type": "string"}}}},
    },
)
_TOOL_KEYS: tuple[Literal["tools", "functions"], ...] = ("tools", "functions")
_SCHEMAS: tuple[Schemas, ...] = ("rich", "plain", "closed")
_EMPTY: tuple[Literal["", "absent"] | None, ...] = ("", None, "absent")
_ARGUMENTS: tuple[Literal["mapping", "text"], ...] = ("mapping", "text")
_IDS: tuple[Ids, ...] = ("kept", "counted", "numbered", "nine")
_ROLES = ("tool", "ipython", "function", "observation")
_KEYS: tuple[ThinkingKey, ...] = (
    "reasoning_content",
    "thinking",
    "reasoning",
    "chunk",
    "thought",
    "tool_plan",
)
_THINKS = Turn("assistant", "AAnswer", "TThought")
_CALLS = Turn("assistant", "", calls=(_FIRST,))
_THINKS_AND_CALLS = Turn("assistant", "", "TThought", calls=(_FIRST,))
_TWO_ROUNDS = (
    _USER,
    _CALLS,
    _RESULT,
    Turn("assistant", "", calls=(_SECOND,)),
    _LATER,
    _ANSWER,
    _MORE,
)
_PERFECT = 3


def plain_takes(print_: Print) -> Takes:
    """What it takes of conversations without tools and thinking."""
    tries = [
        Takes(no_tools=none, typed_content=typed) for none in _no_tools() for typed in (False, True)
    ]
    basic = next((takes for takes in tries if _shows(print_, [_USER], takes)), tries[0])
    inner = [_USER, _ANSWER, _SYSTEM, _MORE]
    return replace(
        basic,
        system=_shows(print_, [_SYSTEM, _USER], basic),
        inner_system=_shows(print_, inner, basic) and _shows(print_, [_USER, _SYSTEM], basic),
    )


def tool_takes(print_: Print, plain: Takes) -> Takes:
    """`plain`, and what it takes of tools, calls and results."""
    takes = _with_calls(print_, _with_tools(print_, plain))
    if takes.system:  # some show it with the last message alone, and only if that is the user's
        output = _print(print_, [_SYSTEM, _USER, _CALLS, _RESULT], takes)
        takes = replace(takes, system=output is None or _SYSTEM.content in output)
    if not takes.calls:
        manner = replace(takes, results="tool")
        known = takes.tools and _shows(print_, [_USER, _ANSWER, _RESULT], manner)
        return manner if known else replace(takes, results="")
    both = Turn("assistant", "", calls=(_FIRST, _SECOND))
    expected = ("nfirst", "vfirst", "nsecond", "vsecond", "rfirst", "rsecond")
    output = _print(print_, [_USER, both, _RESULT, _LATER, _ANSWER, _MORE], takes)
    return replace(takes, parallel=_in_order(output, expected))


def thinking_takes(print_: Print, takes: Takes) -> Takes:
    """`takes`, and where it looks for thinking: what shows it in most of three places."""
    found: dict[ThinkingKey, int] = {}
    for key in _KEYS:
        manner = replace(takes, thinking=key)
        outputs = [_print(print_, [_USER, _THINKS], manner)]
        outputs.append(_print(print_, [_USER, _THINKS, _MORE], manner))
        if takes.calls:
            outputs.append(_print(print_, [_USER, _THINKS_AND_CALLS, _RESULT], manner))
        found[key] = sum(map(_shows_thought, outputs))
    best = max(found, key=lambda key: found[key])
    if found[best]:
        return replace(takes, thinking=best)
    # Templates that know thinking as part of the content leave it out of earlier answers.
    manner = replace(takes, thinking="tags")
    output = _print(print_, [_USER, _THINKS, _MORE, _ANSWER, _MORE], manner) or _THOUGHT
    return manner if _THOUGHT not in output and _ANSWER.content in output else takes


# --- inside -----------------------------------------------------------------------


def _with_tools(print_: Print, takes: Takes) -> Takes:
    for key in _TOOL_KEYS:
        manner = replace(takes, tools=key)
        output = _print(print_, [_USER], manner, [_TOOL])
        if output is not None and all(word in output for word in ("nother", "pother", "QQuery")):
            spoilt = "['" if "{'" not in output else "QQuery?"
            return replace(manner, schemas=_schemas(print_, manner, spoilt))
    return takes


def _schemas(print_: Print, takes: Takes, spoilt: str) -> Schemas:
    """The words in which most of a schema is shown; `spoilt` marks a list printed as it is."""
    words = ("plist", "dlist", "pchoice", "integer", "pshape")
    shown: dict[Schemas, int] = {}
    for schemas in _SCHEMAS:
        output = _print(print_, [_USER], replace(takes, schemas=schemas), [_RICH])
        if output is not None:
            shown[schemas] = sum(word in output for word in words) - (spoilt in output)
    return max(shown, key=lambda schemas: shown[schemas], default="plain")


def _with_calls(print_: Print, takes: Takes) -> Takes:
    """The first manner in which calls show best, with their results if possible."""
    best, most = takes, 0
    for manner in _manners(takes):
        quality = _quality(print_, manner)
        if quality > most:
            best, most = manner, quality
        if quality == _PERFECT:
            break
    return replace(best, calls=most > 0, results=best.results if most > 1 else "")


def _manners(takes: Takes) -> Iterator[Takes]:
    for results, empty, arguments, ids in product(_ROLES, _EMPTY, _ARGUMENTS, _IDS):
        yield replace(takes, calls=True, results=results, empty=empty, arguments=arguments, ids=ids)


def _quality(print_: Print, takes: Takes) -> int:
    """0: calls do not show as they should. 1: they do. 2: results too. 3: ids fit, too."""
    output = _print(print_, _TWO_ROUNDS, takes)
    first, second = ("QQuery", "nfirst", "vfirst"), ("nsecond", "vsecond")
    if output is None or not _in_order(output, (*first, *second, "AAnswer")) or _is_spoilt(output):
        return 0
    if not _in_order(output, (*first, "rfirst", *second, "rsecond")):
        return 1
    return _PERFECT if _ids_fit(print_, takes) else 2


def _is_spoilt(output: str) -> bool:
    """Whether arguments were printed as Python writes them, or JSON text was quoted once more."""
    return "'kfirst'" in output or '\\"kfirst' in output


def _ids_fit(print_: Print, takes: Takes) -> bool:
    """Whether calls show their ids, or else results show none."""
    strange = "call99999"
    turns = [
        msgspec.structs.replace(turn, call_id=strange) if turn.role == "tool" else turn
        for turn in _TWO_ROUNDS
    ]
    output = _print(print_, turns, takes)
    if output is None or strange not in output:
        return True
    calls = [call for message in messages(turns, takes) for call in message.get("tool_calls", ())]
    return all(call["id"] in output for call in calls)


def words_takes(print_: Print, takes: Takes) -> Takes:
    """`takes`, and where words beside calls show; thinking must have been asked for before."""
    if not takes.calls:
        return takes
    expected = ("QQuery", "WWords", "nfirst", "vfirst", "rfirst")

    def shows(*turns: Turn) -> bool:
        return _in_order(_print(print_, [_USER, *turns, _RESULT], takes), expected)

    if shows(Turn("assistant", "WWords", calls=(_FIRST,))):
        thoughtful = shows(Turn("assistant", "WWords", "TThought", calls=(_FIRST,)))
        return replace(takes, words="beside" if thoughtful else "unthinking")
    if shows(Turn("assistant", "", "WWords", calls=(_FIRST,))):
        return replace(takes, words="thinking")
    # Where roles must alternate, it is the answer after the result that is refused.
    apart = [_USER, Turn("assistant", "WWords"), _CALLS, _RESULT, _ANSWER, _MORE]
    return replace(
        takes, words="apart" if _in_order(_print(print_, apart, takes), expected) else ""
    )


def _shows_thought(output: str | None) -> bool:
    """Not if a list of contents was printed as it is."""
    if not _in_order(output, ("QQuery", "TThought")):
        return False
    return not any(raw in str(output) for raw in ("'type': 'thinking'", '"type": "thinking"'))


def _shows(print_: Print, turns: Sequence[Turn], takes: Takes, tools: Sequence[Tool] = ()) -> bool:
    """Whether all the turns appear in the prompt, in order."""
    return _in_order(_print(print_, turns, takes, tools), [turn.content for turn in turns])


def _print(
    print_: Print, turns: Sequence[Turn], takes: Takes, tools: Sequence[Tool] | None = None
) -> str | None:
    """The prompt; None if the template fails."""
    try:
        return print_(turns, ([_TOOL] if takes.tools else []) if tools is None else tools, takes)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - a template that fails does not take it
        return None


def _in_order(output: str | None, words: Sequence[str]) -> bool:
    if output is None:
        return False
    position = 0
    for word in words:
        position = output.find(word, position)
        if position < 0:
            return False
        position += len(word)
    return True


def _no_tools() -> tuple[dict[str, Any], ...]:
    today = datetime.now().astimezone().strftime("%Y-%m-%d")
    none = {"tools": None, "documents": None, "bos_token": "", "eos_token": ""}
    return none, none | {"tools": [], "functions": "[]", "datetime": today}
