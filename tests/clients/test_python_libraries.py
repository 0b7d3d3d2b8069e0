"""LangChain, pydantic-ai, LlamaIndex and LiteLLM, through each protocol that they speak."""

from __future__ import annotations

import functools
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from libraries import (
    CITY,
    GREETING,
    REST,
    Said,
    Setting,
    environment,
    is_pet,
    python,
    said,
    serving,
)
from server_home import ServerHome

pytestmark = pytest.mark.timeout(600)

LIBRARIES = {
    "langchain": "openai_3",
    "pydantic_ai": "openai_3",
    "llama_index": "openai_2",
    "litellm": "openai_2",
}
"""The packages of each: not all allow the same version of the OpenAI SDK."""

WAYS = [
    *[("langchain", api) for api in ("chat", "responses", "anthropic")],
    *[("pydantic_ai", api) for api in ("chat", "responses", "anthropic")],
    ("llama_index", "chat"),
    *[("litellm", prefix) for prefix in ("lm_studio", "openai", "anthropic")],
]
TOLD_OF_THE_SCHEMA = [
    *[(*way, "json_schema") for way in WAYS if way != ("pydantic_ai", "anthropic")],
    *[(*way, "function_calling") for way in WAYS if way[0] != "litellm"],
]

Tell = Callable[[str], Said]


@pytest.fixture(scope="module")
def setting(
    server: ServerHome, tmp_path_factory: pytest.TempPathFactory, chat_model_path: Path
) -> Iterator[Setting]:
    folder = tmp_path_factory.mktemp("libraries")
    with serving(server.attach(), folder, chat_model_path) as found:
        yield found


@pytest.fixture(scope="module")
def vocabulary(server: ServerHome) -> Iterator[Path]:
    """OpenAI's vocabulary where the server, too, looks for it. LlamaIndex brings it along."""
    packages = environment("openai_2").parents[1] / "lib"
    name = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
    [found] = packages.glob(f"*/site-packages/llama_index/core/_static/tiktoken_cache/{name}")
    folder = server.path / "tiktoken"
    folder.mkdir(exist_ok=True)
    shutil.copy(found, folder)
    yield folder
    (folder / name).unlink()


@pytest.fixture(scope="module")
def tell(setting: Setting, vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Tell:
    @functools.cache
    def run(library: str) -> Said:
        folder = tmp_path_factory.mktemp(library)
        return python(
            f"with_{library}", LIBRARIES[library], folder, setting,
            TIKTOKEN_CACHE_DIR=str(vocabulary),
            LITELLM_LOCAL_MODEL_COST_MAP="True",
        )  # fmt: skip

    return run


@pytest.mark.parametrize(("library", "way"), WAYS)
def test_text(tell: Tell, library: str, way: str) -> None:
    assert said(tell(library), f"{way}_text") == GREETING


@pytest.mark.parametrize(("library", "way"), WAYS)
def test_stream(tell: Tell, library: str, way: str) -> None:
    parts = said(tell(library), f"{way}_stream")
    assert len(parts) > 1
    assert "".join(parts) == GREETING


@pytest.mark.parametrize(("library", "way"), WAYS)
def test_tools(tell: Tell, library: str, way: str) -> None:
    assert said(tell(library), f"{way}_tools") == {"text": REST, "cities": [CITY]}


@pytest.mark.parametrize(("library", "way", "told_by"), TOLD_OF_THE_SCHEMA)
def test_structured_output(tell: Tell, library: str, way: str, told_by: str) -> None:
    assert is_pet(said(tell(library), f"{way}_{told_by}"))


@pytest.mark.parametrize(
    ("library", "step"),
    [
        ("langchain", "embeddings"),
        ("llama_index", "embeddings"),
        ("litellm", "lm_studio_embeddings"),
        ("litellm", "openai_embeddings"),
    ],
)
def test_embeddings(tell: Tell, library: str, step: str) -> None:
    vectors = said(tell(library), step)
    assert [len(vector) for vector in vectors] == [384, 384]
    assert [math.isclose(math.hypot(*vector), 1, abs_tol=1e-4) for vector in vectors] == [True] * 2


def test_langchain_sends_tokens_by_default(tell: Tell) -> None:
    """Those of OpenAI's tokenizer, which are read as the text that they stand for."""
    texts, tokens = (said(tell("langchain"), f"embeddings{how}") for how in ("", "_of_tokens"))
    for one, other in zip(texts, tokens, strict=True):
        assert math.dist(one, other) < 1e-3
