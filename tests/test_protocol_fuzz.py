"""Requests made from the server's own description: each is answered as the description says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2
import made_models
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from server_home import ServerHome

MODEL = "made-fuzzed"
EXAMPLES = 15
"""Requests to each route; under a minute for all of them."""
ANSWERING = ("chat/completions", "/v1/completions", "responses", "messages", "api/v1/chat")
HELLO = [{"role": "user", "content": "hello"}]
SAID: dict[str, Any] = {
    "messages": HELLO,
    "input": "hello",
    "prompt": "hello",
    "tools": [],
    "tool_choice": "auto",
}
"""Of the fields whose schema is "anything": values that mean something."""
REFUSED = (
    "background", "conversation", "draft_model", "functions", "function_call", "grammar",
    "guided_choice", "guided_grammar", "guided_json", "guided_regex", "json_schema", "logit_bias", "lora",
    "modalities", "previous_response_id", "response_format", "structured_outputs", "suffix", "text",
)  # fmt: skip
"""Fields with which a request can hardly be answered."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def url(server: ServerHome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server on TCP with a model that answers anything at once, in few tokens."""
    path = made_models.llama(tmp_path_factory.mktemp("models") / "fuzzed.gguf")
    server.lmnb("load", str(path), "--identifier", MODEL, "--context-length", "256")
    client = server.attach()
    yield client.serve(port=0)["url"]
    client.stop_serving()
    client.unload(MODEL)


def make_sense(case: Case[Any]) -> None:
    """Most requests name the model that is there, and half say something: others get no further."""
    if not isinstance(case.body, dict):
        return
    luck = len(str(case.body))
    if luck % 4:
        case.body["model"] = MODEL
    if luck % 2:
        if case.path.endswith("/responses"):  # where it may be missing
            case.body.setdefault("input", "hello")
        case.body |= {name: SAID[name] for name in SAID.keys() & case.body.keys()}
        for name in (*REFUSED, *({"prompt"} if "input" in case.body else ())):
            case.body.pop(name, None)


def test_no_request_is_a_fault_of_the_server(url: str) -> None:
    """Nor is any answer one that the description does not know."""
    bad: list[str] = []
    answered: set[str] = set()
    for operation in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
        assert isinstance(operation, Ok)
        call = operation.ok()

        @settings(
            max_examples=EXAMPLES,
            derandomize=True,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=call.as_strategy())
        def ask(case: Case[Any]) -> None:
            make_sense(case)
            response = case.call_and_validate(checks=CHECKS, timeout=20)
            if response.status_code == 200:
                answered.add(case.path)

        try:
            ask()
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - told at the end
            causes = error.exceptions if isinstance(error, BaseExceptionGroup) else (error,)
            bad.append(f"{call.label}: {error}\n" + "\n".join(str(one) for one in causes))
    assert not bad, "\n\n".join(bad)
    silent = [name for name in ANSWERING if not any(name in path for path in answered)]
    assert not silent, "requests that never got an answer test too little"


def test_the_description_has_every_route(url: str) -> None:
    found = httpx2.get(f"{url}/openapi.json").json()
    paths = found["paths"]
    for path in (
        "/v1/chat/completions",
        "/v1/messages",
        "/api/v1/chat",
        "/v1/models/{id}",
        "/health",
    ):
        assert path in paths
    body = paths["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]
    fields = found["components"]["schemas"][body["schema"]["$ref"].rpartition("/")[2]]["properties"]
    assert {"messages", "tools", "stop"} <= set(fields)
    assert "413" in paths["/v1/messages"]["post"]["responses"]
