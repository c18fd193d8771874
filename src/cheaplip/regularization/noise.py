"""`NoiseRegularizer`: what the network does under noise of any size, as a penalty."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import processes
from ..arguments import checked
from ..errors import InputError, require_in
from ..inference import Model, device_of, forward_checked, full_precision
from ..norms import all_finite, per_sample
from .draws import Draws
from .held import HeldGradient, evaluate
from .lazy import LazyPenalty
from .options import PairOptions

SMALLEST = 0.01
"""Of the noise drawn, as a share of the largest: with less, the changes of f would be those of rounding."""


class NoiseRegularizer(LazyPenalty):
    r"""The mean squared slope between inputs and their copies with noise of all sizes up to `noise`.

        R(f) = mean_i |f(x_i + s_i z_i) - f(x_i)|^2 / s_i^2,    s_i uniform in (0, noise],  z_i standard normal

    These are pairs of CLIP whose points lie far from each other, and outside all data: |x - x'| = s sqrt(n) for n entries, so
    that R is n times their mean squared quotient. For small `noise` it is the squared Frobenius norm of the Jacobian near the
    inputs. Pairs near data say nothing about what a network does so far out. Nothing is searched for: the noise is drawn anew
    at every evaluation.

    The penalty is lazy (see `LazyPenalty`). `fit(input_noise=...)` adds a tenth of it to that of the pairs, by `PenaltySum`.

    Args:
        model: f, any `nn.Module` from `(n, *input)` to one tensor `(n, *output)`.
        inputs: x, `(n, *input)`, such as held-out ones. They stay on their device; what is drawn follows the model.
        noise: the largest standard deviation, in units of the inputs.
        seed: of the draws and of the noise.
        active, interval, hold: see `PairOptions`; `active` inputs are in one penalty.

    Raises:
        InputError: an argument outside its range, inputs that are not finite or do not fit the model.

    Source: the pairs of the CLIP paper, (5), at other distances; for small noise Hoffman, Roberts, Yaida, 2019.

    Example:
        >>> inputs = torch.zeros(1000, 2)
        >>> penalty = NoiseRegularizer(lambda x: x @ torch.tensor([[3.0], [4.0]]), inputs, active=1000)
        >>> round(float(penalty()) / 25)  # close to the square of the norm of the matrix
        1
    """

    vanishes_on_constants = True

    @checked
    def __init__(
        self,
        model: Model,
        inputs: Tensor,
        *,
        noise: float = 1.0,
        seed: int = 0,
        active: int = PairOptions().active,
        interval: int = PairOptions().interval,
        hold: bool = PairOptions().hold,
    ) -> None:
        require_in("noise", noise, "(0, inf)", "Give the largest standard deviation, such as 1.")
        for name, value in {"active": active, "interval": interval}.items():
            require_in(name, value, "[1, inf)")
        if not inputs.is_floating_point() or inputs.dim() == 0 or len(inputs) == 0 or not all_finite(inputs):
            got = f"{tuple(inputs.shape)} of {inputs.dtype}, or nan or inf"
            raise InputError("finite floating-point inputs (n, *input), n >= 1", got, "Give held-out inputs.")
        super().__init__(model, interval=interval, hold=hold)
        forward_checked(model, inputs[:1].to(device_of(model, inputs.device)))
        self.noise, self.seed = noise, seed
        require_in("seed", seed, f"[{-(2**63)}, {2**63 - 1}]")
        self._inputs = inputs.detach()
        self._draws = Draws(len(inputs), active, seed)

    def _compare(self) -> None:
        super()._compare()
        processes.require_same([self._inputs], "the same inputs", "Give the same held-out inputs on every process.")

    def _turn(self) -> None:
        """Draw the next inputs."""
        self._draws.turn()

    def _evaluate(self) -> HeldGradient:
        """The penalty of the drawn inputs and its gradient, part by part."""
        device = device_of(self.model, self._inputs.device)
        x = self._inputs[self._draws.drawn.to(self._inputs.device)].to(device)
        # drawn on the CPU: the same noise everywhere; by the number of steps: a closure evaluates a step several times
        generator = torch.Generator().manual_seed(self.seed + self.calls)
        size = self.noise * torch.rand(len(x), generator=generator).clamp(min=SMALLEST).to(x)
        moved = x + per_sample(size, x) * torch.randn(x.shape, generator=generator).to(x)
        (x, counts), (moved, _), (size, _) = (processes.share(of_all) for of_all in (x, moved, size))
        rows = self._rows(len(x))  # a part passes twice, moved and still
        parts = zip(x.split(rows), moved.split(rows), size.split(rows), strict=True)
        with torch.autocast(device.type, enabled=False):
            return evaluate(self.model, [partial(self._part, *part, counts / len(self._draws.drawn)) for part in parts])

    def _part(self, x: Tensor, moved: Tensor, size: Tensor, share: float) -> Tensor:
        there, here = full_precision(self.model(torch.cat([moved, x]))).split(len(x))
        squares: Tensor = (there - here).flatten(1).square().sum(1) / size.to(there).square()
        return squares.sum() * share

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes during training, for a checkpoint."""
        return {**super().state_dict(), **self._draws.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; `InputError` if it belongs to more inputs."""
        self._draws.load_state_dict(state)
        super().load_state_dict(state)
