"""The panels without a front end: values are set and buttons clicked as a front end does it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ipywidgets.widgets.widget import _instances
from server_home import CHAT, ENDLESS, ServerHome, wait_for

from lmnb.client import Client
from lmnb.follow import Follower, State
from lmnb.notebook import models
from lmnb.notebook.widgets.load import AUTO, Load
from lmnb.notebook.widgets.loaded import Loaded
from lmnb.notebook.widgets.panel import Panel
from lmnb.notebook.widgets.stage import Stage


@pytest.fixture
def stage(client: Client) -> Iterator[Stage]:
    client.unload(all=True)
    found = Stage()
    yield found
    found.close()


def opened(panel: Panel) -> Any:
    wait_for(lambda: panel.state is not None, "the first state")
    return panel


def test_a_follower_tells_what_changes(client: Client) -> None:
    client.unload(all=True)
    states: list[State | None] = []
    follower = Follower(states.append)
    wait_for(lambda: bool(states), "the first state")
    assert states[0] is not None
    assert states[0]["loaded"] == []
    for _ in client.load(CHAT, ttl=900):
        pass
    wait_for(lambda: bool(states[-1] and states[-1]["loaded"]), "the model")
    last = states[-1]
    assert last is not None
    assert (last["loaded"][0]["id"], last["loaded"][0]["ttl"]) == (CHAT, 900)
    assert 0 < last["loaded"][0]["ttl_left"] <= 900
    assert last["loaded"][0]["tokens_per_second"] is None
    client.openai().completions.create(model=CHAT, prompt="One, two,", max_tokens=8)
    wait_for(lambda: bool((states[-1] or last)["loaded"][0]["tokens_per_second"]), "the speed")
    follower.close()
    told = len(states)
    client.unload(CHAT)
    assert len(states) == told


def test_a_follower_outlives_servers(fresh_home: ServerHome) -> None:
    states: list[State | None] = []
    follower = Follower(states.append, fresh_home.path)
    wait_for(lambda: bool(states), "the news that there is none")
    assert states == [None]
    assert not fresh_home.processes()  # looking on starts nothing
    fresh_home.attach()
    wait_for(lambda: states[-1] is not None, "the server")
    fresh_home.kill()
    wait_for(lambda: states[-1] is None, "the end of the killed one")
    client = fresh_home.attach()
    wait_for(lambda: states[-1] is not None, "the next server")
    # Who follows keeps it neither busy nor from ending, in seconds.
    assert client.handshake()["busy"] is False
    assert client.shutdown(if_idle=True)
    wait_for(lambda: states[-1] is None, "its end")
    follower.close()


def test_requests_of_others_are_told(client: Client, stage: Stage) -> None:
    panel = opened(Loaded(stage))
    with client.http.stream("POST", "/v1/completions", json={**ENDLESS, "stream": True}) as answer:
        parts = answer.iter_raw()  # left, it would end the answer
        next(parts)
        wait_for(lambda: bool(panel.state["requests"]), "the request")
        (one,) = panel.state["requests"]
        assert (one["method"], one["path"]) == ("POST", "/v1/completions")
        wait_for(lambda: CHAT in panel.cards, "the card")
        wait_for(lambda: "● busy, 1 now" in panel.cards[CHAT].head.value, "the work")
        assert panel.cards[CHAT].left.value == "1 h once it is idle"
    wait_for(lambda: "○ idle" in panel.cards[CHAT].head.value, "the end")
    assert panel.state["requests"] == []
    assert panel.cards[CHAT].left.value.startswith("unloads in ")


def test_loaded_follows_and_unloads(client: Client, stage: Stage) -> None:
    panel = opened(Loaded(stage))
    wait_for(lambda: panel.note.value == "No model is loaded.", "the empty panel")
    for _ in client.load(CHAT):
        pass
    wait_for(lambda: CHAT in panel.cards, "the card")
    card = panel.cards[CHAT]
    wait_for(lambda: "all 30 layers" in card.head.value, "the card's text")
    assert (card.ttl.value, card.left.value) == (0, "")
    card.ttl.value = 600  # as the user's slider does
    wait_for(lambda: card.left.value.startswith("unloads in "), "the countdown")
    assert client.ps()[0]["ttl"] == 600
    before = card.left.value
    wait_for(lambda: card.left.value != before, "a second to pass")
    for _ in client.load(CHAT, ttl=77):  # somebody else
        pass
    wait_for(lambda: card.ttl.value == 77, "the slider")
    made = len(_instances)
    card.unload.click()
    wait_for(lambda: not panel.cards, "the end of the card")
    assert client.ps() == []
    assert card.root.comm is None
    assert len(_instances) < made


def test_what_fails_is_shown(client: Client, stage: Stage) -> None:
    panel = opened(Loaded(stage))
    panel.unload("no<such>", None)
    wait_for(lambda: "no&lt;such&gt;" in panel.failure.value, "the failure")
    assert "Traceback" not in panel.failure.value

    def faulty(_: Client) -> None:
        raise ZeroDivisionError

    panel.act(faulty)
    wait_for(lambda: "lmnb has a fault: ZeroDivisionError()" in panel.failure.value, "the fault")
    # The next thing that is done takes it away.
    panel.act(lambda client: client.ps())
    wait_for(lambda: not panel.failure.value, "the failure to go")
    assert panel.failure.layout.display == "none"


@pytest.fixture
def load(stage: Stage) -> Any:
    panel = opened(Load(stage))
    wait_for(lambda: panel.model.value is not None, "the models")
    panel.model.value = CHAT
    wait_for(lambda: panel.context.options[-1][1] == 8192, "the model's context")
    return panel


def memory_of(panel: Any, part: str) -> Callable[[], bool]:
    return lambda: part in panel.estimate.value


def test_the_estimate_moves(client: Client, load: Any) -> None:
    assert load.context.value == AUTO
    wait_for(memory_of(load, "context 8192 tokens"), "the first estimate")
    before = load.estimate.value
    for length in (512, 1024, 2048):  # a drag: of what passes by no estimate is made
        load.context.value = length
    wait_for(memory_of(load, "context 2048 tokens"), "the estimate")
    assert load.estimate.value != before
    load.parallel.value = 2
    wait_for(memory_of(load, "2 answers at a time"), "the slots")
    before = load.estimate.value
    load.cache_type.value = "q8_0"
    wait_for(lambda: load.estimate.value != before, "the smaller cache")
    assert load.options() == {
        "context_length": 2048,
        "parallel": 2,
        "cache_type_k": "q8_0",
        "cache_type_v": "q8_0",
    }


def test_load_loads(client: Client, load: Any) -> None:
    load.context.value, load.parallel.value, load.ttl.value = 1024, 1, 300
    load.load.click()
    wait_for(lambda: "is loaded (" in load.loading.done.value, "the load")
    (row,) = client.ps()
    assert (row["id"], row["context_length"], row["ttl"]) == (CHAT, 1024, 300)
    assert load.loading.bar.layout.display == load.loading.cancel.layout.display == "none"
    wait_for(lambda: load.load.disabled is False, "the button")
    # Cells of this notebook ask it from now on.
    assert models.choose(client) == CHAT
    load.load.click()
    wait_for(lambda: "is loaded already" in load.loading.done.value, "the second load")


def test_a_load_is_cancelled(client: Client, load: Any) -> None:
    load.load.click()
    wait_for(lambda: load.loading.cancel.layout.display is None, "the cancel button")
    wait_for(lambda: bool(client.pending()["loading"]), "the load")
    load.loading.cancel.click()
    wait_for(lambda: "cancelled" in load.failure.value, "the end of it")
    assert client.ps() == []
    assert client.pending()["loading"] == []


def test_options_that_do_not_fit_say_so(client: Client, load: Any) -> None:
    load.cache_type.options = [*load.cache_type.options, ("q9_9", "q9_9")]
    load.cache_type.value = "q9_9"
    wait_for(memory_of(load, "q9_9"), "the refusal")
    load.load.click()
    wait_for(lambda: "q9_9" in load.failure.value, "the refused load")
    assert client.ps() == []


def test_threads_end_with_the_panels(client: Client) -> None:
    stage = Stage()
    panel = opened(Loaded(stage))
    panel.close()
    stage.close()
    assert panel.root.comm is None
    assert "lmnb-widgets" not in {thread.name for thread in threading.enumerate()}
