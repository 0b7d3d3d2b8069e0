"""An MCP server in plain JSON-RPC, for what the SDK's would not do: `python mcp_raw.py [deaf]`.

A `deaf` one says nothing, and does not end when its input does.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

_SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
_OUTPUT = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
_NAMES = ("", "n" * 300, "count", "count", "refuse", "untyped", "nonsense", "slow", "crowd")
_lock = threading.Lock()
_calls = 0


def _say(identifier: Any, **fields: Any) -> None:
    with _lock:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": identifier, **fields}) + "\n")
        sys.stdout.flush()


def _call(identifier: Any, name: str) -> None:
    global _calls  # noqa: PLW0603 - the state that a kept server keeps
    _calls += 1
    if name == "slow":
        time.sleep(2)
    results: dict[str, Any] = {
        "untyped": {"content": [], "structuredContent": {"n": "x"}},
        "nonsense": {"how": "so"},
        "crowd": {"content": [{"type": "text", "text": ""}] * 1500},
    }
    told = {"content": [{"type": "text", "text": f"{_calls} {os.getpid()}"}]}
    if name == "refuse":
        _say(identifier, error={"code": -32602, "message": "there is no such city"})
    else:
        _say(identifier, result=results.get(name, told))


def _answer(message: dict[str, Any]) -> None:
    if message["method"] == "initialize":
        version = message["params"]["protocolVersion"]
        about = {"name": "raw", "version": "1"}
        result = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": about}
        _say(message["id"], result=result)
    elif message["method"] == "tools/list":
        tools = []
        for name in _NAMES:
            tools.append({"name": name, "inputSchema": _SCHEMA})
            if name == "untyped":
                tools[-1]["outputSchema"] = _OUTPUT
        _say(message["id"], result={"tools": tools})
    elif message["method"] == "tools/call":
        arguments = (message["id"], message["params"]["name"])
        threading.Thread(target=_call, args=arguments, daemon=True).start()
    else:
        _say(message["id"], error={"code": -32601, "message": "unknown"})


def main() -> None:
    if "deaf" in sys.argv:
        time.sleep(3600)
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message and "method" in message:
            _answer(message)


if __name__ == "__main__":
    main()
