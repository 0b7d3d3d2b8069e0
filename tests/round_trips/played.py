"""What families write, said by a scripted model, heard through the engine and the road of answers."""

from __future__ import annotations

import json
import random
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from made_models.scripted import MARKERS, Answer, scripted

from lmnb.chat.conversation import (
    Message,
    Request,
    SamplingOptions,
    Thinking,
    ToolCall,
)
from lmnb.chat.events import (
    Finished,
    Prompt,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
    ToolCallEnd,
    ToolCallStart,
)
from lmnb.chat.generate import generate
from lmnb.chat.rendering.renderer import Renderer
from lmnb.engine.client import Update, Worker
from lmnb.engine.config import LoadConfig
from lmnb.engine.protocol import Generate
from round_trips.cases import TOOLS
from round_trips.family import Family, Written, reasoning

_CONTEXT = 16384
_BATCH = 10
"""Answers of a model. Its size grows with the square of what it has to say."""
_SURELY_CONTROL = re.compile(r"<\|[^<>|\s]+\|>|<｜[^<>｜]+｜>|<\|\w+>|<\w+\|>|\[/?[A-Z_]+\]")
_PERHAPS_CONTROL = re.compile(r"</?[a-z][\w:.-]*>")


@dataclass
class Heard:
    """The events of an answer, folded."""

    thinking: str = ""
    text: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    reason: str = ""


class _Free(Worker):
    """A worker that leaves grammars out.

    They write some of a call themselves, and not in the tokens in which these tests want it.
    """

    def generate(self, command: Generate, *, label: str = "") -> AsyncGenerator[Update, None]:
        return super().generate(msgspec.structs.replace(command, constraint=None), label=label)


async def differences(source: str, path: Path, *, seed: int) -> list[str]:
    """What comes back otherwise than it was said, a line for each case; `path` for the model.

    The seed decides how answers are cut into tokens, which markers are control tokens, and the
    temperature.
    """
    family = Family(source)
    cases = family.supported(MARKERS)
    assert cases, "the family supports nothing"
    rng = random.Random(seed)
    renderer = Renderer()
    try:
        found = []
        for few in _batched(cases, _BATCH):
            scripted(
                path,
                [Answer(case.answer, case.marker) for case in few],
                template=source,
                controls=_controls(family, few, rng),
                end=family.end,
                seed=rng.randrange(2**32),
                context=_CONTEXT,
            )
            found += [line async for line in _problems(few, path, renderer, 0.8 * (seed % 2))]
        return found
    finally:
        await renderer.close()


async def _problems(
    cases: Sequence[Written], path: Path, renderer: Renderer, temperature: float
) -> AsyncGenerator[str, None]:
    worker = await _Free.start(path, LoadConfig(context_length=_CONTEXT, parallel=1))
    try:
        for case in cases:
            heard = await _hear(_request(case, temperature=temperature), worker, renderer)
            if problem := _difference(case.case.message, heard):
                written = "".join(segment.text for segment in case.answer)
                yield f"{case.case.feature}: {problem}\n  written: {written!r}"
    finally:
        await worker.stop()


def _controls(family: Family, cases: Sequence[Written], rng: random.Random) -> list[str]:
    """The markers of the family that are control tokens: those in bars, and some of the others."""
    written = "".join(s.text for case in cases for s in case.answer if s.special)
    surely = set(_SURELY_CONTROL.findall(family.template.source + written))
    surely.update(family.format.ends)
    share = rng.choice((0, 0.5, 1))
    perhaps = {
        tag for tag in sorted(set(_PERHAPS_CONTROL.findall(written))) if rng.random() < share
    }
    return sorted(surely | perhaps)


def _request(written: Written, *, temperature: float) -> Request:
    return Request(
        model="scripted",
        messages=written.before,
        tools=TOOLS,
        reasoning=reasoning(written.case.message),
        sampling=SamplingOptions(temperature=temperature, seed=1),
        max_tokens=1000,
    )


async def _hear(request: Request, worker: Worker, renderer: Renderer) -> Heard:
    heard, open_ = Heard(), False
    async with aclosing(generate(request, worker, renderer)) as events:
        async for event in events:
            assert not heard.reason, "nothing follows Finished"
            match event:
                case ThinkingDelta(text=text):
                    assert not open_
                    heard.thinking += text
                case TextDelta(text=text):
                    assert not open_
                    heard.text += text
                case ToolCallStart(index=index, id=id_, name=name):
                    assert (open_, index) == (False, len(heard.calls))
                    open_ = True
                    heard.ids.append(id_)
                    heard.calls.append((name, ""))
                case ToolCallDelta(index=index, json=more):
                    assert open_
                    assert index == len(heard.calls) - 1
                    name, arguments = heard.calls[-1]
                    heard.calls[-1] = (name, arguments + more)
                case ToolCallEnd():
                    assert open_
                    open_ = False
                case Finished(reason=reason, is_cut=is_cut):
                    assert is_cut == open_
                    heard.reason = reason
                case Prompt():
                    pass
    if open_:
        heard.reason += ", and a call has no end"
    return heard


def _batched(cases: Sequence[Written], size: int) -> Iterator[Sequence[Written]]:
    """The cases, some at a time."""
    return (cases[start : start + size] for start in range(0, len(cases), size))


def _difference(said: Message, heard: Heard) -> str:
    calls = [(part.name, part.arguments) for part in said.parts if isinstance(part, ToolCall)]
    thinking = "".join(part.text for part in said.parts if isinstance(part, Thinking))
    if len(set(heard.ids)) < len(heard.ids):
        return f"ids come twice: {heard.ids}"
    expected: dict[str, Any] = {
        "thinking": thinking.strip(),
        "text": said.text.strip(),
        "calls": [(name, _canonical(arguments)) for name, arguments in calls],
        "reason": "tool_calls" if calls else "stop",
    }
    found: dict[str, Any] = {
        "thinking": heard.thinking.strip(),
        "text": heard.text.strip(),
        "calls": [(name, _canonical(arguments)) for name, arguments in heard.calls],
        "reason": heard.reason,
    }
    return "; ".join(
        f"{key} is {found[key]!r}, not {value!r}"
        for key, value in expected.items()
        if found[key] != value
    )


def _canonical(arguments: str) -> str:
    """JSON in one form, whatever the order of its keys; types are told apart."""
    try:
        return json.dumps(json.loads(arguments), sort_keys=True, ensure_ascii=False)
    except ValueError:
        return f"no JSON: {arguments}"
