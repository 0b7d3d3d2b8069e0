"""A model file in memory: weights, vocabulary, tokenizer."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lmnb.engine import bf16, native, placement
from lmnb.engine.config import LoadConfig
from lmnb.engine.gguf import Header
from lmnb.engine.native import L
from lmnb.engine.options import Segment
from lmnb.engine.prefixes import Tokens
from lmnb.errors import InvalidModel, InvalidRequest, ModelLoadFailed

_NOTHING: Tokens = np.empty(0, np.int32)

_ATTR_UNKNOWN, _ATTR_CONTROL = 1, 8
_LONGEST_HEADER = 64
"""Tokens between the beginning of an answer's header and the end of the prompt, at most."""
_AUTHOR_SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repeat_penalty",
    "penalty_last_n": "repeat_last_n",
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
    "mirostat": "mirostat",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
}


class Loaded(Protocol):
    """What contexts need to know of a model; see `Model` and `estimate.Probe`."""

    handle: Any
    header: Header
    gpu_layers: int


class Model:
    """A loaded model. Tokenizing is thread-safe; everything else is for the engine's thread."""

    def __init__(
        self,
        handle: Any,
        path: Path,
        header: Header,
        gpu_layers: int,
        *,
        bf16_weights: bool = False,
    ) -> None:
        self.handle = handle
        self.bf16_weights = bf16_weights
        self.path = path
        self.header = header
        self.vocab = L.llama_model_get_vocab(handle)
        self.n_vocab: int = L.llama_vocab_n_tokens(self.vocab)
        self.layers: int = L.llama_model_n_layer(handle)
        # llama.cpp counts the output layer too, and clamps.
        self.gpu_layers = self.layers + 1 if gpu_layers < 0 else min(gpu_layers, self.layers + 1)
        self.embedding_length: int = L.llama_model_n_embd(handle)
        self.trained_context_length: int = L.llama_model_n_ctx_train(handle)
        self.bos: int = L.llama_vocab_bos(self.vocab)
        self.eos: int = L.llama_vocab_eos(self.vocab)
        self.adds_bos: bool = bool(L.llama_vocab_get_add_bos(self.vocab)) and self.bos >= 0
        self.pieces = [self._piece(token, special=False) for token in range(self.n_vocab)]
        self.end_tokens = frozenset(
            token for token in range(self.n_vocab) if L.llama_vocab_is_eog(self.vocab, token)
        )
        self.suppressed = self._suppressed()
        self._control = np.fromiter(
            (
                bool(L.llama_vocab_get_attr(self.vocab, token) & (_ATTR_CONTROL | _ATTR_UNKNOWN))
                for token in range(self.n_vocab)
            ),
            np.bool_,
            self.n_vocab,
        )
        self.control_tokens = self._control_tokens()
        self._control_text = re.compile("|".join(map(re.escape, self.control_tokens)) or r"(?!)")
        self.prepared_samplers: dict[object, Any] = {}
        """Native samplers that take long to make; to be cloned (`lmnb.engine.history`)."""

    @classmethod
    def load(
        cls,
        path: str,
        header: Header,
        config: LoadConfig,
        *,
        on_progress: Callable[[float], None],
    ) -> Model:
        """Read the file into memory.

        Raises
        ------
        InvalidModel
            The file is damaged or of an architecture this llama.cpp does not know.
        ModelLoadFailed
            There is not enough memory.
        InvalidRequest, NotSupported
            An option is out of range, or needs what this machine or model does not have.
        """
        params = placement.parameters(header, config)
        params.load_mtp = placement.predicts_ahead(Path(path), header, config)

        def progress(fraction: float, _data: object) -> bool:
            on_progress(fraction)
            return True

        callback = L.llama_progress_callback(progress)
        params.progress_callback = callback
        wanted = bf16.wanted(header, config, params.n_gpu_layers)
        with bf16.converted(Path(path), wanted) if wanted else nullcontext(path) as source:
            handle = open_file(str(source), params)
        return cls(handle, Path(path), header, params.n_gpu_layers, bf16_weights=bool(wanted))

    @classmethod
    def only_vocabulary(cls, path: str, header: Header) -> Model:
        """The model without its weights: it can tokenize.

        Raises
        ------
        InvalidModel
            As `load`.
        """
        params = placement.parameters(header, LoadConfig(gpu_layers=0))
        params.vocab_only = True
        return cls(open_file(path, params), Path(path), header, 0)

    def close(self) -> None:
        """Give the memory back."""
        if self.handle:
            for sampler in self.prepared_samplers.values():
                L.llama_sampler_free(sampler)
            self.prepared_samplers.clear()
            L.llama_model_free(self.handle)
            self.handle = None

    @property
    def author_sampling(self) -> dict[str, float]:
        """Sampling defaults the author wrote into the file (general.sampling.*)."""
        found = {
            ours: self.header.metadata.get(f"general.sampling.{theirs}")
            for theirs, ours in _AUTHOR_SAMPLING.items()
        }
        return {
            name: float(value) for name, value in found.items() if isinstance(value, int | float)
        }

    # --- tokens --------------------------------------------------------------

    def tokenize(self, segments: Sequence[Segment], *, add_bos: bool) -> Tokens:
        """Token ids of a prompt.

        Control tokens are recognised in segments that allow it. Segments that forbid it but
        contain nothing that looks like one are joined with their neighbours first: a tokenizer
        that sees a text in pieces may put spaces between them or miss merges.
        """
        parts = [self._tokenize(text, special=special) for text, special in self.joined(segments)]
        return self.with_bos(np.concatenate(parts) if parts else _NOTHING, add_bos=add_bos)

    def continuation(self, text: str) -> list[int]:
        """Tokens of a text in mid-answer, with its control tokens.

        A tokenizer that begins every text with a space is asked to begin none here, as far as the
        space is a token of its own.
        """
        found: list[int] = []
        for part, control in self.parts(text):
            tokens = [self.control_tokens[part]] if control else self._plain(part)
            found += tokens
        return found

    def _plain(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenize(text, special=False).tolist()
        has_space = not text.startswith(" ") and self.pieces[tokens[0]] == b" "
        return tokens[1:] if has_space else tokens

    def joined(self, segments: Sequence[Segment]) -> list[tuple[str, bool]]:
        """Texts as the tokenizer is to see them, and whether it may find control tokens in them."""
        may_join = [s.special or not self._control_text.search(s.text) for s in segments]
        groups = groupby(zip(segments, may_join, strict=True), key=lambda pair: pair[1])
        return [
            ("".join(segment.text for segment, _ in group), special) for special, group in groups
        ]

    def parts(self, text: str) -> list[tuple[str, bool]]:
        """The text cut at its control tokens, and whether a part is one. No part is empty."""
        found: list[tuple[str, bool]] = []
        place = 0
        for control in self._control_text.finditer(text):
            found += [(text[place : control.start()], False), (control[0], True)]
            place = control.end()
        found.append((text[place:], False))
        return [(part, control) for part, control in found if part]

    def with_bos(self, tokens: Tokens, *, add_bos: bool) -> Tokens:
        """The tokens, after the BOS token if the model and the caller want one there."""
        if add_bos and self.adds_bos and (len(tokens) == 0 or tokens[0] != self.bos):
            return np.concatenate([np.array([self.bos], np.int32), tokens])
        return tokens

    def tokenize_for_embedding(self, text: str) -> Tokens:
        """Token ids of a text with the marks the model was trained with ([CLS], [SEP], …)."""
        return self._tokenize(text, special=False, add_special=True)

    def count(self, text: str) -> int:
        """The tokens of a text by itself, without marks around it."""
        return len(self._tokenize(text, special=False))

    def check_tokens(self, tokens: Iterable[int], *, param: str) -> Tokens:
        """The ids as an array; ids outside the vocabulary would abort the process in a forward pass."""
        array = np.fromiter(tokens, np.int64)
        if array.size and (array.min() < 0 or array.max() >= self.n_vocab):
            raise InvalidRequest(
                f"A token id is outside this model's vocabulary (0 to {self.n_vocab - 1}).",
                param=param,
            )
        return array.astype(np.int32)

    @property
    def infill(self) -> tuple[str, ...]:
        """The tokens for filling in the middle: before the beginning, the end and the middle.

        Empty without them. llama.cpp takes them from the file, or knows them by their texts.
        """
        tokens = (
            L.llama_vocab_fim_pre(self.vocab),
            L.llama_vocab_fim_suf(self.vocab),
            L.llama_vocab_fim_mid(self.vocab),
        )
        texts = tuple(self.text(token) for token in tokens)
        found = [self._tokenize(text, special=True).tolist() for text in texts]
        return texts if all(texts) and found == [[token] for token in tokens] else ()

    def border(self, tokens: Tokens) -> int:
        """Where the header of the answer begins: the last control token near a prompt's end, or 0.

        A prompt's end is not how the same conversation goes on if thinking is left out of its next
        prompt, or was prefilled; what stands before the header is.
        """
        near = tokens[-_LONGEST_HEADER:]
        found = np.flatnonzero(self._control[np.maximum(near, 0)] & (near >= 0))
        return max(0, len(tokens) - _LONGEST_HEADER) + int(found[-1]) if len(found) else 0

    def text(self, token: int) -> str:
        """A token's text, control tokens spelled out; for templates and logprobs."""
        return "" if token < 0 else self._piece(token, special=True).decode("utf-8", "replace")

    def spell(self, tokens: Tokens) -> str:
        """The text of several tokens, control tokens spelled out."""
        pieces = (self._piece(int(token), special=True) for token in tokens)
        return b"".join(pieces).decode("utf-8", "replace")

    def special_pieces(self) -> list[bytes]:
        """Like `pieces`, with control tokens spelled out."""
        return [self._piece(token, special=True) for token in range(self.n_vocab)]

    def _tokenize(self, text: str, *, special: bool, add_special: bool = False) -> Tokens:
        data = text.encode("utf-8", "replace")
        size = len(data) + 2 * add_special + 1
        while True:
            buffer = np.empty(size, np.int32)
            pointer = buffer.ctypes.data_as(ctypes.POINTER(L.llama_token))
            count = L.llama_tokenize(
                self.vocab, data, len(data), pointer, size, add_special, special
            )
            if count >= 0:
                return buffer[:count]
            size = -count

    def _piece(self, token: int, *, special: bool) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = L.llama_token_to_piece(self.vocab, token, buffer, size, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    def _suppressed(self) -> Tokens:
        """Tokens the model's author forbids to sample."""
        count = ctypes.c_int32()
        pointer = L.llama_vocab_get_suppress_tokens(self.vocab, ctypes.byref(count))
        if not pointer or count.value <= 0:
            return np.empty(0, np.int32)
        return np.ctypeslib.as_array(pointer, (count.value,)).astype(np.int32).copy()

    def _control_tokens(self) -> dict[str, int]:
        """Control tokens by their text; longer ones first, which is how a text is searched."""
        found = {self.text(token): token for token in np.flatnonzero(self._control).tolist()}
        found.pop("", None)
        return dict(sorted(found.items(), key=lambda item: -len(item[0])))


def open_file(path: str, params: Any) -> Any:
    """A handle to the model, or the error that tells why not: `InvalidModel`, `ModelLoadFailed`."""
    native.log.lines.clear()  # an error told later is this file's
    handle = L.llama_model_load_from_file(path.encode(), params)
    if not handle:
        raise _load_error(native.log.errors())
    return handle


def _load_error(lines: list[str]) -> InvalidModel | ModelLoadFailed:
    """What llama.cpp's last error lines mean."""
    text = "\n".join(lines)
    detail = lines[0].split(": ", 1)[-1].strip() if lines else "no reason was given"
    if native.OUT_OF_MEMORY.search(text):
        return ModelLoadFailed(
            f"There is not enough memory to load the model ({detail}).",
            hint="Load it with a smaller context_length or fewer gpu_layers, or unload another model.",
        )
    unknown = re.search(r"unknown model architecture: '?([\w.-]+)'?", text)
    if unknown:
        return InvalidModel(
            f"This llama.cpp does not know the architecture {unknown[1]!r}.",
            hint="A newer llama-cpp-python may; the model cannot be loaded with this one.",
        )
    return InvalidModel(f"llama.cpp cannot load this file: {detail}.")
