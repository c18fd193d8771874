"""What moves a penalty's weight: the interface, and the weight that does not move."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from ..arguments import checked
from ..errors import require_in


class WeightScheduler(Protocol):
    """What `PenaltyTerm` needs: a weight, and a rule that moves it. What is not overridden leaves the weight as it is."""

    weight: float
    """lambda now, never negative."""
    quantity: str | None = None
    """What `step` is given: `"accuracy"`, `"loss"`, `"lipschitz"`, or None if it does not matter."""
    target: float | None = None
    """What `step` should be given; None if nothing is wished, or not known yet."""

    def step(self, value: float) -> None:
        """Move the weight, given the training accuracy or loss."""
        return None

    @property
    def is_capped(self) -> bool:
        """Whether `cap` may lower the weight now."""
        return False

    def cap(self, weight: float) -> float:
        """Lower the weight to `weight` if it is above and `is_capped`; returns the weight."""
        return self.weight

    def state_dict(self) -> dict[str, Any]:
        """What changes during training."""
        return {"weight": self.weight}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.weight = state["weight"]


class ConstantWeight(WeightScheduler):
    """A fixed weight: no target, lambda as given (the paper's regression).

    Raises:
        InputError: a weight that is negative or not finite.
    """

    @checked
    def __init__(self, weight: float) -> None:
        require_in("a weight", weight, "[0, inf)", "Use 0 for no regularisation.")
        self.weight = weight
