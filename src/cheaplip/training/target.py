"""Whether a run meets its target, in words: no network is plainly trained, or hardly trained, in silence."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from .. import processes
from ..errors import TargetWarning
from ..regularization.discrepancy import DiscrepancyPrinciple
from ..regularization.scheduler import WeightScheduler
from ..regularization.term import PenaltyTerm

WITHIN = {"accuracy": 0.01, "loss": 0.1, "lipschitz": 0.05}
"""How far off a met target may be: an accuracy by one point, a loss by a tenth, a constant by a twentieth of itself."""
EARLY = 5
"""A fifth of the epochs is enough to see that the weight has not moved."""


def is_met(scheduler: WeightScheduler) -> bool | None:
    """Whether the last value is at the target, or on its good side where a limit was asked for; None without one."""
    if not isinstance(scheduler, DiscrepancyPrinciple) or scheduler.excess is None:
        return None
    if scheduler.tolerance is not None and scheduler.excess > 0:
        return True  # less was given up than might have been
    if scheduler.quantity == "lipschitz" and scheduler.excess < 0:
        return True  # the constant is below the one that was allowed
    return abs(scheduler.excess) <= WITHIN[str(scheduler.quantity)]


def record(scheduler: WeightScheduler) -> dict[str, float | bool | None]:
    """For the record of an epoch: the target, the value at the last update, and whether it is there."""
    if not isinstance(scheduler, DiscrepancyPrinciple):
        return {"target": None, "target_value": None, "target_met": None}
    return {"target": scheduler.target, "target_value": scheduler.value, "target_met": is_met(scheduler)}


def useless_target(term: PenaltyTerm, asked: float | None) -> str | None:
    """Why a target says nothing of what the network has learnt: one constant answer meets it."""
    scheduler = term.scheduler
    if not isinstance(scheduler, DiscrepancyPrinciple) or asked is None or asked == scheduler.target:
        return None
    if scheduler.quantity == "accuracy":
        why = (
            f"The target of {asked:.1%} is met by one constant answer: {scheduler.trivial:.1%} of the samples are of one class"
        )
        return f"{why}. It was raised to {scheduler.target:.1%}. Set one above that, or balance the classes."
    why = f"The target of {asked:.4g} is met by one constant answer: the variance of the values is {scheduler.trivial:.4g}"
    return f"{why}. It was lowered to {scheduler.target:.4g}. Set one below that."


def shortfall(term: PenaltyTerm, history: Sequence[dict[str, Any]], epochs: int) -> str | None:
    """What is wrong with the weight or the target after these epochs, and what to do; None if nothing is."""
    scheduler = term.scheduler
    if not isinstance(scheduler, DiscrepancyPrinciple) or scheduler.excess is None or not history:
        return None
    ended = len(history) == epochs
    if not any(row["weight"] > 0 for row in history):
        early = len(history) > scheduler.warmup and len(history) * EARLY >= epochs
        return _never_acted(scheduler, history) if ended or early else None
    if not ended or is_met(scheduler):
        return None
    value, weight = scheduler.value, history[-1]["weight"]
    if scheduler.excess > 0:
        do = "Train longer: the weight was still rising. Or start higher, with initial_weight."
    else:
        do = "Train longer: the weight was still falling. Or start lower, with initial_weight, or lower the learning rate."
    return f"The {scheduler.name} ended at {value:.4g} for a target of {scheduler.target:g}, with weight {weight:.3g}. {do}"


def exceeded(allowed: float | None, found: float | None) -> str | None:
    """That a longer search finds a constant beyond the one that was allowed; None if it does not."""
    if allowed is None or found is None or found <= allowed * (1 + WITHIN["lipschitz"]):
        return None
    return (
        f"A longer search finds Lip(f) >= {found:.4g} for an allowed {allowed:g}: the pairs in training knew less. "
        "Train longer, or steer by the proved bound, with certify."
    )


def warn(message: str | None) -> None:
    """Give a `TargetWarning` if there is a message; one of several processes does."""
    if message is not None and processes.rank() == 0:
        warnings.warn(message, TargetWarning, stacklevel=4)


def _never_acted(scheduler: DiscrepancyPrinciple, history: Sequence[dict[str, Any]]) -> str:
    reached = [row["target_value"] for row in history]
    best = max(reached) if scheduler.quantity == "accuracy" else min(reached)
    if scheduler.is_unresolved:
        return (
            f"The penalty has not acted: this is plain training. The {scheduler.name} was {scheduler.reference:.4g} in "
            f"the warm-up and {best:.4g} in all, where the samples' nearest neighbours show {scheduler.attainable:.4g} to be "
            f"within reach: the network has not resolved the data. Train longer, or set a target, such as {best:.3g}."
        )
    return (
        f"The penalty has not acted in {len(history)} epochs: the {scheduler.name} reached {best:.4g}, the target is "
        f"{scheduler.target:g}, and below it the weight stays 0. This is plain training. Set a target that the network "
        f"reaches, such as {best - 0.01 if scheduler.quantity == 'accuracy' else 1.1 * best:.3g}, or say what may be given "
        "up, with tolerance=0.01, or train longer."
    )
