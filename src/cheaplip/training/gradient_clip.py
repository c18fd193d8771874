"""A limit to the gradients of steps with a certificate in their penalty, so that it cannot blow a training up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

FACTOR = 1.5
GROWTH = 0.2


class GradientClip:
    """Scales gradients that are longer than `FACTOR` times their usual norm down to that length.

    The square of a certificate grows like a power of the weights, twice the number of layers, and its curvature with it:
    where that outgrows the optimizer's step size, each penalised step makes the next one longer, until nothing is finite.
    A step of usual length cannot; the network meanwhile gets worse than its target, so that the weight falls. Usual is the
    running mean of the norms after clipping over some five epochs; it grows by no more than about 10 % an epoch. (With 20 %
    or 1.5 times that, a network of four layers still blew up.) No value is read from the device.

    Args:
        steps: penalised steps in an epoch.
    """

    def __init__(self, steps: int) -> None:
        self._rate = min(GROWTH / max(steps, 1), 1.0)
        self.usual: Tensor | None = None  # () on the parameters' device

    def __call__(self, parameters: Iterable[nn.Parameter], accelerator: Accelerator) -> None:
        """Clip the gradients in place."""
        norm = accelerator.clip_grad_norm_(parameters, torch.inf if self.usual is None else FACTOR * self.usual)
        usual = norm if self.usual is None else self.usual.to(norm.device)
        after = usual.lerp(torch.minimum(norm, FACTOR * usual), self._rate)
        self.usual = torch.where(usual.isfinite(), torch.where(norm.isfinite(), after, usual), norm)

    def state_dict(self) -> dict[str, Any]:
        """The usual norm."""
        return {"usual": self.usual}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.usual = state["usual"]
