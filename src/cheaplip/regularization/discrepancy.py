"""The discrepancy principle: the rule that moves the weight lambda until the training accuracy meets its target.

More weight means a smaller Lipschitz constant and a larger risk (Proposition 2 of the paper). So the rule raises the
weight above the target and lowers it below. The classes are used like the learning-rate schedulers of torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

from ..errors import InputError, require_in, require_known

RULES = ("multiplicative", "additive")
QUANTITIES = ("accuracy", "loss")
FLOOR = 1e-6
"""The multiplicative rule stays above this share of the initial weight: the way back from far below would take too long."""
SMALLEST_STEP_BOUND = 1 / 64
"""The bound of a step is halved down to this share of `largest_step`."""


def additive_rule(weight: float, excess: float, increment: float) -> float:
    """The paper's rule, Algorithm 2: weight + increment if excess > 0 else weight - increment, never below 0."""
    return max(weight + (increment if excess > 0 else -increment), 0.0)


def multiplicative_rule(excess: float, trend: float, *, gain: float, damping: float, largest_step: float) -> float:
    """The change of log(weight), clip(gain * excess + damping * trend, -largest_step, largest_step): PD control.

    `trend` is the change of the excess since the last update. A penalty acts with a lag of some epochs, because weights
    shrink slowly. Without damping the weight overshoots until the network collapses.
    """
    return min(max(gain * excess + damping * trend, -largest_step), largest_step)


class WeightScheduler(Protocol):
    """What `PenaltyTerm` needs: a weight, and a rule that moves it. What is not overridden leaves the weight as it is."""

    weight: float
    """lambda now, never negative."""
    quantity: str | None = None
    """What `step` is given: `"accuracy"`, `"loss"`, or None if it does not matter."""

    def step(self, value: float) -> None:
        """Move the weight, given the training accuracy or loss."""
        return None

    def cap(self, weight: float) -> float:
        """Lower the weight to `weight` if it is above and the rule allows that; returns the weight."""
        return self.weight

    def state_dict(self) -> dict[str, Any]:
        """What changes during training."""
        return {"weight": self.weight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.weight = state["weight"]


class DiscrepancyPrinciple(WeightScheduler):
    """Holds the weight and moves it after each epoch, or every so many steps, towards the target.

    Args:
        target: accuracy to meet, in (0, 1); or, for `quantity="loss"`, the loss to meet, > 0 (the noise level).
        rule: `"multiplicative"` or `"additive"` (the paper's).
        quantity: `"accuracy"` (the excess is value - target) or `"loss"` (the excess is (target - value) / target).
        initial: the weight after the warm-up.
        increment: dlambda of the additive rule.
        gain: of the multiplicative rule, on the excess.
        damping: of the multiplicative rule, on the change of the excess since the last update.
        largest_step: bound on the change of log(weight) in one update of the multiplicative rule. The bound is halved when
            two consecutive full-length steps have opposite signs, and recovers otherwise. Without this, networks that react
            within one epoch (wide ones, or with a large certificate weight) oscillate indefinitely.
        warmup: updates during which the weight is 0, so that the network first learns something to regularise. The
            multiplicative rule then stays at 0 until the target is met once: below the target there is nothing to trade.
        every: how many calls of `step` make one update; 1 with one call an epoch, k with one call a minibatch.

    Attributes:
        weight: lambda now; 0 during the warm-up, never negative.

    Raises:
        InputError: an argument outside its range, a `step` with a value that is not finite.

    Source: Algorithm 2 of the CLIP paper; warm-up from the authors' code.

    Example:
        >>> scheduler = DiscrepancyPrinciple(0.9, rule="additive", initial=1.0, increment=0.5, warmup=0)
        >>> scheduler.step(0.95); scheduler.weight
        1.5
        >>> scheduler.step(0.80); scheduler.weight
        1.0
    """

    def __init__(
        self,
        target: float,
        *,
        rule: str = "multiplicative",
        quantity: str = "accuracy",
        initial: float = 0.01,
        increment: float = 0.01,
        gain: float = 20.0,
        damping: float = 40.0,
        largest_step: float = 0.5,
        warmup: int = 3,
        every: int = 1,
    ) -> None:
        require_known("rule", rule, RULES)
        require_known("quantity", quantity, QUANTITIES)
        if quantity == "accuracy":
            require_in("a target accuracy", target, "(0, 1)", "Give a fraction such as 0.95.")
        else:
            require_in("a target loss", target, "(0, inf)", "Give the noise level of the data, such as 0.01.")
        if rule == "additive":
            require_in("an initial weight", initial, "[0, inf)")
        else:
            require_in("an initial weight", initial, "(0, inf)", "The multiplicative rule cannot leave 0.")
        for name, value in {"increment": increment, "gain": gain, "largest_step": largest_step}.items():
            require_in(name, value, "(0, inf)")
        require_in("damping", damping, "[0, inf)", "Use 0 for none.")
        require_in("warmup", warmup, "[0, inf)", "Count it in updates.")
        require_in("every", every, "[1, inf)", "Count it in calls of step.")
        self.target, self.rule, self.quantity = target, rule, quantity
        self.initial, self.increment = initial, increment
        self.gain, self.damping, self.largest_step = gain, damping, largest_step
        self.warmup, self.every = warmup, every
        self.calls = 0
        self.excess: float | None = None  # at the last update
        self.has_moved = False  # since the weight left 0
        self.step_bound = largest_step  # the bound of a step now
        self.last_log_step, self.reversals = 0.0, 0  # the last change of log(weight); full-length steps that reversed it
        self.started = warmup == 0
        self.weight = initial if self.started else 0.0

    def step(self, value: float) -> None:
        """Take note of the training accuracy (or loss) and, at every `every`-th call, update the weight."""
        value = float(value)
        if not math.isfinite(value):
            raise InputError(f"a finite training {self.quantity}", value, "Look for a diverging loss.")
        self.calls += 1
        updates, between = divmod(self.calls, self.every)
        if between:
            return
        excess = value - self.target if self.quantity == "accuracy" else (self.target - value) / self.target
        trend, self.excess = 0.0 if self.excess is None else excess - self.excess, excess
        if not self.started:
            self.started = updates >= self.warmup and (self.rule == "additive" or excess >= 0)
            self.weight = self.initial if self.started else 0.0
            return
        self.has_moved = True
        if self.rule == "additive":
            self.weight = additive_rule(self.weight, excess, self.increment)
            return
        step = multiplicative_rule(excess, trend, gain=self.gain, damping=self.damping, largest_step=self.step_bound)
        self._adapt(step)
        self.weight = max(self.weight * math.exp(step), min(FLOOR * self.initial, self.weight))

    def _adapt(self, step: float) -> None:
        """Halve the bound after two full-length steps that each reversed the one before."""
        reversed_ = step * self.last_log_step < 0
        self.reversals = self.reversals + 1 if reversed_ and abs(step) >= self.step_bound else 0
        if self.reversals >= 2:
            self.step_bound = max(self.step_bound / 2, SMALLEST_STEP_BOUND * self.largest_step)
        elif not reversed_:
            self.step_bound = min(1.2 * self.step_bound, self.largest_step)
        self.last_log_step = step

    def cap(self, weight: float) -> float:
        """Until the rule's first update: lower the weight to `weight` if it is above. Returns the weight.

        A constant network has no penalty and the loss of the best constant. Where weight * penalty exceeds that loss, the
        constant network is the better minimiser, and a network that has become constant rarely recovers. With `weight` =
        that loss / penalty, a weight that starts far too high starts where it is harmless; then the rule moves it. The
        smallest cap counts, because the first penalties, of pairs without ascent, are small. The paper's additive rule has
        no cap.
        """
        if self.rule == "multiplicative" and not self.has_moved:
            self.weight = min(self.weight, weight)
        return self.weight

    def state_dict(self) -> dict[str, Any]:
        """What changes during training."""
        names = ("calls", "started", "has_moved", "excess", "step_bound", "last_log_step", "reversals", "weight")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.calls, self.started, self.has_moved = state["calls"], state["started"], state["has_moved"]
        self.step_bound, self.last_log_step = state["step_bound"], state["last_log_step"]
        self.reversals, self.excess, self.weight = state["reversals"], state["excess"], state["weight"]


class ConstantWeight(WeightScheduler):
    """A fixed weight: no target, lambda as given (the paper's regression).

    Raises:
        InputError: a weight that is negative or not finite.
    """

    def __init__(self, weight: float) -> None:
        require_in("a weight", weight, "[0, inf)", "Use 0 for no regularisation.")
        self.weight = weight
