"""Experiments: how well an index finds, which settings find best, and whether that is chance."""

from lmnb.frame.experiments.evaluating import evaluate
from lmnb.frame.experiments.grids import grid
from lmnb.frame.experiments.judging import judge
from lmnb.frame.experiments.plotting import plot_grid
from lmnb.frame.experiments.testing import compare_runs

__all__ = ["compare_runs", "evaluate", "grid", "judge", "plot_grid"]
