"""What the norm of a gradient usually is, and how long one may be."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class UsualNorm:
    """The usual norm of some gradients, an exponential moving average of them, and a multiple of it as their limit.

    A norm beyond the limit counts as the limit, so that the average grows by at most (factor - 1) * rate each time. No value is
    read from the device.

    Args:
        factor: of the limit, > 1.
        rate: of the average, in (0, 1].

    Example:
        >>> usual = UsualNorm(2.0, 0.5)
        >>> for norm in (1.0, 100.0):
        ...     usual.learn(torch.tensor(norm))
        >>> float(usual.value), float(usual.limit)
        (1.5, 3.0)
    """

    def __init__(self, factor: float, rate: float) -> None:
        self.factor, self.rate = factor, rate
        self.value: Tensor | None = None
        """The average, `()`, on the device of the gradients; None before the first."""

    @property
    def limit(self) -> Tensor | float:
        """How long a gradient may be: of any length as long as there was none."""
        if self.value is None:
            return torch.inf
        return torch.where(self.value > 0, self.factor * self.value, torch.inf)

    def learn(self, norm: Tensor) -> None:
        """Take note of a norm, `()`; of one that is not finite only where there is no other. An average of 0 says nothing."""
        norm = norm.float()
        usual = norm if self.value is None else self.value.to(norm.device)
        after = usual.lerp(torch.minimum(norm, self.factor * usual), self.rate)
        known = usual.isfinite() & (usual > 0)
        self.value = torch.where(known, torch.where(norm.isfinite(), after, usual), norm)

    def state_dict(self) -> dict[str, Any]:
        """The average."""
        return {"usual": self.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.value = state["usual"]
