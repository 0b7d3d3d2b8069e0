"""Writes a GGUF file of random weights: hyperparameters, a vocabulary, tensors by name and shape."""

from __future__ import annotations

import string
from pathlib import Path
from types import TracebackType
from typing import Self

import gguf
import numpy as np
from numpy.typing import NDArray

EMBEDDING = 64
HEADS = 2
FEED_FORWARD = 96
CONTEXT = 4096

CONTROL = ("<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>")
BOS, EOS = 256, 257
VOCABULARY = 256 + len(CONTROL)
"""Tokens 0 to 255 are the bytes, so that every text has as many tokens as UTF-8 bytes."""

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

WORD_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""A WordPiece vocabulary: these, then each letter, digit and mark at the start of a word and in it."""
_CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation


class Writer:
    """A GGUF file in the making; `with` writes it when the block ends."""

    def __init__(
        self, path: Path, architecture: str, *, layers: int, seed: int, context: int = CONTEXT
    ) -> None:
        self.layers = layers
        self._random = np.random.default_rng(seed)
        self._name = architecture
        self._gguf = gguf.GGUFWriter(path, architecture)
        self._gguf.add_name(f"made-{architecture}")
        self._gguf.add_file_type(gguf.LlamaFileType.ALL_F32)
        self._gguf.add_context_length(context)
        self._gguf.add_embedding_length(EMBEDDING)
        self._gguf.add_block_count(layers)
        self._gguf.add_feed_forward_length(FEED_FORWARD)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._gguf.write_header_to_file()
            self._gguf.write_kv_data_to_file()
            self._gguf.write_tensors_to_file()
        self._gguf.close()

    # --- hyperparameters ---------------------------------------------------------

    def integers(self, **values: int | list[int]) -> None:
        """Set `{architecture}.key`; a double underscore in a name stands for a dot."""
        for name, value in values.items():
            key = self._key(name)
            if isinstance(value, list):
                self._gguf.add_array(key, value)
            else:
                self._gguf.add_uint32(key, value)

    def floats(self, **values: float) -> None:
        for name, value in values.items():
            self._gguf.add_float32(self._key(name), value)

    def flags(self, **values: bool) -> None:
        for name, value in values.items():
            self._gguf.add_bool(self._key(name), value)

    def labels(self, names: list[str]) -> None:
        """Names of a classifier's outputs."""
        self._gguf.add_array(self._key("classifier__output_labels"), names)

    def _key(self, name: str) -> str:
        return f"{self._name}.{name.replace('__', '.')}"

    # --- vocabularies --------------------------------------------------------------

    def bytes_vocabulary(self) -> None:
        """Every byte is a token; besides, ChatML's control tokens and a template that writes them."""
        names = byte_names()
        self._gguf.add_tokenizer_model("gpt2")
        self._gguf.add_tokenizer_pre("gpt-2")
        self._gguf.add_token_list([*names, *CONTROL])
        self._gguf.add_token_types(
            [gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * len(CONTROL)
        )
        # There must be one; this one never applies, since 0xFF is no part of any UTF-8 text.
        self._gguf.add_token_merges([f"{names[0xFF]} {names[0xFF]}"])
        self._gguf.add_bos_token_id(BOS)
        self._gguf.add_eos_token_id(EOS)
        self._gguf.add_add_bos_token(False)
        self._gguf.add_chat_template(TEMPLATE)

    def word_piece_vocabulary(self) -> int:
        """A token per character of lower-case ASCII; returns the number of tokens."""
        tokens = [*WORD_PIECES, *(f"▁{c}" for c in _CHARACTERS), *_CHARACTERS]
        kinds = [gguf.TokenType.CONTROL] * len(WORD_PIECES)
        self._gguf.add_tokenizer_model("bert")
        self._gguf.add_tokenizer_pre("default")
        self._gguf.add_token_list(tokens)
        self._gguf.add_token_types(kinds + [gguf.TokenType.NORMAL] * (len(tokens) - len(kinds)))
        self._gguf.add_token_type_count(2)
        ids = {name: number for number, name in enumerate(tokens)}
        self._gguf.add_bos_token_id(ids["[CLS]"])
        self._gguf.add_eos_token_id(ids["[SEP]"])
        self._gguf.add_unk_token_id(ids["[UNK]"])
        self._gguf.add_sep_token_id(ids["[SEP]"])
        self._gguf.add_pad_token_id(ids["[PAD]"])
        self._gguf.add_mask_token_id(ids["[MASK]"])
        return len(tokens)

    # --- tensors -------------------------------------------------------------------

    def matrix(self, name: str, *shape: int) -> None:
        """Random weights, (…, outputs, inputs), that keep the size of what they multiply."""
        scale = shape[-1] ** -0.5
        self.array(f"{name}.weight", self._random.normal(0, scale, shape))

    def norm(self, name: str, size: int = EMBEDDING, *, bias: bool = False) -> None:
        """The scale of a norm, near 1, and its bias, near 0."""
        self.array(f"{name}.weight", self._random.normal(1, 0.1, size))
        if bias:
            self.bias(name, size)

    def bias(self, name: str, size: int) -> None:
        self.array(f"{name}.bias", self._random.normal(0, 0.1, size))

    def array(self, name: str, values: NDArray[np.float64]) -> None:
        self._gguf.add_tensor(name, np.ascontiguousarray(values, np.float32))

    def uniform(self, low: float, high: float, *shape: int) -> NDArray[np.float64]:
        return self._random.uniform(low, high, shape)

    def token_embedding(self, vocabulary: int = VOCABULARY, scale: float = 0.1) -> None:
        """Small, so that what the layers add (the context) outweighs the token itself."""
        self.array("token_embd.weight", self._random.normal(0, scale, (vocabulary, EMBEDDING)))

    def output(self) -> None:
        """The head. Control tokens get the logit 0, so that an answer hardly ends by itself."""
        weights = self._random.normal(0, 2 * EMBEDDING**-0.5, (VOCABULARY, EMBEDDING))
        weights[BOS:] = 0
        self.array("output.weight", weights)


def byte_names() -> list[str]:
    """How byte-level BPE vocabularies write the 256 bytes: printable ones as themselves.

    Source: GPT-2's `bytes_to_unicode`, https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
