"""Texts sent as the ids of OpenAI's tokenizer, which mean nothing to any other model.

LangChain's `OpenAIEmbeddings` does that by default, with `cl100k_base` for models it does not know
(protocols, 1.5). They are turned back into text where tiktoken is installed and has the vocabulary
in its cache, as it has wherever such a client runs; nothing is fetched here.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmnb.server.openai.errors import InvalidValue, UnsupportedValue

_VOCABULARY = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
"""By this name tiktoken keeps cl100k_base: the SHA-1 of its address (tiktoken/load.py)."""


def texts(arrays: Sequence[Sequence[int]]) -> list[str]:
    """What the arrays say. Blocks: tiktoken reads the vocabulary once.

    Raises
    ------
    UnsupportedValue
        There is no tokenizer here.
    InvalidValue
        An id is not one of its tokens.
    """
    encoding = _encoding()
    if encoding is None:
        raise UnsupportedValue(
            "'input' has token ids, and those of another tokenizer would give wrong vectors.",
            hint="Send text (with LangChain's OpenAIEmbeddings set check_embedding_ctx_length=False), "
            "or install tiktoken beside lmnb and let it fetch cl100k_base.",
            param="input",
        )
    try:
        return [encoding.decode(list(array)) for array in arrays]
    except (KeyError, OverflowError):
        raise InvalidValue(
            "'input' has ids that are no tokens of cl100k_base.", param="input"
        ) from None


def _encoding() -> Any:
    try:
        import tiktoken
    except ImportError:
        return None
    return tiktoken.get_encoding("cl100k_base") if _is_cached() else None


def _is_cached() -> bool:
    """Whether tiktoken need not fetch the vocabulary. The places are those it looks in."""
    places = (os.environ.get(name) for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"))
    folder = next(
        (place for place in places if place), str(Path(tempfile.gettempdir()) / "data-gym-cache")
    )
    return (Path(folder) / _VOCABULARY).is_file()
