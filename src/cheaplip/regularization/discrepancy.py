"""The discrepancy principle: the rule that moves the weight lambda until the training accuracy meets its target.

More weight means a smaller Lipschitz constant and a larger risk (Proposition 2 of the paper). So the rule raises the
weight above the target and lowers it below. The classes are used like the learning-rate schedulers of torch.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

from .. import processes
from ..arguments import checked
from ..errors import InputError, TargetWarning, one_line, require_in, require_known
from .scheduler import WeightScheduler
from .wishes import QUANTITIES, better, beyond_trivial, check_wish, is_unresolved, pace_of, target_of

RULES = ("multiplicative", "additive")
FLOOR = 1e-6
"""The multiplicative rule stays above this share of the initial weight: the way back from far below would take too long."""
SMALLEST_STEP_BOUND = 1 / 64
"""The bound of a step is halved down to this share of `largest_step`."""


RAMP = 30
"""Calls over which a weight that was far too high comes in."""
PATIENCE = 30
"""Updates after the warm-up without a weight before a warning."""
STATE = (
    "calls",
    "target",
    "reference",
    "started",
    "has_moved",
    "value",
    "excess",
    "step_bound",
    "last_log_step",
    "reversals",
    "capped",
    "weight",
)
"""What changes during training."""


def additive_rule(weight: float, excess: float, increment: float) -> float:
    """The paper's rule, Algorithm 2: weight + increment if excess > 0 else weight - increment, never below 0."""
    return max(weight + (increment if excess > 0 else -increment), 0.0)


def multiplicative_rule(excess: float, trend: float, *, gain: float, damping: float, largest_step: float) -> float:
    """The change of log(weight), clip(gain * excess + damping * trend, -largest_step, largest_step): PD control.

    `trend` is the change of the excess since the last update. A penalty acts with a lag of some epochs, because weights
    shrink slowly. Without damping the weight overshoots until the network collapses.
    """
    return min(max(gain * excess + damping * trend, -largest_step), largest_step)


class DiscrepancyPrinciple(WeightScheduler):
    """Holds the weight and moves it after each epoch, or every so many steps, towards the target.

    Args:
        target: accuracy to meet, in (0, 1); for `quantity="loss"` the loss to meet, > 0 (the noise level); for
            `quantity="lipschitz"` the Lipschitz constant to meet, > 0.
        tolerance: what may be given up, instead of a target: 0.01 for one point of accuracy, or one per cent of the loss.
            The reference is the best value of the warm-up, which is plain training; the target follows from it.
        attainable: with a tolerance, a value that the data show to be within reach, such as `data.attainable_value(x, y)`.
            Where the warm-up ends far from it (`is_unresolved`), the reference is this: the weight stays 0 until then.
        trivial: accuracy of the best constant answer (the largest class's share), or its loss (the variance of the values). A
            target that it meets says nothing, and the weight would rise without end: it becomes one that is a little better.
        rule: `"multiplicative"` or `"additive"` (the paper's).
        quantity: `"accuracy"` (the excess is value - target), `"loss"` (the excess is (target - value) / target) or
            `"lipschitz"` (the excess is log(value / target): above the target the weight rises).
        initial: the weight after the warm-up; by default, like gain, largest_step and warmup, as in `wishes.PACES`; of the
            additive rule one increment.
        increment: dlambda of the additive rule.
        gain: of the multiplicative rule, on the excess.
        damping: of the multiplicative rule, on the change of the excess since the last update; by default twice the gain.
        largest_step: bound on the change of log(weight) in one update of the multiplicative rule. It is halved when two
            consecutive full-length steps have opposite signs, and recovers otherwise, fast where steps are too short. Without
            this, networks that react within one epoch (wide ones, or with a large certificate weight) oscillate indefinitely.
        warmup: updates during which the weight is 0, so that the network first learns something to regularise. The
            multiplicative rule then stays at 0 until the target is met once: below the target there is nothing to trade.
        every: how many calls of `step` make one update; 1 with one call an epoch, k with one call a minibatch.

    Attributes:
        weight: lambda now; 0 during the warm-up, never negative.

    Raises:
        InputError: an argument outside its range, a `step` with a value that is not finite.

    Warns:
        TargetWarning: the weight is still 0 long after the warm-up.

    Source: Algorithm 2 of the CLIP paper; warm-up from the authors' code.

    Example:
        >>> scheduler = DiscrepancyPrinciple(0.9, rule="additive", initial=1.0, increment=0.5, warmup=0)
        >>> scheduler.step(0.95); scheduler.weight
        1.5
        >>> scheduler.step(0.80); scheduler.weight
        1.0
    """

    @checked
    def __init__(
        self,
        target: float | None = None,
        *,
        tolerance: float | None = None,
        attainable: float | None = None,
        trivial: float | None = None,
        rule: str = "multiplicative",
        quantity: str = "accuracy",
        initial: float | None = None,
        increment: float = 0.01,
        gain: float | None = None,
        damping: float | None = None,
        largest_step: float | None = None,
        warmup: int | None = None,
        every: int = 1,
    ) -> None:
        require_known("rule", rule, RULES)
        require_known("quantity", quantity, QUANTITIES)
        check_wish(target, tolerance, attainable, quantity)
        usual = pace_of(tolerance, quantity)
        initial = (increment if rule == "additive" else usual.initial) if initial is None else initial
        gain = usual.gain if gain is None else gain
        damping = 2 * gain if damping is None else damping
        largest_step = usual.largest_step if largest_step is None else largest_step
        warmup = usual.warmup if warmup is None else warmup
        if rule == "additive":
            require_in("an initial weight", initial, "[0, inf)")
        else:
            require_in("an initial weight", initial, "(0, inf)", "The multiplicative rule cannot leave 0.")
        for name, value in {"increment": increment, "gain": gain, "largest_step": largest_step}.items():
            require_in(name, value, "(0, inf)")
        require_in("damping", damping, "[0, inf)", "Use 0 for none.")
        require_in("warmup", warmup, "[0, inf)" if tolerance is None else "[1, inf)", "Count it in updates.")
        require_in("every", every, "[1, inf)", "Count it in calls of step.")
        self.target = None if target is None else beyond_trivial(target, trivial, quantity)
        self.tolerance, self.rule, self.quantity, self.trivial = tolerance, rule, quantity, trivial
        self.attainable, self.initial, self.increment = attainable, initial, increment
        self.gain, self.damping, self.largest_step = gain, damping, largest_step
        self.warmup, self.every = warmup, every
        self.calls = 0
        self.reference: float | None = None  # the best value of the warm-up, from which a tolerance counts
        self.value: float | None = None  # at the last update
        self.excess: float | None = None  # of it
        self.has_moved = False  # since the weight left 0
        self.step_bound = largest_step  # the bound of a step now
        self.last_log_step, self.reversals = 0.0, 0  # the last change of log(weight); full-length steps that reversed it
        self.capped = 0  # calls of `cap` since the weight was lowered by it
        self.started = warmup == 0
        self.weight = initial if self.started else 0.0

    def step(self, value: float) -> None:
        """Take note of the training accuracy (or loss) and, at every `every`-th call, update the weight.

        Of several processes (see `processes`) the mean of their values counts, and all call it.
        """
        try:
            value = processes.mean(float(value))
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise InputError(f"a finite {self.name}", one_line(error), "Give one number.") from None
        if not math.isfinite(value):
            raise InputError(f"a finite {self.name}", value, "Look for a diverging loss.")
        if value < 0:
            raise InputError(f"{self.name} >= 0 to steer by", value, "Steer by another value, or give a constant weight.")
        self.calls += 1
        updates, between = divmod(self.calls, self.every)
        if between:
            return
        self.value = value
        if self.tolerance is not None and updates <= self.warmup:
            self._refer(value, self.tolerance)
        excess = self._excess_of(value)
        trend, self.excess = 0.0 if self.excess is None else excess - self.excess, excess
        if not self.started:
            # below a target accuracy there is nothing to trade; a constant may be too small at first and grow
            waits = self.rule == "multiplicative" and self.quantity != "lipschitz"
            self.started = updates >= self.warmup and (not waits or excess >= 0)
            self.weight = self.initial if self.started else 0.0
            if not self.started and updates == self.warmup + PATIENCE:
                warnings.warn(self._idle(updates), TargetWarning, stacklevel=3)
            return
        self.has_moved = True
        if self.rule == "additive":
            self.weight = additive_rule(self.weight, excess, self.increment)
            return
        step = multiplicative_rule(excess, trend, gain=self.gain, damping=self.damping, largest_step=self.step_bound)
        self._adapt(step)
        self.weight = max(self.weight * math.exp(step), min(FLOOR * self.initial, self.weight))

    @property
    def name(self) -> str:
        """What is steered, in words."""
        return "lower bound of Lip(f)" if self.quantity == "lipschitz" else str(self.quantity)

    def _refer(self, value: float, tolerance: float) -> None:
        """Without a penalty: the best value so far is the reference, and sets the target."""
        self.reference = better(value, self.reference, self.quantity)
        reference = self.attainable if self.attainable is not None and self.is_unresolved else self.reference
        self.target = beyond_trivial(target_of(reference, tolerance, self.quantity), self.trivial, self.quantity)

    @property
    def is_unresolved(self) -> bool:
        """Whether the warm-up ended far from what the data show to be within reach."""
        return is_unresolved(self.reference, self.attainable, self.quantity)

    def _idle(self, updates: int) -> str:
        return (
            f"The weight is 0 after {updates} updates: the {self.name} is {self.value:.4g}, its target {self.target:.4g}. "
            "Until the target is met once, this is plain training. Set one that the network reaches, or a tolerance."
        )

    def _excess_of(self, value: float) -> float:
        target = math.nan if self.target is None else self.target  # a tolerance has made it one
        if self.quantity == "accuracy":
            return value - target
        if self.quantity == "loss":
            return (target - value) / max(target, 1e-12)  # a loss may be 0
        return math.log(max(value, 1e-12) / target)

    def _adapt(self, step: float) -> None:
        """Halve the bound after two full-length steps that each reversed the one before; double it after one that did not."""
        reversed_, full = step * self.last_log_step < 0, abs(step) >= self.step_bound
        self.reversals = self.reversals + 1 if reversed_ and full else 0
        if self.reversals >= 2:
            self.step_bound = max(self.step_bound / 2, SMALLEST_STEP_BOUND * self.largest_step)
        elif not reversed_:
            self.step_bound = min((2 if full else 1.2) * self.step_bound, self.largest_step)
        self.last_log_step = step

    @property
    def is_capped(self) -> bool:
        """Until the first update of the multiplicative rule."""
        return self.rule == "multiplicative" and not self.has_moved

    def cap(self, weight: float) -> float:
        """Until the rule's first update: lower the weight to `weight` if it is above. Returns the weight to use now.

        A constant network has no penalty and the loss of the best constant. Where weight * penalty exceeds that loss, the
        constant network is the better minimiser, and a network that has become constant rarely recovers. With `weight` =
        that loss / penalty, a weight that starts far too high starts where it is harmless; then the rule moves it. The
        smallest cap counts, because the first penalties, of pairs without ascent, are small. A weight that was lowered comes
        in over `RAMP` calls, or until the rule's first update: at once, it may still be enough for a convolutional network to
        lose all its ReLUs. The paper's additive rule has no cap.
        """
        if not self.is_capped:
            return self.weight
        self.weight = min(self.weight, weight)
        if not 0 < self.weight < self.initial:
            return self.weight
        self.capped = min(self.capped + 1, RAMP)
        return self.weight * self.capped / RAMP

    def state_dict(self) -> dict[str, Any]:
        """What changes during training."""
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        for name in STATE:
            setattr(self, name, state[name])
