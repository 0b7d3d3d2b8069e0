"""Medians, spreads and ratios of the rounds, as a table for the README."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from rows import Figure


@dataclass
class Line:
    """What the rounds found for one figure; the notes tell why one server has none."""

    figure: Figure
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    our_note: str = "–"
    their_note: str = "–"

    def add(self, ours: float | None, theirs: float | None, *, comparable: bool) -> None:
        """Take one round's values. A ratio needs both, of builds that are alike."""
        if ours is not None:
            self.ours.append(ours)
        if theirs is not None:
            self.theirs.append(theirs)
        if ours is not None and theirs and comparable:
            self.ratios.append(ours / theirs)

    @property
    def judged(self) -> list[float]:
        """What the target is about."""
        return self.ours if self.figure.own else self.ratios

    @property
    def reached(self) -> bool | None:
        """Whether the target is; None without one, or without a value."""
        figure = self.figure
        if not self.judged or (figure.at_least is None and figure.at_most is None):
            return None
        value = statistics.median(self.judged)
        low, high = figure.at_least, figure.at_most
        return (low is None or value >= low) and (high is None or value <= high)

    def markdown(self) -> str:
        """One line of the table."""
        figure = self.figure
        target = ""
        if (bound := figure.at_least) is not None:
            target = f"≥ {bound:g}"
        elif (bound := figure.at_most) is not None:
            target = f"≤ {bound:g}"
        if target and figure.own and figure.unit != "×":
            target += f" {figure.unit}"
        reached = {True: "yes", False: "no", None: ""}[self.reached]
        cells = [
            f"{figure.title}, {figure.unit}" if figure.unit != "×" else figure.title,
            spread(self.ours) or self.our_note, spread(self.theirs) or self.their_note,
            spread(self.ratios) or "–", target, reached,
        ]  # fmt: skip
        return "| " + " | ".join(cells) + " |"


HEAD = "| workload | lmnb | llama-server | ratio | target | reached |\n|---|---|---|---|---|---|"


def spread(values: list[float]) -> str:
    """Median, lowest and highest."""
    if not values:
        return ""
    middle, low, high = (
        number(value) for value in (statistics.median(values), min(values), max(values))
    )
    return f"{middle} ({low} to {high})" if len(values) > 1 else middle


def number(value: float) -> str:
    """Three significant digits, never an exponent."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.3f}"
