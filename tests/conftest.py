from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
from server_home import ServerHome, link_models

from lmnb import attaching
from lmnb.client import Client
from lmnb.server import notes

if TYPE_CHECKING:
    from jupyter_lab import Jupyter

MODELS = ("smollm2-135m-instruct", "all-minilm-l6-v2")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full", action="store_true", help="run the tests that take long, too, and draw new cases"
    )


def pytest_configure(config: pytest.Config) -> None:
    """The same cases every time, so that a change is never blamed for an older fault."""
    hypothesis.settings.register_profile("lmnb", derandomize=not config.getoption("--full"))
    hypothesis.settings.load_profile("lmnb")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--full"):
        for item in items:
            if "full" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes long; runs with --full"))


@pytest.fixture(scope="session")
def models_cache() -> Path:
    """A home with the two real models, fetched once per machine, the way a user does it."""
    cache = Path(os.environ.get("LMNB_TEST_MODELS") or Path.home() / ".cache" / "lmnb-tests")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        files = {path.name for path in (cache / "models").rglob("*.gguf")}
        if len(files) < len(MODELS):
            for model in MODELS:
                _lmnb(cache, "get", model)
            _lmnb(cache, "stop")
    return cache


@pytest.fixture(scope="session")
def chat_model_path(models_cache: Path) -> Path:
    return _model(models_cache, "SmolLM2-135M")


@pytest.fixture(scope="session")
def embedding_model_path(models_cache: Path) -> Path:
    return _model(models_cache, "MiniLM")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, models_cache: Path) -> Iterator[Path]:
    """`$LMNB_HOME` of the whole test session, with both models."""
    path = tmp_path_factory.mktemp("home")
    link_models(models_cache, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMNB_HOME", str(path))
        # The machine's own models are none of the tests' business.
        patch.setenv("HF_HOME", str(path / "huggingface"))
        patch.setenv("TIKTOKEN_CACHE_DIR", str(path / "tiktoken"))
        yield path


_shared: list[ServerHome] = []
"""The server of this session, once a test has asked for it."""


@pytest.fixture(scope="module", autouse=True)
def nothing_left_by_others() -> None:
    """A file of tests finds the shared server with nothing loaded and no port open.

    So no file depends on which ones ran before it, in whatever order.
    """
    for server in _shared:
        if (found := attaching.find(server.path)) is not None:
            found.stop_serving()
            found.unload(all=True)


@pytest.fixture(scope="session")
def server(home: Path) -> Iterator[ServerHome]:
    """A real, detached server in `home`, for all tests that do it no harm."""
    found = ServerHome(home)
    found.attach()
    _shared.append(found)
    yield found
    _shared.clear()
    found.close()
    found.wait_until_empty()


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Iterator[ServerHome]:
    """A real server without any model of its own, for what is elsewhere."""
    found = ServerHome(tmp_path_factory.mktemp("front"))
    found.attach()
    yield found
    found.close()
    found.wait_until_empty()


@pytest.fixture
def client(server: ServerHome) -> Client:
    return server.attach()


@pytest.fixture
def fresh_home(
    tmp_path: Path, models_cache: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ServerHome]:
    """A home of its own, for tests that kill things. No server is running yet."""
    path = tmp_path / "home"
    link_models(models_cache, path)
    monkeypatch.setenv("LMNB_HOME", str(path))
    found = ServerHome(path)
    yield found
    found.close()
    found.wait_until_empty()


@pytest.fixture(scope="module")
def jupyter(
    tmp_path_factory: pytest.TempPathFactory, models_cache: Path, home: Path
) -> Iterator[Jupyter]:
    """A JupyterLab with a browser, and a home of its own in which no server is running yet."""
    from jupyter_lab import Jupyter

    own = ServerHome(tmp_path_factory.mktemp("jupyter"))
    link_models(models_cache, own.path)
    with pytest.MonkeyPatch.context() as patch, socket.socket() as probe:
        patch.setenv("LMNB_HOME", str(own.path))
        # Where `%lm serve` listens; the usual port may be in use.
        probe.bind(("127.0.0.1", 0))
        patch.setenv("LMNB_PORT", str(probe.getsockname()[1]))
        probe.close()
        found = Jupyter(tmp_path_factory.mktemp("notebooks"), own, "jupyterlab")
        with found.running():
            yield found
    own.close()
    own.wait_until_empty()


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes workers that are started from now on faulty; see `faulty_worker.py`."""

    def make(fault: str) -> None:
        here = Path(__file__).parent
        path = os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")])
        monkeypatch.setenv("PYTHONPATH", path)
        monkeypatch.setenv("LMNB_TEST_FAULT", fault)
        monkeypatch.setattr("lmnb.engine.client._MODULE", "faulty_worker")

    return make


def _model(cache: Path, name: str) -> Path:
    return next(path for path in (cache / "models").rglob("*.gguf") if name in path.name)


def _lmnb(home: Path, *arguments: str) -> None:
    environment = {**os.environ, "LMNB_HOME": str(home)}
    subprocess.run([sys.executable, "-m", "lmnb", *arguments], env=environment, check=True)


@pytest.fixture
def noted() -> Iterator[dict[str, None]]:
    """What is noted during a test that is no request."""
    found = notes.collect()
    yield found
    notes._notes.set(None)
