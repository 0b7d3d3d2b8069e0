"""Requests that Dask's workers send, each to the lmnb server of its own machine.

A worker finds or starts the server of its `$LMNB_HOME`, as every program does. Models never travel: it
says which file it has of a model, and a run stops unless that is the file of whoever began it. What
travels are slices of the requests, and their answers. Dask gives the slices of a worker that is lost
to another; a slice counts when its answers are here, so that no row is lost and none comes twice.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from lmnb.attaching import attach
from lmnb.client import Client
from lmnb.errors import ConfigError, InvalidRequest, LmnbError, ModelNotFound, ServerError
from lmnb.frame.sending import Answer, Json, read, send

_MOST = 64
"""Texts of a slice: some batches of a model. What a lost worker was at is computed again."""
_SLICES = 4
"""Of a worker, at least, so that a quick one takes over from a slow one."""


def ask(
    executor: Any | None,
    client: Client,
    identity: Mapping[str, Any],
    path: str,
    bodies: Sequence[Json],
    **options: Any,
) -> Generator[Answer, None, None]:
    """The answers of this machine's server (`sending.send`) or, with an executor, of its workers'."""
    if executor is None:
        return send(client, path, bodies, **options)
    return spread(executor, identity, path, bodies, **options)


def spread(
    executor: Any, identity: Mapping[str, Any], path: str, bodies: Sequence[Json], **options: Any
) -> Generator[Answer, None, None]:
    """The answers to all requests, as slices of them come back from workers.

    Parameters
    ----------
    executor
        A `dask.distributed.Client`.
    identity
        The model, as `lmnb.client.Client.identify` tells; `model` of `bodies` is replaced by it.
    options
        Those of `lmnb.client.Client.answers`, for each worker.

    Raises
    ------
    InvalidRequest
        The executor is something else, or the model is not on this machine.
    ModelNotFound
        A worker does not have the model, or another file by that name.
    ConfigError
        Workers have no lmnb.
    ServerError
        There is no worker, workers keep dying, or one of them cannot reach its server.
    LmnbError
        As `sending.send`.
    """
    check(executor)
    if identity["endpoint"] is not None:
        raise InvalidRequest(
            f"{identity['key']} is a model of an endpoint, which workers do not load.",
            hint="Without executor= its endpoints share the rows.",
        )
    import distributed

    wanted = {name: identity[name] for name in ("key", "kind", "digest", "options")}
    slices = _slices(bodies, len(executor.scheduler_info(n_workers=-1)["workers"]))
    futures = {
        executor.submit(answer, path, some, wanted, options, pure=False): first
        for first, some in slices
    }
    try:
        as_completed: Any = distributed.as_completed  # has no types
        for future in as_completed(list(futures)):
            for event in _result(future):
                yield read({**event, "number": futures[future] + event["number"]})
            future.release()
    finally:
        executor.cancel([future for future in futures if not future.done()])


def check(executor: Any) -> None:
    """Whether this is a Dask client that can be waited for.

    Raises
    ------
    InvalidRequest, ConfigError
        It is not, or Dask is not installed.
    """
    try:
        import distributed
    except ImportError:
        raise ConfigError(
            "executor= needs Dask, which is not here.", hint="Run: pip install 'lmnb[dask]'"
        ) from None
    if not isinstance(executor, distributed.Client):
        raise InvalidRequest(
            f"executor is a dask.distributed.Client, not {type(executor).__name__}."
        )
    if executor.asynchronous:
        raise InvalidRequest("executor is a Client that waits, not one with asynchronous=True.")


def answer(
    path: str, bodies: Sequence[Json], identity: Mapping[str, Any], options: Mapping[str, Any]
) -> list[Json] | Json:
    """On a worker: the answers to some requests, `{"number", "status", "body"}`; or an error's dict."""
    try:
        client = attach()
        _verify(client.identify(identity["key"]), identity)
        if identity["kind"] == "llm":
            for _ in client.load(identity["key"], jit=True):
                pass
        named = [{**body, "model": identity["key"]} for body in bodies]
        return list(client.answers(path, named, **options))
    except LmnbError as error:
        return error.to_dict()


def _verify(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    key = wanted["key"]
    if found["digest"] != wanted["digest"]:
        raise ModelNotFound(
            f"{key} is another file there: {found['digest'][:12]}… instead of "
            f"{wanted['digest'][:12]}….",
            hint="Models do not travel: put the same file on every machine.",
        )
    if found["options"] != wanted["options"]:
        raise InvalidRequest(
            f"{key} is loaded with other options there: {found['options']} instead of "
            f"{wanted['options']}."
        )


def _result(future: Any) -> list[Json]:
    """What a worker answered; errors say that it was a worker who met them."""
    import distributed

    try:
        found = future.result()
    except distributed.KilledWorker as error:
        raise ServerError(f"Dask's workers keep dying over the same rows: {error}") from None
    except ImportError as error:
        raise ConfigError(
            f"A Dask worker cannot import what it needs: {error}.",
            hint="Install the same lmnb where workers run.",
        ) from None
    if isinstance(found, list):
        return found
    raise LmnbError.from_dict({**found, "message": f"On a Dask worker: {found['message']}"})


def _slices(bodies: Sequence[Json], workers: int) -> list[tuple[int, list[Json]]]:
    if not workers:
        raise ServerError("The executor has no workers.")
    texts = max((len(body.get("input", ())) for body in bodies), default=0) or 1
    size = max(1, min(_MOST // texts, -(-len(bodies) // (workers * _SLICES))))
    return [(first, list(bodies[first : first + size])) for first in range(0, len(bodies), size)]
