"""Searches for multipliers that end early."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from cheaplip.bounds.multipliers import bound
from cheaplip.bounds.multipliers.search import search_multipliers


@contextmanager
def short_searches(iterations: int = 5) -> Iterator[None]:
    """Upper bounds from a few iterations, the same on any machine: where any multipliers will do, these are some."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bound, "search_multipliers", partial(search_multipliers, iterations=iterations))
        yield
