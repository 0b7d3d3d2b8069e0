"""Documents as clients send them, through every protocol that has them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import made_models
import openai
import pytest
from made_models.projector import PATCHES, projector
from pdfs import pdf
from pictures import picture
from server_home import CHAT, ServerHome

from lmnb.client import Client
from lmnb.errors import NotFound
from lmnb.server import attached
from lmnb.server.database import Database
from lmnb.server.errors import PayloadTooLarge
from lmnb.server.files import File, Files

SEEING = "made-that-reads-pages"
MINUTES = pdf("The harbour closes at nine.", "It opens at six.")
QUESTION = "When does the harbour close?"


@pytest.fixture(scope="module")
def loaded(server: ServerHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("seeing")
    model = made_models.llama(folder / "base.gguf")
    projector(folder / "mmproj-base.gguf")
    client = server.attach()
    list(client.load(str(model), identifier=SEEING, context_length=1024))
    yield client
    client.unload(SEEING)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def messages(
    client: Client, data: bytes, model: str = CHAT, **more: Any
) -> anthropic.types.Message:
    source = {"type": "base64", "media_type": "application/pdf", "data": encoded(data)}
    block: Any = {"type": "document", "source": source, "title": "minutes.pdf", **more}
    return client.anthropic(max_retries=0).messages.create(
        model=model,
        max_tokens=12,
        extra_body={"temperature": 0},
        messages=[{"role": "user", "content": [block, {"type": "text", "text": QUESTION}]}],
    )


def chat(client: Client, file: Any, model: str = CHAT) -> Any:
    content: Any = [{"type": "file", "file": file}, {"type": "text", "text": QUESTION}]
    return client.openai(max_retries=0).chat.completions.create(
        model=model,
        max_tokens=12,
        temperature=0,
        messages=[{"role": "user", "content": content}],
    )


def responses(client: Client, **file: Any) -> Any:
    content: Any = [{"type": "input_file", **file}, {"type": "input_text", "text": QUESTION}]
    return client.openai(max_retries=0).responses.create(
        model=CHAT,
        max_output_tokens=12,
        temperature=0,
        input=[{"role": "user", "content": content}],
    )


def prompt_tokens(usage: anthropic.types.Usage) -> int:
    return usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_all_protocols_read_the_same(loaded: Client) -> None:
    one = messages(loaded, MINUTES)
    [block] = one.content
    assert block.type == "text"
    url = "data:application/pdf;base64," + encoded(MINUTES)
    for data in (url, encoded(MINUTES)):
        two = chat(loaded, {"file_data": data, "filename": "minutes.pdf"})
        assert two.choices[0].message.content == block.text
        assert two.usage.prompt_tokens == prompt_tokens(one.usage)
    three = responses(loaded, file_data=url, filename="minutes.pdf")
    assert three.output_text == block.text
    assert three.usage.input_tokens == prompt_tokens(one.usage)
    four = responses(loaded, file_url=url, filename="minutes.pdf")
    assert four.usage.input_tokens == prompt_tokens(one.usage)
    assert prompt_tokens(messages(loaded, MINUTES, context="Of June.").usage) > prompt_tokens(
        one.usage
    )


def test_all_protocols_read_uploaded_files(loaded: Client) -> None:
    sdk = loaded.openai(max_retries=0)
    file = sdk.files.create(file=("minutes.pdf", MINUTES), purpose="user_data")
    wanted = responses(loaded, file_data=encoded(MINUTES), filename="minutes.pdf")
    found = responses(loaded, file_id=file.id)
    assert found.output_text == wanted.output_text
    assert found.usage.input_tokens == wanted.usage.input_tokens
    [said] = sdk.responses.input_items.list(found.id).data
    assert said.model_dump(exclude_unset=True)["content"][0].get("file_id") == file.id
    assert chat(loaded, {"file_id": file.id}).usage.prompt_tokens == wanted.usage.input_tokens
    claude = loaded.anthropic(max_retries=0)
    block: Any = {"type": "document", "source": {"type": "file", "file_id": file.id}}
    asked: Any = [{"role": "user", "content": [block, {"type": "text", "text": QUESTION}]}]
    counted = claude.messages.count_tokens(model=CHAT, messages=asked)
    assert counted.input_tokens == wanted.usage.input_tokens
    image = sdk.files.create(file=("x.png", picture(1)), purpose="vision")
    seen: Any = {"type": "image", "source": {"type": "file", "file_id": image.id}}
    counted = claude.messages.count_tokens(
        model=SEEING, messages=[{"role": "user", "content": [seen]}]
    )
    assert counted.input_tokens > PATCHES
    sdk.files.delete(image.id)


def test_a_conversation_goes_on_after_an_uploaded_file(loaded: Client) -> None:
    sdk = loaded.openai(max_retries=0)
    file = sdk.files.create(file=("minutes.pdf", MINUTES), purpose="user_data")
    part: Any = {"type": "input_file", "file_id": file.id}
    made = sdk.conversations.create(items=[{"role": "user", "content": [part]}])
    sdk.conversations.items.create(made.id, items=[{"role": "user", "content": [part]}])
    ask: Any = {"model": CHAT, "max_output_tokens": 4, "conversation": made.id}
    first = sdk.responses.create(**ask, input=QUESTION)
    second = sdk.responses.create(**ask, input=[{"role": "user", "content": [part]}])
    third = sdk.responses.create(**ask, input="And open?")
    read = [one.usage.input_tokens for one in (first, second, third) if one.usage is not None]
    once = responses(loaded, file_id=file.id).usage.input_tokens
    assert read[0] > 1.5 * once
    assert read[1] > read[0] + once / 2
    assert read[2] > read[1]
    items = list(sdk.conversations.items.list(made.id))
    kept: list[Any] = [one.to_dict()["content"] for one in items if one.type == "message"]
    assert sum(content[0].get("file_id") == file.id for content in kept) == 3
    sdk.files.delete(file.id)
    with pytest.raises(openai.NotFoundError, match=file.id):
        sdk.responses.create(**ask, input="And now?")


def test_files_of_a_request_are_bounded_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attached, "MAX_BODY", 8)
    database = Database(tmp_path / "lmnb.db")
    files = Files(database, tmp_path / "files")
    with files.writing() as draft:
        draft.write(b"text")
        file = File(id="f", purpose="user_data", filename="f.txt", bytes=4, created_at=0)
        files.add(draft, file)
    message = {"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}
    two = asyncio.run(attached.attach([message] * 2, files))
    assert [one["content"][0]["file_data"][-8:] for one in two] == ["dGV4dA=="] * 2
    with pytest.raises(PayloadTooLarge):
        asyncio.run(attached.attach([message] * 3, files))
    files.path("f").unlink()
    with pytest.raises(NotFound, match="f"):
        asyncio.run(attached.attach([message], files))
    database.close()


def test_a_stored_document_is_part_of_the_next_turn(loaded: Client) -> None:
    first = responses(loaded, file_data=encoded(MINUTES), filename="minutes.pdf")
    second = loaded.openai(max_retries=0).responses.create(
        model=CHAT, max_output_tokens=4, input="And open?", previous_response_id=first.id
    )
    assert second.usage is not None
    assert second.usage.input_tokens_details.cached_tokens >= first.usage.input_tokens


def test_counting_reads_documents_too(loaded: Client) -> None:
    source: Any = {"type": "base64", "media_type": "application/pdf", "data": encoded(MINUTES)}
    block: Any = {"type": "document", "source": source, "title": "minutes.pdf"}
    asked: Any = [{"role": "user", "content": [block, {"type": "text", "text": QUESTION}]}]
    counted = loaded.anthropic(max_retries=0).messages.count_tokens(model=CHAT, messages=asked)
    assert counted.input_tokens == prompt_tokens(messages(loaded, MINUTES).usage)


def test_a_scan_is_seen_by_a_model_that_sees(loaded: Client) -> None:
    usage = messages(loaded, pdf(""), SEEING).usage
    assert prompt_tokens(usage) > PATCHES
    with pytest.raises(anthropic.BadRequestError, match="its pages are pictures"):
        messages(loaded, pdf(""))


def test_what_cannot_be_read_is_400_in_every_protocol(loaded: Client) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"'minutes.pdf' cannot be read: .*damaged"):
        messages(loaded, MINUTES[:99])
    with pytest.raises(openai.BadRequestError, match="neither PDF nor text"):
        chat(loaded, {"file_data": encoded(b"PK\x03\x04\x00"), "filename": "x.docx"})
    with pytest.raises(openai.NotFoundError, match="No such File"):
        responses(loaded, file_id="file_1")
    with pytest.raises(openai.BadRequestError, match="fetches nothing"):
        responses(loaded, file_url="http://127.0.0.1:9/x.pdf")
    with pytest.raises(openai.BadRequestError, match="file_data"):
        chat(loaded, {"filename": "x.pdf"})
