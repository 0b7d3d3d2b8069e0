"""`GET /openapi.json`: what the server takes and answers, made from the types that do it.

Every public route is in it, since it is made from the routes; those in `_KNOWN` with their types.
What is said of bodies is what is read: fields that are not listed are accepted and ignored
(protocols, 1.2), and null stands for "not given".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any, NamedTuple

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lmnb import __version__
from lmnb.server.anthropic import schema as messages
from lmnb.server.errors import protocol_of
from lmnb.server.lmstudio import schema as native
from lmnb.server.openai.chat_answer import ChatCompletion
from lmnb.server.openai.chat_request import ChatBody
from lmnb.server.openai.completions_answer import Completion
from lmnb.server.openai.completions_request import CompletionsBody
from lmnb.server.openai.embeddings import EmbeddingsBody
from lmnb.server.openai.models import ModelCard, ModelList
from lmnb.server.openai.rerank import RerankBody, RerankList
from lmnb.server.openai.responses_request import ResponsesBody


class Known(NamedTuple):
    """What a route reads and answers. `streams`: with `stream`, server-sent events."""

    body: Any = None
    answer: Any = None
    streams: bool = False


_CHAT = Known(ChatBody, ChatCompletion, streams=True)
_COMPLETIONS = Known(CompletionsBody, Completion, streams=True)
_KNOWN: dict[tuple[str, str], Known] = {
    ("get", "/v1/models"): Known(answer=ModelList),
    ("get", "/v1/models/{id}"): Known(answer=ModelCard),
    ("post", "/v1/chat/completions"): _CHAT,
    ("post", "/api/v0/chat/completions"): _CHAT,
    ("post", "/v1/chat/completions/input_tokens"): Known(ChatBody),
    ("post", "/v1/completions"): _COMPLETIONS,
    ("post", "/api/v0/completions"): _COMPLETIONS,
    ("post", "/api/v0/embeddings"): Known(EmbeddingsBody),
    ("post", "/v1/responses"): Known(ResponsesBody, streams=True),
    ("post", "/v1/embeddings"): Known(EmbeddingsBody),
    ("post", "/v1/rerank"): Known(RerankBody, RerankList),
    ("post", "/v2/rerank"): Known(RerankBody, RerankList),
    ("post", "/v1/messages"): Known(messages.MessagesBody, messages.Message, streams=True),
    ("post", "/v1/messages/count_tokens"): Known(messages.CountBody),
    ("post", "/api/v1/chat"): Known(native.ChatBody, native.ChatResult, streams=True),
    ("post", "/api/v1/models/load"): Known(native.LoadBody),
    ("post", "/api/v1/models/unload"): Known(native.UnloadBody),
    ("post", "/api/v1/models/download"): Known(native.DownloadBody),
}
_PLAIN_TEXT = {"/metrics"}
_REFERENCE = "#/components/schemas/"
_TEXT_OR_NULL: dict[str, Any] = {"type": ["string", "null"]}

_EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
}
"""A server-sent event, in OpenAPI 3.2's form. `data` is JSON, but for OpenAI's last one."""

_ERRORS: dict[str, dict[str, Any]] = {
    "openai": {
        "message": {"type": "string"},
        "type": {"type": "string"},
        "param": _TEXT_OR_NULL,
        "code": _TEXT_OR_NULL,
    },
    "anthropic": {"type": {"type": "string"}, "message": {"type": "string"}},
    "lmstudio": {"type": {"type": "string"}, "message": {"type": "string"}},
}
_STATUSES = {
    400: "The request is wrong; the message says what.",
    401: "A token is required.",
    403: "The caller may not do this.",
    404: "There is no such model, or thing.",
    405: "Not with this method.",
    409: "It is in another state.",
    413: "The body is too large.",
    415: "The body is compressed in an unknown way.",
    500: "The server, or a model's process, failed.",
    503: "The server is busy or ending: try again later.",
}


def handler(routers: Iterable[APIRouter], routes: Iterable[Route]) -> Any:
    """The route that shows the description of all these."""
    every = (*routes, *(route for router in routers for route in router.routes))

    @cache
    def text() -> bytes:
        return msgspec.json.encode(describe([one for one in every if isinstance(one, Route)]))

    async def show(_request: Request) -> Response:
        return Response(text(), media_type="application/json")

    return show


def describe(routes: Iterable[Route]) -> dict[str, Any]:
    """The OpenAPI document."""
    schemas, components = _schemas()
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)
        for method in sorted((route.methods or set()) - {"HEAD"}):
            known = _KNOWN.get((method.lower(), path), Known())
            operation = _operation(route, path, method.lower(), known, schemas)
            paths.setdefault(path, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "lmnb", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation(
    route: Route, path: str, method: str, known: Known, schemas: dict[Any, Any]
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": f"{method} {path}",
        "summary": (route.endpoint.__doc__ or path).strip().partition("\n")[0],
        "responses": dict(_responses(path, known, schemas)),
    }
    names = re.findall(r"\{(\w+)\}", path)
    if names:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in names
        ]
    if known.body is not None:
        content = {"application/json": {"schema": schemas[known.body]}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _responses(path: str, known: Known, schemas: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    kind = "text/plain" if path in _PLAIN_TEXT else "application/json"
    content = {kind: {"schema": schemas.get(known.answer, {})}}
    if known.streams:
        content["text/event-stream"] = {"schema": _EVENT}
    yield "200", {"description": "The answer.", "content": content}
    protocol = protocol_of({"type": "http", "path": path, "headers": []})
    error = {"$ref": f"{_REFERENCE}error.{protocol}"}
    for status, meaning in _STATUSES.items():
        yield (
            str(status),
            {
                "description": meaning,
                "content": {"application/json": {"schema": error}},
            },
        )


def _schemas() -> tuple[dict[Any, Any], dict[str, Any]]:
    """A schema of each type of `_KNOWN`, and what these refer to."""
    types = {one for known in _KNOWN.values() for one in (known.body, known.answer) if one}
    models = [one for one in types if issubclass(one, BaseModel)]
    structs = [one for one in types if not issubclass(one, BaseModel)]
    found, definitions = models_json_schema(
        [(model, "validation") for model in sorted(models, key=_name)],
        ref_template=f"{_REFERENCE}request.{{model}}",
    )
    schemas: dict[Any, Any] = {model: schema for (model, _), schema in found.items()}
    ordered = sorted(structs, key=_name)
    more, components = msgspec.json.schema_components(ordered, ref_template=_REFERENCE + "{name}")
    schemas |= dict(zip(ordered, more, strict=True))
    requests = definitions.get("$defs", {})
    components |= {f"request.{name}": one for name, one in requests.items()}
    return schemas, components | {f"error.{name}": _error(name) for name in _ERRORS}


def _error(protocol: str) -> dict[str, Any]:
    fields = _ERRORS[protocol]
    inner = {"type": "object", "required": list(fields), "properties": fields}
    return {"type": "object", "required": ["error"], "properties": {"error": inner}}


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
