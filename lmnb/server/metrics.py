"""`/metrics`: what the server does, in Prometheus' text format."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmnb.chat.events import Finished
from lmnb.models.instance import Instance
from lmnb.models.remote.link import Link
from lmnb.server.route import route_of

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKENS_PER_SECOND = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """All counters of one server. Labels are routes and identifiers of models, never what was said.

    Names follow Prometheus' rules: base units, `_total` for counters.
    """

    def __init__(
        self, loaded: Callable[[], Iterable[Instance]], links: Callable[[], Iterable[Link]]
    ) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "lmnb_requests",
            "Requests that have been answered; status 0 is a client that left before.",
            ("method", "route", "status"),
            registry=registry,
        )
        self.request_seconds = Histogram(
            "lmnb_request_seconds",
            "From a request to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._answers = Counter(
            "lmnb_answers", "Answers, by what ended them.", ("model", "reason"), registry=registry
        )
        self._tokens = Counter(
            "lmnb_tokens",
            "Tokens: input (cached ones included), cached, output (reasoning included), reasoning, "
            "drafted and accepted (speculation), embedded.",
            ("model", "kind"),
            registry=registry,
        )
        self._first_token = Histogram(
            "lmnb_first_token_seconds",
            "From arrival at the engine to the first token.",
            ("model",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._queue = Histogram(
            "lmnb_queue_seconds",
            "From arrival at the engine to the beginning of work.",
            ("model",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._speed = Histogram(
            "lmnb_tokens_per_second",
            "Speed of an answer after its first token.",
            ("model",),
            buckets=_TOKENS_PER_SECOND,
            registry=registry,
        )
        self._endpoints = Counter(
            "lmnb_endpoint_requests",
            "Requests sent to an endpoint, by what became of them: answered, refused (the request "
            "was at fault), failed (the endpoint was), left (by its client).",
            ("endpoint", "outcome"),
            registry=registry,
        )
        ProcessCollector(registry=registry)
        registry.register(_Instances(loaded))
        registry.register(_Links(links))

    def answered(self, finished: Finished) -> None:
        """Count an answer."""
        model, usage, timings = finished.instance, finished.usage, finished.timings
        self._answers.labels(model, finished.reason).inc()
        for kind in ("input", "cached", "output", "reasoning", "drafted", "accepted"):
            self._tokens.labels(model, kind).inc(getattr(usage, kind))
        self._first_token.labels(model).observe(timings.first_token)
        self._queue.labels(model).observe(timings.queue)
        if speed := timings.tokens_per_second(usage.output):
            self._speed.labels(model).observe(speed)

    def embedded(self, model: str, tokens: int) -> None:
        """Count tokens that were embedded or scored."""
        self._tokens.labels(model, "embedded").inc(tokens)

    def endpoint(self, name: str, outcome: str) -> None:
        """Count a request to an endpoint."""
        self._endpoints.labels(name, outcome).inc()

    def text(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self._registry)


class _Instances(Collector):
    """Gauges of the loaded models, read when somebody looks."""

    def __init__(self, loaded: Callable[[], Iterable[Instance]]) -> None:
        self._loaded = loaded

    def collect(self) -> Iterator[Metric]:
        """One sample a loaded model in each family."""
        label = ["model"]
        active = GaugeMetricFamily("lmnb_model_active_requests", "Requests using it.", labels=label)
        memory = GaugeMetricFamily("lmnb_model_memory_bytes", "Memory it takes.", labels=label)
        load = GaugeMetricFamily(
            "lmnb_model_load_seconds", "How long it took to load.", labels=label
        )
        for instance in self._loaded():
            active.add_metric([instance.id], instance.active)
            memory.add_metric([instance.id], instance.worker.memory)
            load.add_metric([instance.id], instance.load_seconds)
        yield from (active, memory, load)


class _Links(Collector):
    """Gauges of the endpoints, read when somebody looks."""

    def __init__(self, links: Callable[[], Iterable[Link]]) -> None:
        self._links = links

    def collect(self) -> Iterator[Metric]:
        """One sample an endpoint in each family."""
        label = ["endpoint"]
        active = GaugeMetricFamily(
            "lmnb_endpoint_active_requests", "Requests it is answering.", labels=label
        )
        usable = GaugeMetricFamily(
            "lmnb_endpoint_up", "1 unless it is left out because it fails.", labels=label
        )
        for link in self._links():
            active.add_metric([link.name], link.active)
            usable.add_metric([link.name], link.cooldown.circuit != "open")
        yield from (active, usable)


class Measured:
    """ASGI: counts the requests of an app, by route."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        status = 0

        async def send_counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_counted)
        finally:
            route = route_of(scope) or "unknown"
            self._metrics.requests.labels(scope["method"], route, status).inc()
            self._metrics.request_seconds.labels(route).observe(time.perf_counter() - begun)


async def show(request: Request) -> Response:
    """`GET /metrics`."""
    metrics: Metrics = request.app.state.lmnb.metrics
    return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)
