"""What a long answer costs on the way from the kernel to the page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import fake_endpoint
import pytest
from fake_endpoint import LONG, FakeEndpoint
from notebook_kernel import Kernel
from server_home import ServerHome

_WINDOW = 3.0
"""Seconds over which Jupyter measures what a kernel sends."""
_MOST = 200_000
"""Bytes a second; Jupyter drops output from 1,000,000."""


@pytest.fixture
def kernel(front: ServerHome) -> Iterator[Kernel]:
    with fake_endpoint.running(FakeEndpoint("far", ["long"])) as far, Kernel(front.path) as kernel:
        front.attach().connect(far.url, name="far")
        kernel.run("import sys\n%load_ext lmnb")
        yield kernel
        front.attach().disconnect("far")


def size(message: dict[str, Any]) -> int:
    parts = (message[part] for part in ("header", "parent_header", "metadata", "content"))
    return sum(len(json.dumps(part, ensure_ascii=False, default=str).encode()) for part in parts)


def test_an_answer_of_40_kilobytes(kernel: Kernel) -> None:
    assert len(LONG) > 40_000
    execution = kernel.run("%%claude -m far/long -o reply\nHello.")
    assert kernel.value("reply.text.strip()") == LONG.strip()
    sent = [(m["header"]["date"].timestamp(), size(m)) for m in execution.messages]
    first, last = sent[0][0], sent[-1][0]
    assert len(execution.drafts) > 10
    rates = [
        sum(count for at, count in sent if start <= at < start + _WINDOW) / _WINDOW
        for start, _ in sent
    ]
    assert max(rates) < _MOST
    assert sum(count for _, count in sent) / (last - first) < _MOST
    # All that this has taken is in the kernel now, but no engine.
    heavy = "{'llama_cpp', 'lmnb.engine', 'lmnb.chat', 'lmnb.server', 'fastapi', 'pandas'}"
    assert kernel.value(f"{heavy} & set(sys.modules)") == set()
