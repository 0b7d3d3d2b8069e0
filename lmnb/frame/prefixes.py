"""What embedding models want before a text, which their files do not say.

Queries and documents are told apart by it; without, search is worse. From the models' own pages.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["document", "query"]


class Prefixes(NamedTuple):
    """Before a query, before a document."""

    query: str
    document: str


_BGE = "Represent this sentence for searching relevant passages: "
_QWEN = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
)

_KNOWN = (
    (r"e5-mistral|e5.*instruct", Prefixes(_QWEN.replace("Query:", "Query: "), "")),
    (r"\be5-", Prefixes("query: ", "passage: ")),
    (r"nomic-embed", Prefixes("search_query: ", "search_document: ")),
    (r"arctic-embed.*v2", Prefixes("query: ", "")),
    (r"bge-(small|base|large)-en|mxbai-embed|arctic-embed-(xs|s|m|l)\b", Prefixes(_BGE, "")),
    (r"qwen3-embedding", Prefixes(_QWEN, "")),
    (
        r"embedding-?gemma",
        Prefixes("task: search result | query: ", "title: none | text: "),
    ),
)


def find(model: str) -> Prefixes | None:
    """The prefixes of a model by its name; None if it wants none, or is not known."""
    name = model.casefold()
    return next((found for pattern, found in _KNOWN if re.search(pattern, name)), None)
