"""Models that say what a test has written: the real engine plays an answer back, token by token.

A model of one block, without a feed-forward part that does anything. Its vocabulary has the 256
bytes, so that every prompt can be read, control tokens, and a token for each piece into which the
answers are cut. What it does:

- Pieces occur once, and never in a prompt. So each says at which place of the script it stands. A
  piece votes, by its embedding, for its place, and heads of attention that look exactly 1, 2, …
  tokens back pass on the votes of earlier pieces, moved by as many places. Thereby control tokens
  and single bytes, which do not know where they stand, may follow.
- The head gives each place the token of the next. Where nothing votes (the prompt has just ended),
  it begins the answer.
- Which answer, is decided by markers: characters anywhere in the context. Another head of
  attention looks for the last of them.
- A grammar leaves no choice about some text, which the engine then writes itself, as single bytes.
  That loses the place. A last head looks for the last piece, and the answer is resumed where the
  segment after that piece's begins.

Everything is decided by margins of 30 and more in the logits, so that answers are the same at
temperature 0 and at 0.8, or at any that anybody uses.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from lmnb.engine.options import Segment
from made_models.writer import byte_names

MARKERS = tuple(bytes([lead, 0x81]).decode() for lead in (*range(0xC6, 0xCC), *range(0xCE, 0xE0)))
"""Letters that no test writes otherwise, each with a first byte of its own."""

_BYTES = 3
"""After a piece, and control tokens, at most so many tokens until the next may be single bytes."""
_LONGEST = 12
"""Bytes of a piece, unless all shorter ones are taken."""

_BIAS, _OTHER, _FIXED = 0, 1, 2
"""The first dimensions: 1 in every token; 1 in tokens that mean nothing; where the others begin."""

_HEAD = 64
"""The length of a head is a multiple of it; keys use as many pairs as if it were this."""
_ROTATION = 1e10
_CLOCK = 16
"""Of the 32 pairs of a key, which RoPE turns, the first 16 measure distances: they are turned by 1
to 1/50,000 radians a token. The last is turned by next to nothing in the longest context."""
_SHARPNESS = 60.0
"""Score of what a head of attention looks for. Everything else has at least 36 less."""
_MARGIN = 30.0


@dataclass(frozen=True)
class Answer:
    """What the model says once `marker`, one of `MARKERS`, stands anywhere in the context.

    Of the answers whose markers are there, the last is given; one without a marker goes first.
    In segments of text that are not `special` nothing is a control token. Where a grammar may write
    text of an answer, a segment has to begin wherever it leaves the choice again.
    """

    text: str | Sequence[Segment]
    marker: str = ""


def scripted(
    path: Path,
    answers: Sequence[Answer],
    *,
    template: str | None = None,
    tool_template: str | None = None,
    controls: Sequence[str] = (),
    end: str = "<|eos|>",
    begin: str = "<|bos|>",
    adds_begin: bool = False,
    seed: int | None = 0,
    context: int = 8192,
    name: str = "scripted",
    merges: Sequence[str] = (),
) -> Path:
    """A model file that gives `answers`; about 1 MB for some thousand characters.

    Parameters
    ----------
    template, tool_template
        The chat templates of the file, `default` and `tool_use`.
    controls
        Texts that are one control token each, in prompts and in answers.
    end, begin
        Control tokens too: end of generation, which follows every answer, and beginning of text.
    seed
        Decides where the answers are cut into pieces. Cuts fall inside of characters, too. None:
        where segments and control tokens begin, as is best where a grammar may write some of it.
    merges
        Pairs of texts that are one token where they meet in a prompt, as GGUF files have them (see
        `ascii_merges`). Without any, each byte of a prompt is a token of its own.
    """
    special = tuple(dict.fromkeys((end, begin, *controls)))
    script = _Script(answers, special, None if seed is None else random.Random(seed), merges)
    weights = _Weights(script, answers)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(context)
    writer.add_block_count(1)
    writer.add_embedding_length(weights.size)
    writer.add_feed_forward_length(32)
    writer.add_head_count(weights.heads)
    writer.add_head_count_kv(weights.heads)
    writer.add_key_length(weights.head)
    writer.add_value_length(weights.head)
    writer.add_rope_dimension_count(weights.head)
    writer.add_rope_freq_base(_ROTATION)
    writer.add_layer_norm_rms_eps(1e-6)
    _write_vocabulary(writer, script)
    writer.add_eos_token_id(script.ids[end])
    writer.add_bos_token_id(script.ids[begin])
    writer.add_add_bos_token(adds_begin)
    templates = {"default": template, "tool_use": tool_template}
    if template is not None:
        writer.add_chat_template(template)
    if tool_template is not None:
        writer.add_chat_template([{"name": k, "template": v} for k, v in templates.items() if v])
    for tensor, values in weights.tensors().items():
        writer.add_tensor(f"{tensor}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@cache
def ascii_merges(path: Path, count: int) -> tuple[str, ...]:
    """The first merges of a model's vocabulary, but for those of other letters, like `MARKERS`.

    With 8,000 of them English text is a third as long as its bytes. Read once, in some seconds.
    """
    field = gguf.GGUFReader(path).fields["tokenizer.ggml.merges"]
    merges = (bytes(field.parts[i]).decode() for i in field.data)
    names = byte_names()
    ascii_ = {" ", *names[:0x80]}
    return tuple(islice((merge for merge in merges if ascii_.issuperset(merge)), count))


def _write_vocabulary(writer: gguf.GGUFWriter, script: _Script) -> None:
    names = byte_names()
    kinds = [
        *[gguf.TokenType.NORMAL] * (256 + len(script.pieces)),
        *[gguf.TokenType.CONTROL] * len(script.special),
        *[gguf.TokenType.UNUSED] * script.silent,
        *[gguf.TokenType.NORMAL] * len(script.merged),
    ]
    writer.add_vocab_size(len(kinds))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(
        [
            *names,
            *("".join(names[byte] for byte in piece) for piece in script.pieces),
            *script.special,
            *(f"<silent {number}>" for number in range(script.silent)),
            *script.merged,
        ]
    )
    writer.add_token_types(kinds)
    # There must be one; this one never applies, since 0xFF is no part of any UTF-8 text.
    writer.add_token_merges(script.merges or [f"{names[0xFF]} {names[0xFF]}"])


class _Script:
    """The answers as tokens: bytes 0 to 255, pieces, control tokens, silent tokens.

    answers
        For each its tokens; the end is not among them.
    pieces
        Texts of the tokens from 256, each of which occurs once in all answers.
    merged
        Names of the tokens that only prompts have.
    silent
        How many tokens there are without a text. They stand where an answer would begin with a
        token that does not know its place.
    longest
        The most tokens between two that know their places.
    segments
        For each answer the number of tokens before each of its segments.
    """

    def __init__(
        self,
        answers: Sequence[Answer],
        special: tuple[str, ...],
        rng: random.Random | None,
        merges: Sequence[str],
    ) -> None:
        self._random = rng
        self._since = 0  # tokens since one that knows its place
        self._special = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))))
        self.special = special
        self.pieces: dict[bytes, str] = {}
        self.merges = merges
        self.merged = list(dict.fromkeys(merge.replace(" ", "") for merge in merges))
        self._taken = {text.encode() for text in special} | set(map(_text, self.merged))
        self.silent = 0
        self.longest = 1
        self.segments: list[list[int]] = []
        named = [list(self._cut(_segments(answer.text))) for answer in answers]
        silent = map(_silent, range(self.silent))
        names = (*self.pieces.values(), *special, *silent, *map(_merged, self.merged))
        self.ids: dict[str | int, int] = {byte: byte for byte in range(256)}
        self.ids |= {name: 256 + i for i, name in enumerate(names)}
        self.answers = [[self.ids[name] for name in tokens] for tokens in named]

    def votes(self, token: int) -> bool:
        """Whether the token occurs once, so that it knows its place."""
        return token >= 256 + len(self.pieces) + len(self.special) or (
            256 <= token < 256 + len(self.pieces)
        )

    def _cut(self, segments: Sequence[Segment]) -> Iterator[str | int]:
        self._since = _BYTES  # nothing knows its place yet
        count = 0
        begins: list[int] = []
        self.segments.append(begins)
        for segment in segments:
            begins.append(count)
            for name in self._tokens(segment):
                knows = isinstance(name, str) and name.startswith("piece ")
                if not count and not knows:
                    yield _silent(self.silent)
                    self.silent += 1
                    count, self._since = 1, 0
                self._since = 0 if knows else self._since + 1
                self.longest = max(self.longest, self._since)
                count += 1
                yield name

    def _tokens(self, segment: Segment) -> Iterator[str | int]:
        text, position = segment.text, 0
        special = self._special.finditer(text) if segment.special else ()
        for found in (*special, None):
            until = len(text) if found is None else found.start()
            yield from self._plain(text[position:until].encode())
            if found is not None:
                yield found[0]
                position = found.end()

    def _plain(self, data: bytes) -> Iterator[str | int]:
        while data:
            width = self._width(data)
            if width == 1:
                yield data[0]
            else:
                self._taken.add(data[:width])
                self.pieces[data[:width]] = f"piece {len(self.pieces)}"
                yield self.pieces[data[:width]]
            data = data[width:]

    def _width(self, data: bytes) -> int:
        """Bytes of the next piece; 1 is a byte's own token."""
        if self._random is None:
            widths = list(range(len(data), 1, -1))
        else:
            widths = list(range(1 if self._since < _BYTES else 2, 1 + _LONGEST))
            self._random.shuffle(widths)
            widths += range(1 + _LONGEST, 1 + len(data))
        for width in widths:
            if width <= len(data) and (width == 1 or data[:width] not in self._taken):
                return width
        return 1


def _segments(text: str | Sequence[Segment]) -> Sequence[Segment]:
    return (Segment(text, special=True),) if isinstance(text, str) else text


def _silent(number: int) -> str:
    return f"silent {number}"


def _merged(name: str) -> str:
    return f"merged {name}"


def _text(name: str) -> bytes:
    """What a token of that name stands for."""
    names = byte_names()
    return bytes(map(names.index, name))


class _Weights:
    """The tensors. `size` of the embedding, number of `heads`, and length of a `head`."""

    def __init__(self, script: _Script, answers: Sequence[Answer]) -> None:
        self._script = script
        self._markers = [answer.marker for answer in answers]
        wanted = [marker for marker in self._markers if marker]
        self._mark = dict(zip(wanted, range(_FIXED, _FIXED + len(wanted)), strict=True))
        self._seen = {marker: at + len(wanted) for marker, at in self._mark.items()}
        places = sum(map(len, script.answers))
        self._place = _FIXED + 2 * len(wanted)
        self._next = self._place + places
        self.size = _rounded(self._next + sum(map(len, script.segments)), 32)
        self.head = _rounded(places, _HEAD)
        # One for each distance, one for the last piece, one for markers.
        self.heads = script.longest + 2
        # Every embedding has two ones, so that its norm divides by the same number.
        self._unit = (2 / self.size) ** 0.5

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """By name, (outputs, inputs)."""
        keys, queries, values, output = self._attention()
        nothing = np.zeros((32, self.size), np.float32)
        ones = np.ones(self.size, np.float32)
        return {
            "token_embd": self._embedding(),
            "blk.0.attn_norm": ones,
            "blk.0.attn_q": queries,
            "blk.0.attn_k": keys,
            "blk.0.attn_v": values,
            "blk.0.attn_output": output,
            "blk.0.ffn_norm": ones,
            "blk.0.ffn_gate": nothing,
            "blk.0.ffn_up": nothing,
            "blk.0.ffn_down": nothing.T.copy(),
            "output_norm": ones,
            "output": self._head(),
        }

    def _embedding(self) -> NDArray[np.float32]:
        tokens = np.zeros((len(self._script.ids), self.size), np.float32)
        tokens[:, _BIAS] = 1
        tokens[:, _OTHER] = 1
        for marker, at in self._mark.items():
            tokens[marker.encode()[0], [_OTHER, at]] = (0, 1)
        for place, token in enumerate(chain.from_iterable(self._script.answers)):
            if self._script.votes(token):
                tokens[token, [_OTHER, self._place + place]] = (0, 1)
        return tokens

    def _attention(self) -> tuple[NDArray[np.float32], ...]:
        """Keys, queries, values and output."""
        keys = np.zeros((self.heads, self.head, self.size), np.float32)
        queries, values = np.zeros_like(keys), np.zeros_like(keys)
        output = np.zeros((self.size, self.heads, self.head), np.float32)
        pair = 2 * self.head // _HEAD
        clock = slice(0, _CLOCK * pair, pair)
        shifted = slice(1, _CLOCK * pair, pair)
        turns = _ROTATION ** (-2 * np.arange(_CLOCK) / _HEAD)
        strength = (_SHARPNESS * self.head**0.5) ** 0.5 * self._unit
        for head in range(self.heads - 2):
            back = head + 1
            keys[head, clock, _BIAS] = strength
            queries[head, clock, _BIAS] = strength * np.cos(back * turns)
            queries[head, shifted, _BIAS] = -strength * np.sin(back * turns)
            first = 0
            for tokens in self._script.answers:
                for place in range(first, first + len(tokens)):
                    values[head, place, self._place + place] = self._unit
                    if place + back < first + len(tokens):
                        output[self._place + place + back, head, place] = 1
                first += len(tokens)
        queries[-2, -2, _BIAS] = strength
        for number, (place, following) in enumerate(self._resumed()):
            keys[-2, -2, self._place + place] = strength * (1 + number) / 2
            values[-2, place, self._place + place] = self._unit
            output[self._next + following, -2, place] = 1
        queries[-1, -2, _BIAS] = strength
        for number, (marker, at) in enumerate(self._mark.items()):
            keys[-1, -2, at] = strength * (1 + number)  # the last is the best
            values[-1, number, at] = self._unit
            output[self._seen[marker], -1, number] = 1
        flat = (-1, self.size)
        return (
            keys.reshape(flat),
            queries.reshape(flat),
            values.reshape(flat),
            output.reshape(self.size, -1),
        )

    def _resumed(self) -> Iterator[tuple[int, int]]:
        """For each place with a piece: which of all segments, counted through, comes after it."""
        first = count = 0
        for tokens, begins in zip(self._script.answers, self._script.segments, strict=True):
            for place, token in enumerate(tokens):
                after = sum(begin <= place for begin in begins)
                if self._script.votes(token) and after < len(begins):
                    yield first + place, count + after
            first += len(tokens)
            count += len(begins)

    def _head(self) -> NDArray[np.float32]:
        """What goes before what: places, the segment to resume at, markers, nothing at all."""
        logits = np.zeros((len(self._script.ids), self.size), np.float32)
        end = self._script.ids[self._script.special[0]]
        place, resumed = self._place, self._next
        for marker, tokens, begins in zip(
            self._markers, self._script.answers, self._script.segments, strict=True
        ):
            follows = [*tokens, end]
            for begin in begins:
                logits[follows[begin], resumed] = 3 * _MARGIN
                resumed += 1
            at, margin = (self._seen[marker], 2 * _MARGIN) if marker else (_BIAS, _MARGIN)
            logits[follows[0], at] = margin
            for follower in follows[1:]:
                logits[follower, place] = 5 * _MARGIN
                place += 1
        return logits


def _rounded(size: int, unit: int) -> int:
    return -(-size // unit) * unit
