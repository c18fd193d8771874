"""Ctrl-C in the middle of a training."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cheaplip.training.task import Task


@contextmanager
def ctrl_c(step: int) -> Iterator[None]:
    """In this step, counted from 1, of what is trained inside."""
    steps, loss = itertools.count(1), Task.loss

    def interrupted(*given: Any, **named: Any) -> Any:
        if next(steps) == step:
            raise KeyboardInterrupt
        return loss(*given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Task, "loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            yield
