"""Messages requests as clients really send them, and what they become."""

from __future__ import annotations

import base64
import json
from contextvars import copy_context
from typing import Any

import msgspec
import pytest
from starlette.datastructures import Headers

from lmnb.chat.conversation import (
    Document,
    Image,
    Message,
    OutputFormat,
    Reasoning,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from lmnb.errors import InvalidRequest, NotSupported
from lmnb.server.anthropic.schema import MessagesBody
from lmnb.server.anthropic.translate import translate
from lmnb.server.notes import collect

HI: Any = [{"role": "user", "content": "Hi"}]


def request(headers: dict[str, str] | None = None, **body: Any) -> Request:
    data = {"model": "m", "max_tokens": 9, "messages": HI, **body}
    parsed = msgspec.json.decode(json.dumps(data), type=MessagesBody)
    return translate(parsed, "resolved", Headers(headers or {}))


def conversation(*messages: Any, **body: Any) -> list[tuple[str, Any]]:
    found = request(messages=messages, **body).messages
    return [(message.role, message.parts) for message in found]


def user(*blocks: Any) -> Any:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Any) -> Any:
    return {"role": "assistant", "content": list(blocks)}


def text(words: str, **more: Any) -> Any:
    return {"type": "text", "text": words, **more}


# --- messages -----------------------------------------------------------------------


def test_plain() -> None:
    found = request()
    assert found.model == "resolved"
    assert found.messages == (Message("user", (Text("Hi"),)),)
    assert found.max_tokens == 9
    assert not found.continue_final


def test_system_as_text_and_as_blocks() -> None:
    cached = {"type": "ephemeral", "ttl": "1h"}
    for system in ("A.\n\nB.", [text("A.", cache_control=cached), text("B.")]):
        assert conversation(*HI, system=system)[0] == ("system", (Text("A.\n\nB."),))


def test_the_billing_header_never_reaches_the_model() -> None:
    header = "x-anthropic-billing-header: cc_version=2.1.197.abc; cch=f00;"
    assert conversation(*HI, system=[text(header), text("A.")])[0] == ("system", (Text("A."),))
    assert conversation(*HI, system=f"{header}\nA.")[0] == ("system", (Text("A."),))
    assert conversation(*HI, system=[text(header)]) == [("user", (Text("Hi"),))]


def test_system_messages_stay_where_they_stand() -> None:
    found = conversation(
        *HI, {"role": "system", "content": "Note."}, {"role": "user", "content": "B"}
    )
    assert [role for role, _ in found] == ["user", "system", "user"]


def test_texts_of_one_message_do_not_run_together() -> None:
    assert conversation(user(text("Summarize:"), text("Words"))) == [
        ("user", (Text("Summarize:\nWords"),))
    ]
    assert conversation(user(text("A\n"), text("B"), text(" C"))) == [("user", (Text("A\nB C"),))]


def test_tool_results_come_before_the_words() -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"é": 1}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [text("4"), text("2")]}
    failed = {"type": "tool_result", "tool_use_id": "toolu_2", "is_error": True}
    found = conversation(*HI, assistant(text("I look."), call), user(text("And?"), result, failed))
    assert found[1:] == [
        ("assistant", (Text("I look."), ToolCall("toolu_1", "look", '{"é": 1}'))),
        (
            "tool",
            (ToolResult("toolu_1", (Text("4\n2"),)), ToolResult("toolu_2", (), is_error=True)),
        ),
        ("user", (Text("And?"),)),
    ]


def test_thinking_comes_back_without_its_signature() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "abc"}
    hidden = {"type": "redacted_thinking", "data": "xyz"}
    found = conversation(*HI, assistant(thought, hidden, text("Yes.")), *HI)
    assert found[1] == ("assistant", (Thinking("hm"), Text("Yes.")))


def test_files() -> None:
    data = base64.b64encode(b"bytes").decode()
    source = {"type": "base64", "media_type": "image/png", "data": data}
    pdf = {"type": "base64", "media_type": "application/pdf", "data": data}
    plain = {"type": "text", "media_type": "text/plain", "data": "Words"}
    nested = {"type": "content", "content": [text("More")]}
    found = conversation(
        user(
            {"type": "image", "source": source},
            {"type": "document", "source": pdf, "title": "T", "citations": {"enabled": True}},
            {"type": "document", "source": plain, "title": "Title", "context": "Old."},
            {"type": "document", "source": nested},
            {
                "type": "search_result",
                "title": "R",
                "source": "http://r",
                "content": [text("Found")],
            },
        )
    )
    assert found == [
        (
            "user",
            (
                Image(b"bytes", "image/png"),
                Document(b"bytes", "application/pdf", "T"),
                Text(
                    "<document>\nTitle: Title\nContext: Old.\n\nWords\n</document>\n"
                    "<document>\nMore\n</document>\n"
                    "R\nhttp://r\nFound"
                ),
            ),
        )
    ]


def test_a_document_of_texts_and_pictures() -> None:
    data = base64.b64encode(b"png").decode()
    picture = {
        "type": "image",
        "source": {"type": "base64", "media_type": "image/png", "data": data},
    }
    source = {"type": "content", "content": [text("Before"), picture, text("After")]}
    result = {"type": "tool_result", "tool_use_id": "1", "content": [
        {"type": "document", "source": source, "title": "Both"}
    ]}  # fmt: skip
    shown = (
        Text("<document>\nTitle: Both\n\nBefore"),
        Image(b"png", "image/png"),
        Text("After\n</document>"),
    )
    [(_, parts)] = conversation(user({"type": "document", "source": source, "title": "Both"}))
    assert parts == shown
    [(_, parts)] = conversation(user(result))
    assert parts == (ToolResult("1", shown),)


def test_unknown_blocks_are_left_out() -> None:
    hologram = {"type": "hologram", "of": 1}
    result = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "smell"}]}
    hosted = {"type": "web_search_20250305", "name": "web_search"}
    own = {"name": "look", "input_schema": {}}
    upload = {"type": "container_upload", "file_id": "f"}
    given: Any = {"messages": [user(hologram, upload, text("Hi"), result)], "tools": [hosted, own]}

    def noted() -> tuple[Request, list[str]]:
        notes = collect()
        return request(**given), list(notes)

    found, notes = copy_context().run(noted)
    assert [message.parts for message in found.messages] == [(ToolResult("1", ()),), (Text("Hi"),)]
    assert sorted(notes) == [
        "A content block of the type 'hologram' was left out: it is not known here.",
        "A content block of the type 'smell' was left out: it is not known here.",
        "Tools that do not run on this server were left out: web_search.",
    ]


def test_blocks_of_tools_that_ran_elsewhere_are_told_of() -> None:
    search = {"type": "server_tool_use", "id": "1", "name": "web_search", "input": {"query": "x"}}
    hit = {"type": "web_search_result", "title": "T", "url": "u", "encrypted_content": "secret"}
    results = {"type": "web_search_tool_result", "tool_use_id": "1", "content": [hit]}
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}
    fetched = {
        "type": "web_fetch_result",
        "url": "u",
        "content": {"type": "document", "source": pdf},
    }
    fetch = {"type": "web_fetch_tool_result", "tool_use_id": "2", "content": fetched}
    summary = {"type": "compaction", "content": "So far: x.", "encrypted_content": "secret"}
    failed = {"type": "compaction", "content": None}
    [_, (_, [words])] = conversation(*HI, assistant(search, results, fetch, summary, failed))
    assert '"query": "x"' in words.text
    assert '"title": "T", "url": "u"' in words.text
    assert words.text.endswith("So far: x.")
    assert "secret" not in words.text
    assert "AAAA" not in words.text


def test_prefill() -> None:
    found = request(messages=[*HI, {"role": "assistant", "content": "The answer is"}])
    assert found.continue_final
    empty = request(messages=[*HI, {"role": "assistant", "content": ""}])
    assert not empty.continue_final
    assert [message.role for message in empty.messages] == ["user"]


# --- options ------------------------------------------------------------------------


def test_sampling_and_its_extras() -> None:
    found = request(
        temperature=0.5, top_p=0.9, top_k=5, min_p=0.1, repeat_penalty=1.1, seed=7, ttl=60
    )
    sampling = found.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 5)
    assert (sampling.min_p, sampling.repeat_penalty, sampling.seed) == (0.1, 1.1, 7)
    assert found.ttl == 60


@pytest.mark.parametrize(("given", "limit"), [(None, None), (-1, None), (0, 0), (5, 5)])
def test_token_limits(given: int | None, limit: int | None) -> None:
    assert request(max_tokens=given).max_tokens == limit


def test_stop_sequences() -> None:
    assert request(stop_sequences=["A", ""], stop="B").stop == ("A", "B")


def test_thinking_and_effort() -> None:
    cases: list[tuple[Any, Reasoning]] = [
        ({"thinking": {"type": "enabled", "budget_tokens": 2048}}, Reasoning(True, None, 2048)),
        ({"thinking": {"type": "disabled"}}, Reasoning(False)),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, Reasoning()),
        ({"thinking": {"type": "between_tools"}}, Reasoning()),
        ({"output_config": {"effort": "xhigh"}}, Reasoning(None, "xhigh")),
    ]
    for body, wanted in cases:
        assert request(**body).reasoning == wanted


def test_tools_and_choice() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"name": "look", "description": "Looks.", "input_schema": schema, "strict": True}
    hosted = {"type": "bash_20250124", "name": "bash"}
    found = request(tools=[{**tool, "cache_control": {"type": "ephemeral"}}, hosted])
    assert found.tools == (Tool("look", "Looks.", schema, strict=True),)
    named = {"type": "tool", "name": "look", "disable_parallel_tool_use": True}
    choices: list[tuple[Any, ToolChoice]] = [
        ("auto", ToolChoice()),
        ("any", ToolChoice("required")),
        ({"type": "none"}, ToolChoice("none")),
        ({"type": "any", "disable_parallel_tool_use": True}, ToolChoice("required", None, False)),
        (named, ToolChoice("named", "look", False)),
    ]
    for choice, wanted in choices:
        assert request(tools=[tool], tool_choice=choice).tool_choice == wanted


def test_only_hosted_tools() -> None:
    with pytest.raises(NotSupported, match="web_search is not supported"):
        request(tools=[{"type": "web_search_20250305", "name": "web_search"}])


def test_output_format_in_both_places() -> None:
    given = {"type": "json_schema", "schema": {"type": "object"}}
    for form, param in (
        (request(output_config={"format": given}).output_format, "output_config.format.schema"),
        (request(output_format=given).output_format, "output_format.schema"),
    ):
        assert form == OutputFormat("json_schema", {"type": "object"}, strict=True, param=param)
    assert request(output_config={"format": {"type": "text"}}).output_format == OutputFormat()


def test_sessions() -> None:
    claude = {"x-claude-code-session-id": "s1", "x-claude-code-agent-id": "a1"}
    assert request(claude).cache_key == "s1/a1"
    user_id = json.dumps({"device_id": "d", "account_uuid": "", "session_id": "s2"})
    assert request(metadata={"user_id": user_id}).cache_key == "s2"
    for name in ("me", "[" * 100_000):
        assert request(metadata={"user_id": name}).cache_key == name
    assert request().cache_key is None


def test_what_claude_code_sends() -> None:
    """Fields that mean nothing here are no reason to refuse."""
    request(
        system=[text("x-anthropic-billing-header: a"), text("You are."), text("Rules.")],
        thinking={"type": "adaptive"},
        output_config={"effort": "medium"},
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        metadata={"user_id": "{}"},
        betas=["claude-code-20250219"],
        container=None,
        service_tier="auto",
        speed="standard",
        mcp_servers=[],
        tools=[],
        tool_choice=None,
        stop_sequences=None,
        temperature=None,
    )


# --- mistakes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "S"}]}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [user({"text": "x"})]}, "messages.0.content.0.type"),
        ({"messages": [user({"type": "text"})]}, "messages.0.content.0.text"),
        ({"messages": [user({"type": "text", "text": 1})]}, "messages.0.content.0.text"),
        ({"messages": [user({"type": "image"})]}, "messages.0.content.0.source"),
        (
            {"messages": [user({"type": "image", "source": {"type": "url", "url": "http://x"}})]},
            "messages.0.content.0.source.url",
        ),
        (
            {"messages": [user({"type": "tool_result", "tool_use_id": "t", "content": 5})]},
            "messages.0.content.0.content",
        ),
        (
            {"messages": [user({"type": "search_result", "content": 5})]},
            "messages.0.content.0.content",
        ),
        (
            {"messages": [user({"type": "document", "source": {"type": "content", "content": 5}})]},
            "messages.0.content.0.source.content",
        ),
        ({"tools": [{"type": {}}]}, "tools"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tools": [{"input_schema": {}}]}, "tools.0.name"),
        ({"output_config": {"format": {"type": "yaml"}}}, "output_config.format"),
        ({"output_config": {"format": {"schema": {}}}}, "output_config.format"),
        ({"output_format": {"type": "json_schema"}}, "output_format"),
    ],
)
def test_mistakes_name_their_place(body: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(**body)
    assert caught.value.param == param
    assert caught.value.status == 400
