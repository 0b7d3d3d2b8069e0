"""Getting ready for an agent: a model with enough context, and a server that listens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lmnb import selection
from lmnb.agents.command import Agent, Target
from lmnb.client import Client
from lmnb.errors import InvalidRequest, ModelLoadFailed, NotSupported

WANTED = 65_536
"""Tokens of context that let an agent work for a while before it has to sum up."""

_SMALLER = (49_152, 32_768, 24_576, 16_384)
"""What is tried where so many do not fit into memory."""

_TOKEN_NAME = "launch"  # noqa: S105 - the name of the token, not its text

Row = dict[str, Any]


class Choice(NamedTuple):
    """A model: `row` of `Client.ps` if it is there, else how to load it."""

    model: str
    row: Row | None
    context: int | None = None
    replaces: str | None = None
    """An idle instance that a request has loaded, with less context: it has to make room."""

    def load(self, client: Client) -> Iterator[Row]:
        """The events of `Client.load`."""
        if self.replaces is not None:
            client.unload(self.replaces)
        yield from client.load(self.model, context_length=self.context)


def choose(client: Client, model: str | None, context: int | None) -> Choice:
    """The model that an agent is to use, and whether and how it has to be loaded.

    Parameters
    ----------
    model
        An id or a name; None is the loaded model, or the one that a cell would ask.
    context
        Tokens that the user wants. None: `WANTED`, or what the model was trained for, or what fits
        into memory, whichever is least.

    Raises
    ------
    ModelNotFound, NotSupported, ModelLoadFailed
        There is no such model, it does not chat, or it does not fit.
    """
    name = model or selection.choose(client)
    rows = [row for row in client.ps() if _is(row, name)]
    files = [row for row in client.ls() if _named(row, name)]
    if any(row["kind"] != "llm" for row in (*rows, *files)):
        raise NotSupported(f"{name} is no language model; it cannot chat.")
    if not rows and any(row["endpoint"] for row in files):
        return _remote(client, name, context)
    best = max(rows, key=lambda row: row["context_length"], default=None)
    if best is not None and best["context_length"] >= (context or WANTED):
        return Choice(name, best)
    explicit = [row for row in rows if row["id"].casefold() == name.casefold() and not row["jit"]]
    if explicit and context is None:
        return Choice(name, explicit[0])  # The user has decided on its context.
    key = best["model"] if best is not None else name
    choice = _to_load(client, key, context)
    if best is not None and best["context_length"] >= choice.context:
        return Choice(name, best)
    idle = best is not None and best["jit"] and not best["active"]
    return choice._replace(replaces=best["id"] if best is not None and idle else None)


def remarks(agent: Agent, row: Row) -> list[str]:
    """What the user should know before the agent runs into it."""
    context = row["context_length"]
    if context >= agent.least:
        return list(row["warnings"])
    small = (
        f"{row['id']} is loaded with a context of {context} tokens. {agent.title} needs about "
        f"{agent.least} for its first prompt alone, and {WANTED} to work well: expect errors. "
        "A model that was trained for more helps, or --context-length N."
    )
    return [*row["warnings"], small]


def target(client: Client, row: Row, port: int | None) -> Target:
    """Where the loaded model of `row` is reached. The server listens from now on.

    Raises
    ------
    InvalidRequest, PortInUse
        It listens elsewhere than at `port`, or somebody else does there.
    """
    listener = _listen(client, port)
    folder = client.home / "agents"
    token = _token(client, folder / "token") if listener["require_auth"] else None
    return Target(
        url=listener["url"],
        model=row["id"],
        context=row["context_length"],
        folder=folder,
        sees=_sees(client, row["model"]),
        token=token,
        token_file=folder / "token" if token else None,
    )


def _is(row: Row, name: str) -> bool:
    key: str = row["model"].casefold()
    return name.casefold() in {row["id"].casefold(), key, key.rpartition("/")[2]}


def _to_load(client: Client, name: str, context: int | None) -> Choice:
    if context is not None:
        client.estimate(name, context_length=context)
        return Choice(name, None, context)
    trained = [row["max_context_length"] for row in client.ls() if _named(row, name)]
    most = min(filter(None, [WANTED, *trained]))
    sizes = [most, *(size for size in _SMALLER if size < most)]
    for size in sizes[:-1]:
        try:
            client.estimate(name, context_length=size)
        except ModelLoadFailed:
            continue
        return Choice(name, None, size)
    client.estimate(name, context_length=sizes[-1])
    return Choice(name, None, sizes[-1])


def _remote(client: Client, name: str, context: int | None) -> Choice:
    """A model of an endpoint is as it is: there is nothing to load."""
    [row] = client.load(name, jit=True)
    known = row["context_length"]
    if context is not None and known is not None and known < context:
        raise NotSupported(
            f"{name} is a remote model with a context of {known} tokens, which only its server can "
            "change.",
            param="context_length",
        )
    return Choice(name, row | {"context_length": known or context or WANTED})


def _named(row: Row, name: str) -> bool:
    key: str = row["key"].casefold()
    return name.casefold() in {key, key.rpartition("/")[2], str(row["path"]).casefold()}


def _listen(client: Client, port: int | None) -> Row:
    listener: Row | None = client.status()["listener"]
    if listener is None:
        return client.serve(port=port)
    if port not in {None, 0, listener["port"]}:
        raise InvalidRequest(
            f"The server already listens on {listener['url']}.",
            hint="Leave --port out, or close that first with `lmnb serve --stop`.",
            param="port",
        )
    return listener


def _token(client: Client, path: Path) -> str:
    """A token of our own, made once. The server keeps only its hash; the file is the user's alone."""
    known = any(token["name"] == _TOKEN_NAME for token in client.tokens())
    if known and path.is_file():
        return path.read_text().strip()
    if known:
        client.remove_token(_TOKEN_NAME)
    text: str = client.create_token(_TOKEN_NAME)["token"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)
    return text


def _sees(client: Client, key: str) -> bool:
    """Whether the model takes images, as LM Studio's list of models has it."""
    models = client.http.get("/api/v1/models").json()["models"]
    return any(
        row["key"] == key and row.get("capabilities", {}).get("vision", False) for row in models
    )
