"""When things happen in a run: updates of the weight, the end of the warm-up, the learning rate, the margin."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from .config import WARMUP, TrainConfig

UPDATES = 30
"""The rule of the weight is tuned for this many updates in a run, one an epoch. Shorter runs have as many."""
SHORTEST = 8
"""Steps between two updates at least: the running accuracy of fewer says little."""


def update_period(config: TrainConfig, steps: int) -> int:
    """Steps from one update of the weight to the next: an epoch, or less where there would be fewer than `UPDATES` in all.

    Args:
        config: has the number of epochs.
        steps: in an epoch.
    """
    if config.update == "minibatch":
        return 1
    return min(steps, max(SHORTEST, steps * config.epochs // UPDATES))


def warmup_updates(config: TrainConfig, steps: int) -> int:
    """Updates of the weight in the warm-up: by default `WARMUP`, and with a tolerance half of the run."""
    of_each = steps if config.update == "minibatch" else 1
    if config.warmup is not None:
        return config.warmup * of_each
    if config.lipschitz is not None:
        return 0
    if not config.compares:
        return WARMUP * of_each
    return max(1, config.epochs * steps // update_period(config, steps) // 2)


def make_lr_schedule(config: TrainConfig, steps: int) -> Callable[[int], float]:
    """The factor on the learning rate at each step of a run with `steps` steps an epoch.

    With a tolerance the cosine comes twice, for the warm-up and for the rest: what plain training reaches shows only at the
    end of its own cosine.
    """
    if config.schedule == "constant":
        return lambda step: 1.0
    total = config.epochs * steps
    plain = min(total, warmup_updates(config, steps) * update_period(config, steps)) if config.compares else 0

    def factor(step: int) -> float:
        done = step / plain if step < plain else (step - plain) / max(total - plain, 1)
        return 0.51 + 0.49 * math.cos(math.pi * min(done, 1.0))

    return factor


def margin_ramp(history: Sequence[dict[str, Any]], config: TrainConfig, weight: float) -> float:
    """Ramp for margin and saturation: rises linearly from 0 to 1 during the first epochs/5 epochs after the warm-up.

    Without it, a network whose margins are far from the one asked for saturates the loss and never reaches the target. Where
    there is no penalty, it begins with the run.

    Args:
        history: the epochs so far.
        config: has their number, and the method.
        weight: of the penalty, now.
    """
    plain = config.method == "standard" or config.weight == 0
    if not plain and weight == 0:
        return 0.0
    done = len(history) + 1 if plain else sum(bool(row["weight"] > 0) for row in history)
    return min(5 * done / config.epochs, 1.0)
