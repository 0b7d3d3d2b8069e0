"""Log probabilities as endpoints write them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lmnb.engine.options import TokenLogprob


def of_chat(value: Any) -> tuple[TokenLogprob, ...]:
    """`logprobs` of a choice of Chat Completions."""
    content = value.get("content") if isinstance(value, dict) else None
    if not isinstance(content, list):
        return ()
    return tuple(_token(entry) for entry in content if isinstance(entry, dict))


def _token(entry: dict[str, Any]) -> TokenLogprob:
    top = entry.get("top_logprobs")
    others = [one for one in top if isinstance(one, dict)] if isinstance(top, list) else []
    text, raw = _text(entry)
    return TokenLogprob(
        text, raw, _number(entry), tuple((*_text(one), _number(one)) for one in others)
    )


def _text(entry: dict[str, Any]) -> tuple[str, bytes]:
    text = entry.get("token")
    text = text if isinstance(text, str) else ""
    try:
        return text, bytes(entry["bytes"])
    except (KeyError, TypeError, ValueError):
        return text, text.encode()


def _number(entry: dict[str, Any]) -> float:
    value = entry.get("logprob")
    return float(value) if isinstance(value, int | float) else 0.0


def of_text(value: Any) -> tuple[TokenLogprob, ...]:
    """`logprobs` of a choice of Completions: parallel lists."""
    return tuple(_parallel(value)) if isinstance(value, dict) else ()


def _parallel(value: dict[str, Any]) -> Iterator[TokenLogprob]:
    lists = [value.get(name) for name in ("tokens", "token_logprobs", "top_logprobs")]
    tokens, scores, tops = (found if isinstance(found, list) else [] for found in lists)
    for i, token in enumerate(tokens):
        score = scores[i] if i < len(scores) else None
        top = tops[i] if i < len(tops) and isinstance(tops[i], dict) else {}
        others = (
            (text, text.encode(), float(number))
            for text, number in top.items()
            if isinstance(number, int | float)
        )
        known = float(score) if isinstance(score, int | float) else 0.0
        yield TokenLogprob(str(token), str(token).encode(), known, tuple(others))
