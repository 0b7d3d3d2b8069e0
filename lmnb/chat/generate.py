"""From a request and a loaded model to the events of its answer.

Usage, timings and finish reasons are counted here, once, for every protocol.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec

from lmnb.chat.conversation import Audio, Document, Image, Request, Tool, ToolCall, ToolResult
from lmnb.chat.events import Event, Finished, FinishReason, Prompt, Scored, Timings, Usage
from lmnb.chat.formats import default
from lmnb.chat.formats.forcing.grammar import Around, Control, call_constraint
from lmnb.chat.formats.format import Format
from lmnb.chat.formats.reading.prompt_end import thinking_around, thinking_budget
from lmnb.chat.formats.reading.split import Splitter
from lmnb.chat.output_format import constraint
from lmnb.chat.rendering.messages import SWITCHES
from lmnb.chat.rendering.renderer import Prompted, Renderer, choose_template
from lmnb.chat.sampling import fill_in
from lmnb.chat.tool_names import Adapted, adapt
from lmnb.chat.verbatim import Witness, spelled, witnessed
from lmnb.engine.client import Worker
from lmnb.engine.config import ModelInfo
from lmnb.engine.options import AdapterChoice, ConstraintSpec, Segment, ThinkingBudget, TokenLogprob
from lmnb.engine.protocol import Delta, End, Generate, Progress
from lmnb.errors import Cancelled, InvalidRequest, NotSupported

_log = logging.getLogger(__name__)

_MOST_TOKENS = 2**31 - 1
"""The engine counts in 32 bits. No context is that long, so that whoever asks for more has it all."""


def ensure_supported(request: Request) -> None:
    """Refuse what no model can be asked for here, before any model is loaded.

    Raises
    ------
    InvalidRequest
        No message at all, a negative `max_tokens`, a format for a message that has begun, or a call
        that is demanded where there are no tools.
    """
    if request.tool_choice.mode in {"required", "named"} and not request.tools:
        raise InvalidRequest(
            "A tool call is demanded, but there are no tools.", param="tool_choice"
        )
    if request.output_format.type != "text" and request.continue_final:
        raise InvalidRequest(
            "An answer that is to be continued cannot have an output format.",
            hint="Leave out the assistant's last message, or the format.",
            param=request.output_format.param,
        )
    if request.max_tokens is not None and request.max_tokens < 0:
        raise InvalidRequest("The most tokens to generate must be at least 0.", param="max_tokens")
    if request.prompt is None and not request.messages:
        raise InvalidRequest("There is no message to answer.", param="messages")


def is_all_words(request: Request) -> bool:
    """Whether there are no pictures, sounds or documents in it."""
    parts = (part for message in request.messages for part in message.parts)
    inner = (
        one for part in parts for one in (part.parts if isinstance(part, ToolResult) else [part])
    )
    return not any(isinstance(one, Image | Audio | Document) for one in inner)


async def generate(
    request: Request,
    worker: Worker,
    renderer: Renderer,
    *,
    instance: str = "",
    load_seconds: float | None = None,
    draft: Path | None = None,
    priority: int = 0,
    label: str = "",
    witness: Witness | None = None,
) -> AsyncGenerator[Event, None]:
    """Answer `request`, with the events that `lmnb.chat.events` describes, but for `Loading`.

    Closing the generator, or cancelling the task that reads it, stops the engine at once.
    `instance` and `load_seconds` are passed through to `Finished`. `draft` is the file of the
    request's draft model. Lower `priority` values go first. `label` is what reports of a crash call
    the request. `witness` is told of the prompt and the answer word for word.

    Raises
    ------
    InvalidRequest
        The template refuses the conversation, or an option is out of range.
    ContextOverflow, NotSupported, EngineCrashed, ModelUnloaded
        See `Worker.generate`.
    """
    ensure_supported(request)
    prompt = await _prompt(request, worker.info, renderer)
    control_text = _control_text(prompt)
    form = await _form(request, worker.info, renderer)
    tools = adapt(_tools(request))
    splitter = Splitter(
        form,
        tools,
        control_text,
        continued=request.continue_final,
        taken=_call_ids(request),
    )
    control = worker.info.control_tokens
    ends = dict.fromkeys((*prompt.stop, *form.ends))
    own_stop = tuple(text for text in ends if text not in control)
    # In a thread: schemas that are new have to be compiled once.
    demanded = await asyncio.to_thread(_constraint, request, form, tools, control_text, worker.info)
    command = Generate(
        id=0,
        segments=prompt.segments,
        tokens=request.prompt if isinstance(request.prompt, tuple) else None,
        sampling=fill_in(request.sampling, worker.info.sampling),
        max_tokens=_within(request.max_tokens),
        stop=(*request.stop, *own_stop),
        ends=tuple(control[text] for text in ends if text in control),
        logprobs=request.logprobs,
        show_special=splitter.markers,
        priority=priority,
        cache_key=request.cache_key,
        adapters=_adapters(request),
        score_prompt=request.score_prompt,
        constraint=demanded,
        thinking=_budget(request, form, control_text),
        draft_model=str(draft) if draft else None,
        verbatim=witness is not None,
    )
    updates = worker.generate(command, label=label)
    if witness is not None:
        witness.given(spelled(command, worker.info))
        updates = witnessed(updates, witness)
    async with aclosing(updates):
        async for update in updates:
            if isinstance(update, Progress):
                yield Prompt(update.done, update.total, update.cached)
            elif isinstance(update, Delta):
                if update.prompt:
                    yield Scored(_own_tokens(update.prompt, request, worker.info))
                for part in splitter.feed(update.text, update.ends, update.logprobs):
                    yield part
            else:
                end = _own(update, own_stop)
                for part in splitter.finish(cut=end.reason != "stop"):
                    yield part
                yield _finished(end, splitter, instance, load_seconds, request.draft)


def _tools(request: Request) -> tuple[Tool, ...]:
    """The tools the model is told of. It is not tempted with those it must not call."""
    return () if request.tool_choice.mode == "none" else request.tools


async def _form(request: Request, info: ModelInfo, renderer: Renderer) -> Format:
    """How the answer is written. To a raw prompt it is all words.

    Without tools it is so, too, where the template does not bear being asked: it may still print
    the conversation.
    """
    if request.prompt is not None:
        return Format()
    tools = _tools(request)
    try:
        form = await renderer.format(
            choose_template(info.chat_templates, tools=bool(tools)),
            bos_text=info.bos_text,
            eos_text=info.eos_text,
        )
    except InvalidRequest as error:
        if tools:
            raise
        _log.warning("All of the answer is taken for words: %s", error)
        return Format()
    if tools and form.calls is None:
        return msgspec.structs.replace(form, calls=default.CALLS)
    return form


def _control_text(prompt: Prompted) -> str:
    """The prompt without people's words."""
    return "".join(segment.text for segment in prompt.segments if segment.special)


def _call_ids(request: Request) -> set[str]:
    parts = (part for message in request.messages for part in message.parts)
    return {part.id for part in parts if isinstance(part, ToolCall)}


def _adapters(request: Request) -> tuple[AdapterChoice, ...] | None:
    if request.adapters is None:
        return None
    return tuple(AdapterChoice(name, scale) for name, scale in request.adapters)


def _constraint(
    request: Request, form: Format, tools: Adapted, prompt: str, info: ModelInfo
) -> ConstraintSpec | None:
    """What the tools and the format of the answer demand. It does not bind what the model thinks."""
    choice = request.tool_choice
    free = choice.mode == "auto" and request.output_format.type == "text"
    opening, after = thinking_around(
        form,
        prompt,
        calls=None if not tools.tools else "free" if free else "forced",
        wanted=_template_arguments(request).get("enable_thinking"),
        continued=request.continue_final,
    )
    if not tools.tools:
        return constraint(request.output_format, opening=opening, after=after)
    if choice.name is not None:
        choice = msgspec.structs.replace(choice, name=tools.name(choice.name))
    control = Control(info.control_tokens, info.end_tokens)
    around = Around(opening, after, request.output_format)
    return call_constraint(form, tools.tools, choice, control, around)


def _budget(request: Request, form: Format, prompt: str) -> ThinkingBudget | None:
    """The bound on thinking, if one is wanted. Unwanted thinking ends where it begins.

    Most templates have a switch for it; others begin it all the same, or their models do.
    """
    tokens = _within(request.reasoning.budget)
    if _template_arguments(request).get("enable_thinking") is False:
        tokens = 0
    if tokens is None or tokens < 0:
        return None
    return thinking_budget(form, prompt, tokens, continued=request.continue_final)


def _within(tokens: int | None) -> int | None:
    return None if tokens is None else min(tokens, _MOST_TOKENS)


async def tokenize(request: Request, worker: Worker, renderer: Renderer) -> tuple[int, ...]:
    """The tokens of the prompt that `generate` would use. Waits for no generation."""
    ensure_supported(request)
    if isinstance(request.prompt, tuple):
        return request.prompt
    prompt = await _prompt(request, worker.info, renderer)
    return await worker.tokenize(prompt.segments)


class PromptText(msgspec.Struct, frozen=True):
    """A prompt as the model reads it, control tokens spelled out, and how many tokens it has.

    A picture or a sound is `<media>` in the text, and none of the `tokens`.
    """

    text: str
    tokens: int


async def prompt_text(request: Request, worker: Worker, renderer: Renderer) -> PromptText:
    """The prompt that `generate` would use. Waits for no generation."""
    ensure_supported(request)
    prompt = await _prompt(request, worker.info, renderer)
    text = "".join("<media>" if part.media else part.text for part in prompt.segments)
    return PromptText(text, len(await worker.tokenize(prompt.segments)))


async def _prompt(request: Request, info: ModelInfo, renderer: Renderer) -> Prompted:
    if isinstance(request.prompt, str) and request.suffix is not None:
        return _gap(request.prompt, request.suffix, info)
    if isinstance(request.prompt, str):
        # Who writes a raw prompt writes the control tokens too.
        return Prompted((Segment(request.prompt, special=True),))
    if request.prompt is not None:
        return Prompted(())
    tools = _tools(request)
    return await renderer.render(
        choose_template(info.chat_templates, tools=bool(tools)),
        request.messages,
        tools=tuple(tool for tool in tools if not tool.deferred),
        bos_text=info.bos_text,
        eos_text=info.eos_text,
        continue_final=request.continue_final,
        arguments=_template_arguments(request),
    )


def _gap(before: str, after: str, info: ModelInfo) -> Prompted:
    """The prompt of models that fill in the middle: beginning, end, and then the middle.

    That is the order of all families whose tokens llama.cpp knows. The texts are somebody's code:
    nothing in them is a control token.
    """
    if not info.infill:
        raise NotSupported(
            "'suffix' is not supported by this model: its vocabulary has no tokens for filling in "
            "the middle (fim_pre, fim_suf, fim_mid).",
            hint="Use a model made for code completion, such as Qwen2.5-Coder.",
            param="suffix",
        )
    first, second, last = (Segment(text, special=True) for text in info.infill)
    return Prompted((first, Segment(before), second, Segment(after), last))


def _own_tokens(
    tokens: tuple[TokenLogprob, ...], request: Request, info: ModelInfo
) -> tuple[TokenLogprob, ...]:
    """The tokens of what the caller wrote: without the BOS token that the engine puts before it."""
    text = request.prompt
    begins = isinstance(text, str) and info.adds_bos and not text.startswith(info.bos_text)
    return tokens[1:] if begins else tokens


def _template_arguments(request: Request) -> dict[str, Any]:
    """The names under which most thinking models' templates look for these settings."""
    found: dict[str, Any] = {}
    decided = request.template_kwargs.keys() & set(SWITCHES)
    if request.reasoning.enabled is not None and not decided:
        found |= dict.fromkeys(SWITCHES, request.reasoning.enabled)
    if request.reasoning.effort is not None:
        found["reasoning_effort"] = request.reasoning.effort
    budget = _within(request.reasoning.budget)
    if budget is not None and budget >= 0:
        found["thinking_budget"] = budget  # Seed-OSS tells the model of it
    return found | request.template_kwargs


def _own(end: End, own_stop: tuple[str, ...]) -> End:
    """The end as the caller sees it: the template's end of turn is the model's business."""
    if end.reason == "stop_string" and end.stop in own_stop:
        return msgspec.structs.replace(end, reason="stop", stop=None)
    return end


def _finished(
    end: End,
    splitter: Splitter,
    instance: str,
    load_seconds: float | None,
    draft: str | None,
) -> Finished:
    if end.reason == "aborted":
        raise Cancelled("The generation was cancelled.")
    reason: FinishReason = end.reason
    if reason == "stop" and splitter.calls and not splitter.is_cut:
        reason = "tool_calls"
    return Finished(
        reason=reason,
        is_cut=splitter.is_cut,
        usage=Usage(
            end.prompt_tokens,
            end.cached_tokens,
            end.output_tokens,
            reasoning=splitter.thinking_tokens,
            drafted=end.drafted_tokens,
            accepted=end.accepted_tokens,
        ),
        timings=Timings(
            queue=end.queue_seconds,
            prompt=end.prompt_seconds,
            first_token=end.first_token_seconds,
            generation=end.generation_seconds,
            load=load_seconds,
        ),
        stop=end.stop,
        instance=instance,
        draft=draft,
    )
