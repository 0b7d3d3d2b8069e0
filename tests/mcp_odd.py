"""An MCP server that misbehaves, in plain JSON-RPC: `python mcp_odd.py HOW`.

endless
    Answers calls with a line that does not end.
stubborn
    Does not end when its input does, nor when it is asked to; nor does what it has started.
many
    Has 10,000 tools.
wrong
    Has tools that are not as the protocol wants them, and two of one name.
asking
    Asks for what clients may offer, and tells what it was answered.
chatty
    Prints what is no message.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

_OBJECT = {"type": "object", "properties": {}}


def _tool(name: Any, schema: Any = _OBJECT, **more: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": schema, **more}


_TOOLS: dict[str, list[Any]] = {
    "many": [_tool(f"tool_{i}", description=f"Does {i}.") for i in range(10_000)],
    "wrong": [
        _tool("good", description="As it should be."),
        _tool("listed", []),
        _tool("stringy", {"type": "string"}),
        _tool(17),
        "nothing",
        _tool("described", description=5),
        _tool("twice", description="first"),
        _tool("twice", description="second"),
    ],
}


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def _ask(method: str, params: dict[str, Any]) -> Any:
    _say({"id": method, "method": method, "params": params})
    while (answer := json.loads(sys.stdin.readline())).get("id") != method:
        pass
    return answer["error"]


def _answer(how: str, message: dict[str, Any]) -> None:
    result: dict[str, Any]
    if message["method"] == "initialize":
        result = {
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "odd", "version": "1"},
        }
    elif message["method"] == "tools/list":
        result = {"tools": _TOOLS.get(how, [_tool("go")])}
    elif message["method"] != "tools/call":
        _say({"id": message["id"], "error": {"code": -32601, "message": "unknown"}})
        return
    elif how == "endless":
        while True:
            sys.stdout.write("x" * (1 << 20))
    elif how == "asking":
        picture = {"messages": [], "maxTokens": 1}
        form = {"message": "Who?", "requestedSchema": _OBJECT}
        told = [
            _ask("sampling/createMessage", picture),
            _ask("elicitation/create", form),
            _ask("roots/list", {}),
        ]
        result = {"content": [{"type": "text", "text": json.dumps(told)}]}
    else:
        result = {"content": [{"type": "text", "text": str(os.getpid())}]}
    _say({"id": message["id"], "result": result})


def _stay() -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"
    subprocess.Popen([sys.executable, "-c", code, __file__], stdout=subprocess.DEVNULL)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def main() -> None:
    how = sys.argv[1]
    if how == "stubborn":
        _stay()
    if how == "chatty":
        sys.stdout.write("Welcome!\n\n\xe4\n[]\n")
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message and "method" in message:
            _answer(how, message)
    if how == "stubborn":
        time.sleep(3600)


if __name__ == "__main__":
    main()
