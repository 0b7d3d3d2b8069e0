"""`%lm` in a real kernel."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fake_hub import FakeHub, Repository
from gguf_bytes import small_model
from notebook_kernel import Execution, Kernel
from server_home import ENDLESS, ServerHome, wait_for

from lmnb import __version__
from lmnb.client import Client
from lmnb.notebook.lm import lm
from lmnb.notebook.status import ls, placement, ps, status
from lmnb.notebook.table import table
from lmnb.notebook.units import duration, size
from lmnb.selection import DEFAULT_CHAT_MODEL

MODEL = "smollm2-135m-instruct"
NAME, FILE = "maker/Nice-Model-GGUF", "Nice-Model-Q4_K_M.gguf"


@pytest.fixture(scope="module")
def kernel(server: ServerHome) -> Iterator[Kernel]:
    with Kernel(server.path) as kernel:
        kernel.run("%load_ext lmnb\n%lm unload --all")
        yield kernel


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        model = small_model(1, kilobytes=3000, file_type=15)
        hub.repositories[NAME] = Repository({FILE: model})
        yield hub


def test_settings(kernel: Kernel) -> None:
    assert "jit_ttl" in kernel.run("%lm settings").text
    try:
        text = kernel.run("%lm settings jit_ttl 120").text
        assert "120" in text
        assert "file" in text
        assert "120" in kernel.run("%lm settings jit_ttl").text
        assert "on" in kernel.run("%lm settings auto_evict").text
    finally:
        assert "3600" in kernel.run("%lm settings jit_ttl --reset").text
    assert "jit_ttl cannot be 'soon'" in failure(kernel.run("%lm settings jit_ttl soon", ok=False))
    assert "no setting 'x'" in failure(kernel.run("%lm settings x", ok=False))
    assert "needs a name" in failure(kernel.run("%lm settings --reset", ok=False))


def failure(execution: Execution) -> str:
    assert execution.status == "error"
    assert execution.error is not None
    assert len(execution.error["traceback"]) <= 2
    return "\n".join(execution.error["traceback"])


def test_alone_it_shows_everything(kernel: Kernel, client: Client) -> None:
    kernel.run(f"%lm load {MODEL}")
    text = kernel.run("%lm").text
    (row,) = client.ps()
    for part in (
        __version__,
        str(client.handshake()["pid"]),
        str(client.home),
        row["device"],
        f"all {row['layers']} layers",
        "Not listening",
        MODEL,
    ):
        assert part in text
    assert kernel.run("%lm status", ok=False).status == "error"
    kernel.run("%lm unload")


def test_load_shows_progress_and_ends_as_a_line(kernel: Kernel, client: Client) -> None:
    execution = kernel.run(f"%lm load {MODEL} --context-length 1024 --ttl 500 --identifier mine")
    assert len(execution.outputs) == 1
    assert "mine is loaded" in execution.text
    assert "context 1024 tokens" in execution.text
    assert "<progress" not in execution.texts("text/html")[0]
    (row,) = client.ps()
    assert (row["id"], row["context_length"], row["ttl"]) == ("mine", 1024, 500.0)
    assert "mine" in kernel.run("%lm ps").text
    assert "●" in kernel.run("%lm ls").text
    assert kernel.run("%lm unload mine").text == "Unloaded: mine"
    assert client.ps() == []
    assert kernel.run("%lm ps").text == "No model is loaded."
    assert "●" not in kernel.run("%lm ls").text


def test_loading_again_loads_nothing_again(kernel: Kernel, client: Client) -> None:
    kernel.run(f"%lm load {MODEL}")
    assert f"{MODEL} is loaded already" in kernel.run("%lm load").text
    named = f"%lm load {MODEL} --identifier mine --ttl 500"
    kernel.run(named)
    assert "mine is loaded already" in kernel.run(named).text
    assert [row["id"] for row in client.ps()] == [MODEL, "mine"]
    # Another context is another instance.
    assert f"{MODEL}:2 is loaded (" in kernel.run("%lm load --context-length 1024").text
    kernel.run("%lm unload --all")


def test_a_context_longer_than_trained_loads_with_a_warning(kernel: Kernel, client: Client) -> None:
    assert "Warning: " in kernel.run("%lm load --context-length 9000").text
    assert client.ps()[0]["context_length"] == 9000
    kernel.run("%lm unload --all")


def test_load_without_a_name_loads_the_default(kernel: Kernel, client: Client) -> None:
    kernel.run("%lm load")
    assert [row["id"] for row in client.ps()] == [DEFAULT_CHAT_MODEL]
    kernel.run("%lm load all-minilm-l6-v2")
    assert MODEL in failure(kernel.run("%lm unload", ok=False))
    text = kernel.run("%lm unload --all").text
    assert MODEL in text
    assert "all-minilm-l6-v2" in text
    assert client.ps() == []
    assert "No model is loaded" in failure(kernel.run("%lm unload", ok=False))
    assert kernel.run("%lm unload --all").text == "No model was loaded."


def test_mistakes_of_models(kernel: Kernel) -> None:
    assert "nope" in failure(kernel.run("%lm load nope", ok=False))
    assert "nope" in failure(kernel.run("%lm unload nope", ok=False))
    assert "nope" in failure(kernel.run("%lm get nope", ok=False))
    kernel.run("%lm load")
    assert "%lm" in failure(kernel.run(f"%lm unload --all {MODEL}", ok=False))
    taken = failure(kernel.run(f"%lm load all-minilm-l6-v2 --identifier {MODEL}", ok=False))
    assert MODEL in taken
    kernel.run("%lm unload")


def test_ls_names_models(kernel: Kernel) -> None:
    execution = kernel.run("%lm ls")
    for part in (MODEL, "all-minilm-l6-v2", "embedding", "135M", "98.4 MB", "Q4_1"):
        assert part in execution.text
        assert part in execution.texts("text/html")[0]


def test_get_of_what_is_here_says_so(kernel: Kernel) -> None:
    execution = kernel.run("%lm get")
    assert f"{MODEL} is here" in execution.text
    assert "98.4 MB" in execution.text


def test_get_a_file_relative_to_the_notebook(
    kernel: Kernel, tmp_path: Path, embedding_model_path: Path, client: Client
) -> None:
    shutil.copy(embedding_model_path, tmp_path / "Here.gguf")
    kernel.run(f"import os; os.chdir({str(tmp_path)!r})")
    text = kernel.run("%lm get Here.gguf").text
    assert str(tmp_path / "Here.gguf") in text
    assert any(Path(row["path"]) == tmp_path / "Here.gguf" for row in client.ls())


def test_serve_and_stop(kernel: Kernel) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    text = kernel.run(f"%lm serve --port {port}").text
    assert f"Listening on {url}" in text
    assert f"{url}/v1" in text
    assert httpx2.get(f"{url}/v1/models").json()["object"] == "list"
    assert f"Listening on {url}" in kernel.run("%lm").text
    assert f"Already listening on {url}" in kernel.run(f"%lm serve --port {port}").text
    assert "closed" in kernel.run("%lm serve --stop").text
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{url}/v1/models")
    assert kernel.run("%lm serve --stop").text == "No port was open."


def test_serve_with_tokens_and_beyond_this_machine(kernel: Kernel) -> None:
    assert "--require-auth" in failure(kernel.run("%lm serve --host 0.0.0.0 --port 0", ok=False))
    text = kernel.run("%lm serve --port 0 --require-auth").text
    assert "token" in text
    url = text.split("Listening on ")[1].split()[0]
    assert httpx2.get(f"{url}/v1/models").status_code == 401
    kernel.run("%lm serve --stop\n%lm unload --all")
    text = kernel.run("%lm serve --host 0.0.0.0 --port 0 --allow-open").text
    assert "Listening on " in text
    kernel.run("%lm serve --stop\n%lm unload --all")


def test_a_taken_port_is_explained(kernel: Kernel) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        shown = failure(kernel.run(f"%lm serve --port {port}", ok=False))
    assert "PortInUse" in shown
    assert str(port) in shown
    assert "Hint: " in shown


def test_log(kernel: Kernel) -> None:
    kernel.run("%lm ls")
    text = kernel.run("%lm log --server -n 5").text
    assert len(text.splitlines()) <= 5
    assert "/lmnb/models" in text


def test_log_of_requests(kernel: Kernel, client: Client) -> None:
    response = client.http.get("/v1/models/none")
    text = kernel.run("%lm log -n 1 --route /v1/models --prompts").text
    for part in (response.headers["x-request-id"], "404", "model_not_found", "log_prompts on"):
        assert part in text
    assert kernel.run("%lm log --route /none/such").text == "No such request is on record."


def test_ps_shows_the_queue(kernel: Kernel, client: Client) -> None:
    list(client.load(MODEL, parallel=1))
    with ExitStack() as stack:
        for _ in range(2):
            body = {**ENDLESS, "stream": True}
            stack.enter_context(client.http.stream("POST", "/v1/completions", json=body))
        assert re.search("1 running, 1 waiting", kernel.run("%lm ps").text)
    client.unload(all=True)


def test_a_download_shows_its_progress_and_can_be_stopped_and_resumed(
    tmp_path: Path, hub: FakeHub
) -> None:
    fresh = ServerHome(tmp_path / "fresh")
    hub.release.clear()
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    try:
        with Kernel(fresh.path, **environment) as kernel:
            kernel.run("%load_ext lmnb")
            cell = kernel.start(f"%lm get {NAME}")
            queued = kernel.start("1 / 0")
            kernel.wait(lambda: any("<progress" in html for html in cell.texts("text/html")))
            assert hub.started.wait(60)
            kernel.interrupt()
            kernel.wait(lambda: cell.done and queued.done)
            assert "Interrupted" in failure(cell)
            assert queued.status == "aborted"
            assert cell.texts("text/html") == []
            hub.release.set()
            again = kernel.run(f"%lm get {NAME}")
            assert "<progress" not in "".join(again.texts("text/html"))
            assert "is here" in again.text
            assert NAME.lower().removesuffix("-gguf") in kernel.run("%lm ls").text.lower()
    finally:
        fresh.close()


def test_a_load_can_be_stopped(fresh_home: ServerHome) -> None:
    with Kernel(fresh_home.path) as kernel:
        kernel.run("%load_ext lmnb")
        client = fresh_home.attach()
        cell = kernel.start(f"%lm load {MODEL}")
        wait_for(lambda: bool(fresh_home.workers()), "the worker to start")
        kernel.interrupt()
        kernel.finish(cell)
        # Loading takes a moment only: the interrupt may come after it.
        if cell.status == "error":
            assert "Interrupted" in failure(cell)
            wait_for(lambda: not fresh_home.workers(), "the load to be cancelled")
            assert client.ps() == []


# --- without a kernel -----------------------------------------------------------

DEVICE = {
    "devices": [
        {"name": "CPU", "description": "Xeon", "type": "cpu", "memory_total": 8e9, "memory_free": 1}
    ],
    "supports_gpu_offload": False,
    "gpu_present": None,
    "install_hint": None,
    "llama_cpp": "0.3.36",
}
SERVER = {"version": "1", "pid": 7, "uptime": 65.0, "home": "/home/ada/.lmnb"}
ROW: dict[str, Any] = {
    "id": "m", "kind": "llm", "state": "idle", "device": "Xeon", "gpu_layers": 0, "layers": 30,
    "context_length": 4096, "memory": 2e8, "ttl_left": None,
    "active": 0, "running": 0, "waiting": 0,
}  # fmt: skip


def shown(device: dict[str, Any]) -> dict[str, str]:
    return status({"server": SERVER, "device": device, "listener": None, "loaded": [ROW]})


def test_a_gpu_that_is_not_used_comes_with_the_line_to_install() -> None:
    line = "CMAKE_ARGS='-DGGML_CUDA=on' pip install llama-cpp-python"
    bundle = shown({**DEVICE, "gpu_present": "NVIDIA H200", "install_hint": line})
    assert "NVIDIA H200" in bundle["text/plain"]
    assert line in bundle["text/plain"]
    assert "<pre><code>CMAKE_ARGS=&#x27;-DGGML_CUDA=on&#x27; pip" in bundle["text/html"]
    assert "install" not in shown(DEVICE)["text/plain"]


def test_devices_that_could_not_be_listed_are_no_failure() -> None:
    assert "unknown (it crashed)" in shown({"error": "it crashed"})["text/plain"]


def test_placement_names_device_and_layers() -> None:
    assert placement(ROW) == "CPU (Xeon), all 30 layers"
    assert placement({**ROW, "device": "H200", "gpu_layers": 31}) == "H200, all 30 layers"
    partly = placement({**ROW, "device": "H200", "gpu_layers": 12})
    assert partly == "H200, 12 of 30 layers"


def test_text_from_files_is_escaped() -> None:
    bundle = table(["<b>"], [["<script>"]])
    assert "<script>" not in bundle["text/html"]
    assert bundle["text/plain"].splitlines() == ["<b>", "<script>"]


def test_empty_lists_say_what_to_do() -> None:
    assert "%lm get" in ls([])["text/plain"]
    assert ps([])["text/plain"] == "No model is loaded."


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (42, "42 s"), (60, "1 min"), (200, "3 min 20 s"), (3600, "1 h"), (3900, "1 h 5 min")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(12, "12 bytes"), (98_400_000, "98.4 MB"), (4.7e9, "4.7 GB"), (1.23e8, "123 MB")]
)  # fmt: skip
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


def test_every_command_is_in_the_help() -> None:
    for command, parser in lm.parser.commands().items():
        assert f"\n    {command}" in lm.help()
        assert parser.format_help().startswith(f"usage: %lm {command}")


def test_launch_shows_the_command_that_starts_an_agent(kernel: Kernel, client: Client) -> None:
    execution = kernel.run(f"%lm launch claude -m {MODEL} --port 0 --context-length 512")
    url = client.handshake()["listening"]
    assert f"ANTHROPIC_BASE_URL={url}" in execution.text
    assert "CLAUDE_CODE_MAX_CONTEXT_TOKENS=512" in execution.text
    assert "Warning: " in execution.text
    assert "expect errors" in execution.text
    assert "<pre><code>env " in execution.texts("text/html")[-1]
    kernel.run("%lm serve --stop\n%lm unload --all")
