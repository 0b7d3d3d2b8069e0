"""The two apps on one state: the public protocols, and the control routes.

Public stands on the private socket and on TCP, control on the private socket
only. Middleware is plain ASGI; what stands before the app differs by listener
and is put there by `lmnb.server.tcp`.
"""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from lmnb import __version__
from lmnb.server import control, errors, metrics, openapi
from lmnb.server.anthropic import routes as anthropic
from lmnb.server.lmstudio import routes as lmstudio
from lmnb.server.openai import routes as openai
from lmnb.server.paths import TolerantPaths
from lmnb.server.remote.via import Via
from lmnb.server.state import State


def public_app(state: State) -> FastAPI:
    """The OpenAI, Anthropic and LM Studio protocols, and health."""
    app = _bare_app(state)
    errors.install(app)
    app.add_route("/", _root, methods=["GET"])
    app.add_route("/health", _health, methods=["GET"])
    app.add_route("/lmstudio-greeting", _greeting, methods=["GET"])
    app.add_route("/metrics", metrics.show, methods=["GET"])
    routers = (openai.router, anthropic.router, lmstudio.router)
    described = [route for route in app.routes if isinstance(route, Route)]
    app.add_route("/openapi.json", openapi.handler(routers, described), methods=["GET"])
    for router in routers:
        app.include_router(router)
    app.add_middleware(Via, id=state.id)
    app.add_middleware(metrics.Measured, metrics=state.metrics)
    app.add_middleware(TolerantPaths)
    return app


def control_app(state: State) -> FastAPI:
    """Everything under `/lmnb/`: what magics, widgets and the command line use."""
    app = _bare_app(state)
    errors.install(app)
    app.include_router(control.router)
    return app


class Dispatch:
    """ASGI app of the private socket: control under `/lmnb/`, public for the rest."""

    def __init__(self, public: ASGIApp, control: ASGIApp) -> None:
        self.public = public
        self.control = control

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.control if scope["path"].startswith("/lmnb/") else self.public
        await app(scope, receive, send)


def _bare_app(state: State) -> FastAPI:
    # No pages of FastAPI's: they would load scripts from elsewhere, and its description knows
    # nothing of handlers that read raw JSON leniently (see `lmnb.server.openapi`).
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.lmnb = state
    return app


async def _root(_request: Request) -> Response:
    """Claude Code opens its connection with `HEAD /` and expects 200."""
    return JSONResponse({"name": "lmnb", "version": __version__})


async def _health(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _greeting(_request: Request) -> Response:
    """By this LM Studio's SDKs recognise a server."""
    return JSONResponse({"lmstudio": True})
