"""What `%lm`, `%lm ps` and `%lm ls` show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lmnb.notebook.output import Bundle
from lmnb.notebook.table import joined, paragraph, table
from lmnb.notebook.units import duration, size
from lmnb.selection import DEFAULT_CHAT_MODEL


def status(state: dict[str, Any]) -> Bundle:
    """Server, device, listener and loaded models, from `Client.status()`."""
    server, listener = state["server"], state["listener"]
    device = state["device"]
    build = (
        f", llama.cpp from llama-cpp-python {device['llama_cpp']}" if "error" not in device else ""
    )
    lines = [
        f"lmnb {server['version']}{build}",
        f"Server: process {server['pid']}, up {duration(server['uptime'])}, files in {server['home']}",
        f"Device: {devices(device)}",
        f"Listening on {listener['url']}" if listener else "Not listening; %lm serve opens a port",
    ]
    parts = [paragraph("\n".join(lines)), *gpu_hint(device)]
    parts.append(ps(state["loaded"]))
    return joined(*parts)


def devices(report: dict[str, Any]) -> str:
    """The devices that can compute, by name and memory."""
    if "error" in report:
        return f"unknown ({report['error']})"
    return ", ".join(
        f"{device['description']} ({device['type'].upper()}, {size(device['memory_total'])})"
        for device in report["devices"]
    )


def gpu_hint(report: dict[str, Any]) -> Iterator[Bundle]:
    """If there is a GPU that this build cannot use: what it is, and what to install."""
    if report.get("gpu_present") and not report.get("supports_gpu_offload"):
        text = (
            f"This machine has a GPU ({report['gpu_present']}), but the installed llama-cpp-python "
            "can use the CPU only. To use it, install a build for it and restart the kernel:"
        )
        yield paragraph(text, report["install_hint"])


def placement(row: dict[str, Any]) -> str:
    """On which device a loaded model is, and how many of its layers."""
    offloaded, layers = row["gpu_layers"], row["layers"]
    if not offloaded:
        return f"CPU ({row['device']}), all {layers} layers"
    # llama.cpp counts the output layer, too.
    share = f"all {layers}" if offloaded >= layers else f"{offloaded} of {layers}"
    return f"{row['device']}, {share} layers"


def ps(rows: Sequence[dict[str, Any]]) -> Bundle:
    """The loaded models."""
    if not rows:
        return paragraph("No model is loaded.")
    headers = ("Loaded", "Kind", "State", "Queue", "Device", "Context", "Memory", "Unloads")
    return table(
        headers,
        [
            (
                row["id"],
                row["kind"],
                row["state"],
                _queue(row),
                placement(row),
                row["context_length"],
                size(row["memory"]),
                "never" if row["ttl_left"] is None else f"in {duration(row['ttl_left'])}",
            )
            for row in rows
        ],
    )


def endpoints(rows: Sequence[dict[str, Any]]) -> Bundle:
    """Connected servers: how they are, and what they have done."""
    if not rows:
        return paragraph("No endpoint is connected. This connects one:", "%lm connect URL")
    return table(
        ("Endpoint", "Address", "State", "Models", "Requests now", "Answered", "Failed", "Trouble"),
        [
            (
                row["name"],
                row["url"],
                row["state"],
                len(row["models"]),
                row["active"],
                row["answered"],
                row["failed"],
                row["error"] or "",
            )
            for row in rows
        ],
    )


def pending(found: dict[str, Any]) -> Iterator[Bundle]:
    """Loads, unloads, what is not loaded after crashes, and endpoints, of `Client.pending()`."""
    for load in found["loading"]:
        yield paragraph(f"{load['id']} is being loaded: {load['progress']:.0%}.")
    for row in found["unloading"]:
        yield paragraph(
            f"{row['id']} is being unloaded; requests it still answers: {row['active']}."
        )
    for row in found["resting"]:
        yield paragraph(
            f"{row['model']} is not loaded for {duration(row['seconds_left'])}: it has crashed "
            f"{row['crashes']} times in a row. {row['cause']}"
        )
    if found["endpoints"]:
        yield endpoints(found["endpoints"])


def _queue(row: dict[str, Any]) -> str | None:
    if row["running"] is None:
        return "?"
    return f"{row['running']} running, {row['waiting']} waiting" if row["active"] else None


def downloads(rows: Sequence[dict[str, Any]]) -> Bundle:
    """Downloads of the last month, or one of them."""
    if not rows:
        return paragraph("There are no downloads.")
    return table(
        ("Id", "Model", "Status", "Done", "Of", "Left", "Trouble"),
        [
            (
                row["id"],
                row["key"] or row["model"],
                "waiting" if row["is_waiting"] else row["status"],
                size(row["done"]),
                None if row["total"] is None else size(row["total"]),
                None if row["eta_seconds"] is None else duration(row["eta_seconds"]),
                row["error"]["message"] if row["error"] else None,
            )
            for row in rows
        ],
    )


def mcp(rows: Sequence[dict[str, Any]], home: Path) -> Bundle:
    """MCP servers, with a row for each of their tools."""
    if not rows:
        return paragraph(f"There are no MCP servers. They stand in {home / 'mcp.json'}.")
    lines: list[tuple[str, str, str]] = []
    for row in rows:
        if row["error"]:
            lines.append((row["id"], "", row["error"]))
        lines += [(row["id"], tool["name"], tool["description"]) for tool in row["tools"]]
        lines += [(row["id"], "", warning) for warning in row["warnings"]]
    return table(("Server", "Tool", "What it does"), lines)


def settings(rows: Sequence[dict[str, Any]]) -> Bundle:
    """Settings, what they are set to by whom, and what they mean."""
    return table(
        ("Setting", "Value", "Set by", "Meaning"),
        [(row["name"], row["text"], row["source"], row["description"]) for row in rows],
    )


def ls(rows: Sequence[dict[str, Any]]) -> Bundle:
    """The models on the disk."""
    if not rows:
        return paragraph(
            f"No model is downloaded yet. This fetches {DEFAULT_CHAT_MODEL} (98 MB):",
            "%lm get",
        )
    headers = ("Model", "Kind", "Parameters", "Quantization", "Size", "Context", "Loaded")
    return table(
        headers,
        [
            (
                row["key"],
                row["kind"],
                row["params_string"],
                row["quantization"],
                "remote" if row["endpoint"] else size(row["size_bytes"]),
                row["max_context_length"],
                _place(row),
            )
            for row in rows
        ],
    )


def _place(row: dict[str, Any]) -> str:
    """Whether a model is loaded, or which endpoint has it."""
    if not row["endpoint"]:
        return "●" if row["loaded"] else ""
    return f"at {row['endpoint']}" + ("" if row["up"] else ", which is down")
