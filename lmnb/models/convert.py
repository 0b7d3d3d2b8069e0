"""Converts a sentence-transformers BERT (MiniLM and its family) from safetensors to GGUF.

Needs numpy, gguf and json only. The output is deterministic: the same input gives the same bytes.
Names and keys follow llama.cpp's loader for the architecture `bert` (src/llama-model.cpp), the
token form its WordPiece tokenizer (src/llama-vocab.cpp, `llm_tokenizer_wpm`): a word's beginning
is marked with U+2581, a continuation (`##ing`) loses its mark.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast, get_args

import gguf
import numpy as np
from numpy.typing import NDArray

from lmnb.errors import InvalidModel
from lmnb.models.safetensors import SafetensorsFile

FileType: TypeAlias = Literal["F32", "F16", "Q8_0"]

_FILE_TYPES = {
    "F32": (gguf.LlamaFileType.ALL_F32, gguf.GGMLQuantizationType.F32),
    "F16": (gguf.LlamaFileType.MOSTLY_F16, gguf.GGMLQuantizationType.F16),
    "Q8_0": (gguf.LlamaFileType.MOSTLY_Q8_0, gguf.GGMLQuantizationType.Q8_0),
}
_HINT = "Look for a GGUF of this model instead."
# The pooling head of pre-training and the masked-word head play no part in sentence embeddings.
_UNUSED = ("embeddings.position_ids", "pooler.", "cls.")
# llama.cpp adds these to activations and wants them in full precision.
_ALWAYS_F32 = ("position_embd", "token_types")


@dataclass(frozen=True)
class _Folder:
    """The parsed files of a model folder."""

    config: dict[str, Any]
    tokenizer: dict[str, Any]
    tokens: list[str]
    pooling: gguf.PoolingType
    max_sequence_length: int | None


def parse_file_type(label: str) -> FileType:
    """The label as a `FileType`, or `InvalidModel`."""
    for known in get_args(FileType):
        if known == label:
            return cast(FileType, known)
    raise InvalidModel(f"{label} is not one of {', '.join(_FILE_TYPES)}.")


def convert_bert(
    folder: Path,
    target: Path,
    *,
    name: str,
    file_type: FileType = "F16",
    license_id: str | None = None,
    source_url: str | None = None,
    on_progress: Callable[[float], None] = lambda _fraction: None,
) -> None:
    """Write the model in `folder` to `target` as GGUF.

    `folder` holds `model.safetensors`, `config.json`, `vocab.txt` and, as far as they exist,
    `tokenizer_config.json`, `modules.json`, `1_Pooling/config.json`, `sentence_bert_config.json`.
    `target` appears when it is whole, or not at all. `on_progress` is told 0 to 1.

    Raises
    ------
    InvalidModel
        The model is not a BERT with a WordPiece vocabulary, or a file is damaged or missing.
    """
    model = _read_folder(folder)
    weights = SafetensorsFile(folder / "model.safetensors")
    partial = target.with_name(target.name + ".part")
    writer = gguf.GGUFWriter(partial, "bert")
    try:
        writer.add_type("model")
        writer.add_name(name)
        if license_id:
            writer.add_license(license_id)
        if source_url:
            writer.add_source_url(source_url)
        writer.add_file_type(_FILE_TYPES[file_type][0])
        _add_hyperparameters(writer, model)
        _add_vocabulary(writer, model)
        for done, _ in enumerate(_add_tensors(writer, weights, model, file_type), 1):
            on_progress(done / len(weights.names))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        partial.replace(target)
    finally:
        writer.close()
        partial.unlink(missing_ok=True)


def _read_folder(folder: Path) -> _Folder:
    config = _read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise InvalidModel(f"{folder} has no config.json of a model.", hint=_HINT)
    tokenizer = _read_json(folder / "tokenizer_config.json") or {}
    _check_is_bert(config, tokenizer)
    vocabulary = folder / "vocab.txt"
    if not vocabulary.is_file():
        raise InvalidModel("The model has no vocab.txt, so it does not use WordPiece.", hint=_HINT)
    # Split at line feeds only: a vocabulary may hold other characters that end a line.
    tokens = vocabulary.read_text("utf-8").removesuffix("\n").split("\n")
    if not (folder / "model.safetensors").is_file():
        raise InvalidModel(
            "The model has no model.safetensors.",
            hint="Weights in pytorch_model.bin, or in several files, have to be saved anew as one.",
        )
    if len(tokens) != config.get("vocab_size"):
        raise InvalidModel(
            f"vocab.txt has {len(tokens)} tokens where config.json says {config.get('vocab_size')}."
        )
    limit = (_read_json(folder / "sentence_bert_config.json") or {}).get("max_seq_length")
    return _Folder(
        config=config,
        tokenizer=tokenizer,
        tokens=tokens,
        pooling=_read_pooling(folder),
        max_sequence_length=limit if isinstance(limit, int) else None,
    )


def _read_json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InvalidModel(f"{path.name} is not JSON: {error}.") from error


def _check_is_bert(config: dict[str, Any], tokenizer: dict[str, Any]) -> None:
    architectures = config.get("architectures") or ["?"]
    if config.get("model_type") != "bert":
        raise InvalidModel(
            f"Only BERT models can be converted, and this one is {architectures[0]} "
            f"(model_type {config.get('model_type')!r}).",
            hint=_HINT,
        )
    if config.get("position_embedding_type", "absolute") != "absolute":
        raise InvalidModel("This BERT has relative positions, which llama.cpp lacks.", hint=_HINT)
    if config.get("hidden_act", "gelu") != "gelu":
        raise InvalidModel(
            f"This BERT uses the activation {config['hidden_act']!r}; llama.cpp has gelu only.",
            hint=_HINT,
        )
    tokenizer_class = tokenizer.get("tokenizer_class", "BertTokenizer").removesuffix("Fast")
    if tokenizer_class != "BertTokenizer":
        raise InvalidModel(
            f"Only WordPiece tokenizers can be converted, not {tokenizer_class}.", hint=_HINT
        )


def _read_pooling(folder: Path) -> gguf.PoolingType:
    """sentence-transformers lists its stages in modules.json; without one it takes the mean."""
    path = "1_Pooling"
    for module in _read_json(folder / "modules.json") or []:
        stage = str(module.get("type", "")).rsplit(".", 1)[-1]
        if stage == "Pooling":
            path = module.get("path") or path
        elif stage not in {"Transformer", "Normalize"}:
            raise InvalidModel(
                f"The model has a stage {stage} after BERT, which llama.cpp lacks.", hint=_HINT
            )
    pooling = _read_json(folder / path / "config.json")
    if pooling is None or pooling.get("pooling_mode_mean_tokens"):
        return gguf.PoolingType.MEAN
    if pooling.get("pooling_mode_cls_token"):
        return gguf.PoolingType.CLS
    if pooling.get("pooling_mode_lasttoken"):
        return gguf.PoolingType.LAST
    raise InvalidModel("The model pools in a way that llama.cpp lacks.", hint=_HINT)


def _add_hyperparameters(writer: gguf.GGUFWriter, model: _Folder) -> None:
    config = model.config
    try:
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_head_count(config["num_attention_heads"])
        writer.add_layer_norm_eps(config["layer_norm_eps"])
    except KeyError as error:
        raise InvalidModel(f"config.json does not say {error}.") from None
    writer.add_causal_attention(False)
    writer.add_pooling_type(model.pooling)
    if model.max_sequence_length:
        # GGUF has no key for the length that sentence-transformers cuts texts to.
        writer.add_uint32("lmnb.max_seq_length", model.max_sequence_length)


def _add_vocabulary(writer: gguf.GGUFWriter, model: _Folder) -> None:
    specials = _special_tokens(model)
    ids = {token: model.tokens.index(token) for token in specials.values()}
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([_phantom_space(token, ids) for token in model.tokens])
    writer.add_token_types(
        [gguf.TokenType.CONTROL if t in ids else gguf.TokenType.NORMAL for t in model.tokens]
    )
    writer.add_token_type_count(model.config.get("type_vocab_size", 2))
    writer.add_bos_token_id(ids[specials["cls_token"]])
    writer.add_eos_token_id(ids[specials["sep_token"]])
    writer.add_unk_token_id(ids[specials["unk_token"]])
    writer.add_sep_token_id(ids[specials["sep_token"]])
    writer.add_pad_token_id(ids[specials["pad_token"]])
    writer.add_mask_token_id(ids[specials["mask_token"]])
    if not model.tokenizer.get("do_lower_case", True):
        # llama.cpp lowers and strips accents unless it is told not to.
        writer.add_bool("tokenizer.ggml.normalizer.lowercase", False)
        strips = bool(model.tokenizer.get("strip_accents"))
        writer.add_bool("tokenizer.ggml.normalizer.strip_accents", strips)


def _special_tokens(model: _Folder) -> dict[str, str]:
    defaults = {
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "unk_token": "[UNK]",
        "pad_token": "[PAD]",
        "mask_token": "[MASK]",
    }
    named = {}
    for role, default in defaults.items():
        token = model.tokenizer.get(role) or default
        named[role] = token["content"] if isinstance(token, dict) else token
        if named[role] not in model.tokens:
            raise InvalidModel(f"vocab.txt has no {named[role]} token.")
    return named


def _phantom_space(token: str, specials: dict[str, int]) -> str:
    if token in specials:
        return token
    return token[2:] if token.startswith("##") else "\u2581" + token


def _add_tensors(
    writer: gguf.GGUFWriter, weights: SafetensorsFile, model: _Folder, file_type: FileType
) -> Iterator[None]:
    found = set()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, model.config["num_hidden_layers"])
    for stored in weights.names:
        name = stored.removeprefix("bert.")
        if name.startswith(_UNUSED):
            continue
        # Checkpoints from before 2019 call the weights of a layer norm gamma and beta.
        name = name.replace(".gamma", ".weight").replace(".beta", ".bias")
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise InvalidModel(f"There is no place for the tensor {stored} in a GGUF.", hint=_HINT)
        _add_tensor(writer, target, weights.float32(stored), file_type)
        found.add(target)
        yield
    if missing := _tensors(model) - found:
        raise InvalidModel(f"The file lacks the tensor {min(missing)}.", hint="Fetch it again.")


def _tensors(model: _Folder) -> set[str]:
    """What llama.cpp wants of a BERT."""
    outside = ("token_embd", "position_embd", "token_types", "token_embd_norm")
    inside = ("attn_q", "attn_k", "attn_v", "attn_output", "attn_output_norm", "ffn_up", "ffn_down")
    layers = range(model.config["num_hidden_layers"])
    blocks = [f"blk.{n}.{name}" for n in layers for name in (*inside, "layer_output_norm")]
    weights = {f"{name}.weight" for name in (*outside, *blocks)}
    return weights | {f"{name}.bias" for name in ("token_embd_norm", *blocks)}


def _add_tensor(
    writer: gguf.GGUFWriter, name: str, values: NDArray[np.float32], file_type: FileType
) -> None:
    if not np.isfinite(values).all():
        raise InvalidModel(f"The tensor {name} holds values that are not numbers.")
    wanted = _FILE_TYPES[file_type][1]
    if values.ndim < 2 or name.startswith(_ALWAYS_F32) or wanted == gguf.GGMLQuantizationType.F32:
        writer.add_tensor(name, values)
    else:
        writer.add_tensor(name, gguf.quants.quantize(values, wanted), raw_dtype=wanted)
