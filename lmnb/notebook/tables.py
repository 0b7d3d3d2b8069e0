"""`.lm` on pandas' tables: at once where pandas is there already, else when it is imported.

`%load_ext lmnb` must not import pandas, which takes half a second that most notebooks do not need.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def register() -> None:
    """Have `.lm` registered as soon as there is pandas."""
    if "pandas" in sys.modules:
        _register()
    elif _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def unregister() -> None:
    """Wait for pandas no longer. What is registered stays: tables may be using it."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


def _register() -> None:
    # Not what is in it: it may be the one that imports pandas, and not be done yet.
    import lmnb.frame  # noqa: F401


class _Finder:
    """Finds pandas once, as everybody else would.

    No subclass of what `importlib.abc` has: importing that would take as long as all the rest.
    """

    def find_spec(
        self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "pandas":
            return None
        unregister()
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            loader: Any = _Loader(spec.loader)
            spec.loader = loader
        return spec


class _Loader:
    """Loads pandas, and registers `.lm` when that is done."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._own.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._own
        self._own.exec_module(module)
        _register()


_finder = _Finder()
