"""`Index.ask`: answers from what was found, whose quotes are looked up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lmnb import selection
from lmnb.attaching import attach
from lmnb.errors import InvalidRequest
from lmnb.frame.index import citations
from lmnb.frame.index.answer import Answer
from lmnb.frame.index.citations import Quote
from lmnb.frame.mapping import RowFailed
from lmnb.frame.run import NULL
from lmnb.frame.values import is_null, objects

if TYPE_CHECKING:
    from lmnb.frame.index.index import Index

Json = dict[str, Any]

_SYSTEM = "Answer the question from the numbered sources alone. If they do not tell, say that they do not."
_CITE = (
    " Make short statements. With each, name the sources it is from, and quote from each of them the "
    "few words that say so, exactly as they stand there."
)
_PATH = "/v1/chat/completions"
_NO_SOURCES = "no sources"
_STATEMENTS, _TEXT, _SOURCES, _QUOTE = 6, 600, 3, 200
"""At most so many statements, characters and sources of each, and characters of a quote: weak models
do not find the end by themselves."""


class Asked:
    """A question, the sources for it, and what became of them."""

    def __init__(self, question: str | None, context: pd.DataFrame, on: Any) -> None:
        self.question = question
        self.on = on
        self.take(context)
        self.text: str | None = None
        self.cited: list[Json] = []
        self.error: str | None = None
        if question is None:
            self.error = NULL
        elif context.empty:
            self.error = _NO_SOURCES

    def take(self, context: pd.DataFrame) -> None:
        """Have these sources."""
        self.context = context.reset_index(drop=True)

    def prompt(self, count: int | None = None) -> str:
        """The question with its first `count` sources, or with all."""
        texts = self.context[self.on].tolist()[:count]
        sources = "\n\n".join(f"[{marker}] {text}" for marker, text in enumerate(texts, 1))
        return f"Sources:\n\n{sources}\n\nQuestion: {self.question}"

    def answered(self, said: Any) -> None:
        """Take over what the model said: text, or statements with their sources."""
        if isinstance(said, str):
            self.text = said
            return
        texts, quotes = [], []
        for statement in said:
            named = [Quote(one["number"], one["quote"]) for one in statement["sources"]]
            markers = "".join(
                f"[{marker}]" for marker in dict.fromkeys(one.marker for one in named)
            )
            texts.append(f"{statement['text'].strip()} {markers}".strip())
            quotes += named
        self.text = " ".join(texts)
        self.cited = citations.records(quotes, self.context, self.on)


def ask(
    index: Index,
    questions: Any,
    *,
    budget_tokens: int | None,
    cite: bool,
    search: Json,
    options: Json,
) -> Answer | pd.DataFrame:
    """See `Index.ask`. `search` is for `Index.search`, `options` for `FrameAccessor.map`."""
    if index.on is None:
        raise InvalidRequest("The index has no texts to answer from.")
    if budget_tokens is not None and budget_tokens < 1:
        raise InvalidRequest(f"budget_tokens is at least 1, not {budget_tokens!r}.")
    one = isinstance(questions, str)
    series = pd.Series([questions] if one else questions, dtype=object)
    every = _found(index, series, search)
    if budget_tokens is not None:
        _fit(every, budget_tokens, options.get("model"))
    attributes = _answer(every, options, cite=cite)
    if not one:
        return _table(every, series.index, attributes)
    [asked] = every
    if asked.text is None:
        raise RowFailed(f"There is no answer: {asked.error}.")
    context = asked.context.copy()
    context.insert(0, "marker", range(1, len(context) + 1), allow_duplicates=True)
    return Answer(asked.text, citations.table(asked.cited), context, asked.prompt())


def _found(index: Index, series: pd.Series[Any], search: Json) -> list[Asked]:
    """The questions with what is found for each."""
    found = index.search(series.reset_index(drop=True), **search)
    found = found.loc[np.array([not is_null(text) for text in found[index.on]], dtype=bool)]
    groups: dict[Any, pd.DataFrame] = dict(iter(found.groupby("query_id")))
    return [
        Asked(None if is_null(question) else question, groups.get(place, found[:0]), index.on)
        for place, question in enumerate(series)
    ]


def _fit(every: Sequence[Asked], budget: int, model: str | None) -> None:
    """Leave out the last sources of each question until the others have `budget` tokens at most."""
    client = attach()
    name = model or selection.choose(client, by="model=")

    def tokens(asked: Asked, count: int) -> int:
        messages = [{"role": "user", "content": asked.prompt(count)}]
        found: int = client.render(_PATH, {"model": name, "messages": messages})["tokens"]
        return found

    for asked in every:
        if asked.error is not None:
            continue
        limit = tokens(asked, 0) + budget
        fits, too_many = 0, len(asked.context) + 1
        while too_many - fits > 1:
            middle = (fits + too_many) // 2
            if tokens(asked, middle) <= limit:
                fits = middle
            else:
                too_many = middle
        asked.take(asked.context[:fits])
        if not fits:
            asked.error = f"no source has {budget} tokens or less"


def _answer(every: Sequence[Asked], options: Json, *, cite: bool) -> Json:
    """Ask the model; questions of as many sources together, since a schema names the sources."""
    groups: dict[int, list[Asked]] = {}
    for asked in every:
        if asked.error is None:
            groups.setdefault(len(asked.context) if cite else 0, []).append(asked)
    attributes: Json = {}
    for count, some in groups.items():
        frame = pd.DataFrame({"prompt": [asked.prompt() for asked in some]})
        given = {"system": _SYSTEM + _CITE * cite, **options}
        found = frame.lm.map("{prompt}", schema(count) if cite else None, **given)
        column = "statements" if cite else "out"
        for asked, said, error in zip(some, found[column], found["out_error"], strict=True):
            if is_null(error):
                asked.answered(said)
            else:
                asked.error = error
        counts = found.attrs["lmnb"]
        for name, value in counts.items():
            whole = isinstance(value, int)
            attributes[name] = attributes.get(name, 0) + value if whole else value
    return attributes


def schema(count: int) -> Json:
    """Statements, each with quotes from sources of which there are `count`."""
    source = {"number": {"type": "integer", "enum": list(range(1, count + 1))}}
    quoted = _object(source | {"quote": {"type": "string", "maxLength": _QUOTE}})
    sources = {"type": "array", "items": quoted, "maxItems": _SOURCES}
    statement = _object({"sources": sources, "text": {"type": "string", "maxLength": _TEXT}})
    several = {"type": "array", "items": statement, "minItems": 1, "maxItems": _STATEMENTS}
    return _object({"statements": several})


def _object(properties: Json) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _table(every: Sequence[Asked], labels: pd.Index[Any], attributes: Json) -> pd.DataFrame:
    cited = [None if asked.text is None else asked.cited for asked in every]
    supported = [
        None if some is None else sum(one["status"] == "supported" for one in some)
        for some in cited
    ]
    found = pd.DataFrame(
        {
            "answer": pd.Series([asked.text for asked in every], labels, dtype="string"),
            "answer_error": pd.Series([asked.error for asked in every], labels, dtype="string"),
            "citations": objects(cited, labels),
            "cited": pd.Series(
                [None if some is None else len(some) for some in cited], labels, dtype="Int64"
            ),
            "supported": pd.Series(supported, labels, dtype="Int64"),
            "context": objects([asked.context["id"].tolist() for asked in every], labels),
        },
        index=labels,
    )
    found.attrs["lmnb"] = attributes
    return found
