"""Images as clients send them, through every protocol, to a made model that sees."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import made_models
import openai
import pytest
from made_models.projector import PATCHES, projector
from pictures import picture, raw_png
from server_home import CHAT, ServerHome

from lmnb.client import Client

MODEL = "made-that-sees"


@pytest.fixture(scope="module")
def loaded(server: ServerHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("seeing")
    model = made_models.llama(folder / "base.gguf")
    projector(folder / "mmproj-base.gguf")
    client = server.attach()
    list(client.load(str(model), identifier=MODEL, context_length=1024))
    yield client
    client.unload(MODEL)


def url(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()


def chat(client: Client, *images: bytes, model: str = MODEL) -> Any:
    content: Any = [
        *({"type": "image_url", "image_url": {"url": url(image)}} for image in images),
        {"type": "text", "text": "What is it?"},
    ]
    return client.openai(max_retries=0).chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": content}],
        max_tokens=12,
        temperature=0,
    )


def messages(client: Client, image: bytes) -> anthropic.types.Message:
    data = base64.b64encode(image).decode()
    source: Any = {"type": "base64", "media_type": "image/png", "data": data}
    content: Any = [{"type": "image", "source": source}, {"type": "text", "text": "What is it?"}]
    return client.anthropic(max_retries=0).messages.create(
        model=MODEL,
        max_tokens=12,
        extra_body={"temperature": 0},
        messages=[{"role": "user", "content": content}],
    )


def lmstudio(client: Client, items: Any) -> httpx2.Response:
    transport = httpx2.HTTPTransport(uds=client.socket)
    body = {"model": MODEL, "input": items, "temperature": 0, "max_output_tokens": 12}
    with httpx2.Client(transport=transport, base_url="http://local", timeout=60) as http:
        return http.post("/api/v1/chat", json=body)


def test_chat_completions_see(loaded: Client) -> None:
    answers = [chat(loaded, picture(seed)) for seed in range(3)]
    texts = {answer.choices[0].message.content for answer in answers}
    assert len(texts) == 3
    blind = chat(loaded)
    assert {answer.usage.prompt_tokens for answer in answers} == {
        blind.usage.prompt_tokens + PATCHES
    }
    chat(loaded, picture(0))
    again = chat(loaded, picture(0))
    assert again.choices[0].message.content == answers[0].choices[0].message.content
    assert again.usage.prompt_tokens_details.cached_tokens > PATCHES


def test_all_protocols_see_the_same(loaded: Client) -> None:
    image = picture(7)
    wanted = chat(loaded, image).choices[0].message.content
    block = messages(loaded, image).content[0]
    assert block.type == "text"
    assert block.text == wanted
    content: Any = [
        {"type": "input_image", "image_url": url(image), "detail": "auto"},
        {"type": "input_text", "text": "What is it?"},
    ]
    response = loaded.openai(max_retries=0).responses.create(
        model=MODEL,
        input=[{"role": "user", "content": content}],
        max_output_tokens=12,
        temperature=0,
    )
    assert response.output_text == wanted
    items = [
        {"type": "image", "data_url": url(image)},
        {"type": "text", "content": "What is it?"},
    ]
    assert lmstudio(loaded, items).json()["output"][0]["content"] == wanted


def test_a_stored_image_is_seen_in_the_next_turn(loaded: Client) -> None:
    sdk = loaded.openai(max_retries=0)

    def second_turn(image: bytes) -> tuple[str, int]:
        content: Any = [{"type": "input_image", "image_url": url(image), "detail": "auto"}]
        first = sdk.responses.create(
            model=MODEL,
            input=[{"role": "user", "content": content}],
            max_output_tokens=4,
            temperature=0,
        )
        second = sdk.responses.create(
            model=MODEL,
            input="And now?",
            previous_response_id=first.id,
            max_output_tokens=12,
            temperature=0,
        )
        assert second.usage is not None
        return second.output_text, second.usage.input_tokens_details.cached_tokens

    one, cached = second_turn(picture(8))
    other, _ = second_turn(picture(9))
    assert one != other
    assert cached > PATCHES


def test_models_with_mrope_see(server: ServerHome, tmp_path: Path) -> None:
    """Qwen-VL's kind, for which an image's tokens and positions are not the same number."""
    model = made_models.qwen2vl(tmp_path / "base.gguf")
    projector(tmp_path / "mmproj-base.gguf", kind="qwen2vl_merger")
    client, name = server.attach(), "made-qwen2vl-that-sees"
    list(client.load(str(model), identifier=name, context_length=1024))
    answers = [chat(client, picture(seed), picture(9), model=name) for seed in range(3)]
    assert len({answer.choices[0].message.content for answer in answers}) == 3
    blind = chat(client, model=name)
    image = 30 + len("<|vision_start|>" + "<|vision_end|>")
    assert answers[0].usage.prompt_tokens == blind.usage.prompt_tokens + 2 * image
    again = chat(client, picture(0), picture(9), model=name)
    assert again.choices[0].message.content == answers[0].choices[0].message.content
    assert again.usage.prompt_tokens_details.cached_tokens > 2 * image
    two = client.openai(max_retries=0).chat.completions.create(
        model=name,
        n=2,
        max_tokens=8,
        temperature=0,
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": url(picture(0))}},
                    {"type": "text", "text": "What is it?"},
                ],
            }
        ],
    )
    assert len({choice.message.content for choice in two.choices}) == 1
    client.unload(name)


def test_count_tokens_counts_images(loaded: Client) -> None:
    def count(*content: Any) -> int:
        return (
            loaded.anthropic(max_retries=0)
            .messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": content}])
            .input_tokens
        )

    data = base64.b64encode(picture(0)).decode()
    source: Any = {"type": "base64", "media_type": "image/png", "data": data}
    text: Any = {"type": "text", "text": "x"}
    image: Any = {"type": "image", "source": source}
    assert count(text, image) == count(text) + PATCHES


def test_capabilities_tell(loaded: Client) -> None:
    transport = httpx2.HTTPTransport(uds=loaded.socket)
    with httpx2.Client(transport=transport, base_url="http://local", timeout=60) as http:
        rows = {row["key"]: row for row in http.get("/api/v1/models").json()["models"]}
    seeing = [
        row for row in rows.values() if any(i["id"] == MODEL for i in row["loaded_instances"])
    ]
    assert [row["capabilities"]["vision"] for row in seeing] == [True]
    assert rows[CHAT]["capabilities"]["vision"] is False
    told = loaded.anthropic(max_retries=0).models.retrieve(MODEL).capabilities
    assert told is not None
    assert told.image_input.supported


@pytest.mark.parametrize(
    "image", [b"", b"no image", picture(0)[:100], raw_png(30_000, 30_000, b""), raw_png(0, 0, b"")]
)
def test_bad_images_are_400(loaded: Client, image: bytes) -> None:
    with pytest.raises(openai.BadRequestError):
        chat(loaded, image)
    assert chat(loaded, picture(0)).choices[0].message.content


def test_a_model_that_does_not_see_says_what_to_do(loaded: Client) -> None:
    with pytest.raises(openai.BadRequestError, match="mmproj"):
        chat(loaded, picture(0), model=CHAT)


def test_no_address_is_fetched(loaded: Client) -> None:
    answer = lmstudio(loaded, [{"type": "image", "data_url": "http://127.0.0.1:9/x.png"}])
    assert answer.status_code == 400
    assert "data:image/png" in answer.text


def test_only_this_machine_names_projectors(loaded: Client, tmp_path: Path) -> None:
    transport = httpx2.HTTPTransport(uds=loaded.socket)
    body = {"model": CHAT, "projector": str(tmp_path / "x.gguf")}
    with httpx2.Client(transport=transport, base_url="http://local", timeout=60) as http:
        answer = http.post("/api/v1/models/load", json=body)
    assert answer.status_code == 400
    assert "--projector" in answer.text
