"""What every request handler may reach: one value, made when the process starts."""

from __future__ import annotations

import asyncio
import copy
import time
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp

from lmnb.chat.documents.reader import Reader
from lmnb.chat.rendering.renderer import Renderer
from lmnb.config import Settings
from lmnb.models.catalog import Catalog
from lmnb.models.instances import Manager
from lmnb.models.remote.endpoints import Endpoints
from lmnb.server.background import Background
from lmnb.server.batches.runner import Runner
from lmnb.server.conversations import ConversationStore
from lmnb.server.database import Database
from lmnb.server.devices import Devices
from lmnb.server.digests import Digests
from lmnb.server.downloads import Downloads
from lmnb.server.files import Files
from lmnb.server.journal import Journal
from lmnb.server.mcp.login import Desk
from lmnb.server.mcp.logins import Logins
from lmnb.server.mcp.pool import Pool
from lmnb.server.metrics import Metrics
from lmnb.server.store import ResponseStore
from lmnb.server.tcp import TCPControl
from lmnb.server.tokens import Tokens
from lmnb.server.tracking import Activity

_LOW = 1
_SLOTS = 4
"""Requests computed together by a model that is not loaded yet: the engine's default."""
_POOLED = ("/v1/embeddings", "/v1/rerank")


@dataclass(kw_only=True)
class State:
    """The server's state. Handlers get it by `state_of(request)`.

    id
        What other servers know this one by, as long as it runs; see `lmnb.server.remote.via`.
    identity
        What `lmnb.runtime.identity` said when the process started.
    endpoints
        Other servers whose models are used like those here.
    stopping
        Set when the process is to end; who sets it need not wait.
    started_at
        Seconds since the epoch.
    responses
        Stored answers, which later requests continue.
    metrics
        What has been done so far, for `/metrics`.
    journal
        Records each request, for the log.
    conversations
        Stored conversations, to which responses are added.
    background
        Answers that are made without their client.
    downloads
        Models that are being fetched, or were.
    mcp
        MCP servers that are kept running.
    mcp_logins, mcp_desk
        Logins to them, and where they are made.
    renderer
        Renders chat templates, in a process of its own.
    files
        Uploaded files and those that batches write.
    batches
        Runs batches; set once there are the protocols that they are in.
    priority
        That of the requests in the engine: lower values go first.
    documents
        Reads documents, PDFs in a process of their own each.
    digests
        The digests of models' files.
    low
        The public app at low priority: everybody else's requests go before those sent to it. Set
        once the server runs.
    """

    settings: Settings
    id: str
    catalog: Catalog
    models: Manager
    endpoints: Endpoints
    database: Database
    tokens: Tokens
    journal: Journal
    tcp: TCPControl
    devices: Devices
    identity: dict[str, str]
    activity: Activity
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    started_at: float = field(default_factory=time.time)
    responses: ResponseStore = field(init=False)
    metrics: Metrics = field(init=False)
    conversations: ConversationStore = field(init=False)
    downloads: Downloads = field(init=False)
    background: Background = field(init=False)
    mcp: Pool = field(init=False)
    mcp_logins: Logins = field(init=False)
    mcp_desk: Desk = field(init=False)
    renderer: Renderer = field(default_factory=Renderer)
    files: Files = field(init=False)
    batches: Runner = field(init=False)
    priority: int = 0
    documents: Reader = field(default_factory=Reader)
    digests: Digests = field(init=False)
    low: ASGIApp = field(init=False)

    def __post_init__(self) -> None:
        self.mcp_logins = Logins(self.home)
        self.mcp_desk = Desk(self.mcp_logins)
        self.mcp = Pool(logins=self.mcp_logins)
        self.responses = ResponseStore(self.database)
        self.metrics = Metrics(self.models.loaded, lambda: self.endpoints.links)
        self.files = Files(self.database, self.home / "files")
        self.downloads = Downloads(
            self.database, self.home, lambda: self.settings.parallel_downloads
        )
        self.conversations = ConversationStore(self.database)
        self.background = Background(self.activity)
        self.digests = Digests(self.database)

    @property
    def home(self) -> Path:
        """`$LMNB_HOME`."""
        return self.settings.home

    @property
    def busy(self) -> bool:
        """Whether ending now would take something from somebody."""
        models = self.models.loaded() or self.models.loading()
        return bool(
            self.activity.active
            or models
            or self.tcp.info
            or self.batches.busy
            or self.downloads.busy
        )

    def slots(self, path: str) -> int:
        """How many requests to a path the loaded models of the needed kind compute together."""
        kind = "embedding" if path in _POOLED else "llm"
        loaded = [one for one in self.models.loaded() if one.entry.kind == kind]
        return max((one.config.parallel or 1 for one in loaded), default=_SLOTS)

    def at_low_priority(self) -> State:
        """The same state, for requests that everybody else's go before."""
        low = copy.copy(self)
        low.priority = _LOW
        return low


def state_of(request: HTTPConnection) -> State:
    """The state that the app serving `request` stands on."""
    state: State = request.app.state.lmnb
    return state
