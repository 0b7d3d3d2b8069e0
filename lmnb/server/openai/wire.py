"""The values inside the answers of Chat Completions and Responses alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from lmnb.chat.events import Finished
from lmnb.engine.options import TokenLogprob

LOWEST = -9999.0
"""Stands for minus infinity, which JSON lacks; the figure OpenAI uses."""


class TopLogprob(msgspec.Struct, frozen=True):
    """One of the likely tokens at a position."""

    token: str
    logprob: float
    raw: list[int] = msgspec.field(name="bytes")


class Logprob(msgspec.Struct, frozen=True):
    """The token at a position, with the likely ones."""

    token: str
    logprob: float
    raw: list[int] = msgspec.field(name="bytes")
    top_logprobs: list[TopLogprob]


def logprobs(tokens: Iterable[TokenLogprob]) -> list[Logprob]:
    """The engine's log probabilities in OpenAI's form."""
    return [
        Logprob(
            token.token,
            max(token.logprob, LOWEST),
            list(token.raw),
            [TopLogprob(text, max(value, LOWEST), list(raw)) for text, raw, value in token.top],
        )
        for token in tokens
    ]


class PromptDetails(msgspec.Struct, frozen=True):
    """Of the prompt's tokens: those that were in the prefix cache."""

    cached_tokens: int


class CompletionDetails(msgspec.Struct, frozen=True):
    """Of the answer's tokens: those of the thinking, and those that speculation had guessed.

    The rejected ones are no part of the answer.
    """

    reasoning_tokens: int
    accepted_prediction_tokens: int
    rejected_prediction_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """Chat Completions' and Completions' token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


def usage(groups: Sequence[Sequence[Finished]]) -> Usage:
    """The sum over all answers; `groups` holds those that share a prompt, which counts once."""
    prompt = sum(group[0].usage.input for group in groups)
    ends = [end for group in groups for end in group]
    output = sum(end.usage.output for end in ends)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=output,
        total_tokens=prompt + output,
        prompt_tokens_details=PromptDetails(sum(group[0].usage.cached for group in groups)),
        completion_tokens_details=CompletionDetails(
            reasoning_tokens=sum(end.usage.reasoning for end in ends),
            accepted_prediction_tokens=sum(end.usage.accepted for end in ends),
            rejected_prediction_tokens=sum(end.usage.rejected for end in ends),
        ),
    )


STOP_REASONS = {
    "stop": "eosFound",
    "stop_string": "stopStringFound",
    "length": "maxPredictedTokensReached",
    "context": "contextLengthReached",
    "tool_calls": "toolCalls",
}


class Stats(msgspec.Struct, frozen=True, omit_defaults=True):
    """LM Studio's figures. Seconds; tokens per second are of the first answer.

    The counts of drafts are there if there were any, or a `draft_model` was asked for.
    """

    tokens_per_second: float
    time_to_first_token: float
    generation_time: float
    stop_reason: str
    model_load_time_seconds: float | None = None
    draft_model: str | None = None
    total_draft_tokens_count: int | None = None
    accepted_draft_tokens_count: int | None = None
    rejected_draft_tokens_count: int | None = None
    ignored_draft_tokens_count: int | None = None


def stats(end: Finished) -> Stats:
    """LM Studio's `stats`: protocols, 1.7; of drafts, its changelog of version 0.3.10."""
    used = end.usage
    drafts = bool(used.drafted or end.draft)
    return Stats(
        tokens_per_second=end.timings.tokens_per_second(end.usage.output),
        time_to_first_token=end.timings.first_token,
        generation_time=end.timings.generation,
        stop_reason=STOP_REASONS[end.reason],
        model_load_time_seconds=end.timings.load,
        draft_model=end.draft,
        total_draft_tokens_count=used.drafted if drafts else None,
        accepted_draft_tokens_count=used.accepted if drafts else None,
        rejected_draft_tokens_count=used.rejected if drafts else None,
        ignored_draft_tokens_count=0 if drafts else None,
    )
