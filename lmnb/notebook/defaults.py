"""What cells go by where their options say nothing: `%config Lmnb`, then `[tool.lmnb]`.

The nearest `pyproject.toml`, from the kernel's folder upwards, is read anew when it has changed.
"""

from __future__ import annotations

import difflib
import tomllib
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from traitlets import TraitError

from lmnb.errors import ConfigError
from lmnb.notebook.output import shell
from lmnb.notebook.traits import Lmnb

_OPTIONS = ("temperature", "top_p", "max_tokens", "seed", "thinking", "cells")
"""Those that stand in for options of cells as they are."""


def configured() -> Lmnb:
    """What `%config` changes."""
    known = getattr(shell(), "configurables", ())
    return next((one for one in known if isinstance(one, Lmnb)), None) or Lmnb()


def default(name: str) -> Any:
    """The value of a trait of `Lmnb` where no option says anything; None if nobody does.

    Raises
    ------
    ConfigError
        The project's file cannot be used.
    """
    value = getattr(configured(), name)
    return getattr(_project(), name) if value is None else value


def fill_in(args: Namespace) -> None:
    """Give options that were not given their defaults. `model` and `system` have ways of their own."""
    for name in _OPTIONS:
        if getattr(args, name) is None:
            setattr(args, name, default(name))


def aliases() -> Mapping[str, str]:
    """The names that stand for models; those of the notebook go first."""
    return {**_project().aliases, **configured().aliases}


def model_name(text: str) -> str:
    """A type for argparse: the model that is meant."""
    return aliases().get(text, text)


class _File:
    """The file that was read last."""

    path: Path | None = None
    time = 0
    values = Lmnb()


def _project() -> Lmnb:
    here = Path.cwd()
    for folder in (here, *here.parents):
        path = folder / "pyproject.toml"
        try:
            time = path.stat().st_mtime_ns
        except OSError:
            continue
        if (path, time) != (_File.path, _File.time):
            _File.values = _read(path)
            _File.path, _File.time = path, time
        return _File.values
    return Lmnb()


def _read(path: Path) -> Lmnb:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("lmnb", {})
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    known = Lmnb.class_trait_names(config=True)
    for name in table:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"There are {', '.join(known)}."
            raise ConfigError(f"{path}: [tool.lmnb] has no {name!r}.", hint=hint)
    try:
        return Lmnb(**table)
    except TraitError as error:
        raise ConfigError(f"{path}: [tool.lmnb] {error}") from None
