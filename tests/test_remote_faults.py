"""Endpoints that fail: who answers instead, what the caller is told, and that nothing hangs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import anthropic
import made_models
import openai
import pytest
from fake_endpoint import ANSWERS, VECTORS, FakeEndpoint, running
from server_home import ServerHome, wait_for

from lmnb.client import Client
from lmnb.errors import ConfigError, EndpointFailed, InvalidRequest, NotFound, NotSupported

FAULTS = list(ANSWERS)


@pytest.fixture
def client(front: ServerHome) -> Iterator[Client]:
    """A client of a server without models of its own. Every test begins without endpoints."""
    found = front.attach()
    found.change_setting("endpoint_timeout", 1.0)
    yield found
    for row in found.endpoints():
        found.disconnect(row["name"])


@pytest.fixture
def sdk(client: Client) -> openai.OpenAI:
    return client.openai(max_retries=0)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[FakeEndpoint]:
    with running(FakeEndpoint("fake", FAULTS)) as found:
        yield found


@pytest.fixture
def connected(client: Client, endpoint: FakeEndpoint) -> FakeEndpoint:
    client.connect(endpoint.url, name="fake")
    return endpoint


def ask(sdk: openai.OpenAI, model: str, **options: Any) -> Any:
    messages: Any = [{"role": "user", "content": "Speak"}]
    return sdk.chat.completions.create(model=model, messages=messages, **options)


def say(sdk: openai.OpenAI, model: str) -> str:
    return str(ask(sdk, model).choices[0].message.content)


def streamed(sdk: openai.OpenAI, model: str) -> list[Any]:
    return list(ask(sdk, model, stream=True))


def contents(stream: Any) -> Iterator[str]:
    for chunk in stream:
        yield from (choice.delta.content for choice in chunk.choices)


def metric(client: Client, endpoint: str, outcome: str) -> float:
    wanted = f'lmnb_endpoint_requests_total{{endpoint="{endpoint}",outcome="{outcome}"}} '
    for line in client.http.get("/metrics").text.splitlines():
        if line.startswith(wanted):
            return float(line.removeprefix(wanted))
    return 0.0


# --- one endpoint -----------------------------------------------------------------------


def test_answers_and_counts_come_through(sdk: openai.OpenAI, connected: FakeEndpoint) -> None:
    answer = ask(sdk, "fake/good", max_tokens=5, temperature=0.5, stop=["x"], seed=3)
    assert answer.choices[0].message.content == "fake speaks"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (7, 3)
    assert answer.usage.prompt_tokens_details.cached_tokens == 2
    sent = connected.requests[-1]
    assert sent["model"] == "good"
    assert sent["messages"] == [{"role": "user", "content": "Speak"}]
    assert {**sent, "temperature": 0.5, "max_tokens": 5, "stop": ["x"], "seed": 3} == sent
    assert sent["stream"] is True
    assert sent["stream_options"] == {"include_usage": True}
    assert "authorization" not in connected.headers[-1]


def test_a_server_that_does_not_stream_is_understood(
    sdk: openai.OpenAI, connected: FakeEndpoint
) -> None:
    assert say(sdk, "fake/whole") == "All at once"


def test_calls_are_told_one_after_another_with_ids_of_their_own(
    sdk: openai.OpenAI, client: Client, connected: FakeEndpoint
) -> None:
    tools: Any = [{"type": "function", "function": {"name": "weather", "parameters": None}}]
    message = ask(sdk, "fake/calls", tools=tools).choices[0].message
    first, second = message.tool_calls
    assert json.loads(first.function.arguments) == {"city": "Ulm"}
    assert json.loads(second.function.arguments) == {}
    assert first.id == "c1"
    assert second.id.startswith("call_")
    assert message.reasoning_content == "Hm."
    answer = client.anthropic(max_retries=0).messages.create(
        model="fake/calls",
        max_tokens=50,
        messages=[{"role": "user", "content": "Speak"}],
        tools=[{"name": "weather", "input_schema": {"type": "object"}}],
    )
    assert [block.type for block in answer.content] == ["thinking", "tool_use", "tool_use"]
    assert answer.stop_reason == "tool_use"


def test_a_call_cut_by_the_limit_is_cut(sdk: openai.OpenAI, connected: FakeEndpoint) -> None:
    choice = ask(sdk, "fake/cut-call").choices[0]
    assert choice.finish_reason == "length"
    assert choice.message.tool_calls[0].function.arguments == '{"city": "U'


@pytest.mark.parametrize(
    ("model", "cause"),
    [
        ("hangs", "The endpoint fake said nothing for 1 s."),
        ("dies-early", "The endpoint fake broke off"),
        ("dies-late", "The endpoint fake broke off"),
        ("ends-early", "The endpoint fake broke off in the middle of its answer"),
        ("fails", "The endpoint fake failed (500): The GPU fell off"),
        ("error-in-stream", "The endpoint fake failed (500): Out of pages"),
        ("no-json", "The endpoint fake sent what is no JSON"),
        ("no-object", "The endpoint fake sent a chunk that is no object"),
        ("no-choices", "The endpoint fake sent a chunk without choices"),
        ("html", "The endpoint fake answered with text/html"),
        ("redirects", "The endpoint fake failed (302)"),
        ("bad-call", "a call of weather whose arguments are no JSON object"),
        ("headless-call", "arguments of a call that has not begun"),
    ],
)
def test_what_goes_wrong_is_told(
    sdk: openai.OpenAI, connected: FakeEndpoint, model: str, cause: str
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        say(sdk, f"fake/{model}")
    assert caught.value.status_code == 502
    assert cause in caught.value.message
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_a_broken_stream_ends_with_its_cause(
    sdk: openai.OpenAI, client: Client, connected: FakeEndpoint
) -> None:
    for model, cause in (("dies-late", "broke off"), ("late-error", "Out of pages")):
        seen: list[str] = []
        with pytest.raises(openai.APIError, match=cause):
            seen.extend(contents(ask(sdk, f"fake/{model}", stream=True)))
        assert "It began" in seen
    with (
        pytest.raises(anthropic.APIStatusError, match="broke off"),
        client.anthropic(max_retries=0).messages.stream(
            model="fake/dies-late", max_tokens=9, messages=[{"role": "user", "content": "Speak"}]
        ) as stream,
    ):
        stream.until_done()


def test_what_the_endpoint_refuses_is_the_callers_mistake(
    sdk: openai.OpenAI, client: Client, connected: FakeEndpoint
) -> None:
    with pytest.raises(openai.BadRequestError, match="refuses the request: No such knob") as caught:
        say(sdk, "fake/refuses")
    assert caught.value.param == "temperature"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        say(sdk, "fake/unknown")
    with pytest.raises(openai.RateLimitError, match="Slow down"):
        say(sdk, "fake/busy")
    # Claude Code sums up when it reads this.
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: 150 tokens > 100"):
        client.anthropic(max_retries=0).messages.create(
            model="fake/too-long", max_tokens=9, messages=[{"role": "user", "content": "Speak"}]
        )


def test_a_server_that_knows_no_switch_for_thinking_is_asked_without(
    client: Client, sdk: openai.OpenAI, connected: FakeEndpoint
) -> None:
    claude = client.anthropic(max_retries=0)
    raw = claude.messages.with_raw_response.create(
        model="fake/strict",
        max_tokens=9,
        messages=[{"role": "user", "content": "Speak"}],
        thinking={"type": "disabled"},
    )
    assert raw.parse().content
    assert "How much to think was left out" in raw.headers["x-lmnb-warning"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("ttl", 60),
        ("draft_model", "small"),
        ("lora", [{"id": 0, "scale": 0.5}]),
        ("response_format", {"type": "grammar", "syntax": "lark", "definition": 'start: "a"'}),
        ("response_format", {"type": "grammar", "syntax": "regex", "definition": "a+"}),
    ],
)
def test_what_an_endpoint_has_no_word_for_is_refused(
    sdk: openai.OpenAI, connected: FakeEndpoint, field: str, value: Any
) -> None:
    before = len(connected.requests)
    with pytest.raises(openai.BadRequestError, match="not possible with a model of a remote") as at:
        ask(sdk, "fake/good", extra_body={field: value})
    assert str(at.value.param).startswith(field)
    assert len(connected.requests) == before


def test_a_client_that_leaves_takes_its_request_along(
    client: Client, sdk: openai.OpenAI, connected: FakeEndpoint
) -> None:
    left = metric(client, "fake", "left")
    connected.may_go_on.clear()
    with ask(sdk, "fake/waits", stream=True) as answer:
        for chunk in answer:
            if chunk.choices[0].delta.content == "One":
                break
        assert connected.hanging == 1
    wait_for(lambda: connected.hanging == 0, "the endpoint to be hung up on")
    wait_for(lambda: metric(client, "fake", "left") == left + 1, "the request to be counted")
    assert client.endpoints()[0]["active"] == 0
    assert client.endpoints()[0]["state"] == "up"


# --- several endpoints ------------------------------------------------------------------


@pytest.fixture
def two(client: Client) -> Iterator[tuple[FakeEndpoint, FakeEndpoint]]:
    """Two endpoints, `one` and `two`, with the same models."""
    with ExitStack() as stack:
        pair = [stack.enter_context(running(FakeEndpoint(name, FAULTS))) for name in ("one", "two")]
        for endpoint in pair:
            client.connect(endpoint.url, name=endpoint.name)
        yield pair[0], pair[1]


def test_requests_go_to_the_endpoint_with_the_fewest(
    sdk: openai.OpenAI, client: Client, two: tuple[FakeEndpoint, FakeEndpoint]
) -> None:
    threads = [threading.Thread(target=streamed, args=(sdk, "waits")) for _ in range(6)]
    for thread in threads:
        thread.start()
    wait_for(lambda: sum(one.hanging for one in two) == 6, "six requests to be under way")
    assert [one.hanging for one in two] == [3, 3]
    for one in two:
        one.may_go_on.set()
    for thread in threads:
        thread.join()
    # The lists have the name that is balanced.
    assert [row["endpoint"] for row in client.ls() if row["key"] == "good"] == ["one,two"]
    # A name with an endpoint in it is that endpoint's.
    assert say(sdk, "two/good") == "two speaks"
    assert {say(sdk, "good") for _ in range(2)} == {"one speaks", "two speaks"}


def test_a_failing_endpoint_is_left_out_and_taken_in_again(
    sdk: openai.OpenAI, client: Client, two: tuple[FakeEndpoint, FakeEndpoint]
) -> None:
    bad = two[0]
    bad.status = 503
    assert {say(sdk, "good") for _ in range(6)} == {"two speaks"}
    assert len(bad.requests) == 1
    assert metric(client, "one", "failed") == 1
    row = client.endpoints()[0]
    assert (row["name"], row["state"]) == ("one", "down")
    assert "busy (503)" in row["error"]
    assert 0 < row["retried_in"] <= 3
    bad.status = 200
    # After its pause it is asked for its models, and then a request tries it.
    wait_for(lambda: "one speaks" in say(sdk, "good"), "the endpoint to be taken in again")
    wait_for(lambda: client.endpoints()[0]["state"] == "up")


@pytest.mark.parametrize("fault", ["hangs", "dies-early", "fails", "error-in-stream", "html"])
def test_what_has_not_begun_is_tried_elsewhere(
    sdk: openai.OpenAI,
    two: tuple[FakeEndpoint, FakeEndpoint],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    bad = two[0]
    worse = dict(ANSWERS)
    monkeypatch.setitem(
        ANSWERS, "good", lambda one, body: worse[fault if one is bad else "good"](one, body)
    )
    assert {say(sdk, "good") for _ in range(2)} == {"two speaks"}
    assert len(bad.requests) == 1


def test_what_has_begun_is_not_begun_again(
    sdk: openai.OpenAI, two: tuple[FakeEndpoint, FakeEndpoint]
) -> None:
    with pytest.raises(openai.APIError, match="broke off"):
        streamed(sdk, "dies-late")
    assert len(two[0].requests) + len(two[1].requests) == 1


def test_the_last_endpoint_is_tried_even_if_it_has_failed(
    sdk: openai.OpenAI, two: tuple[FakeEndpoint, FakeEndpoint]
) -> None:
    for one in two:
        one.status = 502
    with pytest.raises(openai.InternalServerError, match="failed \\(502\\): status 502"):
        say(sdk, "good")
    for one in two:
        one.status = 200
    assert say(sdk, "good") in {"one speaks", "two speaks"}


def test_an_endpoint_that_has_gone_is_named(sdk: openai.OpenAI, client: Client) -> None:
    with running(FakeEndpoint("gone", ["good"])) as gone:
        client.connect(gone.url, name="gone")
        gone.stop()
    with pytest.raises(openai.InternalServerError, match=r"gone .* cannot be reached"):
        say(sdk, "gone/good")


# --- vectors, scores, counts ----------------------------------------------------------------


def test_vectors_and_scores_are_put_in_order(client: Client, sdk: openai.OpenAI) -> None:
    with running(FakeEndpoint("embeds", list(VECTORS))) as endpoint:
        client.connect(endpoint.url, name="embeds")
        found = sdk.embeddings.create(
            model="embeds/floats", input=["a", "b"], encoding_format="float", dimensions=2
        )
        assert [one.embedding for one in found.data] == [[1.0, 0.5], [0.0, 1.0]]
        assert found.usage.prompt_tokens == 4
        assert endpoint.requests[-1]["dimensions"] == 2
        for lie in ("too-few", "twice", "uneven", "words", "nothing"):
            with pytest.raises(openai.InternalServerError, match="The endpoint embeds sent"):
                sdk.embeddings.create(model=f"embeds/{lie}", input=["a", "b"])
        body = {"query": "q", "documents": ["a", "b"]}
        ranked = client.http.post("/v1/rerank", json=body | {"model": "embeds/floats"}).json()
        assert [row["relevance_score"] for row in ranked["results"]] == [0.5, 0.5]
        refused = client.http.post("/v1/rerank", json=body | {"model": "embeds/words"})
        assert "scores that are no numbers" in refused.json()["error"]["message"]


def test_tokens_are_counted_where_there_is_a_way(client: Client, connected: FakeEndpoint) -> None:
    claude = client.anthropic(max_retries=0)
    asked: Any = {"messages": [{"role": "user", "content": "Speak"}], "system": "Be brief."}
    with pytest.raises(anthropic.BadRequestError, match="no route by which tokens can be counted"):
        claude.messages.count_tokens(model="fake/good", **asked)
    with running(FakeEndpoint("vllm", ["good"], card={"max_model_len": 4096})) as endpoint:
        client.connect(endpoint.url, name="vllm")
        assert claude.messages.count_tokens(model="vllm/good", **asked).input_tokens == 200
        assert endpoint.requests[-1]["model"] == "good"


# --- lists, keys, mistakes ----------------------------------------------------------------


def test_lists_do_not_wait_for_an_endpoint_that_hangs(client: Client, front: ServerHome) -> None:
    with running(FakeEndpoint("slow", ["good"])) as slow:
        client.connect(slow.url, name="slow")
        slow.lists = False
        # A server that has just been started knows nothing of it.
        client.shutdown()
        client = front.attach()
        [row] = client.endpoints()
        assert (row["name"], row["models"]) == ("slow", [])
        assert row["state"] in {"unknown", "down"}
        assert client.ls() == []
        # A name that says where is taken at its word.
        assert say(client.openai(), "slow/good") == "slow speaks"
        slow.lists = True


def test_keys_come_from_the_environment_and_are_shown_nowhere(
    client: Client, front: ServerHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "sk-very-secret-0001"
    with running(FakeEndpoint("locked", ["good"], key=secret)) as locked:
        with pytest.raises(EndpointFailed, match=r"does not let us in \(401\)"):
            client.connect(locked.url, name="locked")
        with pytest.raises(EndpointFailed, match=r"LOCKED_KEY.* is not set"):
            client.connect(locked.url, name="locked", key_env="LOCKED_KEY")
        monkeypatch.setenv("LOCKED_KEY", "sk-a-wrong-one")
        with pytest.raises(EndpointFailed) as caught:
            client.connect(locked.url, name="locked", key_env="LOCKED_KEY")
        assert "Incorrect API key provided: …" in str(caught.value)
        assert not client.endpoints()
        monkeypatch.setenv("LOCKED_KEY", secret)
        shown = client.connect(locked.url, name="locked", key_env="LOCKED_KEY")
        assert say(client.openai(), "locked/good") == "locked speaks"
        assert shown["key_env"] == "LOCKED_KEY"
        assert not (front.path / "secrets.json").exists()

        # A server started with a wrong one takes a better one, and keeps none that is refused.
        client.disconnect("locked")
        client.shutdown()
        monkeypatch.setenv("LOCKED_KEY", "sk-a-wrong-one")
        client = front.attach()
        with pytest.raises(EndpointFailed, match=r"does not let us in \(401\)"):
            client.connect(locked.url, name="locked", key_env="LOCKED_KEY", save_key=True)
        assert not (front.path / "secrets.json").exists()
        monkeypatch.setenv("LOCKED_KEY", secret)
        client.connect(locked.url, name="locked", key_env="LOCKED_KEY")

        # A server started later, without the variable, has to be told; or it is kept.
        client.connect(locked.url, name="locked", key_env="LOCKED_KEY", save_key=True)
        monkeypatch.delenv("LOCKED_KEY")
        client.shutdown()
        client = front.attach()
        assert say(client.openai(), "locked/good") == "locked speaks"
        kept = front.path / "secrets.json"
        assert kept.stat().st_mode & 0o777 == 0o600
        files = [path for path in front.path.rglob("*") if path.is_file() and path != kept]
        assert not [path for path in files if secret.encode() in path.read_bytes()]

        kept.chmod(0o644)
        client.shutdown()
        client = front.attach()
        with pytest.raises(openai.APIStatusError, match="others may read it"):
            say(client.openai(max_retries=0), "locked/good")
        kept.unlink()
        client.disconnect("locked")


def test_a_file_that_cannot_be_read_is_not_written_over(
    client: Client, front: ServerHome, endpoint: FakeEndpoint
) -> None:
    path = front.path / "endpoints.json"
    entry = f'"kept": {{"url": "{endpoint.url}"}}'
    client.shutdown()
    path.write_text(broken := f'{{"endpoints": {{{entry},}}}}')
    client = front.attach()
    for call in (
        client.endpoints,
        partial(client.connect, endpoint.url, name="new"),
        partial(client.disconnect, "kept"),
    ):
        with pytest.raises(ConfigError, match=r"endpoints\.json cannot be read"):
            call()
    assert path.read_text() == broken
    path.write_text(f'{{"endpoints": {{{entry}}}}}')
    assert [row["name"] for row in client.endpoints()] == ["kept"]
    client.disconnect("kept")


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("gpu:8000", {}, "no http:// or https:// address"),
        ("http://", {}, "no http:// or https:// address"),
        ("http://me:secret@gpu:8000", {}, "no user, password or query"),
        ("http://gpu:8000", {"name": "a/b"}, "cannot be the name of an endpoint"),
        ("http://gpu:8000", {"name": ""}, "cannot be the name of an endpoint"),
        ("http://gpu:8000", {"key_env": "sk-123"}, "cannot be the name of one"),
        ("http://gpu:8000", {"save_key": True}, "There is no key to save"),
    ],
)
def test_endpoints_that_cannot_be_are_refused(
    client: Client, url: str, options: Any, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        client.connect(url, **options)
    assert "secret" not in str(caught.value)
    assert "sk-123" not in str(caught.value)
    assert client.endpoints() == []


def test_only_what_answers_like_one_is_connected(client: Client, endpoint: FakeEndpoint) -> None:
    with pytest.raises(EndpointFailed, match="cannot be reached"):
        client.connect("http://127.0.0.1:9")
    with pytest.raises(EndpointFailed, match="not with a list of models"):
        client.connect(endpoint.url + "/elsewhere")
    with pytest.raises(NotFound, match="no endpoint 'nowhere'"):
        client.disconnect("nowhere")
    assert client.endpoints() == []


def test_a_server_is_not_connected_to_itself(client: Client) -> None:
    url = client.serve(port=0)["url"]
    with pytest.raises(InvalidRequest, match="is this server itself"):
        client.connect(url, name="me")
    client.stop_serving()
    assert client.endpoints() == []


def test_what_is_loaded_under_a_remote_name_is_what_is_meant(
    client: Client, sdk: openai.OpenAI, connected: FakeEndpoint, tmp_path: Path
) -> None:
    path = made_models.llama(tmp_path / "made.gguf", context=256)
    list(client.load(str(path), identifier="fake/good"))
    asked = len(connected.requests)
    assert sdk.completions.create(model="fake/good", prompt="a", max_tokens=1).choices
    assert len(connected.requests) == asked
    assert client.unload("fake/good") == ["fake/good"]
    assert say(sdk, "fake/good") == "fake speaks"


def test_loading_and_unloading_is_the_endpoints_affair(
    client: Client, connected: FakeEndpoint
) -> None:
    for wanted in (
        lambda: list(client.load("fake/good")),
        lambda: client.unload("fake/good"),
        lambda: client.estimate("fake/good"),
        lambda: client.inspect("fake/good"),
    ):
        with pytest.raises(NotSupported, match="fake loads and unloads it, not this server"):
            wanted()
    for path, body in (
        ("load", {"model": "fake/good"}),
        ("unload", {"instance_id": "fake/good"}),
    ):
        answer = client.http.post(f"/api/v1/models/{path}", json=body)
        assert answer.status_code == 400
        assert "fake loads and unloads it" in answer.json()["error"]["message"]
    # What a request would do is nothing.
    [done] = client.load("fake/good", jit=True)
    assert (done["id"], done["waited"]) == ("fake/good", None)


def test_the_command_line(front: ServerHome, client: Client, endpoint: FakeEndpoint) -> None:
    said = front.lmnb("connect", endpoint.url, "--name", "gpu").stdout
    assert f"gpu ({endpoint.url}) is connected" in said
    assert "gpu/good" in said
    assert "remote" in front.lmnb("ls").stdout
    assert "at gpu" in front.lmnb("ls").stdout
    assert endpoint.url in front.lmnb("ps").stdout
    assert json.loads(front.lmnb("endpoints", "--json").stdout)[0]["state"] == "up"
    assert "is disconnected" in front.lmnb("disconnect", "gpu").stdout
    assert "No endpoint" in front.lmnb("endpoints").stderr
    failed = front.lmnb("connect", "http://127.0.0.1:9", check=False)
    assert failed.returncode == 1
    assert "cannot be reached" in failed.stderr
