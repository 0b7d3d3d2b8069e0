"""Errors in the caller's own protocol: envelope, status, headers.

The protocol is that of the path: `/v1/messages*` is Anthropic's, `/api/*` LM Studio's (but
`/api/v0/*` speaks OpenAI's), `/lmnb/*` the control API, everything else OpenAI's. A request
with an `anthropic-version` header is Anthropic's wherever it goes.

Both SDK families retry 408, 409, 429 and everything from 500 on unless `x-should-retry` says
otherwise, and Claude Code does so ten times. What fails here fails again (a crash of llama.cpp,
a model that was unloaded on purpose), so only 429, 503 and 529 are left to be retried.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmnb.errors import (
    ContextOverflow,
    Forbidden,
    InvalidRequest,
    LmnbError,
    ModelNotFound,
    NotFound,
    NotSupported,
    Unauthorized,
)
from lmnb.server import notes

logger = logging.getLogger(__name__)

Protocol: TypeAlias = Literal["openai", "anthropic", "lmstudio", "control"]
REQUEST_ID = "lmnb.request_id"
"""Key of the request's id in the ASGI scope."""
ERROR = "lmnb.error"
"""Key in the ASGI scope of the code of the error that was answered."""
STREAM_ERROR = "lmnb.stream_error"
"""Key in the ASGI scope of what turns an error into frames of the stream that is being sent."""

_RETRIED_BY_SDKS = {408, 409, 429, *range(500, 600)}
_WORTH_RETRYING = {429, 503, 529}
_RETRY_AFTER = "2"
"""Seconds. What is busy here is so for a moment; Claude Code gives up where it is more than 60."""


class MethodNotAllowed(InvalidRequest):
    """The path exists, but not for this HTTP method."""

    code = "method_not_allowed"
    status = 405


class PayloadTooLarge(InvalidRequest):
    """The body is larger than the server accepts."""

    code = "request_too_large"
    status = 413


class DiskFull(LmnbError):
    """What was sent cannot be kept: the disk has no room for it."""

    code = "disk_full"
    status = 507


class InvalidJson(InvalidRequest):
    """The body is not JSON, or not a JSON object."""

    code = "invalid_json"


class MissingParameter(InvalidRequest):
    """A required field is absent or null."""

    code = "missing_required_parameter"


class InvalidType(InvalidRequest):
    """A field has a value of the wrong type."""

    code = "invalid_type"


class InvalidValue(InvalidRequest):
    """A field has the right type and an impossible value."""

    code = "invalid_value"


class UnknownField(InvalidRequest):
    """The request has a field that means nothing, in a protocol that forbids such fields."""

    code = "unrecognized_keys"


class ThreadUnsupported(NotSupported):
    """The conversation is to be held by the server, under the id of an answer (Anthropic, beta).

    By this code Anthropic's SDKs know that they have to send the whole conversation instead. Their
    tool runners begin with a thread, and go on without one.
    """

    code = "thread_unsupported_request"


def protocol_of(scope: Scope) -> Protocol:
    """The protocol in which a request expects its errors."""
    path = scope["path"]
    if path.removeprefix("/v1").removeprefix("/v1").startswith("/messages"):
        return "anthropic"
    if path.startswith("/lmnb/"):
        return "control"
    if path.startswith("/api/"):
        return "openai" if path.startswith("/api/v0") else "lmstudio"
    if "anthropic-version" in Headers(scope=scope):
        return "anthropic"
    return "openai"


# --- bodies ---------------------------------------------------------------------

_ANTHROPIC_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def anthropic_body(error: LmnbError, request_id: str | None = None) -> dict[str, Any]:
    """Anthropic's error, as the body of a response and as the data of an `error` event.

    Clients act on two messages, so these are literal: that of a prompt that is too long (Claude
    Code compacts, opencode too), and that of a wrong key.
    """
    default = "api_error" if error.status >= 500 else "invalid_request_error"
    message = str(error)
    if isinstance(error, ContextOverflow):
        message = (
            f"prompt is too long: {error.prompt_tokens} tokens > {error.context_length} maximum"
        )
    elif isinstance(error, ModelNotFound):
        message = f"model: {error}"
    elif isinstance(error, Unauthorized):
        message = "invalid x-api-key"
    body: dict[str, Any] = {
        "type": "error",
        "error": {"type": _ANTHROPIC_TYPES.get(error.status, default), "message": message},
    }
    if isinstance(error, ThreadUnsupported):
        body["error"]["details"] = {"error_code": error.code, "unsupported": []}
    if request_id is not None:
        body["request_id"] = request_id
    return body


_OPENAI_CODES: dict[type[LmnbError], str | None] = {
    InvalidRequest: None,
    NotSupported: "unsupported_parameter",
    Forbidden: "insufficient_permissions",
    NotFound: "not_found",
}


def openai_body(error: LmnbError) -> dict[str, Any]:
    """OpenAI's error, as the body of a response and as the data of an SSE chunk."""
    kind = "invalid_request_error"
    if error.status == 429:
        kind = "rate_limit_error"
    elif error.status >= 500:
        kind = "server_error"
    param = error.param
    if param is None and isinstance(error, ModelNotFound):
        param = "model"
    code = _OPENAI_CODES.get(type(error), error.code)
    return {"error": {"message": str(error), "type": kind, "param": param, "code": code}}


def lmstudio_body(error: LmnbError) -> dict[str, Any]:
    """LM Studio's error. Its types: docs, REST API, streaming events, `error`."""
    if isinstance(error, ModelNotFound):
        kind = "model_not_found"
    elif isinstance(error, NotSupported):
        kind = "not_implemented"
    elif error.code in {"mcp_connection_error", "job_not_found"}:
        kind = error.code
    elif error.status < 500:
        kind = "invalid_request"
    else:
        kind = "internal_error"
    body: dict[str, Any] = {"type": kind, "message": str(error)}
    if type(error) is not InvalidRequest:
        body["code"] = error.code
    if error.param is not None:
        body["param"] = error.param
    return {"error": body}


def error_body(error: LmnbError, protocol: Protocol, request_id: str | None) -> dict[str, Any]:
    """The error in `protocol`'s envelope."""
    if protocol == "anthropic":
        return anthropic_body(error, request_id)
    if protocol == "lmstudio":
        return lmstudio_body(error)
    if protocol == "control":
        return {"error": error.to_dict()}
    return openai_body(error)


# --- responses ------------------------------------------------------------------


def retry_headers(error: LmnbError) -> dict[str, str]:
    """`x-should-retry` where an SDK would retry in vain, `retry-after` where it would not."""
    if error.status in _WORTH_RETRYING:
        return {"retry-after": _RETRY_AFTER}
    if error.status in _RETRIED_BY_SDKS:
        return {"x-should-retry": "false"}
    return {}


def error_response(scope: Scope, error: LmnbError) -> Response:
    """The answer to a request that failed before its answer began."""
    identifier = scope.setdefault(REQUEST_ID, new_request_id())
    scope[ERROR] = error.code
    return Response(
        msgspec.json.encode(error_body(error, protocol_of(scope), identifier)),
        status_code=error.status,
        media_type="application/json",
        headers=retry_headers(error) | {"request-id": identifier, "x-request-id": identifier},
    )


def stream_error(scope: Scope, error: LmnbError) -> bytes:
    """The frames that end a stream which is being sent to `scope`'s client, because of `error`."""
    scope[ERROR] = error.code
    known: Callable[[LmnbError], bytes] | None = scope.get(STREAM_ERROR)
    if known is not None:
        return known(error)
    body = msgspec.json.encode(error_body(error, protocol_of(scope), scope.get(REQUEST_ID)))
    return b"event: error\ndata: %b\n\n" % body


def request_id(request: Request) -> str:
    """The id that goes with every answer: `req_` and 24 hexadecimal digits."""
    found: str = request.scope.get(REQUEST_ID) or new_request_id()
    return found


def new_request_id() -> str:
    """A fresh request id."""
    return f"req_{secrets.token_hex(12)}"


# --- installation ---------------------------------------------------------------


def install(app: FastAPI) -> None:
    """Give `app` request ids and errors in its callers' protocols."""
    app.add_exception_handler(LmnbError, _on_lmnb_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RecursionError, _on_recursion)
    app.add_middleware(RequestContext)


async def _on_lmnb_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, LmnbError)
    return error_response(request.scope, error)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(step) for step in first["loc"][1:])
    found = InvalidRequest(f"{param or 'body'}: {first['msg']}.", param=param or None)
    return error_response(request.scope, found)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_response(request.scope, _from_http(request, error))


async def _on_recursion(request: Request, error: Exception) -> Response:
    """Only what callers send is walked to whatever depth it has: messages, schemas, items."""
    logger.warning("%s is nested too deeply", request.url.path, exc_info=error)
    return error_response(request.scope, InvalidRequest("The request is nested too deeply."))


def _from_http(request: Request, error: HTTPException) -> LmnbError:
    where = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return NotFound(f"There is no {where}.")
    if error.status_code == 405:
        return MethodNotAllowed(f"{where} is not allowed.")
    if error.status_code == 401:
        return Unauthorized(str(error.detail))
    if error.status_code == 403:
        return Forbidden(str(error.detail))
    if error.status_code == 413:
        return PayloadTooLarge(str(error.detail))
    return (LmnbError if error.status_code >= 500 else InvalidRequest)(str(error.detail))


class RequestContext:
    """Pure ASGI: gives each request an id, tells what was left out of it (`lmnb.server.notes`), and
    answers what nobody caught with a plain 500.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identifier = scope.setdefault(REQUEST_ID, new_request_id())
        noted = notes.collect()
        begun = time.perf_counter()
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(raw=message["headers"])
                headers["request-id"] = headers["x-request-id"] = identifier
                elapsed = (time.perf_counter() - begun) * 1e3
                headers["openai-processing-ms"] = str(round(elapsed))
                if noted:
                    headers[notes.HEADER] = notes.header(noted)
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            logger.exception("%s %s failed (%s)", scope["method"], scope["path"], identifier)
            if started:  # nothing more can be said than to break the connection
                raise
            failed = LmnbError(
                "The server failed to answer because of a fault of its own.",
                hint=f"The log has the details under {identifier}.",
            )
            await error_response(scope, failed)(scope, receive, send_with_id)
