"""LoRA adapters as users meet them: loaded on the command line, chosen in requests' bodies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import made_models
import openai
import pytest
from made_models.adapter import lora, random_factors
from server_home import ServerHome

from lmnb.client import Client

WEIGHTS = ("blk.0.attn_q.weight", "blk.0.ffn_down.weight", "blk.1.attn_v.weight", "output.weight")
MODEL = "made-with-adapters"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    base = made_models.llama(folder / "base.gguf")
    made = {"base": base}
    for seed, name in enumerate("ab"):
        made[name] = lora(folder / f"{name}.gguf", random_factors(base, WEIGHTS, seed=seed))
    return made


@pytest.fixture(scope="module")
def loaded(server: ServerHome, files: dict[str, Path]) -> Iterator[Client]:
    server.lmnb(
        "load", str(files["base"]), "--identifier", MODEL, "--context-length", "512",
        "--adapter", str(files["a"]), "--adapter", f"{files['b']}=0",
    )  # fmt: skip
    client = server.attach()
    yield client
    client.unload(MODEL)


def complete(client: Client, lora: Any = None, **options: Any) -> str:
    extra = {} if lora is None else {"lora": lora}
    answer = client.openai(max_retries=0).completions.create(
        model=MODEL, prompt="a prompt", max_tokens=12, temperature=0, extra_body=extra, **options
    )
    text: str = answer.choices[0].text
    return text


def test_requests_choose_adapters(loaded: Client) -> None:
    plain, a, b = complete(loaded, []), complete(loaded, [{"id": 0}]), complete(loaded, [{"id": 1}])
    assert len({plain, a, b}) == 3
    assert complete(loaded) == a  # as it was loaded: a at 1, b at 0
    assert complete(loaded, [{"name": "b", "scale": 1}]) == b
    assert complete(loaded, [{"id": 0, "scale": 0}]) == plain
    assert complete(loaded, [{"id": 0}, {"id": 1, "scale": 0.5}]) not in {plain, a, b}


def test_chat_and_responses_choose_too(loaded: Client) -> None:
    sdk = loaded.openai(max_retries=0)
    chats, responses = set(), set()
    for chosen in ([], [{"id": 0}], [{"id": 1}]):
        chat = sdk.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "hello"}],
            max_tokens=12,
            temperature=0,
            extra_body={"lora": chosen},
        )
        chats.add(chat.choices[0].message.content)
        response = sdk.responses.create(
            model=MODEL,
            input="hello",
            max_output_tokens=12,
            temperature=0,
            extra_body={"lora": chosen},
        )
        responses.add(response.output_text)
    assert len(chats) == len(responses) == 3


@pytest.mark.parametrize(
    "wanted",
    [
        [{"id": 2}],
        [{"name": "/etc/passwd"}],
        [{"id": 0, "scale": 1e30}],
        [{"id": 0, "name": "a"}],
        [{"scale": 1}],
        [{"id": "0"}],
        "a",
    ],
)
def test_wrong_choices_are_400(loaded: Client, wanted: Any) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        complete(loaded, wanted)
    assert (caught.value.param or "").startswith("lora")


def test_a_bad_adapter_fails_the_load(server: ServerHome, files: dict[str, Path]) -> None:
    done = server.lmnb("load", str(files["base"]), "--adapter", "/no/such=file.gguf", check=False)
    assert done.returncode != 0
    assert "/no/such=file.gguf cannot be read" in done.stderr


def test_only_this_machine_names_files(loaded: Client, files: dict[str, Path]) -> None:
    transport = httpx2.HTTPTransport(uds=loaded.socket)
    body = {"model": "smollm2-135m-instruct", "adapters": [{"path": str(files["a"])}]}
    with httpx2.Client(transport=transport, base_url="http://local") as http:
        answer = http.post("/api/v1/models/load", content=json.dumps(body))
    assert answer.status_code == 400
    assert "--adapter" in answer.text
