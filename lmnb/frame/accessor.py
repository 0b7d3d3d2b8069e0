"""`.lm` on tables and columns. Stateless: pandas makes a new one each time it is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from lmnb.errors import InvalidRequest
from lmnb.frame.chunking import Chunking, Splitter
from lmnb.frame.embedding import Embedding, Truncate, Vector, cosine, matrix, vectors
from lmnb.frame.grouping import Grouping, GroupingRows
from lmnb.frame.index.accessor import Searching
from lmnb.frame.mapping import Asking, values_of
from lmnb.frame.options import options_of
from lmnb.frame.prefixes import Kind
from lmnb.frame.schemas import choices
from lmnb.frame.templates import Template
from lmnb.frame.values import added, column, ensure_free

_CLASSIFY = "Which of these fits the text best: {choices}?\n\nText: {text}"
_EXTRACT = "Take from the text what is asked for.\n\nText: {text}"


class FrameAccessor(GroupingRows, Searching):
    """`df.lm`: a model's answers as new columns of a copy, with the table's index."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame

    def map(
        self,
        template: str,
        schema: Any = None,
        *,
        into: str = "out",
        overwrite: bool = False,
        dry_run: bool = False,
        **options: Any,
    ) -> pd.DataFrame:
        """Ask a chat model about each row.

        Parameters
        ----------
        template
            The question, with `{column}` where a value of the row goes; `{{` is a brace.
        schema
            What form answers have: a pydantic model, a dict of names and types (`int`, `float`,
            `bool`, `str`, a list of choices, any other annotation), or a JSON schema of an object.
            Each field becomes a column of that type. Without one, the answer is the text in `into`.
        into
            The name of the column, and of `{into}_error`, which says why a row has no answer:
            "null input", "timeout", "length: …" (cut), "schema: …", or what the server said.
        overwrite
            Replace columns of these names, which otherwise is an error.
        dry_run
            Ask nothing: the questions are in `{into}_prompt`.
        options
            `system`: a system message. `examples`: pairs of a dict with the template's values, and
            the answer. `model`: default the loaded one. `concurrency`: at most so many at once,
            default as many as the model computes together. `on_error`: "column", or "raise" at the
            first row without an answer. `retries` (1) of an answer that was cut, with four times
            the tokens, or does not fit. `timeout` in seconds per row. `cache` (True). `executor`:
            a `dask.distributed.Client`, whose workers ask the lmnb servers of their own machines.
            `progress`: True or False, default where somebody looks on. `max_tokens` (1024), `temperature` (0),
            `seed` (0), and any other option of sampling that the server knows. At a temperature
            above 0 each row has its own seed, `seed` plus its position.

        Notes
        -----
        Rows that ask the same are asked once. Answers are kept in `$LMNB_HOME/cache`: a run that was
        stopped goes on where it was, and one that is repeated asks nothing. `attrs["lmnb"]` has the
        counts.

        Raises
        ------
        InvalidRequest
            A column that the template names is missing, a column is there already, or the server
            can do nothing with an option.
        ModelNotFound, ServerError
            There is no model, or no server; answers up to then are kept.
        RowFailed
            With `on_error="raise"`.
        """
        parsed = Template(template)
        parsed.check(list(self._frame.columns))
        if dry_run:
            prompts = list(map(parsed.fill, values_of(self._frame, parsed)))
            name = f"{into}_prompt"
            return added(
                self._frame,
                {name: pd.Series(prompts, index=self._frame.index, dtype="string")},
                overwrite=overwrite,
            )
        asking = Asking(parsed, values_of(self._frame, parsed), options_of(schema, options))
        return _mapped(asking, self._frame, into, overwrite=overwrite)

    def filter(self, template: str, **options: Any) -> pd.DataFrame:
        """The rows of which a chat model says that what the template says is true.

        Rows without an answer, or with a null in a column of the template, are left out; how many
        there are is in `attrs["lmnb"]`. Options are those of `map`.
        """
        parsed = Template(template)
        parsed.check(list(self._frame.columns))
        given = {"system": "Say whether the statement is true, or the answer yes.", **options}
        asking = Asking(parsed, values_of(self._frame, parsed), options_of({"holds": bool}, given))

        def make() -> pd.DataFrame:
            holds = [bool(one and one["holds"]) for one in asking.rows.results()]
            found = self._frame.loc[np.array(holds, dtype=bool)].copy()
            found.attrs["lmnb"] = asking.attributes()
            return found

        return asking.run(make)

    def classify(
        self,
        on: Any,
        labels: Sequence[str],
        *,
        into: str = "label",
        overwrite: bool = False,
        **options: Any,
    ) -> pd.DataFrame:
        """Which of the labels fits the text in the column `on`: a categorical column `into`.

        Options are those of `map`.
        """
        asking = _classifying(column(self._frame, on), labels, options, into)
        return _mapped(asking, self._frame, into, overwrite=overwrite)

    def extract(
        self,
        on: Any,
        schema: Any,
        *,
        into: str = "out",
        overwrite: bool = False,
        **options: Any,
    ) -> pd.DataFrame:
        """What the text in the column `on` says about each field of a schema, as columns.

        Schemas and options are those of `map`; `{into}_error` is the column of errors.
        """
        asking = _extracting(column(self._frame, on), schema, options)
        return _mapped(asking, self._frame, into, overwrite=overwrite)

    def chunk(
        self,
        on: Any = "text",
        *,
        size: int | None = None,
        overlap: int = 0,
        unit: Literal["tokens", "characters"] = "tokens",
        splitter: Literal["semchunk"] | Splitter = "semchunk",
        keep: Sequence[Any] = (),
        model: str | None = None,
        progress: bool | None = None,
    ) -> pd.DataFrame:
        """The texts in the column `on` cut into chunks, one a row.

        Parameters
        ----------
        size, overlap
            Of a chunk, at most (256), and how much of it the next one begins with, about.
        unit
            What these count: tokens of the embedding model, or characters.
        splitter
            "semchunk" cuts between paragraphs, else lines, sentences, clauses, words. A function of
            one's own takes a text and makes parts of it, or pairs of start and end.
        keep
            Columns that chunks take over from their row.
        model
            The embedding model, which is not loaded for this; default as in `embed`.

        Returns
        -------
        DataFrame
            `doc_id` (the row's label), `chunk_id` (unique), `seq` (from 0 in each row), `start`,
            `end` and `text`, with `document[start:end] == text` always, `n_tokens` (without marks
            such as [CLS]), and what is kept. Nulls have no chunks.

        Raises
        ------
        InvalidRequest
            A column is missing, or holds something other than text; options make no sense.
        NotSupported
            The model is on another server.
        """
        chunking = Chunking(size, overlap, unit, splitter, model)
        return chunking.of(self._frame, on, keep, progress=progress)


class SeriesAccessor(Grouping):
    """`series.lm`: vectors of texts, and a model's answers about them."""

    def __init__(self, series: pd.Series[Any]) -> None:
        self._series = series

    def embed(
        self,
        model: str | None = None,
        *,
        kind: Kind | None = None,
        prefix: str | None = None,
        truncate: Truncate = "warn",
        cache: bool = True,
        executor: Any = None,
        progress: bool | None = None,
    ) -> pd.Series[Any]:
        """The vectors of the texts: float32 arrays of length 1, None for nulls; same index and name.

        Parameters
        ----------
        model
            Default the loaded embedding model, else all-minilm-l6-v2.
        kind
            "document" or "query", for models that tell them apart; the known ones get their prefix.
        prefix
            What goes before each text, in place of the known one.
        truncate
            Of texts that are too long: "warn" cuts them and warns, "end" cuts them, "error" gives
            them no vector.
        cache, executor, progress
            As in `FrameAccessor.map`. Equal texts are embedded once.

        Notes
        -----
        A row that fails is None, with a warning; `attrs["lmnb"]["errors"]` has the reasons by
        position.

        Raises
        ------
        InvalidRequest
            A row holds something other than text.
        ModelNotFound, ServerError
            There is no model, or no server; what was computed is kept.
        """
        work = Embedding(
            self._series,
            model=model,
            kind=kind,
            prefix=prefix,
            truncate=truncate,
            cache=cache,
            executor=executor,
            progress=progress,
        )
        return work.run()

    def matrix(self) -> Vector:
        """The vectors of a column of vectors as rows, (rows, dimensions); NaN for nulls."""
        return matrix(self._series)

    def similarity(
        self, to: str | pd.Series[Any] | ArrayLike, *, model: str | None = None
    ) -> pd.Series[float]:
        """The cosine with a text, with a vector, or row by row with another column; NaN for nulls.

        Columns of texts are embedded first, and a text is as a query.

        Raises
        ------
        InvalidRequest
            The other column has another index, or vectors differ in length.
        """
        rows = vectors(self._series, model)
        if isinstance(to, pd.Series):
            if not to.index.equals(self._series.index):
                raise InvalidRequest(
                    "The columns have different indexes.", hint="`.to_numpy()` goes by position."
                )
            others: ArrayLike = vectors(to, model)
        elif isinstance(to, str):
            query = pd.Series([to], dtype=object)
            others = matrix(SeriesAccessor(query).embed(model, kind="query"))
        else:
            others = to
        return pd.Series(
            cosine(rows, others), index=self._series.index, name="similarity", dtype="float64"
        )

    def map(self, template: str = "{text}", schema: Any = None, **options: Any) -> Any:
        """Ask a chat model about each text, which is `{text}` in the template.

        A column of answers; with a schema, a table with a column for each field and `out_error`.
        Options are those of `FrameAccessor.map`. Without a schema the reasons why rows have no
        answer are in `attrs["lmnb"]["errors"]`, by position.
        """
        parsed = Template(template)
        parsed.check(["text"])
        asking = Asking(parsed, _as_text(self._series), options_of(schema, options))
        return _answers(asking, self._series)

    def classify(self, labels: Sequence[str], **options: Any) -> pd.Series[Any]:
        """Which of the labels fits each text: a categorical column."""
        asking = _classifying(self._series, labels, options, "label")
        found = _answers(asking, self._series)
        return _with_reasons(found["label"].rename(self._series.name), asking)

    def extract(self, schema: Any, **options: Any) -> pd.DataFrame:
        """What each text says about each field of a schema: a table, with `out_error`."""
        asking = _extracting(self._series, schema, options)
        found: pd.DataFrame = _answers(asking, self._series)
        return found


def _mapped(asking: Asking, frame: pd.DataFrame, into: str, *, overwrite: bool) -> pd.DataFrame:
    ensure_free(frame, asking.names(into), overwrite=overwrite)

    def make() -> pd.DataFrame:
        found = added(frame, asking.columns(frame.index, into), overwrite=overwrite)
        found.attrs["lmnb"] = asking.attributes()
        return found

    return asking.run(make)


def _answers(asking: Asking, series: pd.Series[Any]) -> Any:
    def make() -> pd.DataFrame | pd.Series[Any]:
        columns = asking.columns(series.index, "out")
        if asking.schema is None:
            return _with_reasons(columns["out"].rename(series.name), asking)
        found = pd.DataFrame(columns, index=series.index)
        found.attrs["lmnb"] = asking.attributes()
        return found

    return asking.run(make)


def _with_reasons(found: pd.Series[Any], asking: Asking) -> pd.Series[Any]:
    found.attrs["lmnb"] = {**asking.attributes(), "errors": asking.rows.failures()}
    return found


def _as_text(series: pd.Series[Any]) -> list[dict[str, Any]]:
    return [{"text": value} for value in series.tolist()]


def _classifying(
    series: pd.Series[Any], labels: Sequence[str], options: Mapping[str, Any], into: str
) -> Asking:
    if isinstance(labels, str):
        raise InvalidRequest(f"Labels are a list of texts, not {labels!r}.")
    known = choices(labels, "A classification")
    listed = ", ".join(known).replace("{", "{{").replace("}", "}}")
    template = Template(_CLASSIFY.replace("{choices}", listed))
    return Asking(template, _as_text(series), options_of({into: list(known)}, options))


def _extracting(series: pd.Series[Any], schema: Any, options: Mapping[str, Any]) -> Asking:
    if schema is None:
        raise InvalidRequest("Say what to extract: a schema.")
    return Asking(Template(_EXTRACT), _as_text(series), options_of(schema, options))


def register() -> None:
    """Put `.lm` on pandas' tables and columns. Once more does nothing."""
    for kind, accessor in ((pd.DataFrame, FrameAccessor), (pd.Series, SeriesAccessor)):
        if getattr(kind, "lm", None) is not accessor:
            add: Any = (
                pd.api.extensions.register_dataframe_accessor
                if kind is pd.DataFrame
                else pd.api.extensions.register_series_accessor
            )
            add("lm")(accessor)
