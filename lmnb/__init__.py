"""lmnb: LM Studio for notebooks.

`%load_ext lmnb` gives a notebook the magics `%lm`, `%%claude` and `%%openai`. In Python,
`lmnb.openai()` and `lmnb.anthropic()` are the official SDKs' clients of the same local models. pandas'
tables have `.lm` with it, or by `import lmnb.frame`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import anthropic as _anthropic
    import openai as _openai

    from lmnb.attaching import attach
    from lmnb.client import Client
    from lmnb.errors import LmnbError
    from lmnb.frame.comparing import compare
    from lmnb.frame.documents import read_docs
    from lmnb.frame.experiments import compare_runs, evaluate, grid, judge, plot_grid
    from lmnb.frame.index import Index
    from lmnb.frame.plotting import plot_comparison
    from lmnb.frame.run import last_partial

__version__ = "0.1.0"

__all__ = [
    "Client",
    "Index",
    "LmnbError",
    "__version__",
    "anthropic",
    "attach",
    "compare",
    "compare_runs",
    "evaluate",
    "grid",
    "judge",
    "last_partial",
    "load_ipython_extension",
    "openai",
    "plot_comparison",
    "plot_grid",
    "read_docs",
    "ui",
    "unload_ipython_extension",
]

_HOMES = {
    "Client": "lmnb.client",
    "Index": "lmnb.frame.index",
    "LmnbError": "lmnb.errors",
    "attach": "lmnb.attaching",
    "compare": "lmnb.frame.comparing",
    "compare_runs": "lmnb.frame.experiments",
    "evaluate": "lmnb.frame.experiments",
    "grid": "lmnb.frame.experiments",
    "judge": "lmnb.frame.experiments",
    "last_partial": "lmnb.frame.run",
    "plot_comparison": "lmnb.frame.plotting",
    "plot_grid": "lmnb.frame.experiments",
    "read_docs": "lmnb.frame.documents",
}


def openai() -> _openai.OpenAI:
    """An `openai.OpenAI` client of the lmnb server, which is started if none is running."""
    from lmnb.attaching import attach

    return attach().openai()


def anthropic() -> _anthropic.Anthropic:
    """An `anthropic.Anthropic` client of the lmnb server, which is started if none is running."""
    from lmnb.attaching import attach

    return attach().anthropic()


def ui(panel: str | None = None) -> None:
    """Show the panels, or one of them: what `%lm ui` does."""
    from lmnb.attaching import attach
    from lmnb.notebook.widgets.ui import show

    show(attach(), panel)


def load_ipython_extension(ipython: Any) -> None:
    """Called by `%load_ext lmnb`."""
    from lmnb.notebook.extension import load

    load(ipython)


def unload_ipython_extension(ipython: Any) -> None:
    """Called by `%unload_ext lmnb`."""
    from lmnb.notebook.extension import unload

    unload(ipython)


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used, so that `import lmnb` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lmnb' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
