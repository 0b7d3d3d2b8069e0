"""Images in prompts: what reaches the logits, what is encoded, who waits for whom."""

from __future__ import annotations

import struct
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import made_models
import numpy as np
import pytest
from engine_driver import GREEDY, Engine
from made_models.projector import PATCHES, projector
from numpy.typing import NDArray
from pictures import picture, raw_png

from lmnb.engine import native, pictures
from lmnb.engine import vision as vision_module
from lmnb.engine.config import LoadConfig
from lmnb.engine.options import Segment
from lmnb.engine.protocol import Generate
from lmnb.engine.recorder import Recorder, make_page
from lmnb.errors import ContextOverflow, InvalidModel, InvalidRequest, LmnbError, NotSupported

PROMPT = "What is to be seen in this image, and what is not? It is this one: "


@pytest.fixture(scope="module", autouse=True)
def llama_cpp() -> None:
    native.init(lambda text: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vision")
    made_models.llama(folder / "base.gguf")
    projector(folder / "mmproj-base-f16.gguf")
    return folder


@pytest.fixture
def engine(folder: Path) -> Engine:
    return Engine(folder / "base.gguf", LoadConfig(context_length=1024, parallel=4))


def submit(
    engine: Engine, *images: bytes, prompt: str = PROMPT, after: str = " Now?", tokens: int = 12
) -> int:
    engine.next_id += 1
    media = [Segment("", media=image) for image in images]
    command = Generate(
        id=engine.next_id,
        segments=(Segment(prompt), *media, Segment(after)),
        sampling=GREEDY,
        max_tokens=tokens,
    )
    engine.text[engine.next_id] = ""
    engine.generator.submit(command, engine.generator.prompt(command))
    return engine.next_id


def ask(engine: Engine, *images: bytes, prompt: str = PROMPT, after: str = " Now?") -> str:
    request = submit(engine, *images, prompt=prompt, after=after)
    engine.run()
    assert request not in engine.errors, engine.errors[request]
    return engine.text[request]


def encoded(engine: Engine) -> int:
    assert engine.generator.vision is not None
    return engine.generator.vision.encoded


# --- what it computes --------------------------------------------------------------


def test_the_answer_depends_on_the_image(engine: Engine) -> None:
    answers = [ask(engine, picture(seed)) for seed in range(4)]
    assert len({*answers, ask(engine)}) >= 4
    assert answers == [ask(engine, picture(seed)) for seed in range(4)]


def test_embeddings_take_the_place_of_tokens(engine: Engine) -> None:
    """Known embeddings, those of tokens, are as good as these tokens, bit for bit nearly."""
    context, model = engine.generator.context, engine.generator.model
    tokens = np.frombuffer(b"some words in the middle", np.uint8).astype(np.int32)
    table = next(t for t in model.header.tensors if t.name == "token_embd.weight")
    offset = model.header.data_offset + table.offset
    embedding = np.memmap(model.path, np.float32, "r", offset, table.shape[::-1])

    def logits(read: Callable[[], int]) -> NDArray[np.float32]:
        context.trim(0, 0)
        context.batch.clear()
        context.batch.add(tokens, 0, 0, 0)
        assert context.decode() == 0
        assert read() == 0
        context.batch.clear()
        context.batch.add(tokens, 2 * len(tokens), 0, 1)
        assert context.decode() == 0
        row: NDArray[np.float32] = context.logits(1)[0].copy()
        return row

    def as_tokens() -> int:
        context.batch.clear()
        context.batch.add(tokens, len(tokens), 0, 0)
        return context.decode()

    def as_embeddings() -> int:
        places = np.arange(len(tokens), 2 * len(tokens), dtype=np.int32)[None]
        end = 2 * len(tokens)
        return context.decode_embeddings(embedding[tokens], places, 0, end=end, causal=True)

    np.testing.assert_allclose(logits(as_embeddings), logits(as_tokens), atol=1e-4)
    context.trim(0, 0)


@pytest.mark.parametrize("kind", ["janus_pro", "gemma3"])
def test_the_slot_holds_the_image(folder: Path, tmp_path: Path, kind: str) -> None:
    path = projector(tmp_path / "mmproj.gguf", kind=kind)
    config = LoadConfig(context_length=512, parallel=1, projector=str(path))
    engine = Engine(folder / "base.gguf", config)
    tokens = PATCHES if kind == "janus_pro" else PATCHES // 4
    text = "<start_of_image><end_of_image>" if kind == "gemma3" else ""
    request = submit(engine, picture(0))
    while not engine.generator.scheduler.running or (engine.generator.scheduler.running[0].reading):
        engine.step()
    engine.check_books()
    engine.run()
    wanted = len(PROMPT) + len(text) + tokens + len(" Now?")
    assert engine.ends[request].prompt_tokens == wanted
    engine.check_idle()


def test_an_image_larger_than_a_batch_is_read_in_pieces(folder: Path) -> None:
    small = LoadConfig(context_length=1024, parallel=1, eval_batch_size=8)
    large = LoadConfig(context_length=1024, parallel=1, eval_batch_size=256)
    path = folder / "base.gguf"
    assert ask(Engine(path, small), picture(1)) == ask(Engine(path, large), picture(1))


def test_tokens_that_see_each_other_must_fit_a_batch(folder: Path, tmp_path: Path) -> None:
    path = str(projector(tmp_path / "mmproj.gguf", kind="gemma3"))
    config = LoadConfig(context_length=512, parallel=1, projector=path, eval_batch_size=2)
    engine = Engine(folder / "base.gguf", config)
    with pytest.raises(InvalidRequest, match="eval_batch_size"):
        submit(engine, picture(0))
    assert ask(engine)
    roomy = Engine(folder / "base.gguf", LoadConfig(context_length=512, projector=path))
    assert roomy.generator.batch_size >= 512
    assert ask(roomy, picture(0)) != ask(roomy, picture(1))


# --- what is remembered ------------------------------------------------------------


def test_an_image_is_encoded_once_and_its_prefix_reused(engine: Engine) -> None:
    first = submit(engine, picture(0))
    engine.run()
    assert encoded(engine) == 1
    again = submit(engine, picture(0), after=" Now? And so on, in the next turn.")
    engine.run()
    assert encoded(engine) == 1
    assert engine.ends[again].cached_tokens >= len(PROMPT) + PATCHES
    assert engine.ends[first].cached_tokens == 0
    # Elsewhere in another prompt the cells are useless, the embeddings are not.
    other = submit(engine, picture(0), prompt="Quite another beginning: ")
    engine.run()
    assert encoded(engine) == 1
    assert engine.ends[other].cached_tokens == 0


def test_another_image_is_no_prefix(engine: Engine) -> None:
    ask(engine, picture(0))
    request = submit(engine, picture(1))
    engine.run()
    assert encoded(engine) == 2
    assert engine.ends[request].cached_tokens <= len(PROMPT)
    fresh = Engine(engine.generator.model.path, LoadConfig(context_length=1024))
    assert engine.text[request] == ask(fresh, picture(1))


def test_a_reused_prefix_never_ends_in_an_image(engine: Engine) -> None:
    ask(engine, picture(0), picture(1))
    (slot,) = (slot for slot in engine.generator.scheduler.cache._slots if len(slot.tokens))
    # As if an abort had left a slot with half of the second image.
    half = len(PROMPT) + PATCHES + PATCHES // 2
    engine.generator.context.trim(slot.number, half)
    engine.generator.scheduler.cache.acquire(slot.tokens)
    engine.generator.scheduler.cache.release(slot.number, slot.tokens[:half])
    request = submit(engine, picture(0), picture(1))
    engine.run()
    assert engine.ends[request].cached_tokens in {0, len(PROMPT) + PATCHES}
    fresh = Engine(engine.generator.model.path, LoadConfig(context_length=1024))
    assert engine.text[request] == ask(fresh, picture(0), picture(1))


@pytest.mark.parametrize("make", [made_models.gemma3, made_models.jamba, made_models.mamba])
def test_memory_that_cannot_be_cut_at_any_place(make: Callable[..., Path], tmp_path: Path) -> None:
    """Sliding windows and states: answers from reused prefixes are those of fresh ones."""
    model = make(tmp_path / "model.gguf")
    path = str(projector(tmp_path / "mmproj.gguf"))
    config = LoadConfig(context_length=1024, parallel=2, projector=path)
    asked = [
        ((picture(0),), PROMPT, " Now?"),
        ((picture(0),), PROMPT, " Now? And then?"),
        ((picture(0), picture(1)), PROMPT, " Now?"),
        ((picture(1),), PROMPT, " Now?"),
        ((picture(0),), PROMPT * 3, " Now?"),
    ]
    engine = Engine(model, config)
    for images, prompt, after in asked * 2:
        fresh = ask(Engine(model, config), *images, prompt=prompt, after=after)
        assert ask(engine, *images, prompt=prompt, after=after) == fresh
    engine.check_idle()


def test_the_same_image_twice_in_a_prompt(engine: Engine) -> None:
    twice = ask(engine, picture(0), picture(0))
    assert encoded(engine) == 1
    assert twice != ask(engine, picture(0))


# --- together with others ----------------------------------------------------------


def test_mixed_requests_answer_as_they_do_alone(folder: Path, engine: Engine) -> None:
    wanted: list[tuple[bytes, ...]] = [(), (picture(0),), (picture(1), picture(2)), (picture(0),)]
    fresh = Engine(folder / "base.gguf", LoadConfig(context_length=1024))
    alone = [ask(fresh, *images) for images in wanted]
    requests = [submit(engine, *images) for images in wanted]
    engine.run()
    assert [engine.text[request] for request in requests] == alone
    assert encoded(engine) == 3
    engine.check_idle()


@pytest.fixture
def held(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An encoder that waits for the event."""
    go = threading.Event()
    vision = engine.generator.vision
    assert vision is not None
    encode = vision._encode

    def slow(medium: object) -> object:
        assert go.wait(30)
        return encode(medium)  # type: ignore[arg-type]

    monkeypatch.setattr(vision, "_encode", slow)
    return go


def test_texts_go_on_while_an_image_is_encoded(engine: Engine, held: threading.Event) -> None:
    seeing = submit(engine, picture(0))
    talking = submit(engine, tokens=20)
    while talking not in engine.ends:
        engine.step()
    assert seeing not in engine.ends
    assert engine.text[seeing] == ""
    held.set()
    engine.run()
    assert engine.ends[seeing].output_tokens == 12


def test_who_has_an_image_encoded_is_named_if_the_process_dies(
    engine: Engine, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make_page() as page:
        recorder = Recorder(page.fileno())
        monkeypatch.setattr(engine.generator.watch, "_recorder", recorder)
        seeing = submit(engine, picture(93))
        talking = submit(engine, tokens=20)
        while talking not in engine.ends:
            engine.step()
        assert recorder.read() == {seeing}
        held.set()
        engine.run()
        assert recorder.read() == frozenset()


def test_a_cancel_does_not_wait_for_the_encoder(engine: Engine, held: threading.Event) -> None:
    gone = submit(engine, picture(0))
    queued = submit(engine, picture(1))
    for _ in range(5):
        engine.step()
    engine.generator.abort(gone)
    engine.generator.abort(queued)
    engine.run()
    assert engine.ends[gone].reason == engine.ends[queued].reason == "aborted"
    held.set()
    assert ask(engine, picture(2))
    assert encoded(engine) == 2  # of the two cancelled, only the one that had begun
    engine.check_idle()


def test_a_failed_encoding_fails_its_requests_only(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    vision = engine.generator.vision
    assert vision is not None
    monkeypatch.setattr(vision._mtmd, "mtmd_encode_chunk", lambda *_: 1)
    broken, fine = submit(engine, picture(0)), submit(engine)
    engine.run()
    assert "could not encode" in engine.errors[broken].message
    assert engine.ends[fine].output_tokens == 12
    assert all(encoding.error is None for encoding in vision._known.values())
    monkeypatch.undo()
    assert ask(engine, picture(0))  # it is tried again
    engine.check_idle()


# --- what is refused ---------------------------------------------------------------


def jpeg(width: int, height: int, scans: int = 1) -> bytes:
    frame = struct.pack(">BBHBHHB", 0xFF, 0xC0, 8 + 3, 8, height, width, 1) + b"\1\x11\0"
    return b"\xff\xd8" + frame + b"\xff\xda\0\2" * scans + b"\xff\xd9"


BAD = {
    "empty": b"",
    "text": b"no image at all",
    "cut": picture(0)[:20],
    "cut pixels": picture(0)[:300],
    "broken pixels": raw_png(4, 4, b"nothing that zlib knows"),
    "0 x 0": raw_png(0, 0, zlib.compress(b"")),
    "0 wide": raw_png(0, 7, zlib.compress(b"")),
    "too wide": raw_png(1 << 30, 1, zlib.compress(b"")),
    "too many pixels": raw_png(30_000, 30_000, zlib.compress(b"")),
    "bomb": raw_png(8, 8, zlib.compress(bytes(50_000_000))),
    "large JPEG": jpeg(60_000, 60_000),
    "JPEG of many scans": jpeg(10, 10, scans=1000),
    "JPEG without pixels": jpeg(10, 10),
    "JPEG without frame": b"\xff\xd8\xff\xda\0\2",
    "WebP": b"RIFF\0\0\0\0WEBPVP8 ",
    "GIF of nothing": b"GIF89a\0\0\0\0",
    "BMP of nothing": b"BM" + bytes(60),
    "sound": b"ID3" + bytes(60),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_images_are_refused(engine: Engine, case: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        submit(engine, BAD[case])
    assert caught.value.status == 400
    assert caught.value.param == "messages"


def test_many_images_together_are_too_large(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may be small as a file and large unpacked; all are in memory at once."""
    ask(engine, picture(1), picture(2), picture(3))
    monkeypatch.setattr(vision_module, "_MOST_UNPACKED", 1)
    with pytest.raises(InvalidRequest, match="too many for their size"):
        submit(engine, picture(1), picture(2), picture(3))


def test_an_encoder_that_stumbles_goes_on(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    vision = engine.generator.vision
    assert vision is not None

    def stumble(_medium: object) -> None:
        raise MemoryError

    monkeypatch.setattr(vision, "_encode", stumble)
    request = submit(engine, picture(91))
    engine.run()
    assert engine.errors[request].code == "engine_crashed"
    monkeypatch.undo()
    assert ask(engine, picture(92))


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    real = zlib.decompressobj

    class Watched:
        def __init__(self) -> None:
            self.inner = real()

        @property
        def unconsumed_tail(self) -> bytes:
            return self.inner.unconsumed_tail

        def decompress(self, data: bytes, limit: int) -> bytes:
            nonlocal largest
            piece = self.inner.decompress(data, limit)
            largest = max(largest, len(piece))
            return piece

    monkeypatch.setattr(zlib, "decompressobj", Watched)
    with pytest.raises(InvalidRequest, match="more pixels"):
        pictures.check_picture(BAD["bomb"])
    assert largest <= 1 << 20


def test_good_headers_pass() -> None:
    assert pictures.check_picture(picture(0)) == (48, 40)
    assert pictures.check_picture(jpeg(12, 34)) == (12, 34)


def test_an_image_that_does_not_fit_the_context(folder: Path) -> None:
    engine = Engine(folder / "base.gguf", LoadConfig(context_length=256))
    with pytest.raises(ContextOverflow):
        submit(engine, *[picture(n) for n in range(16)])
    assert ask(engine, picture(0))


def test_a_prompt_must_not_end_with_an_image(engine: Engine) -> None:
    with pytest.raises(InvalidRequest, match="end with an image"):
        submit(engine, picture(0), after="")


def test_a_model_without_projector_says_so(folder: Path, tmp_path: Path) -> None:
    for engine in (
        Engine(made_models.llama(tmp_path / "blind.gguf"), LoadConfig()),
        Engine(folder / "base.gguf", LoadConfig(projector="none")),
    ):
        with pytest.raises(NotSupported, match="projector"):
            submit(engine, picture(0))
        assert ask(engine)


def test_a_projector_of_another_model(folder: Path, tmp_path: Path) -> None:
    other = projector(tmp_path / "mmproj-other.gguf", embedding=128)
    model = made_models.llama(tmp_path / "model.gguf")
    with pytest.raises(InvalidModel, match="mismatch"):
        Engine(model, LoadConfig(projector=str(other)))
    with pytest.raises(InvalidModel, match="no projector"):
        Engine(model, LoadConfig(projector=str(folder / "base.gguf")))
    with pytest.raises(LmnbError, match="cannot be read"):
        Engine(model, LoadConfig(projector=str(tmp_path / "missing.gguf")))
    engine = Engine(model, LoadConfig())  # the same one, found beside it: texts go without
    with pytest.raises(NotSupported, match="mismatch"):
        submit(engine, picture(0))
    assert ask(engine)


def test_an_interrupt_in_the_middle_of_an_image(folder: Path) -> None:
    """What was read of the image is read again; the answer is the same."""
    config = LoadConfig(context_length=512, parallel=1, eval_batch_size=4)
    wanted = ask(Engine(folder / "base.gguf", config), picture(0))
    engine = Engine(folder / "base.gguf", config)
    context, request = engine.generator.context, submit(engine, picture(0))
    decode, calls = context.batch.of_embeddings, 0

    def interrupted(rows: NDArray[np.float32], places: NDArray[np.int32], sequence: int) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:  # of four batches
            engine.generator.interrupt(request)
        return decode(rows, places, sequence)

    context.batch.of_embeddings = interrupted  # type: ignore[method-assign]
    while calls < 3:
        engine.step()
    engine.check_books()
    assert context.length(0) == len(PROMPT)
    engine.run()
    assert calls == 3 + PATCHES // 4
    assert engine.text[request] == wanted
    engine.check_idle()


def wave(rate: int = 16_000, seconds: float = 1.0, claimed: int | None = None) -> bytes:
    samples = bytes(2 * int(rate * seconds))
    length = len(samples) if claimed is None else claimed
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return b"RIFF\0\0\0\0WAVE" + form + struct.pack("<4sI", b"data", length) + samples


@pytest.mark.parametrize(
    "sound",
    [
        wave(rate=1, seconds=10),  # brought to 16,000 a second it would be 16,000 times as large
        wave(claimed=1 << 31),
        wave(seconds=0),
        wave()[:20],
        wave(rate=4000, seconds=4000),
        b"fLaC" + bytes(100),
        b"ID3" + bytes(17 << 20),
    ],
)
def test_bad_sounds_are_refused(sound: bytes) -> None:
    assert pictures.is_sound(sound)
    with pytest.raises(InvalidRequest):
        pictures.check_sound(sound)


def test_good_sounds_pass(engine: Engine) -> None:
    pictures.check_sound(wave())
    assert not pictures.is_sound(jpeg(1, 1))
    with pytest.raises(NotSupported, match="hear"):
        submit(engine, wave())


def test_a_build_without_the_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llama_cpp.mtmd_cpp", None)
    engine = Engine(folder / "base.gguf", LoadConfig(context_length=256))
    with pytest.raises(NotSupported, match="libmtmd"):
        submit(engine, picture(0))
    assert ask(engine)
