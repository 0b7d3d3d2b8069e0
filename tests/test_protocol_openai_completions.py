"""Completions beyond plain text: filling in the middle, scored prompts, the best of several."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import made_models
import openai
import pytest
from made_models.scripted import MARKERS, Answer, scripted
from server_home import CHAT, ServerHome

from lmnb.client import Client

CODER, BYTES = "made-coder", "made-bytes"
FILLER = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
BEFORE, AFTER = "def one():\n    ", f"\n# {MARKERS[0]}\n"
HUGE = "<|fim_middle|>"


@pytest.fixture(scope="module")
def client(server: ServerHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a server with a model that fills in what a marker in the suffix asks for."""
    folder = tmp_path_factory.mktemp("models")
    answers = [Answer("the end of it all"), Answer("return 1", MARKERS[0])]
    coder = scripted(folder / "coder.gguf", answers, controls=FILLER)
    plain = made_models.llama(folder / "bytes.gguf")
    found = server.attach()
    for path, name in ((coder, CODER), (plain, BYTES)):
        server.lmnb("load", str(path), "--identifier", name)
    yield found
    for name in (CODER, BYTES):
        found.unload(name)


@pytest.fixture
def sdk(client: Client) -> openai.OpenAI:
    """Not strict: the SDK's types know no chunk without a reason to end, and no null log probability."""
    return client.openai(max_retries=0)


# --- filling in the middle ------------------------------------------------------------


def test_the_middle_is_filled_in(sdk: openai.OpenAI) -> None:
    answer = sdk.completions.create(model=CODER, prompt=BEFORE, suffix=AFTER, temperature=0)
    assert answer.choices[0].text == "return 1"
    assert answer.usage is not None
    size = len((BEFORE + AFTER).encode())
    assert answer.usage.prompt_tokens == size + 3, "each byte and each of the three is a token"
    assert sdk.completions.create(model=CODER, prompt=BEFORE).choices[0].text == "the end of it all"


def test_the_middle_is_streamed_after_its_echo(sdk: openai.OpenAI) -> None:
    chunks = sdk.completions.create(
        model=CODER, prompt=BEFORE, suffix=AFTER, echo=True, stream=True
    )
    text = "".join(chunk.choices[0].text for chunk in chunks)
    assert text == f"{BEFORE}return 1"


def test_the_order_is_beginning_end_middle(sdk: openai.OpenAI) -> None:
    """By hand, in the tokens' own words, it is the very same prompt."""
    first, second, last = FILLER
    by_hand = sdk.completions.create(
        model=CODER, prompt=f"{first}{BEFORE}{second}{AFTER}{last}", temperature=0
    )
    assert by_hand.choices[0].text == "return 1"
    assert by_hand.usage is not None
    asked = sdk.completions.create(model=CODER, prompt=BEFORE, suffix=AFTER, temperature=0)
    assert asked.usage is not None
    assert asked.usage.prompt_tokens == by_hand.usage.prompt_tokens
    details = asked.usage.prompt_tokens_details
    assert details is not None
    assert details.cached_tokens == by_hand.usage.prompt_tokens - 1


def test_code_that_spells_a_control_token_has_none(sdk: openai.OpenAI) -> None:
    answer = sdk.completions.create(model=CODER, prompt=HUGE, suffix=AFTER, max_tokens=1)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len((HUGE + AFTER).encode()) + 3


@pytest.mark.parametrize("stream", [False, True])
def test_models_without_the_tokens_say_so(sdk: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match="fim_pre") as raised:
        sdk.completions.create(model=CHAT, prompt="a", suffix="b", stream=stream)
    assert raised.value.param == "suffix"


def test_an_empty_suffix_is_none(sdk: openai.OpenAI) -> None:
    answer = sdk.completions.create(model=CHAT, prompt="One, two,", suffix="", max_tokens=1)
    assert answer.choices[0].finish_reason == "length"


# --- scored prompts -------------------------------------------------------------------


def scored(sdk: openai.OpenAI, prompt: Any, **fields: Any) -> Any:
    return sdk.completions.create(
        **{"model": BYTES, "prompt": prompt, "echo": True, "logprobs": 2, "temperature": 0} | fields
    )


def test_a_prompt_is_scored_without_an_answer(client: Client) -> None:
    """How evaluation harnesses measure perplexity."""
    body = {"model": BYTES, "prompt": "hello", "echo": True, "logprobs": 2, "max_tokens": 0}
    answer = client.http.post("/v1/completions", json=body).raise_for_status().json()
    [choice] = answer["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("hello", "length")
    found = choice["logprobs"]
    assert found["tokens"] == list("hello")
    assert found["text_offset"] == [0, 1, 2, 3, 4]
    assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
    assert all(value < 0 for value in found["token_logprobs"][1:])
    assert [len(top) for top in found["top_logprobs"][1:]] == [2] * 4
    assert answer["usage"]["completion_tokens"] == 0


def test_scores_are_the_models_own(client: Client) -> None:
    """What was said of an answer is said of the same tokens in a prompt."""
    wanted = {"model": CHAT, "temperature": 0, "logprobs": 1}

    def post(**fields: Any) -> Any:
        answer = client.http.post("/v1/completions", json=wanted | fields)
        return answer.raise_for_status().json()["choices"][0]

    said = post(prompt="The capital of France is", max_tokens=8)
    whole = "The capital of France is" + said["text"]
    again = post(prompt=whole, echo=True, max_tokens=2)
    found = again["logprobs"]
    assert again["text"].startswith(whole)
    assert "".join(found["tokens"]) == again["text"]
    place = found["text_offset"].index(len("The capital of France is"))
    for before, after in zip(
        said["logprobs"]["token_logprobs"], found["token_logprobs"][place:], strict=False
    ):
        assert math.isclose(before, after, abs_tol=0.3)
    for token, offset in zip(found["tokens"], found["text_offset"], strict=True):
        assert again["text"][offset:].startswith(token)


def test_scored_choices_and_prompts_keep_apart(sdk: openai.OpenAI) -> None:
    answer = scored(sdk, ["abc", [100, 101]], n=2, max_tokens=1)
    texts = [choice.text[:-1] for choice in answer.choices]
    assert [text[:2] for text in texts] == ["ab", "ab", texts[2][:2], texts[2][:2]]
    lengths = [len(choice.logprobs.tokens) for choice in answer.choices]
    assert lengths == [4, 4, 3, 3]
    assert answer.usage.prompt_tokens == 5


def test_scores_are_streamed_first(sdk: openai.OpenAI) -> None:
    whole = scored(sdk, "hello", n=2, max_tokens=3)
    chunks = list(scored(sdk, "hello", n=2, max_tokens=3, stream=True))
    for index in range(2):
        mine = [c for chunk in chunks for c in chunk.choices if c.index == index]
        assert "".join(choice.text for choice in mine) == whole.choices[index].text
        assert mine[0].text == "hello"
        offsets = [n for c in mine if c.logprobs for n in c.logprobs.text_offset]
        assert offsets == whole.choices[index].logprobs.text_offset


def test_an_echo_of_token_ids_is_text(sdk: openai.OpenAI) -> None:
    ids = [504, 3575, 282]  # of SmolLM2
    answer = sdk.completions.create(model=CHAT, prompt=ids, echo=True, max_tokens=0)
    assert answer.choices[0].text == "The capital of"
    chunks = sdk.completions.create(model=CHAT, prompt=ids, echo=True, max_tokens=1, stream=True)
    assert list(chunks)[0].choices[0].text == "The capital of"  # noqa: RUF015 - read to the end


# --- the best of several --------------------------------------------------------------


def test_the_best_of_several(sdk: openai.OpenAI) -> None:
    wanted: Any = {
        "model": CHAT, "prompt": "My favourite", "max_tokens": 6, "temperature": 1.5, "seed": 5,
    }  # fmt: skip
    every = sdk.completions.create(**wanted, n=4, logprobs=0)
    best = sdk.completions.create(**wanted, n=2, best_of=4)

    def mean(choice: Any) -> float:
        values = choice.logprobs.token_logprobs
        return float(sum(values) / len(values))

    ranked = sorted(every.choices, key=mean, reverse=True)
    assert [choice.text for choice in best.choices] == [choice.text for choice in ranked[:2]]
    assert [choice.index for choice in best.choices] == [0, 1]
    assert best.choices[0].logprobs is None
    assert best.usage is not None
    assert best.usage.completion_tokens == 24, "all that was generated"
