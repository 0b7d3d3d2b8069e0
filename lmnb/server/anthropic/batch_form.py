"""Anthropic's way with batches: requests come with the batch, results are a file of its own."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from lmnb.server.batches.batch import Answer, Batch, Checked, Drafts, Result, Written
from lmnb.server.files import Draft
from lmnb.server.sse import one_line


class Succeeded(msgspec.Struct, frozen=True, tag="succeeded"):
    """The request was answered."""

    message: msgspec.Raw


class Errored(msgspec.Struct, frozen=True, tag="errored"):
    """It was answered with an error."""

    error: msgspec.Raw


class Canceled(msgspec.Struct, frozen=True, tag="canceled"):
    """The batch was cancelled before it had an answer."""


class IndividualResponse(msgspec.Struct, frozen=True):
    """A line of the results."""

    custom_id: str
    result: Succeeded | Errored | Canceled


class AnthropicForm:
    """Writes the results of Anthropic's batches."""

    async def check(self, batch: Batch, requests: Draft) -> Checked:
        """Never asked: these batches are made of requests that have been checked."""
        raise AssertionError(f"{batch.id} needs no check of {requests.path}.")

    def write(self, batch: Batch, results: Iterator[Result], drafts: Drafts) -> Written:  # noqa: ARG002
        """One file with all results, in the order of the requests."""
        draft = drafts()
        for result in results:
            line = IndividualResponse(result.custom_id, _result(result.answer))
            draft.write(one_line(msgspec.json.encode(line)) + b"\n")
        return Written(results=draft)


def _result(answer: Answer | None) -> Succeeded | Errored | Canceled:
    if answer is None:
        return Canceled()
    body = msgspec.Raw(answer.body)
    return Succeeded(body) if answer.status == 200 else Errored(body)
