"""Batches on a server that is killed."""

from __future__ import annotations

import sqlite3
from typing import Any

from batch_requests import COMPLETIONS, content, ended, line, start
from server_home import CHAT, ServerHome, wait_for

COUNT = 16


def body(number: int) -> dict[str, Any]:
    return {"model": CHAT, "prompt": f"{number} is the number of", "max_tokens": 12 + number}


def answered(home: ServerHome) -> dict[str, str]:
    """Lines that have an answer, with the ids of the requests that gave it."""
    with sqlite3.connect(home.path / "lmnb.db") as database:
        rows = database.execute("SELECT custom_id, request_id FROM batch_lines WHERE status = 200")
        return dict(rows.fetchall())


def test_a_killed_server_goes_on_and_runs_no_line_twice(fresh_home: ServerHome) -> None:
    client = fresh_home.attach()
    sdk = client.openai(max_retries=0)
    lines = [line(f"line-{n}", body(n), COMPLETIONS) for n in range(COUNT)]
    batch = start(sdk, lines, COMPLETIONS)
    params: Any = {"model": CHAT, "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
    anthropic = client.anthropic(max_retries=0)
    behind = anthropic.messages.batches.create(requests=[{"custom_id": "one", "params": params}])
    done = anthropic.messages.batches.create(requests=[{"custom_id": "two", "params": params}])
    anthropic.messages.batches.cancel(done.id)

    def some() -> bool:
        counts = sdk.batches.retrieve(batch.id).request_counts
        return counts is not None and counts.completed >= 3

    wait_for(some, "some answers")
    fresh_home.kill()
    before = answered(fresh_home)
    assert 3 <= len(before) < COUNT
    fresh_home.wait_until_empty()

    client = fresh_home.attach()
    sdk = client.openai(max_retries=0)
    after = ended(sdk, batch.id)
    assert after.status == "completed"
    assert after.request_counts is not None
    assert after.request_counts.completed == after.request_counts.total == COUNT
    output = content(sdk, after.output_file_id)
    assert [one["custom_id"] for one in output] == [f"line-{n}" for n in range(COUNT)]
    ids = {one["custom_id"]: one["response"]["request_id"] for one in output}
    assert {name: ids[name] for name in before} == before
    assert len(set(ids.values())) == COUNT

    anthropic = client.anthropic(max_retries=0)

    def behind_ended() -> bool:
        return anthropic.messages.batches.retrieve(behind.id).processing_status == "ended"

    wait_for(behind_ended, "the batch behind it")
    [one] = anthropic.messages.batches.results(behind.id)
    assert one.result.type == "succeeded"
    [one] = anthropic.messages.batches.results(done.id)
    assert one.result.type == "canceled"
    assert answered(fresh_home) == {}
    assert not list((fresh_home.path / "batches").glob("*.requests"))


def test_a_server_that_is_told_to_end_goes_on_later(fresh_home: ServerHome) -> None:
    client = fresh_home.attach()
    sdk = client.openai(max_retries=0)
    batch = start(sdk, [line("one", body(400), COMPLETIONS)], COMPLETIONS)
    wait_for(lambda: any(row["active"] for row in client.ps()), "the batch to run")
    assert client.handshake()["busy"]
    client.shutdown()
    fresh_home.wait_until_empty()
    sdk = fresh_home.attach().openai(max_retries=0)
    [one] = content(sdk, ended(sdk, batch.id).output_file_id)
    assert one["response"]["body"]["usage"]["completion_tokens"] > 0
