"""Forced calls by the real small model, which never saw a tool: every finished one is right."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from call_formats import FORMATS
from engine_driver import Engine
from json_schemas import INT, closed
from tool_schemas import ToolMaker

from lmnb.chat.conversation import Tool, ToolChoice
from lmnb.chat.events import ToolCallDelta, ToolCallEnd, ToolCallStart
from lmnb.chat.formats import default
from lmnb.chat.formats.forcing.grammar import Around, Control, call_constraint
from lmnb.chat.formats.format import Format
from lmnb.chat.formats.reading.split import Splitter
from lmnb.chat.tool_names import adapt
from lmnb.engine import native
from lmnb.engine.config import LoadConfig
from lmnb.engine.options import Sampling

SEED = 7
MOST_TOKENS = 512
DEFAULT = Format(calls=default.CALLS)
ONE = ToolChoice("required", parallel=False)


class Call:
    """One call of an answer, as the reader gives it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.json = ""
        self.ended = False

    def check(self, tool: Tool) -> None:
        assert self.name == tool.name
        jsonschema.validate(json.loads(self.json), tool.parameters or {})


class Caller:
    """Has the model call tools, many at once."""

    def __init__(self, path: Path) -> None:
        native.init(lambda text: None)
        self.engine = Engine(path, LoadConfig(context_length=2048, parallel=8))
        model = self.engine.generator.model
        self.control = Control(model.control_tokens, model.end_tokens)

    def force(
        self,
        form: Format,
        tool: Tool,
        seed: int,
        choice: ToolChoice = ONE,
        most: int = MOST_TOKENS,
        around: Around = Around(),  # noqa: B008
    ) -> int:
        function = {
            "name": tool.name,
            "description": tool.description,
            "parameters": tool.parameters,
        }
        prompt = (
            f"<|im_start|>system\n{default.tool_prompt([function])}<|im_end|>\n"
            f"<|im_start|>user\nUse the tool {tool.name} for me, with values that you make up."
            "<|im_end|>\n<|im_start|>assistant\n"
        )
        return self.engine.submit(
            prompt,
            constraint=call_constraint(form, [tool], choice, self.control, around),
            max_tokens=most,
            sampling=Sampling(seed=seed),
        )

    def calls(self, form: Format, tool: Tool, request: int) -> list[Call]:
        """The calls of an answer; nothing else may be in it."""
        splitter = Splitter(form, adapt([tool]))
        parts = splitter.feed(self.engine.text[request])
        parts += splitter.finish(cut=self.is_cut(request))
        found: list[Call] = []
        for part in parts:
            match part:
                case ToolCallStart(name=name):
                    found.append(Call(name))
                case ToolCallDelta(json=text):
                    found[-1].json += text
                case ToolCallEnd():
                    found[-1].ended = True
                case _:
                    raise AssertionError(f"{part} is no call")
        return found

    def is_cut(self, request: int) -> bool:
        return self.engine.ends[request].reason == "length"


@pytest.fixture(scope="module")
def caller(chat_model_path: Path) -> Iterator[Caller]:
    caller = Caller(chat_model_path)
    yield caller
    caller.engine.generator.close()


def check_random_tools(caller: Caller, numbers: range) -> int:
    """Every finished call is right, and those that were cut say so. How many those are."""
    maker = ToolMaker(SEED)
    tools = [maker.tool() for _ in range(numbers.stop)]
    running = {caller.force(DEFAULT, tools[seed], seed): tools[seed] for seed in numbers}
    caller.engine.run()
    assert not caller.engine.errors
    cut = 0
    for request, tool in running.items():
        calls = caller.calls(DEFAULT, tool, request)
        if not (calls and calls[0].ended):
            assert caller.is_cut(request)
            cut += 1
            continue
        (call,) = calls
        call.check(tool)
    return cut


def test_random_tools(caller: Caller) -> None:
    """Some of the two hundred whose calls turn out short."""
    assert check_random_tools(caller, range(16, 22)) <= 1


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_two_hundred_random_tools(
    caller: Caller, record_property: Callable[[str, object], None]
) -> None:
    cut = check_random_tools(caller, range(200))
    record_property("cut", cut)
    print(f"{cut} of 200 calls were cut")  # noqa: T201
    assert cut <= 4  # 2 %


def few_tools() -> list[Tool]:
    """Tools whose calls are short, with all that is written differently by syntax."""
    text = {"type": "string", "maxLength": 20}
    return [
        Tool(
            "add_event", "Adds an event.", closed(title=text, day={"enum": ["Mon", "Tue"]}, n=INT)
        ),
        Tool("now", "Tells the time."),
        Tool(
            "set_light",
            "Sets a light.",
            {
                "type": "object",
                "properties": {
                    "room": {"enum": ["kitchen", "hall", 3, None]},
                    "on": {"type": "boolean"},
                    "color": {
                        **closed(name=text, rgb={"type": "array", "items": INT, "maxItems": 3})
                    },
                    "level": {"type": "number", "minimum": 0, "maximum": 1},
                    "note": {"anyOf": [text, {"type": "null"}]},
                },
                "required": ["room", "on", "color"],
            },
        ),
        Tool(
            "plant",
            "Plants a tree.",
            {
                "type": "object",
                "properties": {"root": {"$ref": "#/$defs/node"}},
                "required": ["root"],
                "$defs": {
                    "node": {
                        "type": "object",
                        "properties": {
                            "label": {"type": "string", "pattern": "^[a-z]{1,6}$"},
                            "children": {
                                "type": "array",
                                "maxItems": 2,
                                "items": {"$ref": "#/$defs/node"},
                            },
                        },
                        "required": ["label"],
                    }
                },
            },
        ),
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_every_syntax(caller: Caller, name: str) -> None:
    form = FORMATS[name]
    tools = adapt(few_tools()).tools
    running = {caller.force(form, tool, 1): tool for tool in tools}
    caller.engine.run()
    assert not caller.engine.errors
    for request, tool in running.items():
        assert not caller.is_cut(request), caller.engine.text[request]
        (call,) = caller.calls(form, tool, request)
        assert call.ended
        call.check(tool)


def test_a_call_that_is_cut_is_no_call(caller: Caller) -> None:
    (tool, *_) = few_tools()
    request = caller.force(DEFAULT, tool, 1, most=20)
    caller.engine.run()
    assert caller.is_cut(request)
    (call,) = caller.calls(DEFAULT, tool, request)
    assert (call.name, call.ended) == (tool.name, False)


def test_several_calls_come_to_an_end(caller: Caller) -> None:
    """Left to itself the model calls again and again."""
    (tool, *_) = few_tools()
    running = [
        caller.force(DEFAULT, tool, seed, ToolChoice("required"), most=200) for seed in range(4)
    ]
    caller.engine.run()
    counts = []
    for request in running:
        assert not caller.is_cut(request)
        calls = caller.calls(DEFAULT, tool, request)
        counts.append(len(calls))
        for call in calls:
            call.check(tool)
    assert max(counts) > 1


def test_a_call_after_thinking(caller: Caller) -> None:
    (tool, *_) = few_tools()
    form = FORMATS["hermes"]
    request = caller.force(form, tool, 1, around=Around(after=","))
    caller.engine.run()
    thinking, _, rest = caller.engine.text[request].partition(",")
    assert thinking
    caller.engine.text[request] = rest
    (call,) = caller.calls(form, tool, request)
    call.check(tool)


def schema_of(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def test_the_limit_draws_only_forced_calls(caller: Caller) -> None:
    tool = Tool("count", "Counts.", schema_of({"numbers": {"type": "array", "items": INT}}))
    forced = call_constraint(DEFAULT, [tool], ONE, caller.control)
    free = call_constraint(DEFAULT, [tool], ToolChoice("auto"), caller.control)
    assert forced is not None
    assert free is not None
    assert (forced.closing, free.closing) == (True, False)
