"""`lmnb.compare`: prompts × models × settings, and what each of them gives, as a tidy table."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd

from lmnb import selection
from lmnb.attaching import attach
from lmnb.client import Client
from lmnb.errors import InvalidRequest, LmnbError, ServerError
from lmnb.frame import cache as caches
from lmnb.frame.cache import Cache
from lmnb.frame.options import Options, options_of
from lmnb.frame.run import Rows, resumable
from lmnb.frame.sending import Answer, send
from lmnb.frame.tally import Tally

Json = dict[str, Any]
Texts: TypeAlias = "str | Sequence[str] | pd.Series[Any] | pd.Index[Any]"

_PATH = "/v1/chat/completions"
_OF_TABLES = {"examples", "executor", "model", "on_error", "retries", "schema"}
"""Options of `df.lm.map` that make no sense here."""
_RESULTS: dict[str, str] = {
    "text": "string",
    "error": "string",
    "finish_reason": "string",
    "tokens": "Int64",
    "seconds": "Float64",
    "tokens_per_second": "Float64",
}


class _Question(NamedTuple):
    """A request, its model apart, which the cache knows by its digest and not by its name."""

    model: str
    body: Json


def compare(
    prompts: Texts,
    *,
    models: Texts | None = None,
    samples: int = 1,
    concurrency: int | None = None,
    timeout: float | None = None,
    cache: bool = True,
    progress: bool | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Ask every prompt of every model with every setting: a row for each.

    Parameters
    ----------
    prompts
        One or several texts. Braces mean nothing in them.
    models
        Names of one or several models. Default the loaded one. They are asked one after the other,
        and loaded for it where they are not.
    samples
        Answers to each. They differ in their seeds, so this needs a temperature above 0.
    settings
        `system`, `temperature` (0), `max_tokens` (1024), `seed` (0), or any option of sampling that
        the server knows. A list, tuple, range, array or column is one value after the other, of
        several such in every combination; None is the default. A setting that is a list itself
        stands in a list: `stop=[["a", "b"], ["c"]]`.
    concurrency, timeout, cache, progress
        As in `df.lm.map`.

    Returns
    -------
    DataFrame
        `prompt`, `model`, a column for each setting that was given, `sample` (from 0, which is added
        to the seed), `text`, `error` (why there is no text), `finish_reason` ("length" if the text was
        cut at `max_tokens`), `tokens`, `seconds` from when the model got the question, and
        `tokens_per_second` of the writing. Answers that are computed together share the machine:
        `concurrency=1` measures each by itself. `attrs["lmnb"]` has the counts.

    Notes
    -----
    Answers are kept in `$LMNB_HOME/cache`, with the seconds that they took: a run that was stopped
    goes on where it was, and what it had is in `lmnb.last_partial`. A combination that fails is a row
    with an `error`, a model that is not there or cannot be loaded one for each combination.

    Raises
    ------
    InvalidRequest
        A setting does not exist, or there is nothing to ask.
    ModelNotFound, InvalidModel
        There is none of the models.
    ServerError
        There is no server any more; answers up to then are kept.
    """
    run = {"concurrency": concurrency, "timeout": timeout, "cache": cache, "progress": progress}
    return Comparing(_texts(prompts, "prompt"), models, samples, settings, run).run()


class Comparing:
    """The questions of one `compare`, and the answers that are there."""

    def __init__(
        self,
        prompts: list[str],
        models: Texts | None,
        samples: int,
        settings: Mapping[str, Any],
        run: Mapping[str, Any],
    ) -> None:
        grid = _grid(settings)
        options = [_options(one, run) for one in grid]
        _check_samples(samples, options)
        self._run = options[0]
        self._client: Client = attach()
        names = None if models is None else _texts(models, "model")
        self._models = names or [selection.choose(self._client, by="models=")]
        self._errors: dict[str, str] = {}
        """Of models that are not there."""
        self._identities = self._identify()
        settled = list(zip(grid, options, strict=True))
        self._rows = list(itertools.product(prompts, self._models, settled, range(samples)))
        self._settings = list(settings)
        self._questions: dict[bytes, _Question] = {}
        self.tally = Tally(len(self._rows), "compare")
        self.rows = Rows([self._key(*row) for row in self._rows], self.tally)

    def run(self) -> pd.DataFrame:
        """Ask all that is not known yet, model by model."""
        options = self._run
        home = self._client.home if options.cache else None
        with (
            caches.opened(home) as cache,
            resumable(self.tally, self.table, kept=options.cache, progress=options.progress),
        ):
            missing = self.rows.recall(cache, json.loads)
            for model in dict.fromkeys(self._models):
                keys = [key for key in missing if self._questions[key].model == model]
                if keys:
                    self._ask(model, keys, cache)
        return self.table()

    def table(self) -> pd.DataFrame:
        """What is there so far."""
        prompts, models, settled, samples = zip(*self._rows, strict=True)
        columns: dict[str, Any] = {
            "prompt": pd.Series(prompts, dtype="string"),
            "model": pd.Series(models, dtype="string"),
        }
        for name in self._settings:
            columns[name] = pd.Series([given.get(name) for given, _ in settled])
        columns["sample"] = pd.Series(samples, dtype="int64")
        results = self.rows.results()
        for name, dtype in _RESULTS.items():
            values = [found and found.get(name) for found in results]
            columns[name] = pd.Series(values, dtype=dtype)
        columns["error"] = pd.Series(self.rows.reasons(), dtype="string")
        found = pd.DataFrame(columns)
        found.attrs["lmnb"] = self.tally.counts()
        return found

    # --- questions -------------------------------------------------------------------

    def _identify(self) -> dict[str, Json]:
        found: dict[str, Json] = {}
        failures: list[LmnbError] = []
        for model in self._models:
            try:
                found[model] = self._client.identify(model)
            except ServerError:
                raise
            except LmnbError as error:
                self._errors[model] = str(error)
                failures.append(error)
        if not found:
            raise failures[0]
        return found

    def _key(self, prompt: str, model: str, settled: tuple[Json, Options], sample: int) -> bytes:
        """The key of a question, which is kept."""
        options = settled[1]
        system = options.system
        begin = [] if system is None else [{"role": "system", "content": system}]
        body = options.body([*begin, {"role": "user", "content": prompt}], sample)
        identity = self._identities.get(model, {"digest": model, "options": None})
        try:
            key = caches.key("compare", identity["digest"], identity["options"], body)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"A setting cannot be sent to the server: {error}.") from None
        self._questions.setdefault(key, _Question(model, body))
        return key

    # --- answers ---------------------------------------------------------------------

    def _ask(self, model: str, keys: Sequence[bytes], cache: Cache) -> None:
        if (error := self._errors.get(model) or self._load(model)) is not None:
            for key in keys:
                self.rows.fail(key, error)
            return
        bodies = [{**self._questions[key].body, "model": model} for key in keys]
        run = {"concurrency": self._run.concurrency, "timeout": self._run.timeout}
        with closing(send(self._client, _PATH, bodies, alike=False, **run)) as answers:
            for answer in answers:
                key = keys[answer.number]
                if answer.error is not None:
                    self.rows.fail(key, answer.error)
                    continue
                result = _result(answer)
                self.tally.tokens += result["tokens"]
                cache.put({key: json.dumps(result).encode()})
                self.rows.add(key, result)

    def _load(self, model: str) -> str | None:
        """Load a model, unless it is elsewhere; why that cannot be."""
        if self._identities[model]["endpoint"] is not None:
            return None
        try:
            for _ in self._client.load(model, jit=True):
                pass
        except ServerError:
            raise
        except LmnbError as error:
            return str(error)
        return None


def _texts(given: Any, what: str) -> list[str]:
    found = (
        [given] if isinstance(given, str) else list(given) if isinstance(given, Iterable) else []
    )
    for one in found:
        if not isinstance(one, str) or not one:
            raise InvalidRequest(f"A {what} is a text, not {one!r}.")
    if not found:
        raise InvalidRequest(f"There is no {what} in {given!r}.")
    return found


def _grid(settings: Mapping[str, Any]) -> list[Json]:
    """Every combination of the values."""
    values = []
    for name, given in settings.items():
        several = isinstance(given, list | tuple | range | np.ndarray | pd.Series | pd.Index)
        values.append([_plain(one) for one in given] if several else [_plain(given)])
        if not values[-1]:
            raise InvalidRequest(f"{name} has no values.")
    return [dict(zip(settings, one, strict=True)) for one in itertools.product(*values)]


def _plain(value: Any) -> Any:
    """Python's own number for one of NumPy's."""
    return value.item() if isinstance(value, np.generic) else value


def _options(settings: Json, run: Mapping[str, Any]) -> Options:
    if wrong := settings.keys() & _OF_TABLES:
        hint = "Models are named by `models=`." if "model" in wrong else None
        raise InvalidRequest(f"{min(wrong)!r} is no setting that can be compared.", hint=hint)
    given = {name: value for name, value in settings.items() if value is not None}
    return options_of(None, {**given, **run})


def _check_samples(samples: Any, options: Sequence[Options]) -> None:
    if not isinstance(samples, int) or samples < 1:
        raise InvalidRequest(f"samples is a whole number of at least 1, not {samples!r}.")
    if samples > 1 and all(one.temperature == 0 for one in options):
        raise InvalidRequest(
            "At temperature 0 all samples are the same.", hint="Give a `temperature` above it."
        )


def _result(answer: Answer) -> Json:
    """What is kept of an answer; the columns of the table."""
    choice = answer.body["choices"][0]
    stats = answer.body.get("stats") or {}  # servers of others tell none
    seconds = None
    if stats:
        seconds = round(stats["time_to_first_token"] + stats["generation_time"], 4)
    return {
        "text": choice["message"].get("content") or "",
        "finish_reason": choice["finish_reason"],
        "tokens": (answer.body.get("usage") or {}).get("completion_tokens", 0),
        "seconds": seconds,
        "tokens_per_second": round(stats.get("tokens_per_second") or 0, 2) or None,
    }
