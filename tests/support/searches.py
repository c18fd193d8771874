"""Searches that end early, the same on any machine, where any bound will do."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from cheaplip.bounds import branching, climbing, lower
from cheaplip.bounds.multipliers import bound
from cheaplip.bounds.multipliers.search import search_multipliers
from cheaplip.pairs import ascent
from cheaplip.runs.example_pairs import example_pairs


@contextmanager
def short_searches(iterations: int = 5) -> Iterator[None]:
    """Upper bounds from a few iterations of the search for multipliers: any multipliers prove one."""

    def shorter(*given: Any, **options: Any) -> Any:
        return search_multipliers(*given, **{**options, "iterations": iterations})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bound, "search_multipliers", shorter)
        patch.setattr(branching, "search_multipliers", shorter)
        patch.setattr(branching, "PATIENCE", 2)
        patch.setattr(climbing, "ROUNDS", 2 * iterations)
        yield


@contextmanager
def short_ascents(most: int = 3) -> Iterator[None]:
    """Lower bounds from a few steps of the ascent on pairs: any pair attains one."""
    climb = ascent.climb

    def shorter(*given: Any, steps: int, **options: Any) -> Any:
        return climb(*given, steps=min(steps, most), **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ascent, "climb", shorter)
        patch.setattr(climbing, "UPHILL", most)
        patch.setattr(climbing, "ROUNDS", most)
        patch.setattr(climbing, "POINTS", 10 * most)
        patch.setattr(lower, "BOXES", lower.BOXES[:1])
        yield


@contextmanager
def short_examples(steps: int = 10) -> Iterator[None]:
    """Example pairs of a run from a few steps: any pairs will do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cheaplip.runs.execute.example_pairs", partial(example_pairs, steps=steps))
        yield
