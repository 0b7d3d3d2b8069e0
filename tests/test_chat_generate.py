"""From requests to events, with the real model."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from lmnb.chat.conversation import (
    Message,
    OutputFormat,
    Reasoning,
    Request,
    Role,
    SamplingOptions,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
)
from lmnb.chat.events import Event, Finished, Prompt, TextDelta
from lmnb.chat.generate import _template_arguments, ensure_supported, generate, tokenize
from lmnb.chat.joining import join
from lmnb.chat.rendering.messages import SWITCHES
from lmnb.chat.rendering.renderer import CHATML, Renderer
from lmnb.chat.sampling import fill_in
from lmnb.engine.client import Update, Worker
from lmnb.engine.config import LoadConfig
from lmnb.engine.options import Sampling
from lmnb.engine.protocol import Generate
from lmnb.errors import ContextOverflow, InvalidRequest
from lmnb.server.generation import fold

T = TypeVar("T")

GREEDY = SamplingOptions(temperature=0)


def said(role: Role, *parts: Any) -> Message:
    return Message(role, tuple(Text(p) if isinstance(p, str) else p for p in parts))


def asking(*messages: Message, **more: Any) -> Request:
    given = messages or (said("user", "What is the capital of France?"),)
    return Request(model="m", messages=given, **{"sampling": GREEDY, "max_tokens": 4, **more})


# --- what is asked for ------------------------------------------------------------------


def test_what_makes_no_sense_is_refused() -> None:
    begun = asking(said("user", "x"), said("assistant", "{"), continue_final=True)
    form = msgspec.structs.replace(begun, output_format=OutputFormat("json_object"))
    demanded = asking(tool_choice=ToolChoice("required"))
    for request in (Request(model="m"), asking(max_tokens=-1), form, demanded):
        with pytest.raises(InvalidRequest):
            ensure_supported(request)


def test_what_needs_nothing_is_taken() -> None:
    ensure_supported(asking(tools=(Tool("look"),), tool_choice=ToolChoice("none")))
    ensure_supported(asking(said("assistant", Thinking("hm"), "Yes"), said("user", "x")))
    ensure_supported(asking(tools=(Tool("look"),), tool_choice=ToolChoice("required")))
    ensure_supported(asking(said("assistant", ToolCall("1", "look", "{}")), said("user", "x")))
    ensure_supported(Request(model="m", prompt=""))


def test_reasoning_becomes_template_variables() -> None:
    def variables(**more: Any) -> dict[str, Any]:
        return _template_arguments(asking(**more))

    assert variables() == {}
    assert variables(reasoning=Reasoning(False)) == dict.fromkeys(SWITCHES, False)
    assert variables(reasoning=Reasoning(None, "low")) == {"reasoning_effort": "low"}
    both = variables(reasoning=Reasoning(True), template_kwargs={"enable_thinking": False})
    assert both == {"enable_thinking": False}


# --- sampling ---------------------------------------------------------------------------


def test_the_request_goes_before_the_author_before_the_defaults() -> None:
    author = {"temperature": 0.6, "top_k": 20.0, "top_p": 0.5}
    filled = fill_in(SamplingOptions(top_p=0.9), author)
    assert filled == Sampling(temperature=0.6, top_k=20, top_p=0.9)
    assert isinstance(filled.top_k, int)
    assert fill_in(SamplingOptions(), {}) == Sampling()


def test_zero_is_a_value() -> None:
    filled = fill_in(SamplingOptions(temperature=0, top_k=0, seed=0), {"temperature": 0.6})
    assert (filled.temperature, filled.top_k, filled.seed) == (0, 0, 0)


def test_an_author_cannot_break_sampling() -> None:
    odd = {"temperature": -1.0, "top_p": math.nan, "min_p": 7.0, "unheard_of": 1.0}
    assert fill_in(SamplingOptions(), odd) == Sampling()


def test_seeds_are_taken_modulo() -> None:
    assert fill_in(SamplingOptions(seed=-1), {}).seed == 2**32 - 1
    assert fill_in(SamplingOptions(seed=2**40 + 5), {}).seed == 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("top_k", -1),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("typical_p", 2.0),
        ("repeat_penalty", 0.0),
        ("presence_penalty", math.inf),
        ("frequency_penalty", math.nan),
    ],
)
def test_values_out_of_range_name_themselves(name: str, value: float) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(InvalidRequest, match=name) as caught:
        fill_in(SamplingOptions(**options), {})
    assert caught.value.param == name


# --- texts in one -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "joined"),
    [([], ""), (["a", "b"], "a\nb"), (["a ", "b", "\nc"], "a b\nc"), (["", "a", "", "b"], "a\nb")],
)
def test_texts_do_not_run_together(texts: list[str], joined: str) -> None:
    assert join(texts) == joined


# --- the real model -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(chat_model_path: Path) -> Path:
    return chat_model_path


def with_model(path: Path, work: Callable[[Worker, Renderer], Awaitable[T]]) -> T:
    async def main() -> T:
        worker = await Worker.start(path, LoadConfig(context_length=256))
        renderer = Renderer()
        try:
            return await work(worker, renderer)
        finally:
            await renderer.close()
            await worker.stop()

    return asyncio.run(main())


def test_the_session_reaches_the_engine(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(worker: Worker, renderer: Renderer) -> list[str | None]:
        commands: list[Generate] = []
        original = worker.generate

        def noting(command: Generate, **options: Any) -> AsyncGenerator[Update, None]:
            commands.append(command)
            return original(command, **options)

        monkeypatch.setattr(worker, "generate", noting)
        for key in ("session", None):
            await fold(generate(asking(cache_key=key), worker, renderer))
        return [command.cache_key for command in commands]

    assert with_model(model, work) == ["session", None]


def test_a_conversation(model: Path) -> None:
    async def work(worker: Worker, renderer: Renderer) -> None:
        prefilled = asking(
            said("user", "What is the capital of France?"),
            said("assistant", "The capital of France is"),
            continue_final=True,
            max_tokens=20,
        )
        events: list[Event] = [
            event
            async for event in generate(prefilled, worker, renderer, instance="i", load_seconds=2.0)
        ]
        tokens = len(await tokenize(prefilled, worker, renderer))
        prompts = [event for event in events if isinstance(event, Prompt)]
        assert prompts[-1] == Prompt(tokens, tokens, 0)
        text = "".join(event.text for event in events if isinstance(event, TextDelta))
        assert text.startswith(" Paris")
        end = events[-1]
        assert isinstance(end, Finished)
        assert (end.reason, end.instance, end.timings.load) == ("stop", "i", 2.0)
        assert end.usage.input == tokens
        assert end.usage.output > 1
        assert end.timings.first_token > 0

        limited = await fold(generate(asking(), worker, renderer))
        assert limited.finished.reason == "length"
        assert limited.finished.usage.output == 4

        stopped = await fold(generate(asking(max_tokens=60, stop=(", la",)), worker, renderer))
        assert stopped.finished.reason == "stop_string"
        assert stopped.finished.stop == ", la"
        assert ", la" not in stopped.text

    with_model(model, work)


def test_a_template_that_fails_with_tools_still_chats(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    template = CHATML + "{% if tools %}{{ 'x' * 999999999 }}{% endif %}"

    async def work(worker: Worker, renderer: Renderer) -> None:
        worker.info = msgspec.structs.replace(worker.info, chat_templates={"default": template})
        answer = await fold(generate(asking(max_tokens=20), worker, renderer))
        assert "Paris" in answer.text
        with pytest.raises(InvalidRequest, match="template cannot be used"):
            await fold(generate(asking(tools=(Tool("look"),)), worker, renderer))

    with_model(model, work)
    assert "taken for words" in caplog.text


def test_raw_prompts_and_limits(model: Path) -> None:
    async def work(worker: Worker, renderer: Renderer) -> None:
        raw = Request(model="m", prompt="One, two, three,", sampling=GREEDY, max_tokens=3)
        text = await fold(generate(raw, worker, renderer))
        assert "four" in text.text
        ids = await tokenize(raw, worker, renderer)
        tokens = Request(model="m", prompt=ids, sampling=GREEDY, max_tokens=3, logprobs=2)
        same = await fold(generate(tokens, worker, renderer))
        assert same.text == text.text
        assert len(same.logprobs) == 3
        assert all(len(entry.top) == 2 for entry in same.logprobs)
        assert renderer.pid is None  # nothing was rendered

        control = Request(model="m", prompt="<|im_start|>")
        assert len(await tokenize(control, worker, renderer)) == 1
        words = asking(said("user", "<|im_start|>"))
        plain = asking(said("user", "x"))
        longer = len(await tokenize(words, worker, renderer))
        assert longer > len(await tokenize(plain, worker, renderer)) + 2

        with pytest.raises(ContextOverflow) as caught:
            await fold(generate(asking(said("user", "word " * 300)), worker, renderer))
        assert caught.value.context_length == 256

        full = asking(max_tokens=None)
        assert (await fold(generate(full, worker, renderer))).finished.reason == "context"

    with_model(model, work)


def test_leaving_stops_the_engine(model: Path) -> None:
    async def work(worker: Worker, renderer: Renderer) -> None:
        events = generate(asking(max_tokens=None), worker, renderer)
        async for event in events:
            if isinstance(event, TextDelta):
                break
        await events.aclose()
        while (await worker.ping()).running:
            await asyncio.sleep(0.01)

    with_model(model, work)
