"""What a penalty is, and sums of penalties."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import InputError

ClipNorm = Callable[..., Tensor]
"""`torch.nn.utils.clip_grad_norm_`, or what stands in for it: (parameters, max_norm) -> norm before clipping."""


class Penalty(Protocol):
    """A term that training can add to a loss; `PenaltyTerm` multiplies it by the weight.

    A penalty without state defines `__call__` alone and inherits the rest.
    """

    vanishes_on_constants: bool = False
    """Whether a constant network has penalty 0. Then a weight that is far too large makes the network constant."""
    first_share: float = 1 / 8
    """Until the scheduler's first update the penalty costs at most this share of the loss of the best constant."""
    latest: float = 0.0
    """The penalty as it was last evaluated, its mean over the steps; 0 before, and where it was not finite."""
    batch_size: int | None = None
    """Samples in a step of the user's own; no pass of the penalty has more. None: no limit."""

    def __call__(self) -> Tensor:
        """The penalty, `()`, with a graph to the parameters."""
        ...

    def step(self) -> None:
        """Prepare the next call, after the optimizer's step."""
        return None

    def clip_gradients(self, clip_norm: ClipNorm = nn.utils.clip_grad_norm_) -> None:
        """Limit the parameters' gradients after the backward pass, where the penalty needs that."""
        return None

    def constant(self) -> float | None:
        """What the penalty knows of Lip(f) now, at little cost, for a target constant; None if nothing."""
        return None

    def metrics(self) -> dict[str, float | int | None]:
        """What the penalty knows: `lower_bound` and `upper_bound` of Lip(f), `skipped_steps`."""
        return {}

    def multipliers(self) -> list[Tensor]:
        """Logarithms of a certificate's multipliers, from which `lipschitz_bracket` goes on; of a penalty without one none."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """What changes during training."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        return None


class PenaltySum(Penalty):
    """The sum of penalties, each times a factor: one penalty, with one weight and one cap.

    Args:
        terms: (factor, penalty) of each, factor >= 0 and finite.

    Raises:
        InputError: no terms, or a factor that is negative or not finite.

    Example:
        >>> from cheaplip.regularization.weight_norm import WeightNorm
        >>> layer = torch.nn.Linear(1, 1, bias=False).requires_grad_(True)
        >>> _ = torch.nn.init.constant_(layer.weight, 2.0)
        >>> float(PenaltySum([(1.0, WeightNorm(layer)), (0.5, WeightNorm(layer, squared=True))])().detach())
        4.0
    """

    def __init__(self, terms: Sequence[tuple[float, Penalty]]) -> None:
        if not terms or not all(0 <= factor < torch.inf for factor, _ in terms):
            raise InputError("penalties with finite factors >= 0", [factor for factor, _ in terms], "Give (factor, penalty).")
        self.terms = list(terms)
        self.vanishes_on_constants = any(penalty.vanishes_on_constants for _, penalty in terms)
        self.first_share = min(penalty.first_share for _, penalty in terms)

    def __call__(self) -> Tensor:
        """The sum, `()`."""
        for _, penalty in self.terms:
            penalty.batch_size = self.batch_size
        first, *others = [factor * penalty() for factor, penalty in self.terms]
        self.latest = sum(factor * penalty.latest for factor, penalty in self.terms)
        for other in others:
            first = first + other.to(first)
        return first

    def step(self) -> None:
        """Prepare every penalty for its next call."""
        for _, penalty in self.terms:
            penalty.step()

    def clip_gradients(self, clip_norm: ClipNorm = nn.utils.clip_grad_norm_) -> None:
        """Limit the gradients as each penalty needs."""
        for _, penalty in self.terms:
            penalty.clip_gradients(clip_norm)

    def constant(self) -> float | None:
        """The largest that any of the penalties knows: a proved upper bound, if there is one."""
        known = [value for _, penalty in self.terms if (value := penalty.constant()) is not None]
        return max(known, default=None)

    def metrics(self) -> dict[str, float | int | None]:
        """All that the penalties know; skipped steps are added up."""
        parts = [penalty.metrics() for _, penalty in self.terms]
        merged = {name: value for part in parts for name, value in part.items()}
        return merged | {"skipped_steps": sum(part.get("skipped_steps") or 0 for part in parts)}

    def multipliers(self) -> list[Tensor]:
        """Of the first penalty that has some."""
        return next((found for _, penalty in self.terms if (found := penalty.multipliers())), [])

    def state_dict(self) -> dict[str, Any]:
        """The states of all penalties, in order."""
        return {"terms": [penalty.state_dict() for _, penalty in self.terms]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        for (_, penalty), part in zip(self.terms, state["terms"], strict=True):
            penalty.load_state_dict(part)
