"""`map`: a question for each row, an answer in new columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, TypeVar

import pandas as pd

from lmnb import selection
from lmnb.attaching import attach
from lmnb.client import Client
from lmnb.errors import InvalidRequest, LmnbError
from lmnb.frame import cache as caches
from lmnb.frame.cache import Cache
from lmnb.frame.options import Options
from lmnb.frame.run import Rows, resumable
from lmnb.frame.schemas import Columns, Schema, Unfit, text_column
from lmnb.frame.sending import Answer
from lmnb.frame.tally import Tally
from lmnb.frame.templates import Template
from lmnb.frame.workers import ask

Json = dict[str, Any]
T = TypeVar("T", bound="pd.DataFrame | pd.Series[Any]")

_PATH = "/v1/chat/completions"
_MORE = 4
"""How many times as many tokens an answer may have that was cut."""


class RowFailed(LmnbError):
    """A row has no answer, and `on_error="raise"` was given."""

    code = "row_failed"
    status = 422


class Asking:
    """Questions to a model, one a row, and the answers that are there.

    Parameters
    ----------
    values
        The values of the template's fields: a mapping a row.
    """

    def __init__(
        self, template: Template, values: Sequence[Mapping[str, Any]], options: Options
    ) -> None:
        self.options = options
        self.schema = None if options.schema is None else Schema(options.schema)
        self._template = template
        self._begin = self._examples()
        self._prompts = list(map(template.fill, values))
        self._client: Client = attach()
        name = options.model or selection.choose(self._client, by="model=")
        self._identity = self._client.identify(name)
        self.model: str = self._identity["key"]
        self._name = name
        self._bodies: dict[bytes, Json] = {}
        self.tally = Tally(len(values), "map")
        self.rows = Rows([self._key(*one) for one in enumerate(self._prompts)], self.tally)

    def run(self, make: Callable[[], T]) -> T:
        """Ask all. `make` makes of what is there what the caller would be given, and is given."""
        options = self.options
        home = self._client.home if options.cache else None
        with (
            caches.opened(home) as cache,
            resumable(self.tally, make, kept=options.cache, progress=options.progress),
        ):
            missing = self.rows.recall(cache, json.loads)
            # Equal beginnings side by side, so that what is read of one is there for the next.
            missing.sort(key=lambda key: _text(self._bodies[key]))
            if missing:
                self._load()
            for attempt in range(options.retries + 1):
                if missing:
                    last = attempt == options.retries
                    missing = list(self._ask(missing, cache, attempt, last=last))
        return make()

    def columns(self, index: pd.Index[Any], into: str) -> Columns:
        """The answers, and the column `{into}_error`."""
        results, name = self.rows.results(), f"{into}_error"
        found: Columns = (
            {into: text_column(results, index, into)}
            if self.schema is None
            else self.schema.columns(results, index)
        )
        return {**found, name: text_column(self.rows.reasons(), index, name)}

    def names(self, into: str) -> list[str]:
        """The columns that there will be."""
        return [*(self.schema.fields if self.schema else (into,)), f"{into}_error"]

    def attributes(self) -> Json:
        """What `attrs` say of the run."""
        return {**self.tally.counts(), "model": self.model}

    # --- questions -------------------------------------------------------------------

    def _examples(self) -> list[Json]:
        system = self.options.system
        found = [] if system is None else [{"role": "system", "content": system}]
        for values, answer in self.options.examples:
            missing = [name for name in self._template.fields if name not in values]
            if missing:
                raise InvalidRequest(f"An example has no {missing[0]!r}, which the template has.")
            said = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
            found += [
                {"role": "user", "content": self._template.render(values)},
                {"role": "assistant", "content": said},
            ]
        return found

    def _key(self, row: int, prompt: str | None) -> bytes | None:
        """The key of a row's question, of which the body is kept."""
        if prompt is None:
            return None
        options = self.options
        body = options.body([*self._begin, {"role": "user", "content": prompt}], row)
        if self.schema is not None:
            form = {"name": "answer", "schema": self.schema.json}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        identity = self._identity
        try:
            found = caches.key(identity["digest"], identity["options"], body, options.retries)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"An option cannot be sent to the server: {error}.") from None
        self._bodies[found] = body
        return found

    # --- answers ---------------------------------------------------------------------

    def _load(self) -> None:
        if self._identity["endpoint"] is None and self.options.executor is None:
            for _ in self._client.load(self._name, jit=True):
                pass

    def _ask(
        self, keys: Sequence[bytes], cache: Cache, attempt: int, *, last: bool
    ) -> Iterator[bytes]:
        """Ask for these; those that should be asked once more."""
        options = self.options
        limit = options.max_tokens * _MORE**attempt
        bodies = [{**self._bodies[key], "model": self._name, "max_tokens": limit} for key in keys]
        sent = ask(
            options.executor,
            self._client,
            self._identity,
            _PATH,
            bodies,
            concurrency=options.concurrency,
            timeout=options.timeout,
        )
        with closing(sent) as answers:
            for answer in answers:
                key = keys[answer.number]
                self.tally.tokens += (answer.body.get("usage") or {}).get("completion_tokens", 0)
                value, error = self._read(answer, limit)
                if error is None:
                    cache.put({key: json.dumps(value).encode()})
                    self.rows.add(key, value)
                elif answer.error is None and not last:
                    yield key
                else:
                    self._fail(key, error)

    def _fail(self, key: bytes, error: str) -> None:
        self.rows.fail(key, error)
        if self.options.on_error == "raise":
            raise RowFailed(
                f"Row {self.rows.keys.index(key)} has no answer: {error}",
                hint="Without on_error='raise' it is one row of the column of errors.",
            )

    def _read(self, answer: Answer, limit: int) -> tuple[Any, str | None]:
        """What was answered, or why that cannot be used."""
        if answer.error is not None:
            return None, answer.error
        choice = answer.body["choices"][0]
        text = choice["message"].get("content") or ""
        if choice["finish_reason"] == "length":
            return None, f"length: output cut at {limit} tokens"
        if self.schema is None:
            return text, None
        try:
            return self.schema.parse(text), None
        except Unfit as error:
            return None, f"schema: {error}"


def values_of(frame: pd.DataFrame, template: Template) -> list[dict[str, Any]]:
    """The values of the template's fields, a mapping a row. Columns are there; see `Template.check`."""
    columns = {name: frame[name].tolist() for name in template.fields}
    return [{name: column[row] for name, column in columns.items()} for row in range(len(frame))]


def _text(body: Json) -> str:
    found: str = body["messages"][-1]["content"]
    return found
