"""What sampling options may be. The server checks them before a request travels, the engine again."""

from __future__ import annotations

import math
from types import MappingProxyType

from lmnb.engine.options import Sampling
from lmnb.errors import InvalidRequest

RANGES = MappingProxyType(
    {
        "temperature": (0.0, 1000.0),
        "dynatemp_range": (0.0, 1000.0),
        "dynatemp_exponent": (0.0, 1000.0),
        "top_k": (0, 2**31 - 1),
        "top_p": (0.0, 1.0),
        "min_p": (0.0, 1.0),
        "typical_p": (0.0, 1.0),
        "top_n_sigma": (-1.0, 1000.0),
        "xtc_probability": (0.0, 1.0),
        "xtc_threshold": (0.0, 1.0),
        "repeat_penalty": (1e-3, 1000.0),
        "repeat_last_n": (-1, 2**31 - 1),
        "presence_penalty": (-1000.0, 1000.0),
        "frequency_penalty": (-1000.0, 1000.0),
        "dry_multiplier": (0.0, 1000.0),
        "dry_base": (1.0, 1000.0),
        "dry_allowed_length": (0, 2**31 - 1),
        "dry_penalty_last_n": (-1, 2**31 - 1),
        "mirostat": (0, 2),
        "mirostat_tau": (0.0, 1000.0),
        "mirostat_eta": (0.0, 1000.0),
    }
)
"""Lowest and highest value of each option. Those that are integers here must be integers."""

INTEGERS = frozenset(name for name, (low, _) in RANGES.items() if isinstance(low, int))
MOST_BREAKERS = 16
"""Reading one takes a pass over the vocabulary."""
LONGEST_BREAKER = 40
"""Bytes that llama.cpp compares."""
HIGHEST_BIAS = 1e30
"""More could overflow when it is divided by the temperature."""


def check(options: Sampling, n_vocab: int) -> None:
    """Refuse what is outside its range, or not of this model's vocabulary.

    Raises
    ------
    InvalidRequest
        `param` names the option, the message says what it may be.
    """
    for name in RANGES:
        check_value(name, getattr(options, name))
    check_breakers(options.dry_sequence_breakers)
    for token, bias in options.logit_bias.items():
        if not 0 <= token < n_vocab or not (abs(bias) <= HIGHEST_BIAS or bias == -math.inf):
            raise InvalidRequest(
                f"logit_bias: token ids of this model run from 0 to {n_vocab - 1}, "
                f"and a bias from {-HIGHEST_BIAS:g} to {HIGHEST_BIAS:g}, or it is -inf.",
                param="logit_bias",
            )


def is_valid(name: str, value: float) -> bool:
    """Whether an option may have this value. NaN never may."""
    low, high = RANGES[name]
    return low <= value <= high and (name not in INTEGERS or value == int(value))


def check_value(name: str, value: float) -> None:
    """Refuse a value that the option of this name cannot have."""
    if is_valid(name, value):
        return
    low, high = RANGES[name]
    kind = "an integer " if name in INTEGERS else ""
    wanted = f"between {low:g} and {high:g}" if high < 2**31 - 1 else f"of at least {low:g}"
    raise InvalidRequest(f"{name} must be {kind}{wanted}, not {value:g}.", param=name)


def check_breakers(breakers: tuple[str, ...]) -> None:
    """Refuse sequence breakers that llama.cpp would shorten or skip, or take long to read."""
    if len(breakers) > MOST_BREAKERS or not all(_is_breaker(text) for text in breakers):
        raise InvalidRequest(
            f"dry_sequence_breakers must be at most {MOST_BREAKERS} texts "
            f"of 1 to {LONGEST_BREAKER} bytes, without NUL.",
            param="dry_sequence_breakers",
        )


def _is_breaker(text: str) -> bool:
    return 0 < len(text.encode("utf-8", "replace")) <= LONGEST_BREAKER and "\0" not in text
