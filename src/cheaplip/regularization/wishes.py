"""What may be wished of a weight: a target or a tolerance, how fast each is approached, and what a tolerance makes a target."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import InputError, require_in

QUANTITIES = ("accuracy", "loss", "lipschitz")
"""What a target may be of: the training accuracy, the training loss, or the lower bound of Lip(f)."""
UNRESOLVED = {"accuracy": 0.1, "loss": 1.0}
"""A reference that is worse than what is attainable by more than this (of the loss: a share of it) says little."""
BETTER = 0.01
"""How much better than the best constant answer a target is, at least: points of accuracy, or a share of the loss."""


class Pace(NamedTuple):
    """How fast the weight begins and moves."""

    initial: float
    gain: float
    largest_step: float
    warmup: int


PACES = {
    "accuracy": Pace(0.1, 30.0, 0.5, 3),
    "loss": Pace(0.01, 20.0, 0.5, 3),
    "tolerance": Pace(0.1, 0.4, 0.5, 15),  # the gain is divided by the tolerance
    "lipschitz": Pace(0.1, 0.3, 1.0, 0),  # moved every few steps
}
"""What measures well for each wish: a target of one of the quantities, or a tolerance."""


def pace_of(tolerance: float | None, quantity: str) -> Pace:
    """The pace of a tolerance, or of a target of a quantity."""
    if tolerance is not None:
        pace = PACES["tolerance"]
        return pace._replace(gain=pace.gain / tolerance)
    return PACES[quantity]


def check_wish(target: float | None, tolerance: float | None, attainable: float | None, quantity: str) -> None:
    """`InputError` unless this is one wish, within its range."""
    if attainable is not None:
        if tolerance is None:
            do = "Leave it away: a target is not compared with anything."
            raise InputError("a tolerance for an attainable value", "none", do)
        require_in("an attainable value", attainable, "(0, 1]" if quantity == "accuracy" else "(0, inf)")
    if tolerance is not None:
        if target is not None:
            got = f"target {target} and tolerance {tolerance}"
            raise InputError("a target or a tolerance, one of them", got, "Leave the other away.")
        if quantity == "lipschitz":
            do = 'Give a target constant, or steer by quantity="accuracy" or "loss".'
            raise InputError("a tolerance of accuracy or loss", f"one of {quantity}", do)
        require_in("a tolerance", tolerance, "(0, 1)", "Give 0.01 for one point of accuracy or one per cent of the loss.")
    elif target is None:
        raise InputError("a target or a tolerance", "neither", "Give tolerance=0.01, or a target such as 0.95.")
    elif quantity == "accuracy":
        require_in(
            "a target accuracy",
            target,
            "(0, 1)",
            "Give a fraction such as 0.95; no run meets 1 for certain: for all that can be had, tolerance=0.001.",
        )
    else:
        do = "Give the noise level of the data, such as 0.01." if quantity == "loss" else "Give a constant, such as 1."
        require_in(f"a target {quantity}", target, "(0, inf)", do)


def better(value: float, best: float | None, quantity: str | None) -> float:
    """The larger accuracy, or the smaller loss."""
    if best is None:
        return value
    return max(value, best) if quantity == "accuracy" else min(value, best)


def target_of(reference: float, tolerance: float, quantity: str | None) -> float:
    """What may be given up against the reference: points of accuracy, or a share of the loss."""
    return reference - tolerance if quantity == "accuracy" else reference * (1 + tolerance)


def is_unresolved(reference: float | None, attainable: float | None, quantity: str | None) -> bool:
    """Whether a reference is far worse than what the data show to be within reach."""
    if attainable is None or reference is None:
        return False
    worse = attainable - reference if quantity == "accuracy" else reference / attainable - 1
    return worse > UNRESOLVED[str(quantity)]


def beyond_trivial(target: float, trivial: float | None, quantity: str | None) -> float:
    """The target, unless the best constant answer meets it: then one that is a little better than that."""
    if trivial is None or quantity == "lipschitz":
        return target
    if quantity == "accuracy":
        return max(target, trivial + min(BETTER, (1 - trivial) / 2))
    return min(target, (1 - BETTER) * trivial)
