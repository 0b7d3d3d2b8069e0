"""A server that answered: what the notebook and the command line ask of it.

`lmnb.attaching.attach()` finds or starts it. The official SDKs speak to it over the same private
socket: `client.openai()`, `client.anthropic()`.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

import httpx2

from lmnb import runtime
from lmnb.errors import LmnbError, ServerError

if TYPE_CHECKING:
    import anthropic
    import openai

Json = dict[str, Any]

_ANSWER = 15.0  # Seconds for what the server answers at once, on a machine that is busy.
_SILENCE = 60.0  # Streams of the server say something every 15 s.
_READING = 900.0  # The digest of a model's file is made once; the largest have hundreds of GB.


class _SharedHTTP(httpx2.Client):
    def close(self) -> None:
        """Nothing: an SDK client that is closed must not take the others' connections away."""


class Client:
    """A server that answered. Every call raises the `LmnbError` that the server met.

    http
        For requests of one's own: `client.http.get("/v1/models")`.
    """

    def __init__(self, home: Path, socket: str) -> None:
        self.home = home
        self.socket = socket
        self.process = os.getpid()
        self.http: httpx2.Client = _SharedHTTP(
            # Not encrypted, so no certificates: loading them would take 80 ms.
            transport=httpx2.HTTPTransport(uds=socket, verify=False),
            base_url="http://local",
            timeout=httpx2.Timeout(_ANSWER, read=None),
            trust_env=False,
        )

    def close(self) -> None:
        """Close its connections."""
        httpx2.Client.close(self.http)

    def openai(self, **options: Any) -> openai.OpenAI:
        """The official OpenAI client. `options` are those of `openai.OpenAI`."""
        import openai

        given: Json = {"api_key": "lmnb", "base_url": "http://local/v1", "http_client": self.http}
        return openai.OpenAI(**{**given, **options})

    def anthropic(self, **options: Any) -> anthropic.Anthropic:
        """The official Anthropic client. `options` are those of `anthropic.Anthropic`."""
        import anthropic

        given: Json = {"api_key": "lmnb", "base_url": "http://local", "http_client": self.http}
        return anthropic.Anthropic(**{**given, **options})

    # --- the server -----------------------------------------------------------

    def handshake(self, timeout: float | None = None) -> Json:
        """`{version, python, build, pid, busy, loaded: [id], listening: url | None}`.

        `timeout` in seconds, default 15.
        """
        return self._call("GET", "/lmnb/handshake", timeout=timeout or _ANSWER)

    def status(self) -> Json:
        """`{server, device, listener, loaded}`; the first call asks llama.cpp for the devices."""
        return self._call("GET", "/lmnb/status")

    def log(self, lines: int = 100) -> list[str]:
        """The last lines of the server's log."""
        found: list[str] = self._call("GET", f"/lmnb/log?lines={lines}")["lines"]
        return found

    def requests(
        self,
        last: int = 50,
        *,
        model: str | None = None,
        status: str | None = None,
        route: str | None = None,
    ) -> list[Json]:
        """The last requests, oldest first: `lmnb.journal.Record`. Filters: `lmnb.journal.Filter`."""
        params = _given({"last": last, "model": model, "status": status, "route": route})
        found: list[Json] = self._call("GET", "/lmnb/requests", params=params)["requests"]
        return found

    def follow_requests(
        self,
        *,
        words: bool = False,
        model: str | None = None,
        status: str | None = None,
        route: str | None = None,
    ) -> Iterator[Json]:
        """Requests as they end, for ever: `{"type": "request", …}` with the fields of a `Record`.

        With `words` also `input` and `output`, what models are given and say word for word; `ready`
        comes first, and `missed` if this reads too slowly. See `lmnb.server.control.requests`.
        """
        params = _given({"words": int(words), "model": model, "status": status, "route": route})
        return self._stream("/lmnb/requests/follow", params=params)

    def events(self) -> Generator[Json, None, None]:
        """What there is, each time that it changes; see `lmnb.server.control.events`.

        Yields `{"type": "state", …}`, the first at once, for ever. `lmnb.follow` does so in the
        background.
        """
        return self._stream("/lmnb/events")

    def shutdown(self, *, if_idle: bool = False) -> bool:
        """End the server, and wait until it has ended; whether it did (see `if_idle`).

        Loaded models are unloaded. With `if_idle` a server that is in use stays.
        """
        pid = self.handshake()["pid"]
        stopping: bool = self._call("POST", "/lmnb/shutdown", {"if_idle": if_idle})["stopping"]
        if stopping:
            _wait_for_end(self.home, pid)
        return stopping

    # --- models ---------------------------------------------------------------

    def ls(self) -> list[Json]:
        """The models on the disk: the fields of `lmnb.models.entry.ModelEntry`, and `loaded`.

        Then those of endpoints: `endpoint` is its name (else None), `up` whether it answers, and what
        is not known of them is None.
        """
        found: list[Json] = self._call("GET", "/lmnb/models")["models"]
        return found

    def ps(self) -> list[Json]:
        """The loaded models: `{id, model, kind, state, running, waiting, ttl, ttl_left, memory, …}`.

        `running` requests are computed, `waiting` ones wait for a slot.
        """
        found: list[Json] = self._call("GET", "/lmnb/ps")["loaded"]
        return found

    def pending(self) -> Json:
        """What is on its way, and what has to wait.

        `loading`: `{id, model, progress}`, 0 to 1. `unloading`: `{id, model, active}`, with the
        requests that are still answered. `resting`: `{model, crashes, seconds_left, cause}`, models
        that keep crashing and are not loaded by requests for a while. `endpoints`: as `endpoints` has
        them, without asking them anything.
        """
        found = self._call("GET", "/lmnb/ps")
        return {name: found[name] for name in ("loading", "unloading", "resting", "endpoints")}

    def search(self, query: str = "", limit: int = 30) -> list[Json]:
        """Models to fetch: `lmnb.models.sources.search.Found`, at most `limit` (1 to 100).

        Of the Hub, those with GGUF files whose names have the words of `query`, most downloaded
        first; without a `query` the built-in ones, for which nobody else is asked.

        Raises
        ------
        NoNetwork
            The Hub is not reached, or `HF_HUB_OFFLINE` is set.
        """
        params = {"query": query, "limit": limit}
        found: list[Json] = self._call("GET", "/lmnb/search", params=params, timeout=_SILENCE)[
            "models"
        ]
        return found

    def variants(self, model: str) -> Json:
        """What there is to fetch of a repository or a built-in model: `lmnb.models.offers.Offers`.

        Each of its `variants` has a `name` that `get` takes, `size_bytes`, `fit` ("fits", "tight",
        "too large") and `key`, what it is called if it is here.
        """
        return self._call("GET", "/lmnb/variants", params={"model": model}, timeout=_SILENCE)

    def get(self, model: str | None = None, quantization: str | None = None) -> Iterator[Json]:
        """Fetch a model; None is the default one. Leaving the iterator cancels.

        Yields `{"type": "started" | "progress" | "note" | "done", …}`, the fields being those of
        `lmnb.models.events`; `done` comes last.
        """
        body = {"model": _absolute_file(model), "quantization": quantization}
        return self._stream("/lmnb/get", body)

    def convert(
        self, folder: str, *, name: str | None = None, file_type: str = "F16"
    ) -> Iterator[Json]:
        """Make a GGUF of a BERT-type model in safetensors form. Leaving the iterator cancels.

        `name`: `publisher/name`, default that of the folder. `file_type`: F16, Q8_0 or F32. Yields
        `{"type": "progress", "progress": 0 to 1}`, then `{"type": "done", "key", "path",
        "size_bytes"}`.

        Raises
        ------
        InvalidModel, InvalidRequest
            It is no BERT with a WordPiece vocabulary, or there is such a model already.
        """
        body = {"folder": str(Path(folder).expanduser().absolute()), "name": name}
        return self._stream("/lmnb/convert", body | {"file_type": file_type})

    def start_download(self, model: str | None = None, quantization: str | None = None) -> Json:
        """Fetch a model as `get` does, without following it; the job. It goes on by itself."""
        body = {"model": _absolute_file(model), "quantization": quantization}
        return self._call("POST", "/lmnb/downloads", body)

    def downloads(self) -> list[Json]:
        """The downloads of the last month, oldest first: `lmnb.server.downloads.Job`."""
        found: list[Json] = self._call("GET", "/lmnb/downloads")["downloads"]
        return found

    def follow_download(self, name: str) -> Iterator[Json]:
        """What a download says, as `get` does. `name` is its id, or its model's name."""
        return self._stream(f"/lmnb/downloads/{quote(name)}/events")

    def change_download(self, name: str, change: Literal["pause", "resume", "cancel"]) -> Json:
        """Change one; the job. One that is resumed goes on whoever follows it."""
        return self._call("POST", f"/lmnb/downloads/{quote(name)}/{change}")

    def load(
        self,
        model: str,
        *,
        identifier: str | None = None,
        ttl: float | None = None,
        jit: bool = False,
        **options: Any,
    ) -> Iterator[Json]:
        """Have a model loaded. Leaving the iterator cancels.

        One that is loaded with these options already, or about to be, by whomever, is enough; for
        another choose an `identifier`.

        Yields `{"type": "progress", "progress": 0 to 1}`, then `{"type": "done", …}` with the
        fields of `ps`, `warnings` among them, and `waited`: the seconds that took, or None. With
        `jit` it is loaded the way a request would load it. `options` are those of
        `lmnb.engine.config.LoadConfig`; None is "not given", and `adapters` are dicts with the
        fields of `LoadAdapter`. `ttl` in seconds.
        """
        body: Json = {"model": _absolute(model), "identifier": identifier, "ttl": ttl, "jit": jit}
        return self._stream("/lmnb/load", body | _options(options))

    def loaded(self, model: str, *, identifier: str | None = None, **options: Any) -> Json | None:
        """The row of `ps` that `load` with these `options` would come to, if it is there."""
        body: Json = {"model": _absolute(model), "identifier": identifier} | _options(options)
        found: Json | None = self._call("POST", "/lmnb/find", body)["found"]
        return found

    def estimate(self, model: str, **options: Any) -> Json:
        """What loading a model with these `options` of `load` would take, in bytes.

        The fields of `lmnb.engine.config.Estimate`, and `total`.

        Raises
        ------
        ModelLoadFailed
            It would not fit; the message has the figures.
        """
        return self._call("POST", "/lmnb/estimate", {"model": _absolute(model)} | _options(options))

    def inspect(self, model: str) -> Json:
        """How a model writes thinking and calls: the fields of `lmnb.server.inspecting.Inspected`."""
        return self._call("POST", "/lmnb/inspect", {"model": _absolute(model)})

    def render(self, path: str, body: Json) -> Json:
        """The prompt that a request would be: `{text, tokens}`. Nothing is generated or loaded.

        `path` is `/v1/messages`, `/v1/responses` or `/v1/chat/completions`, and `body` what would be
        sent there.
        """
        return self._call("POST", f"/lmnb/render{path}", body, timeout=_SILENCE)

    def identify(self, model: str) -> Json:
        """Which model a name means: the fields of `lmnb.server.identities.Identity`. Loads nothing."""
        body = {"model": _absolute(model)}
        return self._call("POST", "/lmnb/identify", body, timeout=_READING)

    def answers(
        self,
        path: str,
        bodies: Sequence[Json],
        *,
        concurrency: int | None = None,
        timeout: float | None = None,
    ) -> Generator[Json, None, None]:
        """Send many requests to one of `/v1/…`, at low priority; the answers as they come.

        Yields `{"number", "status", "body"}`, `number` being the place in `bodies`. The server has as
        many under way as the model computes together, at most `concurrency`. One that takes longer
        than `timeout` seconds is answered with status 408. Leaving the iterator stops them all.
        """
        body = {"path": path, "bodies": bodies, "concurrency": concurrency, "timeout": timeout}
        with closing(self._stream("/lmnb/answers", body)) as events:
            for event in events:
                if event["type"] == "answer":
                    yield event

    def pdf(self, path: Path) -> list[str]:
        """The text of a PDF file, page by page; "" for a page without any."""
        body = {"path": str(path.absolute())}
        pages: list[str] = self._call("POST", "/lmnb/pdf", body, timeout=_READING)["pages"]
        return pages

    def chunks(
        self, model: str, texts: Sequence[str], size: int, *, overlap: int = 0, unit: str = "tokens"
    ) -> Generator[Json, None, None]:
        """Cut texts into chunks of at most `size` of the model's tokens (or characters).

        Yields `{"first", "spans"}`: for each text from number `first` on its chunks, each of them
        `[start, end, tokens]` in characters; and `done`. Loads nothing.
        """
        body = {"model": _absolute(model), "texts": texts, "size": size}
        return self._stream("/lmnb/chunks", body | {"overlap": overlap, "unit": unit})

    def counts(self, model: str, texts: Sequence[str]) -> Generator[Json, None, None]:
        """Count the model's tokens in texts: yields `{"first", "tokens"}`, and `done`."""
        return self._stream("/lmnb/counts", {"model": _absolute(model), "texts": texts})

    def unload(
        self,
        name: str | None = None,
        *,
        all: bool = False,  # noqa: A002
        wait: bool = False,
    ) -> list[str]:
        """Unload one instance, or `all`; the ids of what was unloaded.

        What they are answering ends with an error; with `wait` it is answered first.
        """
        body = {"instance_id": name, "all": all, "wait": wait}
        found: list[str] = self._call("POST", "/lmnb/unload", body)["unloaded"]
        return found

    # --- endpoints ------------------------------------------------------------

    def connect(
        self,
        url: str,
        *,
        name: str | None = None,
        key_env: str | None = None,
        save_key: bool = False,
    ) -> Json:
        """Add another OpenAI-compatible server, whose models are `name/model` from now on.

        The fields of a row of `endpoints`. `key_env` is the variable with its API key, looked for
        in the server's environment and in this process's; `save_key` keeps it on disk.

        Raises
        ------
        EndpointFailed, InvalidRequest, ConfigError
            It does not answer, is this server itself, or there is no key.
        """
        body = {"url": url, "name": name, "key_env": key_env, "save_key": save_key}
        key = os.environ.get(key_env) if key_env else None
        return self._call("POST", "/lmnb/endpoints", body | {"key": key or None})

    def disconnect(self, name: str) -> Json:
        """Forget an endpoint; its last row."""
        return self._call("DELETE", "/lmnb/endpoints", params={"name": name})

    def endpoints(self) -> list[Json]:
        """The endpoints: `{name, url, state, error, active, answered, failed, models, …}`."""
        found: list[Json] = self._call("GET", "/lmnb/endpoints")["endpoints"]
        return found

    # --- listening ------------------------------------------------------------

    def serve(
        self,
        host: str | None = None,
        port: int | None = None,
        *,
        require_auth: bool | None = None,
        allow_open: bool = False,
    ) -> Json:
        """Listen on TCP; None is what this process's settings say (127.0.0.1, 1234, no tokens).

        Returns `{url, network_url, host, port, require_auth, opened, warnings}`. `opened` is false
        if it listened there already.
        """
        # Here, as it takes 0.2 s to import.
        from lmnb.config import load_settings

        settings = load_settings(self.home)
        body = {
            "host": settings.host if host is None else host,
            "port": settings.port if port is None else port,
            "require_auth": settings.require_auth if require_auth is None else require_auth,
            "allow_open": allow_open,
        }
        return self._call("POST", "/lmnb/listener", body)

    def stop_serving(self) -> bool:
        """Close the TCP listener; whether it was open. Models stay loaded."""
        closed: bool = self._call("DELETE", "/lmnb/listener")["closed"]
        return closed

    def mcp(self) -> list[Json]:
        """The servers of `mcp.json`, which are started for it: `lmnb.server.mcp.listing.Listed`."""
        found: list[Json] = self._call("GET", "/lmnb/mcp")["servers"]
        return found

    def add_mcp(self, name: str, entry: Json, *, replace: bool = False) -> None:
        """Add a server to `mcp.json`; `entry` is what stands there."""
        self._call("POST", "/lmnb/mcp", {"name": name, "entry": entry, "replace": replace})

    def remove_mcp(self, name: str) -> None:
        """Take a server out of `mcp.json`, and forget the login to it."""
        self._call("DELETE", "/lmnb/mcp", params={"name": name})

    def log_in_mcp(self, name: str) -> Iterator[Json]:
        """Log in to a server of `mcp.json`. Leaving the iterator gives up.

        Yields `{"type": "url", "url"}`, which the user has to open in a browser of this machine,
        and `done` once that has led to a login. A browser of another machine ends on a page that it
        cannot open, whose address `redirect_mcp` takes.
        """
        return self._stream("/lmnb/mcp/login", {"name": name})

    def redirect_mcp(self, name: str, url: str) -> None:
        """Go on with a login; see `log_in_mcp`."""
        self._call("POST", "/lmnb/mcp/redirect", {"name": name, "url": url})

    def log_out_mcp(self, name: str) -> bool:
        """Forget the login to a server; whether there was one."""
        found: bool = self._call("POST", "/lmnb/mcp/logout", {"name": name})["was_logged_in"]
        return found

    def settings(self) -> list[Json]:
        """The server's settings, in order: `lmnb.config.Setting`."""
        found: list[Json] = self._call("GET", "/lmnb/settings")["settings"]
        return found

    def change_setting(self, name: str, value: Any) -> Json:
        """Set one of them (None: back to the default); the setting, and `warnings`."""
        return self._call("PATCH", "/lmnb/settings", {"name": name, "value": value})

    def tokens(self) -> list[Json]:
        """The API tokens: `{id, name, created_at, permissions}`; see `lmnb.server.tokens`."""
        found: list[Json] = self._call("GET", "/lmnb/tokens")["tokens"]
        return found

    def create_token(self, name: str, permissions: list[str] | None = None) -> Json:
        """A new API token, with `token`, its secret text, which is never shown again."""
        return self._call("POST", "/lmnb/tokens", {"name": name, "permissions": permissions})

    def edit_token(
        self, name: str, *, new_name: str | None = None, permissions: list[str] | None = None
    ) -> Json:
        """Change the token of that name or id; what is None stays as it is."""
        body = {"new_name": new_name, "permissions": permissions}
        return self._call("PATCH", "/lmnb/tokens", body, params={"name": name})

    def remove_token(self, name: str) -> Json:
        """Remove the token of that name or id."""
        return self._call("DELETE", "/lmnb/tokens", params={"name": name})

    # --- requests -------------------------------------------------------------

    def _call(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        params: Json | None = None,
        timeout: float | None = None,
    ) -> Json:
        limit = httpx2.USE_CLIENT_DEFAULT if timeout is None else httpx2.Timeout(timeout)
        with _reaching(self.home):
            response = self.http.request(method, path, json=body, params=params, timeout=limit)
            return _checked(response)

    def _stream(
        self, path: str, body: Json | None = None, *, params: Json | None = None
    ) -> Generator[Json, None, None]:
        """The events of a POST, or a GET if there is no `body`, until `done`."""
        method = "GET" if body is None else "POST"
        limit = httpx2.Timeout(_ANSWER, read=_SILENCE)
        with (
            _reaching(self.home),
            self.http.stream(method, path, json=body, params=params, timeout=limit) as response,
        ):
            if response.is_error:
                response.read()
                _checked(response)
            for event in httpx2.EventSource(response):
                data: Any = event.json()
                if event.event == "error":
                    raise LmnbError.from_dict(data)
                yield {**data, "type": event.event}
                if event.event == "done":
                    return
        raise ServerError("The server ended before it was done.", hint=see_log(self.home))


def _wait_for_end(home: Path, pid: int) -> None:
    """The server drops its lock with its last breath; nothing is left of it then."""
    lock = runtime.server_lock(home)
    if not lock.acquire(30.0):
        raise ServerError(
            f"The lmnb server (process {pid}) did not end.", hint=f"End it with `kill -9 {pid}`."
        )
    lock.release()


@contextmanager
def _reaching(home: Path) -> Iterator[None]:
    try:
        yield
    except httpx2.TimeoutException as error:
        raise ServerError("The lmnb server does not answer.", hint=see_log(home)) from error
    except httpx2.HTTPError as error:
        raise ServerError("The connection to the lmnb server broke.", hint=see_log(home)) from error


def _checked(response: httpx2.Response) -> Json:
    data: Any = response.json()
    if response.is_error:
        raise LmnbError.from_dict(data["error"])
    return dict(data)


def _given(params: Json) -> Json:
    return {name: value for name, value in params.items() if value is not None}


def _options(given: Json) -> Json:
    """The options of a load, with paths that mean the same to the server."""
    paths: Json = {}
    if (projector := given.get("projector")) not in {None, "none"}:
        paths["projector"] = str(Path(projector).expanduser().absolute())
    if (adapters := given.get("adapters")) is not None:
        paths["adapters"] = [
            {**adapter, "path": str(Path(adapter["path"]).expanduser().absolute())}
            for adapter in adapters
        ]
    return given | paths


def _absolute(model: str | None) -> str | None:
    """A path as the server can use it: its working folder is another."""
    if model is None:
        return None
    path = Path(model).expanduser()
    is_file = model.lower().endswith(".gguf") and path.is_file()
    return str(path.absolute()) if is_file or model.startswith((".", "~")) else model


def _absolute_file(model: str | None) -> str | None:
    """As `_absolute`; a file that does not exist is missed in the caller's folder, too."""
    # As the server tells files from repositories: owner/name/file.gguf is in one.
    if model and model.lower().endswith(".gguf") and model.count("/") < 2:
        return os.path.abspath(os.path.expanduser(model))  # noqa: PTH100, PTH111 - ~nobody is no error
    return _absolute(model)


def see_log(home: Path) -> str:
    return f"Its log is {runtime.log_path(home)}."
