"""How rows are asked: options of tables, and those of sampling that the server knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Literal

from lmnb.errors import InvalidRequest
from lmnb.frame.values import sendable
from lmnb.frame.workers import check

Json = dict[str, Any]
Example = tuple[Mapping[str, Any], Any]

_SAMPLING = frozenset(
    [
        "chat_template_kwargs",
        "draft_model",
        "dry_allowed_length",
        "dry_base",
        "dry_multiplier",
        "dry_penalty_last_n",
        "dry_sequence_breakers",
        "dynatemp_exponent",
        "dynatemp_range",
        "frequency_penalty",
        "logit_bias",
        "lora",
        "min_p",
        "mirostat",
        "mirostat_eta",
        "mirostat_tau",
        "presence_penalty",
        "reasoning",
        "reasoning_effort",
        "repeat_last_n",
        "repeat_penalty",
        "stop",
        "thinking",
        "top_k",
        "top_n_sigma",
        "top_p",
        "typical_p",
        "xtc_probability",
        "xtc_threshold",
    ]
)
"""What the server is told as it is."""


@dataclass(kw_only=True)
class Options:
    """How rows are asked; the words of `FrameAccessor.map`."""

    schema: Any = None
    system: str | None = None
    examples: Sequence[Example] = ()
    model: str | None = None
    concurrency: int | None = None
    on_error: Literal["column", "raise"] = "column"
    retries: int = 1
    timeout: float | None = None
    cache: bool = True
    executor: Any = None
    progress: bool | None = None
    max_tokens: int = 1024
    temperature: float = 0.0
    seed: int = 0
    sampling: Json = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.on_error not in {"column", "raise"}:
            raise InvalidRequest(f"on_error is 'column' or 'raise', not {self.on_error!r}.")
        for name, least in (("retries", 0), ("max_tokens", 1), ("concurrency", 1)):
            given: Any = getattr(self, name)
            missing = given is None and name == "concurrency"
            if not missing and not (isinstance(given, Integral) and int(given) >= least):
                raise InvalidRequest(
                    f"{name} is a whole number of at least {least}, not {given!r}."
                )
        for name, kind, what in (
            ("temperature", Real, "a number"),
            ("seed", Integral, "a whole number"),
        ):
            if not isinstance(given := getattr(self, name), kind):
                raise InvalidRequest(f"{name} is {what}, not {given!r}.")
        if self.executor is not None:
            check(self.executor)
        timeout: Any = self.timeout
        if timeout is not None and not (isinstance(timeout, Real) and float(timeout) > 0):
            raise InvalidRequest(f"timeout is more than 0 seconds, not {timeout!r}.")

    def body(self, messages: Sequence[Json], number: int) -> Json:
        """A request to `/v1/chat/completions`, its model left out.

        `number` is added to the seed, which only matters above a temperature of 0.
        """
        found: Json = {
            "messages": [one | {"content": sendable(one["content"])} for one in messages],
            "max_tokens": self.max_tokens,
            "temperature": float(self.temperature),  # 0 and 0.0 are one request
            **self.sampling,
        }
        if self.temperature > 0:  # else equal questions have equal answers
            found["seed"] = self.seed + number
        return found


_OWN = frozenset(Options.__dataclass_fields__) - {"sampling"}


def options_of(schema: Any, given: Mapping[str, Any]) -> Options:
    """Options of our own, and those of sampling.

    Raises
    ------
    InvalidRequest
        There is no such option: one that is misspelt must not be ignored.
    """
    if unknown := given.keys() - _OWN - _SAMPLING:
        known = ", ".join(sorted((_OWN | _SAMPLING) - {"schema"}))
        raise InvalidRequest(f"There is no option {min(unknown)!r}.", hint=f"Options are {known}.")
    own = {name: value for name, value in given.items() if name in _OWN}
    return Options(
        schema=schema,
        sampling={name: value for name, value in given.items() if name in _SAMPLING},
        **own,
    )
