"""What of MCP a response continues: tools that were listed, requests for approval, the answers.

Items of a conversation say it, wherever they come from: sent by the client, stored, or remembered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from lmnb.server.conversations import Item
from lmnb.server.mcp.loop import Granted
from lmnb.server.notes import note
from lmnb.server.openai.errors import InvalidType, InvalidValue
from lmnb.server.openai.values import json_type, string

_SAYS = ("reasoning", "function_call", "custom_tool_call")


class McpPast(msgspec.Struct, frozen=True):
    """The items of MCP of a conversation."""

    items: Sequence[Item] = ()

    @property
    def requests(self) -> dict[str, Item]:
        """Requests for approval, by their ids."""
        return {item["id"]: item for item in self.items if item["type"] == "mcp_approval_request"}

    @property
    def answered(self) -> frozenset[str]:
        """The ids of those that were approved, and the calls made."""
        found = (item.get("approval_request_id") for item in self.items)
        return frozenset(id_ for id_ in found if isinstance(id_, str))

    @property
    def listed(self) -> frozenset[str]:
        """The labels of servers whose tools were listed."""
        return frozenset(
            item["server_label"]
            for item in self.items
            if item["type"] == "mcp_list_tools" and not item.get("error")
        )


NOTHING = McpPast()
"""A conversation without MCP."""


def mcp_items(items: Iterable[Any]) -> list[Item]:
    """Those of MCP that are whole enough to be looked at."""
    return [item for item in items if _is_mcp(item)]


def answers_requests(items: Any) -> bool:
    """Whether `input` answers a request for approval."""
    return isinstance(items, list) and any(
        isinstance(item, dict) and item.get("type") == "mcp_approval_response" for item in items
    )


def approves(item: Mapping[str, Any], where: str) -> bool:
    """What an answer to a request for approval says."""
    string(dict(item), "approval_request_id", where)
    approve = item.get("approve")
    if not isinstance(approve, bool):
        raise InvalidType(
            f"Invalid type for '{where}.approve': expected a boolean, got {json_type(approve)}.",
            param=f"{where}.approve",
        )
    return approve


def granted(given: Any, past: McpPast) -> tuple[Granted, ...]:
    """The calls that `input` approves and that are to be made now.

    That is what the model asked for last: an approval with something behind it that the model has
    said belongs to an earlier answer, as does one whose call stands there.

    Raises
    ------
    InvalidValue
        There is no such request.
    """
    items = given if isinstance(given, list) else []
    pending: dict[str, str] = {}
    for i, item in enumerate(items):
        kind = item.get("type") or "message"
        if kind == "mcp_approval_response":
            where = f"input[{i}]"
            is_approved, id_ = approves(item, where), item["approval_request_id"]
            pending.pop(id_, None)
            if is_approved:
                pending[id_] = where
        elif kind == "mcp_call":
            pending.pop(item.get("approval_request_id") or "", None)
        elif kind in _SAYS or (kind == "message" and item.get("role") == "assistant"):
            pending.clear()
    requests = past.requests | McpPast(mcp_items(items)).requests
    return tuple(
        _granted(requests, id_, where)
        for id_, where in pending.items()
        if not _is_answered(id_, past)
    )


def _granted(requests: Mapping[str, Item], id_: str, where: str) -> Granted:
    request = requests.get(id_)
    if request is None:
        param = f"{where}.approval_request_id"
        raise InvalidValue(
            f"Invalid value for '{param}': this conversation has no approval request '{id_}'.",
            hint="Send it with the input, or continue the response that asked.",
            param=param,
        )
    return Granted(id_, request["server_label"], request["name"], request["arguments"])


def _is_answered(id_: str, past: McpPast) -> bool:
    if id_ not in past.answered:
        return False
    note(f"The call that was asked for with '{id_}' has been made already.")
    return True


def _is_mcp(item: Any) -> bool:
    if not isinstance(item, dict) or not str(item.get("type")).startswith("mcp_"):
        return False
    needed = _NEEDED.get(item["type"], ())
    return all(isinstance(item.get(key), str) for key in needed)


_NEEDED = {
    "mcp_approval_request": ("id", "server_label", "name", "arguments"),
    "mcp_list_tools": ("server_label",),
    "mcp_call": ("name",),
}
