"""Speculation through the protocols: a draft model by name, and the counts of both kinds of drafts."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from lmnb.chat.events import Finished, Timings, Usage
from lmnb.client import Client
from lmnb.server.lmstudio.result import stats as lmstudio_stats
from lmnb.server.openai.wire import stats, usage

LLM = "smollm2-135m-instruct"
ASK: dict[str, Any] = {
    "model": LLM,
    "prompt": "1, 2, 3, 4, 5, 6, 7, 8,",
    "max_tokens": 12,
    "temperature": 0,
}


@pytest.fixture
def sdk(client: Client) -> openai.OpenAI:
    return client.openai(_strict_response_validation=True, max_retries=0)


def test_a_draft_model_changes_no_answer_and_is_counted(sdk: openai.OpenAI) -> None:
    plain = sdk.completions.create(**ASK)
    drafted = sdk.completions.create(**ASK, extra_body={"draft_model": LLM})
    assert drafted.choices[0].text == plain.choices[0].text
    counted = drafted.model_extra["stats"] if drafted.model_extra else {}
    assert counted["draft_model"] == LLM
    total = counted["total_draft_tokens_count"]
    assert total == counted["accepted_draft_tokens_count"] + counted["rejected_draft_tokens_count"]
    assert drafted.usage is not None
    details = drafted.usage.completion_tokens_details
    assert details is not None
    assert details.accepted_prediction_tokens == counted["accepted_draft_tokens_count"]
    assert details.rejected_prediction_tokens == counted["rejected_draft_tokens_count"]


def test_a_draft_model_that_is_not_there(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.completions.create(**ASK, extra_body={"draft_model": "no-such-model"})
    assert caught.value.param == "draft_model"


def test_a_draft_model_that_cannot_draft(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="cannot draft") as caught:
        sdk.completions.create(**ASK, extra_body={"draft_model": "all-minilm-l6-v2"})
    assert caught.value.param == "draft_model"


def test_a_model_is_loaded_with_its_draft_model(client: Client, sdk: openai.OpenAI) -> None:
    *_, done = client.load(
        LLM, identifier="helped", draft_model=LLM, draft_tokens=3, context_length=512
    )
    assert done["id"] == "helped"
    try:
        answer = sdk.completions.create(**ASK | {"model": "helped"})
        assert answer.usage is not None
        details = answer.usage.completion_tokens_details
        assert details is not None
        assert details.accepted_prediction_tokens
        assert details.accepted_prediction_tokens >= 6
    finally:
        client.unload("helped")


def finished(drafted: int, accepted: int, draft: str | None = None) -> Finished:
    return Finished(
        reason="stop",
        usage=Usage(input=10, cached=0, output=20, drafted=drafted, accepted=accepted),
        timings=Timings(queue=0.0, prompt=0.1, first_token=0.2, generation=0.5),
        draft=draft,
    )


def test_counts_in_every_protocol() -> None:
    both = usage([[finished(9, 6)], [finished(4, 4)]]).completion_tokens_details
    assert (both.accepted_prediction_tokens, both.rejected_prediction_tokens) == (10, 3)
    ours = stats(finished(9, 6, "small"))
    assert (ours.draft_model, ours.total_draft_tokens_count) == ("small", 9)
    assert (ours.accepted_draft_tokens_count, ours.rejected_draft_tokens_count) == (6, 3)
    assert stats(finished(0, 0)).total_draft_tokens_count is None
    assert stats(finished(0, 0, "small")).total_draft_tokens_count == 0
    theirs = lmstudio_stats(finished(9, 6))
    assert (theirs.total_draft_tokens_count, theirs.accepted_draft_tokens_count) == (9, 6)
