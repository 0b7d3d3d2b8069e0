"""A real kernel for tests: runs cells, sees every message, interrupts."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from jupyter_client.manager import KernelManager

PATIENCE = 120.0


@dataclass
class Execution:
    """One cell: its messages as they came, and the display they add up to."""

    id: str
    messages: list[dict[str, Any]] = field(default_factory=list, repr=False)
    reply: dict[str, Any] = field(default_factory=dict)
    idle: bool = False

    @property
    def done(self) -> bool:
        return self.idle and bool(self.reply)

    @property
    def status(self) -> str:
        return str(self.reply["status"])

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """The MIME bundles the front end shows at the end; an update replaces what it updates."""
        shown: dict[str, dict[str, Any]] = {}
        for index, message in enumerate(self.messages):
            content = message["content"]
            kind = message["msg_type"]
            if kind in {"display_data", "update_display_data", "execute_result"}:
                key = content.get("transient", {}).get("display_id") or str(index)
                assert kind != "update_display_data" or key in shown
                shown[key] = content
        return list(shown.values())

    def texts(self, mime: str = "text/plain") -> list[str]:
        return [data[mime] for output in self.outputs if (data := output["data"]).get(mime)]

    @property
    def text(self) -> str:
        return "\n".join(self.texts())

    @property
    def drafts(self) -> list[str]:
        """Each Markdown text that was shown, in order."""
        return [
            message["content"]["data"]["text/markdown"]
            for message in self.messages
            if "text/markdown" in message["content"].get("data", {})
        ]

    @property
    def stdout(self) -> str:
        return "".join(m["content"]["text"] for m in self.messages if m["msg_type"] == "stream")

    @property
    def error(self) -> dict[str, Any] | None:
        return next((m["content"] for m in self.messages if m["msg_type"] == "error"), None)


class Kernel:
    """An ipykernel process of this interpreter. A context manager."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.manager = KernelManager(kernel_name="python3", transport="ipc")
        self.environment = {**os.environ, "LMNB_HOME": str(home), **environment}
        # ipykernel does not forward what native code prints while it believes to be under test.
        self.environment.pop("PYTEST_CURRENT_TEST", None)
        self.executions: dict[str, Execution] = {}
        self._shown_by: dict[str, Execution] = {}

    def __enter__(self) -> Self:
        self.manager.start_kernel(env=self.environment)
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()

    def start(self, code: str) -> Execution:
        """Queue a cell, as Run All does."""
        execution = Execution(self.client.execute(code))
        self.executions[execution.id] = execution
        return execution

    def run(self, code: str, *, ok: bool = True) -> Execution:
        """Run a cell to its end."""
        execution = self.start(code)
        self.finish(execution)
        if ok:
            assert execution.status == "ok", execution.error
        return execution

    def finish(self, execution: Execution) -> None:
        """Wait until a cell is done."""
        self.wait(lambda: execution.done)

    def wait(self, condition: Callable[[], object]) -> None:
        """Read messages until something is so."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, list(self.executions.values())[-2:]
            self._read(self.client.get_iopub_msg, 0.05)
            self._read(self.client.get_shell_msg, 0.001)

    def value(self, expression: str) -> Any:
        """The value of an expression of simple Python values."""
        import ast

        execution = self.run(f"print(repr({expression}))")
        return ast.literal_eval(execution.stdout)

    def interrupt(self) -> None:
        """Press ■."""
        self.manager.interrupt_kernel()

    def _read(self, get: Callable[..., dict[str, Any]], timeout: float) -> None:
        try:
            message = get(timeout=timeout)
        except queue.Empty:
            return
        execution = self.executions.get(message["parent_header"].get("msg_id", ""))
        display = message["content"].get("transient", {}).get("display_id", "")
        if message["msg_type"] == "update_display_data":
            # As front ends do: it belongs to the cell that has shown it, whichever is running.
            execution = self._shown_by.get(display, execution)
        if execution is None:
            return
        if message["msg_type"] == "display_data" and display:
            self._shown_by[display] = execution
        if message["msg_type"] == "execute_reply":
            execution.reply = message["content"]
        elif message["msg_type"] == "status":
            execution.idle = message["content"]["execution_state"] == "idle"
        else:
            execution.messages.append(message)
