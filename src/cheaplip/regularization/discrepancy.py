"""The discrepancy principle: the rule that moves the weight lambda until the training accuracy meets its target.

More weight means a smaller Lipschitz constant and a larger risk (Proposition 2 of the paper), so: above the target,
raise the weight; below it, lower it. The class looks like a learning-rate scheduler of torch.
"""

from __future__ import annotations

import math
from typing import Any

from ..errors import InputError, require_known

RULES = ("multiplicative", "additive")
QUANTITIES = ("accuracy", "loss")
FLOOR = 1e-6
"""The multiplicative rule stays above this share of the initial weight: from far below it would take ages to climb back."""


def additive_rule(weight: float, excess: float, increment: float) -> float:
    """The paper's rule, Algorithm 2: weight + increment if excess > 0 else weight - increment, never below 0."""
    return max(weight + (increment if excess > 0 else -increment), 0.0)


def multiplicative_rule(excess: float, trend: float, *, gain: float, damping: float, largest_step: float) -> float:
    """The change of log(weight), clip(gain * excess + damping * trend, -largest_step, largest_step): PD control.

    `trend` is the change of the excess since the last update. A penalty acts with a lag of some epochs (weights shrink
    slowly), and without damping the weight overshoots until the network collapses, then dies out itself.
    """
    return min(max(gain * excess + damping * trend, -largest_step), largest_step)


class DiscrepancyPrinciple:
    """Holds the weight and moves it after each epoch, or every so many steps, towards the target.

    Args:
        target: accuracy to meet, in (0, 1); or, for `quantity="loss"`, the loss to meet, > 0 (the noise level).
        rule: `"multiplicative"` or `"additive"` (the paper's).
        quantity: `"accuracy"` (the excess is value - target) or `"loss"` (the excess is (target - value) / target).
        initial: the weight after the warm-up.
        increment: dlambda of the additive rule.
        gain: of the multiplicative rule, on the excess.
        damping: of the multiplicative rule, on the change of the excess since the last update.
        largest_step: bound on the change of log(weight) in one update of the multiplicative rule. The bound halves while
            steps as long as it turn round each time, and grows back otherwise: a network that answers at once (wide, with
            much certificate in its penalty) would swing for good.
        warmup: updates during which the weight is 0, so that the network first learns something to regularise. The
            multiplicative rule then waits at 0 until the target is met once: below it there is nothing to trade, and a
            weight lowered meanwhile would have to climb back.
        every: how many calls of `step` make one update; 1 with one call an epoch, k with one call a minibatch.
        maximum: upper bound of the weight.

    Attributes:
        weight: lambda now; 0 during the warm-up, never negative, never above `maximum`.

    Raises:
        InputError: an argument outside its range, a `step` with a value that is not finite.

    Source: Algorithm 2 of the CLIP paper; warm-up from the authors' code.

    Example:
        >>> principle = DiscrepancyPrinciple(0.9, rule="additive", initial=1.0, increment=0.5, warmup=0)
        >>> principle.step(0.95); principle.weight
        1.5
        >>> principle.step(0.80); principle.weight
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
        maximum: float = math.inf,
    ) -> None:
        require_known("rule", rule, RULES)
        require_known("quantity", quantity, QUANTITIES)
        if quantity == "accuracy" and not 0 < target < 1:
            raise InputError("a target accuracy in (0, 1)", target, "Give a fraction such as 0.95.")
        if quantity == "loss" and not 0 < target < math.inf:
            raise InputError("a target loss > 0", target, "Give the noise level of the data, such as 0.01.")
        smallest = 0.0 if rule == "additive" else math.ulp(0.0)
        if not smallest <= initial <= maximum:
            do = "The multiplicative rule cannot leave 0." if rule == "multiplicative" else "Raise the maximum."
            raise InputError(f"an initial weight from {smallest:g} to {maximum:g}", initial, do)
        for name, value in {"increment": increment, "gain": gain, "largest_step": largest_step}.items():
            if not 0 < value < math.inf:
                raise InputError(f"{name} > 0", value, "Give a positive number.")
        if not 0 <= damping < math.inf:
            raise InputError("damping >= 0", damping, "Use 0 for none.")
        if warmup < 0 or every < 1:
            raise InputError("warmup >= 0 and every >= 1", f"{warmup} and {every}", "Count them in calls of step.")
        self.target, self.rule, self.quantity = target, rule, quantity
        self.initial, self.increment = initial, increment
        self.gain, self.damping, self.largest_step = gain, damping, largest_step
        self.warmup, self.every, self.maximum = warmup, every, maximum
        self.calls = 0
        self.excess: float | None = None  # at the last update
        self.updated = False  # since the weight left 0
        self.reach = largest_step  # the bound now
        self.change, self.turns = 0.0, 0  # the last change of log(weight), how many of full length have turned round
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
        self.updated = True
        if self.rule == "additive":
            weight = additive_rule(self.weight, excess, self.increment)
        else:
            change = multiplicative_rule(excess, trend, gain=self.gain, damping=self.damping, largest_step=self.reach)
            self._adapt(change)
            weight = self.weight * math.exp(change)
            weight = max(weight, min(FLOOR * self.initial, self.weight))
        self.weight = min(weight, self.maximum)

    def _adapt(self, change: float) -> None:
        """Bound the next step by half after two changes of full length that have each turned round."""
        turned = change * self.change < 0
        self.turns = self.turns + 1 if turned and abs(change) >= self.reach else 0
        if self.turns >= 2:
            self.reach = max(self.reach / 2, self.largest_step / 64)
        elif not turned:
            self.reach = min(1.2 * self.reach, self.largest_step)
        self.change = change

    def limit(self, ceiling: float) -> float:
        """Until the rule's first update: lower the weight to `ceiling` where it is above. Returns the weight.

        A constant network pays no penalty, only the loss of the best constant. Where weight * penalty is more than that
        loss, collapsing to a constant pays off at once, and a network that has collapsed seldom comes back. With
        `ceiling` = that loss / penalty a weight that starts far too high, or in other units, starts where it can do no
        harm; from there the rule moves it. The largest of the penalties counts: the first ones, of pairs that have not
        climbed yet, are small. The paper's additive rule has no such limit.
        """
        if self.rule == "multiplicative" and not self.updated:
            self.weight = min(self.weight, ceiling)
        return self.weight

    def state_dict(self) -> dict[str, Any]:
        """What changes during training."""
        names = ("calls", "started", "updated", "excess", "reach", "change", "turns", "weight")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.calls, self.started, self.updated = state["calls"], state["started"], state["updated"]
        self.reach, self.change, self.turns = state["reach"], state["change"], state["turns"]
        self.excess, self.weight = state["excess"], state["weight"]


class ConstantWeight:
    """A fixed weight with the interface of `DiscrepancyPrinciple`: no target, lambda as given (the paper's regression).

    Raises:
        InputError: a weight that is negative or not finite.
    """

    def __init__(self, weight: float) -> None:
        if not 0 <= weight < math.inf:
            raise InputError("a weight >= 0", weight, "Use 0 for no regularisation.")
        self.weight = weight

    def step(self, value: float) -> None:
        """Nothing moves."""

    def limit(self, ceiling: float) -> float:
        """The weight, which stays as it was given."""
        return self.weight

    def state_dict(self) -> dict[str, Any]:
        """The weight."""
        return {"weight": self.weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.weight = state["weight"]
