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


_SENTENCE = "Represent this sentence for searching relevant passages: "
_CODE = "Represent this query for searching relevant code: "
_CHINESE = "为这个句子生成表示以用于检索相关文章："
_TASK = "Instruct: Given a web search query, retrieve relevant passages that answer the query"

_KNOWN = (
    (r"stella.*v5", Prefixes(f"{_TASK}.\nQuery: ", "")),
    (r"e5-mistral|\be5.*instruct|gte-qwen", Prefixes(f"{_TASK}\nQuery: ", "")),
    (r"qwen3-embedding", Prefixes(f"{_TASK}\nQuery:", "")),
    (r"\be5-|mxbai-embed-de", Prefixes("query: ", "passage: ")),
    (r"nomic-embed-code|coderankembed", Prefixes(_CODE, "")),
    (r"nomic-embed|modernbert-embed", Prefixes("search_query: ", "search_document: ")),
    (r"arctic-embed.*v2", Prefixes("query: ", "")),
    (
        r"bge-(small|base|large)-en|mxbai-embed|arctic-embed-(xs|s|m|l)\b|uae-large",
        Prefixes(_SENTENCE, ""),
    ),
    (r"bge-(small|base|large)-zh", Prefixes(_CHINESE, "")),
    (r"embedding-?gemma", Prefixes("task: search result | query: ", "title: none | text: ")),
    (
        r"jina-embeddings-v3",
        Prefixes(
            "Represent the query for retrieving evidence documents: ",
            "Represent the document for retrieval: ",
        ),
    ),
    (r"jina-embeddings-v4", Prefixes("Query: ", "Passage: ")),
    (r"jina-embeddings-v5", Prefixes("Query: ", "Document: ")),
)
"""By what is in a name; the first that fits. In lower case. Not here, as they want nothing: MiniLM,
MPNet, BGE-M3, GTE (but for Qwen's), Granite, Jina's second version."""


def find(model: str) -> Prefixes | None:
    """The prefixes of a model by its name; None if it wants none, or is not known."""
    name = model.casefold()
    return next((found for pattern, found in _KNOWN if re.search(pattern, name)), None)
