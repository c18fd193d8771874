"""A limit to the gradients of steps with a certificate in their penalty, so that training cannot diverge by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from .penalty import ClipNorm
from .usual import UsualNorm

FACTOR = 1.5
GROWTH = 0.2


class GradientClip:
    """Scales gradients that are longer than `FACTOR` times their usual norm down to that length.

    The square of a certificate grows like a power of the weights, twice the number of layers, and so does its curvature.
    Where the curvature is too large for the optimizer's step size, each penalised step makes the next one longer. Clipping
    stops this: the step keeps its usual length, accuracy drops below the target, and the scheduler lowers the weight. The
    usual norm is an exponential moving average of the clipped norms over about five epochs; it grows by at most about 10 %
    an epoch. No value is read from the device.

    Args:
        steps: penalised steps in an epoch.
    """

    def __init__(self, steps: int) -> None:
        self.usual = UsualNorm(FACTOR, min(GROWTH / max(steps, 1), 1.0))

    def __call__(self, parameters: Iterable[nn.Parameter], clip_norm: ClipNorm = nn.utils.clip_grad_norm_) -> None:
        """Clip the gradients in place."""
        self.usual.learn(clip_norm(parameters, self.usual.limit))

    def state_dict(self) -> dict[str, Any]:
        """The usual norm."""
        return self.usual.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.usual.load_state_dict(state)
