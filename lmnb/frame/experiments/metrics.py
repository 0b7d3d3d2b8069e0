"""Metrics by their names: those of ranked documents (ir-measures), and those of spans.

`span_recall@5` is the share of the characters that answer which the first five chunks cover,
`span_precision@5` the share of the characters of these chunks that answer, and
`span_recall@1000tokens` what is covered by the chunks that fit into 1,000 tokens. The last is what
chunks of different sizes are compared by: at a fixed number of chunks, larger ones always win.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from lmnb.errors import ConfigError, InvalidRequest

_SPAN = re.compile(r"span_(recall|precision)@([1-9]\d{0,8})(tokens)?")
_HINT = (
    "Such as nDCG@10, R@10, RR@10, P@5, AP; with spans span_recall@10, span_precision@10, "
    "span_recall@1000tokens."
)


class SpanMetric(NamedTuple):
    """`kind` is recall or precision; of so many chunks, or of those in so many `tokens`."""

    kind: str
    cutoff: int
    tokens: bool


class Metrics(NamedTuple):
    """By their names: metrics of spans, and ir-measures' own objects."""

    names: tuple[str, ...]
    spans: dict[str, SpanMetric]
    ranked: dict[str, Any]

    @property
    def chunks(self) -> int:
        """Of how many chunks they tell at most; 1 if of tokens only."""
        return max([1, *(one.cutoff for one in self.spans.values() if not one.tokens)])

    @property
    def documents(self) -> int | None:
        """Of how many documents they tell at most; None if of all."""
        found = [one.params.get("cutoff") for one in self.ranked.values()]
        return None if None in found else max([0, *found])

    @property
    def tokens(self) -> int:
        """Of how many tokens they tell at most."""
        return max([0, *(one.cutoff for one in self.spans.values() if one.tokens)])


def usual(k: int, budget_tokens: int, *, spans: bool) -> tuple[str, ...]:
    """What is told unless metrics are named."""
    if spans:
        return (f"span_recall@{k}", f"span_precision@{k}", f"span_recall@{budget_tokens}tokens")
    return (f"nDCG@{k}", f"R@{k}", f"RR@{k}")


def parse(names: str | Iterable[str]) -> Metrics:
    """The metrics of these names.

    Raises
    ------
    InvalidRequest
        There is no such metric, or no name.
    ConfigError
        ir-measures is not installed.
    """
    given = (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
    if not given:
        raise InvalidRequest("There is no metric to compute.", hint=_HINT)
    spans, ranked = {}, {}
    for name in given:
        if found := _SPAN.fullmatch(str(name)):
            spans[name] = SpanMetric(found[1], int(found[2]), bool(found[3]))
        else:
            ranked[name] = _ranked(name)
    return Metrics(given, spans, ranked)


def _ranked(name: Any) -> Any:
    library = _library()
    try:
        found = library.parse_measure(name)
        known = library.DefaultPipeline.supports(found) and found.params.get("cutoff", 1) > 0
    except Exception:  # noqa: BLE001 - the library has no error of its own for names
        known = False
    if not known:
        raise InvalidRequest(f"There is no metric {name!r}.", hint=_HINT)
    return found


def ranked_scores(
    measures: Mapping[str, Any],
    grades: Mapping[Hashable, Mapping[Hashable, int]],
    found: Mapping[Hashable, Sequence[Hashable]],
) -> dict[str, dict[Hashable, float]]:
    """Each metric for each query that has grades; 0 where nothing was found.

    `found`: documents, best first, each once.
    """
    if not measures:
        return {}
    library = _library()
    # trec_eval knows texts only, and sorts equal scores by them: so labels are numbers here, and the
    # score of a document is its place from the end.
    queries = {str(number): query for number, query in enumerate(grades)}
    names: dict[Hashable, str] = {}

    def number(document: Hashable) -> str:
        return names.setdefault(document, str(len(names)))

    qrels = {
        key: {number(one): grade for one, grade in grades[query].items()}
        for key, query in queries.items()
    }
    run = {
        key: {number(one): float(-place) for place, one in enumerate(found.get(query, ()))}
        for key, query in queries.items()
    }
    result: dict[str, dict[Hashable, float]] = {
        name: dict.fromkeys(grades, 0.0) for name in measures
    }
    run = {key: some for key, some in run.items() if some}
    wanted = set(measures.values())  # names may mean the same: AP and MAP
    for one in library.iter_calc(wanted, qrels, run) if run else ():
        for name, measure in measures.items():
            if measure == one.measure:
                result[name][queries[one.query_id]] = float(one.value)
    return result


def _library() -> Any:
    try:
        import ir_measures
    except ImportError:
        raise ConfigError(
            "ir-measures, which computes metrics, is not installed.",
            hint="`pip install 'lmnb[eval]'` installs it.",
        ) from None
    return ir_measures
