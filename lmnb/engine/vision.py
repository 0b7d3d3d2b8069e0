"""Images and sounds in prompts, through llama.cpp's mtmd and a model's projector file.

A prompt with media becomes one array of tokens, in which each medium is a run of *pseudo-tokens*:
negative ids, made of a hash of its content, one for each cell that it takes in the KV cache. So the
prefix cache knows an image by what it shows, and `positions` what room it takes. To compute such a run
the image is encoded (a model of its own, in the projector file) and its embeddings take the place
of token embeddings.

Encoding takes seconds on a CPU. A thread of its own does it, so that other requests go on, and
keeps what it made: an image that comes again, with every turn of a chat, is not encoded again.
"""

from __future__ import annotations

import ctypes
import hashlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmnb.engine import native
from lmnb.engine.config import LoadConfig
from lmnb.engine.gguf import read_header
from lmnb.engine.model import Model
from lmnb.engine.native import L
from lmnb.engine.pictures import check_picture, check_sound, is_sound
from lmnb.engine.positions import pseudo_tokens
from lmnb.engine.prefixes import Tokens
from lmnb.engine.projector import find_projector
from lmnb.engine.watch import Watch
from lmnb.errors import EngineCrashed, InvalidModel, InvalidRequest, LmnbError, NotSupported

Embeddings = NDArray[np.float32]

_CACHE_BYTES = 256 << 20
"""Encoded media kept in memory; a large image takes 1 to 10 MB."""
_MOST_UNPACKED = 256 << 20
"""Bytes of unpacked media after which a request may hold no more; 90 million pixels."""
_TEXT, _IMAGE, _AUDIO = 0, 1, 2  # mtmd.h, enum mtmd_input_chunk_type


class Part(NamedTuple):
    """A piece of a prompt: text (control tokens are read if `special`), or a media file."""

    text: str
    special: bool
    media: bytes | None = None


class Medium:
    """An image or a sound, or a slice of one, ready to be encoded.

    It takes `length` cells in the KV cache and `positions` positions in the model's context.
    """

    def __init__(
        self, chunk: Any, key: bytes, length: int, positions: int, *, causal: bool
    ) -> None:
        self.chunk = chunk
        self.key = key
        self.length = length
        self.positions = positions
        self.causal = causal
        """Whether its tokens see only those before them, as text does."""
        self.encoding: Encoding | None = None

    @property
    def ids(self) -> Tokens:
        """Its pseudo-tokens."""
        return pseudo_tokens(self.key, self.length, self.positions)


class Span(NamedTuple):
    """Where a medium stands in a prompt."""

    start: int
    end: int
    medium: Medium


class Encoding:
    """The embeddings of a medium, once they are there."""

    def __init__(self, request: int) -> None:
        self.request = request
        """Who asked for it first."""
        self.done = threading.Event()
        self.value: Embeddings | None = None
        self.error: LmnbError | None = None
        self.sources: list[weakref.ref[Medium]] = []

    def result(self) -> Embeddings:
        """(length, embedding), to be read only.

        Raises
        ------
        EngineCrashed
            It could not be computed.
        """
        if self.error is not None:
            raise self.error
        assert self.value is not None
        return self.value


class Vision:
    """A projector: prepares media for prompts (any thread), and encodes them (its own thread)."""

    def __init__(self, model: Model, path: Path, watch: Watch, *, threads: int) -> None:
        self._mtmd = native.mtmd()
        self._model = model
        self._watch = watch
        self._width: int = L.llama_model_n_embd_inp(model.handle)
        self._handle = _open(self._mtmd, model, path, threads)
        self.sees: bool = self._mtmd.mtmd_support_vision(self._handle)
        self.hears: bool = self._mtmd.mtmd_support_audio(self._handle)
        self.causal = not self._mtmd.mtmd_decode_use_non_causal(self._handle, None)
        with path.open("rb") as file:
            self._identity = hashlib.blake2b(file.read(1 << 20), digest_size=16).digest()
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, Encoding] = OrderedDict()
        self._queue: SimpleQueue[tuple[bytes, Encoding]] = SimpleQueue()
        self._progress = threading.Event()
        self.encoded = 0
        """Media encoded so far."""
        threading.Thread(target=self._encode_forever, daemon=True).start()

    def close(self) -> None:
        """Give the memory back. Nothing may be waiting to be encoded."""
        self._mtmd.mtmd_free(self._handle)

    # --- prompts -----------------------------------------------------------------

    def tokenize(self, parts: Sequence[Part]) -> tuple[Tokens, tuple[Span, ...]]:
        """The tokens of a prompt, pseudo-tokens among them, and where its media stand.

        Raises
        ------
        InvalidRequest
            A medium cannot be read, or is of a kind that the model does not know.
        """
        mtmd = self._mtmd
        bitmaps: list[Any] = []
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            unpacked = 0
            for number, part in enumerate(parts):
                if part.media is None:
                    continue
                if unpacked > _MOST_UNPACKED:
                    raise InvalidRequest(
                        "The images of this request are too many for their size.",
                        hint="Send fewer of them, or smaller ones.",
                        param="messages",
                    )
                bitmaps.append(self._bitmap(part.media, number))
                unpacked += mtmd.mtmd_bitmap_get_n_bytes(bitmaps[-1])
            keep, pointers = self._native_parts(parts, bitmaps)
            arguments = (self._handle, chunks, pointers, len(keep), False)
            if mtmd.mtmd_tokenize_from_parts(*arguments):
                raise InvalidRequest(
                    f"The image cannot be prepared for the model: {native.log.last_error()}.",
                    param="messages",
                )
            return self._collect(chunks)
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            for bitmap in bitmaps:
                mtmd.mtmd_bitmap_free(bitmap)

    def _native_parts(self, parts: Sequence[Part], bitmaps: list[Any]) -> tuple[list[Any], Any]:
        mtmd = self._mtmd
        waiting = iter(bitmaps)
        keep: list[Any] = []
        for part in parts:
            one = mtmd.mtmd_input_part()
            if part.media is None:
                data = part.text.encode("utf-8", "replace")
                text = mtmd.mtmd_input_text(
                    text=data, text_len=len(data), add_special=False, parse_special=part.special
                )
                one.text = ctypes.pointer(text)
            else:
                one.bitmap = ctypes.cast(next(waiting), ctypes.c_void_p)
            keep.append(one)
        array = (ctypes.POINTER(mtmd.mtmd_input_part) * max(1, len(keep)))(
            *(ctypes.pointer(one) for one in keep)
        )
        return keep, array

    def _bitmap(self, data: bytes, number: int) -> Any:
        """The decoded file. Its id is the hash of its content, and where it stands in the prompt."""
        mtmd = self._mtmd
        if is_sound(data):
            if not self.hears:
                raise NotSupported("This model cannot hear.", hint="Send text.", param="messages")
            check_sound(data)
        else:
            if not self.sees:
                raise NotSupported("This model cannot see.", hint="Send text.", param="messages")
            check_picture(data)
        buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        arguments = (self._handle, buffer, len(data), False)
        bitmap = mtmd.mtmd_helper_bitmap_init_from_buf(*arguments)
        if not bitmap:
            what = "sound" if is_sound(data) else "image"
            raise InvalidRequest(f"The {what} is damaged: it cannot be decoded.", param="messages")
        mtmd.mtmd_bitmap_set_id(bitmap, f"{hashlib.sha256(data).hexdigest()} {number}".encode())
        return bitmap

    def _collect(self, chunks: Any) -> tuple[Tokens, tuple[Span, ...]]:
        mtmd = self._mtmd
        runs: list[Tokens] = []
        spans: list[Span] = []
        slices: dict[bytes, int] = {}
        position = 0
        for index in range(mtmd.mtmd_input_chunks_size(chunks)):
            chunk = mtmd.mtmd_input_chunks_get(chunks, index)
            if mtmd.mtmd_input_chunk_get_type(chunk) == _TEXT:
                run = self._text_tokens(chunk)
            else:
                medium = self._medium(chunk, slices)
                run = medium.ids
                spans.append(Span(position, position + medium.length, medium))
            runs.append(run)
            position += len(run)
        return np.concatenate(runs) if runs else np.empty(0, np.int32), tuple(spans)

    def _text_tokens(self, chunk: Any) -> Tokens:
        count = ctypes.c_size_t()
        pointer = self._mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
        tokens = np.ctypeslib.as_array(pointer, (count.value,)).astype(np.int32)
        return tokens[tokens >= 0]  # markers around images that this vocabulary lacks

    def _medium(self, chunk: Any, slices: dict[bytes, int]) -> Medium:
        mtmd = self._mtmd
        length = mtmd.mtmd_input_chunk_get_n_tokens(chunk)
        # A large image is cut into slices, which all have its id.
        name: bytes = mtmd.mtmd_input_chunk_get_id(chunk)
        number = slices[name] = slices.get(name, -1) + 1
        content = name.split(b" ")[0]
        digest = hashlib.blake2b(self._identity + content, digest_size=16)
        digest.update(f"{number} {length}".encode())
        causal = not mtmd.mtmd_decode_use_non_causal(self._handle, chunk)
        copy = mtmd.mtmd_input_chunk_copy(chunk)
        positions = mtmd.mtmd_input_chunk_get_n_pos(chunk)
        medium = Medium(copy, digest.digest(), length, positions, causal=causal)
        weakref.finalize(medium, mtmd.mtmd_input_chunk_free, copy)
        return medium

    def places(self, medium: Medium, start: int, dimensions: int) -> NDArray[np.int32]:
        """The positions of a medium's tokens, (dimensions, length), if it begins at `start`.

        M-RoPE has four dimensions: time, row, column, and one that few models use.
        """
        along = np.arange(start, start + medium.length, dtype=np.int32)
        image = self._mtmd.mtmd_input_chunk_get_tokens_image(medium.chunk)
        if dimensions == 1 or not image:
            return np.tile(along, (dimensions, 1))
        found = (self._mtmd.mtmd_decoder_pos * medium.length)()
        self._mtmd.mtmd_helper_image_get_decoder_pos(image, start, found)
        t, x, y, z = np.frombuffer(found, np.uint32).reshape(-1, 4).T.astype(np.int32)
        return np.stack([t, y, x, z])

    # --- encoding ------------------------------------------------------------------

    def request(self, media: Iterable[Medium], request: int) -> None:
        """Have media of a request encoded, unless they are, in order."""
        with self._lock:
            for medium in media:
                if medium.encoding is not None:
                    continue
                encoding = self._known.get(medium.key)
                if encoding is None:
                    encoding = self._known[medium.key] = Encoding(request)
                    self._queue.put((medium.key, encoding))
                self._known.move_to_end(medium.key)
                encoding.sources.append(weakref.ref(medium))
                medium.encoding = encoding

    def wait(self, seconds: float) -> None:
        """Sleep until a medium is encoded, at most so long."""
        self._progress.wait(seconds)
        self._progress.clear()

    def _encode_forever(self) -> None:
        while True:
            key, encoding = self._queue.get()
            with self._lock:
                medium = next((m for ref in encoding.sources if (m := ref()) is not None), None)
                if medium is None:  # whoever wanted it has left
                    self._known.pop(key, None)
                    continue
            self._watch.encoding(encoding.request)
            try:
                encoding.value = self._encode(medium)
            except LmnbError as error:
                self._fail(key, encoding, error)
            except Exception as error:  # noqa: BLE001  (or all images after it would wait for ever)
                text = f"The image could not be encoded: {error!r}."
                self._fail(key, encoding, EngineCrashed(text))
            self._watch.encoding(0)
            del medium
            encoding.sources.clear()
            encoding.done.set()
            self._trim()
            self._progress.set()

    def _fail(self, key: bytes, encoding: Encoding, error: LmnbError) -> None:
        """Tell those who wait for it. Whoever comes later has it tried again."""
        with self._lock:
            encoding.error = error
            del self._known[key]

    def _encode(self, medium: Medium) -> Embeddings:
        self.encoded += 1
        if self._mtmd.mtmd_encode_chunk(self._handle, medium.chunk):
            raise EngineCrashed(f"llama.cpp could not encode the image: {native.log.last_error()}.")
        pointer = self._mtmd.mtmd_get_output_embd(self._handle)
        values = native.floats(pointer, medium.length * self._width)
        return values.reshape(medium.length, self._width).copy()

    def _trim(self) -> None:
        """Forget what was used least recently, beyond the budget."""
        with self._lock:
            ready = [(key, e.value) for key, e in self._known.items() if e.value is not None]
            total = sum(value.nbytes for _, value in ready)
            for key, value in ready[:-1]:
                if total <= _CACHE_BYTES:
                    return
                del self._known[key]
                total -= value.nbytes


def open_vision(
    model: Model, config: LoadConfig, watch: Watch, *, threads: int
) -> tuple[Vision | None, str]:
    """The model's encoder for images and sounds, or the reason why there is none.

    Raises
    ------
    InvalidModel, NotSupported
        The projector that was asked for cannot be used. One that was only found is left out.
    """
    if config.projector == "none":
        return None, "it was loaded without its projector"
    if config.projector is not None:
        return Vision(model, Path(config.projector), watch, threads=threads), ""
    found = find_projector(model.path)
    if found is None:
        return None, "it has no projector file"
    try:
        return Vision(model, found, watch, threads=threads), ""
    except LmnbError as error:
        return None, error.message.rstrip(".")


def _open(mtmd: Any, model: Model, path: Path, threads: int) -> Any:
    try:
        header = read_header(path)
    except LmnbError as error:
        error.param = "projector"
        raise
    if header.type != "mmproj":
        raise InvalidModel(f"{path.name} is no projector (mmproj) file.", param="projector")
    params = mtmd.mtmd_context_params_default()
    params.use_gpu = model.gpu_layers > 0
    params.print_timings = False
    params.n_threads = threads
    handle = mtmd.mtmd_init_from_file(str(path).encode(), model.handle, params)
    if not handle:
        raise InvalidModel(
            f"The projector {path.name} cannot be used with this model: {native.log.last_error()}.",
            hint="A projector fits the model it was made for only.",
            param="projector",
        )
    return handle
