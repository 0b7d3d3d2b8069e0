"""Where tokens stand: how many they are is one thing, how many positions they take another.

A token of text takes a cell of the KV cache and a position in the model's context. So do those of
an image, but not in models with M-RoPE (Qwen-VL and its kin): there all of an image stands at one
place of the text and is spread over two more dimensions, so that 600 tokens of 30 columns and 20
rows take 600 cells and 30 positions (llama.cpp, `mtmd_input_chunk_get_n_pos`).

Everything that counts tokens (prompts, prefixes, limits, what is computed) knows nothing of it.
Positions are what llama.cpp's memory is cut and continued at, and they follow from the tokens
alone: of an image's *pseudo-tokens*, negative ids, the odd ones take a position.
"""

from __future__ import annotations

import numpy as np

from lmnb.engine.prefixes import Tokens

TELLING_BITS = -(1 << 31) | 1
"""The bits of an id, sign and last, that tell whether it takes a position."""


def positions(tokens: Tokens) -> int:
    """How many positions these tokens take, from the beginning of a sequence on."""
    return len(tokens) - int(np.count_nonzero((tokens < 0) & (tokens & 1 == 0)))


def pseudo_tokens(key: bytes, length: int, taken: int) -> Tokens:
    """Ids for the `length` cells of an image, `taken` positions wide, made of 16 bytes of hash."""
    random = np.random.Generator(np.random.Philox(key=np.frombuffer(key, np.uint64)[:2]))
    ids = random.integers(-(1 << 31), 0, length, np.int32) | np.int32(1)
    ids[: length - taken] ^= 1
    return ids
