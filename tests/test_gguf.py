"""The header reader: right on good files, `InvalidModel` on every other."""

from __future__ import annotations

import random
import resource
import struct
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf_bytes import Value, make_gguf, small_model, text, value
from hypothesis import given, settings
from hypothesis import strategies as st

from lmnb.engine.ggml import FILE_TYPES, TENSOR_TYPES
from lmnb.engine.gguf import LongArray, read_header, split_part, split_paths
from lmnb.errors import InvalidModel


def test_reads_what_the_gguf_package_writes(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(4096)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_float32("llama.rope.freq_base", 10000.0)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_array("general.languages", ["en", "fr"])
    writer.add_token_list([f"token{i}" for i in range(5000)])
    writer.add_chat_template(
        [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}]
    )
    weights = np.ones((64, 128), dtype=np.float32)
    writer.add_tensor("a", weights)
    writer.add_tensor(
        "b",
        gguf.quants.quantize(weights, gguf.GGMLQuantizationType.Q8_0),
        raw_dtype=gguf.GGMLQuantizationType.Q8_0,
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    header = read_header(path)

    assert header.version == 3
    assert (header.architecture, header.type, header.kind) == ("llama", "model", "llm")
    assert header.context_length == 4096
    assert header.quantization == "Q8_0"
    assert header.metadata["llama.rope.freq_base"] == 10000.0
    assert header.metadata["tokenizer.ggml.add_bos_token"] is True
    assert header.metadata["general.languages"] == ("en", "fr")
    assert header.chat_templates == {"default": "A", "tool_use": "B"}
    assert header.parameters == 2 * 64 * 128
    assert header.tensor_bytes == 64 * 128 * 4 + 64 * 128 // 32 * 34
    assert header.bits_per_weight == 20.25
    assert [(t.name, t.shape) for t in header.tensors] == [("a", (128, 64)), ("b", (128, 64))]
    tokens = header.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, LongArray)
    assert tokens.count == 5000
    raw = path.read_bytes()
    assert raw[tokens.offset + 8 :].startswith(b"token0")


def test_type_tables_agree_with_the_gguf_package() -> None:
    for kind, (block, size) in gguf.GGML_QUANT_SIZES.items():
        if kind == gguf.GGMLQuantizationType.Q8_1:  # The package has its old size, with floats.
            continue
        assert TENSOR_TYPES[kind.value] == (kind.name, block, size)
    for file_type in gguf.LlamaFileType:
        if file_type != gguf.LlamaFileType.GUESSED:
            name = file_type.name.removeprefix("MOSTLY_").removeprefix("ALL_").removesuffix("_MOE")
            assert FILE_TYPES[file_type.value] == name


@pytest.mark.parametrize(
    ("metadata", "kind"),
    [
        ({"general.architecture": "bert"}, "embedding"),
        ({"general.architecture": "nomic-bert-moe"}, "embedding"),
        ({"general.architecture": "qwen3", "qwen3.pooling_type": 3}, "embedding"),
        ({"general.architecture": "qwen3", "qwen3.pooling_type": 0}, "llm"),
        ({"general.architecture": "qwen3", "llama.pooling_type": 1}, "llm"),
        ({"general.architecture": "something-of-next-year"}, "llm"),
        ({}, "llm"),
    ],
)
def test_kind(metadata: dict[str, str | int], kind: str) -> None:
    assert read_header(make_gguf(metadata)).kind == kind


def test_projectors_and_adapters_are_no_models() -> None:
    assert read_header(make_gguf({"general.architecture": "clip"})).type == "mmproj"
    adapter = {"general.architecture": "llama", "general.type": "adapter"}
    assert read_header(make_gguf(adapter)).type == "adapter"


def test_quantization_without_a_file_type_is_that_of_most_weights() -> None:
    tensors = {"norm": ((512,), 0, 2048), "w": ((256, 64), 12, 64 * 144)}
    header = read_header(make_gguf({"general.architecture": "llama"}, tensors))
    assert header.quantization == "Q4_K"


def test_unknown_tensor_types_are_left_to_llama_cpp() -> None:
    header = read_header(make_gguf(None, {"w": ((64,), 999, 64)}))
    assert header.tensors[0].size is None


def test_a_large_vocabulary_costs_no_memory_and_little_time(tmp_path: Path) -> None:
    path = tmp_path / "large.gguf"
    words = [f"token number {i}" for i in range(150_000)]
    metadata: dict[str, Value] = {"general.architecture": "llama", "a": words, "b": words}
    path.write_bytes(make_gguf({**metadata, "llama.context_length": 8}))
    header = read_header(path)
    assert header.context_length == 8
    last = header.metadata["b"]
    assert isinstance(last, LongArray)
    assert last.count == 150_000


def test_truncated_anywhere(tmp_path: Path) -> None:
    whole = small_model(kilobytes=2)
    assert read_header(whole).parameters
    path = tmp_path / "cut.gguf"
    for end in range(len(whole)):
        with pytest.raises(InvalidModel):
            read_header(whole[:end])
    path.write_bytes(whole[:-1])
    with pytest.raises(InvalidModel, match=r"cut\.gguf: The file is truncated: it has"):
        read_header(path)


def test_a_leading_part_is_enough_when_asked_so() -> None:
    whole = small_model()
    assert read_header(whole[:4096], complete=False) == read_header(whole)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\x80\x02}q\x00.", "not a GGUF"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "keys"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 62), "too early"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<I", 77), "type 77"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 1 << 62),
            "too early",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 5, 1 << 62),
            "too early",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 9, 1),
            "arrays of arrays",
        ),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + 2 * (text("k") + value(1)), "twice"),
        (make_gguf({"general.alignment": 3}, {}), "alignment"),
        (make_gguf(None, {"w": ((2,) * 9, 0, 2048)}), "9 dimensions"),
        (make_gguf(None, {"w": ((1 << 40, 1 << 40), 0, 32)}), "larger than any file"),
    ],
)
def test_damage_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(InvalidModel, match=reason):
        read_header(data)


def test_a_directory_and_a_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.gguf"):
        with pytest.raises(InvalidModel, match="cannot be read"):
            read_header(path)


@given(st.binary(max_size=400))
def test_random_bytes_after_the_magic(data: bytes) -> None:
    with pytest.raises(InvalidModel):
        read_header(b"GGUF\x03\x00\x00\x00" + data + b"\xff" * 32)


@settings(max_examples=300)
@given(seed=st.integers(0, 1 << 32), flips=st.integers(1, 8))
def test_flipped_bytes_never_crash(seed: int, flips: int) -> None:
    data = bytearray(small_model(kilobytes=1))
    generator = random.Random(seed)
    for _ in range(flips):
        data[generator.randrange(200)] = generator.randrange(256)
    try:
        header = read_header(bytes(data))
    except InvalidModel:
        return
    # Whatever was read must also be usable.
    _ = (header.kind, header.quantization, header.bits_per_weight, header.chat_templates)
    _ = (header.context_length, header.parameters, header.split_count, header.type)


def test_huge_counts_in_a_huge_file_are_refused_quickly(tmp_path: Path) -> None:
    """A sparse file of 64 GiB, all zeros after an array of 2**60 empty strings is announced."""
    path = tmp_path / "huge.gguf"
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 1 << 60)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(1 << 36)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    with pytest.raises(InvalidModel, match="longer than 64 MiB"):
        read_header(path)
    assert time.monotonic() - started < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_split_names() -> None:
    assert split_part("m-00002-of-00003.gguf") == ("m", 2, 3)
    assert split_part("m.gguf") is None
    first = Path("/x/m-00001-of-00002.gguf")
    assert split_paths(first) == (first, Path("/x/m-00002-of-00002.gguf"))
    assert split_paths(Path("/x/m.gguf")) == (Path("/x/m.gguf"),)
