"""Adding servers to `mcp.json` and taking them out; whatever else stands there stays as it is."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from lmnb.config import read_json, write_whole
from lmnb.errors import ConfigError, InvalidRequest, NotFound
from lmnb.server.mcp import servers

_changing = threading.Lock()


def add(home: Path, label: str, entry: dict[str, Any], *, replace: bool = False) -> None:
    """Add a server, in the form that `servers` describes. Blocks (disk).

    Raises
    ------
    InvalidRequest
        The label or the entry cannot be one, or there is one of that label and not `replace`.
    ConfigError
        The file cannot be read (it has comments, say) or written; it is left as it is.
    """
    if not label.strip() or label != label.strip() or "/" in label:
        raise InvalidRequest(f"{label!r} cannot be the name of an MCP server.", param="name")
    try:
        servers.parse(entry, label)
    except ConfigError as error:
        raise InvalidRequest(error.message, param="entry") from None
    with _changing:
        data = _read(home)
        known = data["mcpServers"]
        if label in known and not replace:
            raise InvalidRequest(
                f"There is an MCP server {label} already.",
                hint="--replace puts this one in its place.",
                param="name",
            )
        known[label] = entry
        _write(home, data)


def remove(home: Path, label: str) -> None:
    """Take a server out. Blocks (disk).

    Raises
    ------
    NotFound
        There is none of that label.
    ConfigError
        As `add`.
    """
    with _changing:
        data = _read(home)
        if data["mcpServers"].pop(label, None) is None:
            names = ", ".join(data["mcpServers"]) or "none"
            raise NotFound(
                f"There is no MCP server {label!r}.", hint=f"There are {names}.", param="name"
            )
        _write(home, data)


def _read(home: Path) -> dict[str, Any]:
    data: Any = read_json(servers.path(home), {})
    if not isinstance(data, dict) or not isinstance(data.setdefault("mcpServers", {}), dict):
        raise ConfigError(f'{servers.path(home)} must hold {{"mcpServers": {{…}}}}.')
    return data


def _write(home: Path, data: dict[str, Any]) -> None:
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    # Where it is kept among somebody's dotfiles, the link to it stays.
    write_whole(servers.path(home).resolve(), text.encode(errors="surrogatepass"), mode=0o600)
