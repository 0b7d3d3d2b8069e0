"""Drives the engine's loop in this process and collects what it says."""

from __future__ import annotations

from pathlib import Path

from lmnb.engine.config import LoadConfig
from lmnb.engine.context import Context
from lmnb.engine.generator import Generator
from lmnb.engine.gguf import read_header
from lmnb.engine.model import Model
from lmnb.engine.options import ConstraintSpec, Sampling, Segment, ThinkingBudget
from lmnb.engine.protocol import End, Failed, Generate, Reply, Step
from lmnb.engine.saved import Files
from lmnb.engine.sequence import Sequence
from lmnb.errors import LmnbError

GREEDY = Sampling(temperature=0)


class Engine:
    """Drives a `Generator` and collects what it says."""

    def __init__(self, path: Path, config: LoadConfig, files: Files | None = None) -> None:
        model = Model.load(str(path), read_header(path), config, on_progress=lambda _: None)
        self.generator = Generator(model, config, files=files)
        self.text: dict[int, str] = {}
        self.ends: dict[int, End] = {}
        self.errors: dict[int, LmnbError] = {}
        self.next_id = 0

    def submit(
        self,
        text: str = "",
        *,
        tokens: tuple[int, ...] | None = None,
        sampling: Sampling = GREEDY,
        max_tokens: int | None = 8,
        stop: tuple[str, ...] = (),
        logprobs: int | None = None,
        priority: int = 0,
        constraint: ConstraintSpec | None = None,
        thinking: ThinkingBudget | None = None,
        show_special: tuple[str, ...] = (),
        draft_model: str | None = None,
    ) -> int:
        self.next_id += 1
        command = Generate(
            id=self.next_id,
            segments=(Segment(text, special=True),),
            tokens=tokens,
            sampling=sampling,
            max_tokens=max_tokens,
            stop=stop,
            logprobs=logprobs,
            priority=priority,
            constraint=constraint,
            thinking=thinking,
            show_special=show_special,
            draft_model=draft_model,
        )
        self.text[self.next_id] = ""
        self.generator.submit(command, self.generator.prompt(command))
        return self.next_id

    def step(self) -> list[Reply]:
        replies = self.generator.step()
        for reply in replies:
            if isinstance(reply, Failed):
                self.errors[reply.id] = LmnbError.from_dict(reply.error)
            elif isinstance(reply, Step):
                for delta in reply.deltas:
                    self.text[delta.id] += delta.text
                self.ends |= {end.id: end for end in reply.ends}
        return replies

    def run(self) -> None:
        for _ in range(20_000):
            if not self.generator.busy:
                return
            self.step()
        raise AssertionError("the engine does not come to rest")

    def ask(self, text: str, **options: object) -> str:
        request = self.submit(text, **options)  # type: ignore[arg-type]
        self.run()
        return self.text[request]

    def check_idle(self) -> None:
        """Nothing is leaked: all slots are free, and empty once the cache is cleared."""
        scheduler, context = self.generator.scheduler, self.generator.context
        assert not scheduler.running
        assert not scheduler.waiting
        assert not any(slot.busy for slot in scheduler.cache._slots)
        scheduler.cache.clear()
        assert all(context.length(slot) == 0 for slot in range(context.parallel))

    def check_books(self) -> None:
        """What the scheduler believes of the cache is what llama.cpp says of it."""
        for sequence in self.generator.scheduler.running:
            assert sequence.slot is not None
            context = self.generator.context
            assert context.length(sequence.slot) == sequence.position + seen(sequence, context)


def seen(sequence: Sequence, context: Context) -> int:
    """The positions that the part of an image takes which is read already."""
    if not sequence.seen:
        return 0
    span = sequence.medium_here
    assert span is not None
    return sequence.seen if context.dimensions == 1 else span.medium.positions
