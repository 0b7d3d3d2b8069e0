"""Every failure a user of lmnb can meet: a message, a hint, a stable code.

The tree is deliberately flat and serialisable: an error raised in a worker
travels to the server, from there to a client in the client's own protocol,
and in a notebook it becomes one line and a hint. `code` never changes once
released; `status` is the HTTP status it maps to. Statuses of 500 and above
invite clients to retry, so deterministic failures are 4xx.
"""

from __future__ import annotations

from typing import Any, ClassVar


class LmnbError(Exception):
    """Base of all lmnb errors.

    Parameters
    ----------
    message
        What is wrong, in the caller's own terms. One sentence.
    hint
        What to do about it, if anything. One sentence or one command.
    param
        The request field that is at fault, if one is.
    """

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, hint: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.param = param

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form that `from_dict` turns back into the same class."""
        extra = {k: v for k, v in vars(self).items() if k not in {"message", "hint", "param"}}
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "param": self.param,
            "extra": extra,
        }

    @staticmethod
    def from_dict(data: dict[str, Any]) -> LmnbError:
        """The error that `to_dict` described; an unknown code becomes `LmnbError`."""
        cls = _by_code().get(data.get("code", ""), LmnbError)
        error = cls.__new__(cls)
        LmnbError.__init__(error, data["message"], hint=data.get("hint"), param=data.get("param"))
        vars(error).update(data.get("extra") or {})
        return error


class InvalidRequest(LmnbError):
    """The request is malformed, or asks for something that cannot be."""

    code = "invalid_request"
    status = 400


class NotSupported(InvalidRequest):
    """The request is well-formed but asks for a feature lmnb or the model lacks."""

    code = "not_supported"


class ContextOverflow(InvalidRequest):
    """The prompt does not fit the context of the loaded model."""

    code = "context_length_exceeded"

    def __init__(self, prompt_tokens: int, context_length: int) -> None:
        super().__init__(
            f"The prompt has {prompt_tokens} tokens, but the model is loaded with a context of "
            f"{context_length} tokens.",
            hint="Shorten the prompt, or load the model with a larger context_length.",
        )
        self.prompt_tokens = prompt_tokens
        self.context_length = context_length


class ModelNotFound(LmnbError):
    """No model of that name is downloaded (or, where it matters, loaded)."""

    code = "model_not_found"
    status = 404


class NotFound(LmnbError):
    """Something other than a model (a stored response, a route) does not exist."""

    code = "not_found"
    status = 404


class InvalidModel(LmnbError):
    """The file is not a model that can be loaded: damaged, or of an unknown kind."""

    code = "invalid_model"
    status = 400


class ModelLoadFailed(LmnbError):
    """A readable model could not be loaded, for want of memory for example."""

    code = "model_load_failed"
    status = 400


class EngineCrashed(LmnbError):
    """The worker process died while it was needed. The next request loads the model again.

    `suspect` tells whether the process died while it was computing this very request, rather than
    while the request waited or was between two of its steps. None: the process is alive, only the
    request could not be computed.
    """

    code = "engine_crashed"
    status = 500
    suspect: bool | None = None


class EngineStuck(EngineCrashed):
    """A forward pass took so much longer than expected that it was given up."""

    code = "engine_stuck"


class KeepsCrashing(ModelLoadFailed):
    """The model's process crashed several times without answering anything: it rests for a while."""

    code = "model_keeps_crashing"


class NumericError(LmnbError):
    """The model computed values that are not numbers."""

    code = "numeric_error"
    status = 500


class ModelUnloaded(LmnbError):
    """The model was unloaded while the request was running or waiting."""

    code = "model_unloaded"
    status = 409


class Cancelled(LmnbError):
    """The operation was cancelled by the user or by a client that went away."""

    code = "cancelled"
    status = 499


class Unauthorized(LmnbError):
    """A token is required and none, or a wrong one, was given."""

    code = "invalid_api_key"
    status = 401


class Forbidden(LmnbError):
    """The caller is known but may not do this."""

    code = "forbidden"
    status = 403


class DownloadFailed(LmnbError):
    """A model could not be fetched."""

    code = "download_failed"
    status = 400


class ChecksumMismatch(DownloadFailed):
    """What was downloaded is not what was pinned; nothing was kept."""

    code = "checksum_mismatch"


class NoSpace(DownloadFailed):
    """The disk has too little room."""

    code = "no_space"


class NoNetwork(DownloadFailed):
    """The source could not be reached."""

    code = "no_network"


class GatedRepository(DownloadFailed):
    """The repository asks for a login or for accepted terms."""

    code = "gated_repository"


class ConfigError(LmnbError):
    """A setting has a value that cannot be used."""

    code = "config_error"
    status = 400


class PortInUse(LmnbError):
    """Another program listens on the port."""

    code = "port_in_use"
    status = 409


class EndpointFailed(LmnbError):
    """A remote endpoint could not be reached, broke off, or answered nonsense."""

    code = "endpoint_failed"
    status = 502


class EndpointBusy(EndpointFailed):
    """A remote endpoint has too much to do, or too many requests of ours.

    `retry_after`: the seconds after which it wants to be asked again, if it says.
    """

    code = "endpoint_busy"
    status = 429
    retry_after: float | None = None


class EndpointLoop(EndpointFailed):
    """A request came back to the server that had sent it on."""

    code = "endpoint_loop"
    status = 508


class ServerError(LmnbError):
    """The lmnb server could not be started or reached."""

    code = "server_error"
    status = 503


class ServerMismatch(ServerError):
    """A busy server of another version or interpreter is running."""

    code = "server_mismatch"


def _by_code() -> dict[str, type[LmnbError]]:
    found: dict[str, type[LmnbError]] = {}
    pending: list[type[LmnbError]] = [LmnbError]
    while pending:
        cls = pending.pop()
        found[cls.code] = cls
        pending.extend(cls.__subclasses__())
    return found
