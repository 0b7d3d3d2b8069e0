"""From a request and a loaded model to the events of its answer.

Usage, timings and finish reasons are counted here, once, for every protocol.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from lmnb.chat import thinking
from lmnb.chat.conversation import Audio, Image, Request, Text, Thinking
from lmnb.chat.events import Event, Finished, FinishReason, Prompt, TextDelta, Timings, Usage
from lmnb.chat.output_format import constraint
from lmnb.chat.render_messages import SWITCHES
from lmnb.chat.sampling import fill_in
from lmnb.chat.template import Prompted, Renderer, choose_template
from lmnb.engine.client import Worker
from lmnb.engine.protocol import (
    AdapterChoice,
    ConstraintSpec,
    Delta,
    End,
    Generate,
    Progress,
    Segment,
)
from lmnb.errors import Cancelled, InvalidRequest, NotSupported


def ensure_supported(request: Request) -> None:
    """Refuse what no model can be asked for here, before any model is loaded.

    Raises
    ------
    NotSupported
        Tools, documents.
    InvalidRequest
        No message at all, a `max_tokens` below 1, or a format for a message that has begun.
    """
    if request.tools and request.tool_choice.mode != "none":
        raise NotSupported(
            "Tool calls are not supported.",
            hint="Leave out the tools, or forbid their use with tool_choice none.",
            param="tools",
        )
    if request.output_format.type != "text" and request.continue_final:
        raise InvalidRequest(
            "An answer that is to be continued cannot have an output format.",
            hint="Leave out the assistant's last message, or the format.",
            param=request.output_format.param,
        )
    if request.max_tokens is not None and request.max_tokens < 1:
        raise InvalidRequest("The most tokens to generate must be at least 1.", param="max_tokens")
    if request.prompt is None:
        _check_messages(request)


def _check_messages(request: Request) -> None:
    if not request.messages:
        raise InvalidRequest("There is no message to answer.", param="messages")
    for message in request.messages:
        for part in message.parts:
            if not isinstance(part, Text | Thinking | Image | Audio):
                kind = type(part).__name__
                what = "tool calls" if kind.startswith("Tool") else f"{kind.lower()}s"
                raise NotSupported(
                    f"Messages with {what} are not supported.", hint="Send text.", param="messages"
                )


async def generate(
    request: Request,
    worker: Worker,
    renderer: Renderer,
    *,
    instance: str = "",
    load_seconds: float | None = None,
    draft: Path | None = None,
) -> AsyncGenerator[Event, None]:
    """Answer `request`: `Prompt`*, `TextDelta`*, `Finished`.

    Closing the generator, or cancelling the task that reads it, stops the engine at once.
    `instance` and `load_seconds` are passed through to `Finished`. `draft` is the file of the
    request's draft model.

    Raises
    ------
    InvalidRequest
        The template refuses the conversation, or an option is out of range.
    ContextOverflow, NotSupported, EngineCrashed, ModelUnloaded
        See `Worker.generate`.
    """
    ensure_supported(request)
    prompt = await _prompt(request, worker, renderer)
    command = Generate(
        id=0,
        segments=prompt.segments,
        tokens=request.prompt if isinstance(request.prompt, tuple) else None,
        sampling=fill_in(request.sampling, worker.info.sampling),
        max_tokens=request.max_tokens,
        stop=(*request.stop, *prompt.stop),
        logprobs=request.logprobs,
        cache_key=request.cache_key,
        adapters=_adapters(request),
        constraint=_constraint(request, prompt, worker),
        draft_model=str(draft) if draft else None,
    )
    async with aclosing(worker.generate(command)) as updates:
        async for update in updates:
            if isinstance(update, Delta):
                if update.text or update.logprobs:
                    yield TextDelta(update.text, update.logprobs)
            elif isinstance(update, Progress):
                yield Prompt(update.done, update.total, update.cached)
            else:
                yield _finished(update, prompt.stop, instance, load_seconds, request.draft)


def _adapters(request: Request) -> tuple[AdapterChoice, ...] | None:
    if request.adapters is None:
        return None
    return tuple(AdapterChoice(name, scale) for name, scale in request.adapters)


def _constraint(request: Request, prompt: Prompted, worker: Worker) -> ConstraintSpec | None:
    """The answer's format, which does not bind what the model thinks before it answers."""
    if request.prompt is not None:
        return constraint(request.output_format)
    template = choose_template(worker.info.chat_templates, tools=bool(request.tools))
    wanted = _template_arguments(request).get("enable_thinking")
    text = "".join(segment.text for segment in prompt.segments if segment.special)
    opening, after = thinking.span(template, text, wanted=wanted)
    return constraint(request.output_format, opening=opening, after=after)


async def tokenize(request: Request, worker: Worker, renderer: Renderer) -> tuple[int, ...]:
    """The tokens of the prompt that `generate` would use. Waits for no generation."""
    ensure_supported(request)
    if isinstance(request.prompt, tuple):
        return request.prompt
    prompt = await _prompt(request, worker, renderer)
    return await worker.tokenize(prompt.segments)


async def _prompt(request: Request, worker: Worker, renderer: Renderer) -> Prompted:
    if isinstance(request.prompt, str):
        # Who writes a raw prompt writes the control tokens too.
        return Prompted((Segment(request.prompt, special=True),))
    if request.prompt is not None:
        return Prompted(())
    info = worker.info
    return await renderer.render(
        choose_template(info.chat_templates, tools=bool(request.tools)),
        request.messages,
        tools=request.tools,
        bos_text=info.bos_text,
        eos_text=info.eos_text,
        continue_final=request.continue_final,
        arguments=_template_arguments(request),
    )


def _template_arguments(request: Request) -> dict[str, Any]:
    """The names under which most thinking models' templates look for these settings."""
    found: dict[str, Any] = {}
    decided = request.template_kwargs.keys() & set(SWITCHES)
    if request.reasoning.enabled is not None and not decided:
        found |= dict.fromkeys(SWITCHES, request.reasoning.enabled)
    if request.reasoning.effort is not None:
        found["reasoning_effort"] = request.reasoning.effort
    return found | request.template_kwargs


def _finished(
    end: End,
    own_stop: tuple[str, ...],
    instance: str,
    load_seconds: float | None,
    draft: str | None,
) -> Finished:
    if end.reason == "aborted":
        raise Cancelled("The generation was cancelled.")
    reason: FinishReason = end.reason
    stop = end.stop
    if stop in own_stop:  # the template's end of turn, which is the model's business
        reason, stop = "stop", None
    return Finished(
        reason=reason,
        usage=Usage(
            end.prompt_tokens,
            end.cached_tokens,
            end.output_tokens,
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
        stop=stop,
        instance=instance,
        draft=draft,
    )
