"""A model's vocabulary without its weights: it tokenizes, and does nothing else."""

from __future__ import annotations

from typing import ClassVar, NoReturn

from lmnb.engine.adapters import Adapters
from lmnb.engine.config import Estimate
from lmnb.engine.model import Model
from lmnb.engine.protocol import Embed, Generate, Reply, Rerank
from lmnb.errors import NotSupported

NOTHING = Estimate(
    weights=0,
    cache=0,
    compute=0,
    other=0,
    gpu=0,
    free=0,
    gpu_free=0,
    context_length=0,
    parallel=0,
    gpu_layers=0,
    experts_on_cpu=0,
)
"""What it takes, beside a few megabytes of words."""


class Vocabulary:
    """An engine that is never busy (`lmnb.engine.loading.Engine`)."""

    command: ClassVar[type[Generate | Embed | Rerank]] = Generate
    context_length = batch_size = parallel = threads = cache_ram = 0
    swa_full = busy = False

    def __init__(self, model: Model) -> None:
        self.model = model
        self.adapters = Adapters(model, ())

    def prompt(self, command: Generate) -> NoReturn:  # noqa: ARG002
        """Refuse.

        Raises
        ------
        NotSupported
            Always.
        """
        raise NotSupported("Of this model only the vocabulary is loaded.", param="model")

    def submit(self, command: Generate, prompt: object) -> None:
        """Nothing comes so far."""

    def abort(self, request: int) -> None:
        """Nothing runs."""

    def interrupt(self, request: int) -> None:
        """Nothing runs."""

    def give_up(self) -> None:
        """Nothing runs."""

    def tidy(self) -> bool:
        """Nothing waits."""
        return False

    def counts(self) -> tuple[int, int, int]:
        """Nothing runs, waits, or is cached."""
        return 0, 0, 0

    def step(self) -> list[Reply]:
        """Nothing happens."""
        return []
