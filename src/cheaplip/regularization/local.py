"""`LocalRegularizer`: the worst rise of the loss in a ball round each sample, as a penalty."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from .. import processes
from ..arguments import checked
from ..domains import Box, projected
from ..errors import InputError
from ..inference import Model, check_classifier, device_of, evaluating, forward_checked, full_precision
from ..norms import all_finite, per_sample, sample_norm
from ..records import validated
from ..robustness.attacks import log_odds
from .draws import Draws
from .held import HeldGradient, evaluate
from .lazy import LazyPenalty
from .options import LocalOptions

STEP = 4.0
"""Length of a step of the search, in radii. So long a step all but forgets where it began: it goes to the point of the sphere
that is worst to first order, as in the power method. On smooth networks two of them find what seven shorter ones find."""

Rise = Callable[[Tensor], Tensor]
"""From f(x + d), `(n, *output)`, what the search raises for each sample, `(n,)`."""


def worst_in_ball(
    model: Model, x: Tensor, start: Tensor, rise: Rise, *, radius: float, norm: float, steps: int, domain: Box | None = None
) -> Tensor:
    """Points x + d, |d| <= radius, that a search by normalised gradients has found for max over d of rise(f(x + d)).

    Args:
        model: f, in evaluation mode already.
        x: centres of the balls, `(n, *input)`, in the domain.
        start: first points, `(n, *input)`.
        rise: what is raised, sample by sample.
        radius: of the balls.
        norm: 2, with steps along the gradient, or inf, with steps along its sign.
        steps: of the search.
        domain: box that the points must not leave.

    Source: projected gradient ascent (Madry et al. 2018), with few and long steps.
    """
    points = start.detach()
    for _ in range(steps):
        points = points.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(rise(model(points.clone())).sum(), points)  # f may change its input
        gradient = gradient.nan_to_num_(0.0)
        ahead = gradient.sign() if norm == math.inf else gradient * per_sample(1 / _positive(sample_norm(gradient)), x)
        points = on_sphere(x, (points.detach() - x).add_(ahead, alpha=STEP * radius), radius, norm, domain)
    return points


def random_points(x: Tensor, radius: float, norm: float, domain: Box | None, generator: Generator) -> Tensor:
    """Points of the balls round x at random distances, all along one random direction, drawn on the CPU.

    A direction for each point would take as long to draw as a step of the search.
    """
    direction = torch.randn((1, *x.shape[1:]), generator=generator).to(x)
    length = radius * (2 * torch.rand(len(x), generator=generator).to(x) - 1) / sample_norm(direction, norm)
    points = x + per_sample(length, x) * direction
    return points if domain is None else projected(points, domain)


def on_sphere(x: Tensor, offset: Tensor, radius: float, norm: float, domain: Box | None) -> Tensor:
    """The points x + offset with the offsets brought to the length `radius`, or clamped to it entry by entry for norm inf.

    What a box cuts off makes an offset shorter: it is then stretched and cut once more. Without that, images, most of
    whose pixels are at an end of the box, lose an eighth of the radius.
    """
    if norm == math.inf:
        offset = offset.clamp(-radius, radius)
        return x + offset if domain is None else projected(x + offset, domain)
    points = x
    for _ in range(1 if domain is None else 2):
        points = x + offset * per_sample(radius / _positive(sample_norm(offset)), x)
        points = points if domain is None else projected(points, domain)
        offset = points - x
    return points


def local_rises(outputs: Tensor, still: Tensor, y: Tensor) -> Tensor:
    """loss(f(x + d), y) - loss(f(x), y) of each sample for integer y, |f(x + d) - f(x)|^2 for floating y; `(n,)`.

    Args:
        outputs: f(x + d), `(n, classes)` or `(n, *output)`.
        still: f(x), likewise.
        y: labels `(n,)`, or any floating values.
    """
    if y.is_floating_point():
        return (outputs - still).reshape(len(y), -1).square().sum(1)
    return cross_entropy(outputs, y, reduction="none") - cross_entropy(still, y, reduction="none")


def _positive(length: Tensor) -> Tensor:
    return length.clamp(min=torch.finfo(length.dtype).tiny)


class LocalRegularizer(LazyPenalty):
    r"""The mean worst rise of the loss when an input moves by at most `radius`, on a few samples at a time.

    For class labels, with the cross-entropy as the loss:

        R(f) = mean_i [ max_{|d| <= radius} loss(f(x_i + d), y_i) - loss(f(x_i), y_i) ]

    For real values, where the labels play no part, the worst squared change, the sum over the outputs:

        R(f) = mean_i max_{|d| <= radius} |f(x_i + d) - f(x_i)|^2

    The worst d is searched by a few steps along the gradient, so the penalty is a lower bound of R. Unlike Lip(f, X_Lip) it
    lowers slopes only near samples, and there only in the directions that change the answer. With weight 1 and the loss of
    the same samples it is adversarial training; the weight, steered by a target, finds the mixture.

    The penalty is lazy (see `LazyPenalty`): every `attack_interval`-th `step` draws fresh samples, each once in a round through
    all of them, and searches round those.

    Args:
        model: f, any `nn.Module` from `(n, *input)` to logits `(n, classes)` or values `(n, *output)`.
        samples: (x, y), the training samples: x `(n, *input)`, y `(n,)` int64 labels or `(n, *output)` floating values. They
            stay on their device; what is drawn follows the model.
        domain: box (low, high) that the moved inputs must not leave, such as (0, 1) for images; by default there is none.
        seed: of the draws and of the search's first points.
        radius, norm, attacked, attack_interval, attack_steps, attack_hold: see `LocalOptions`.

    Raises:
        InputError: an argument outside its range, samples that do not fit the model or lie outside the domain.

    Source: the loss difference is that of adversarial training (Madry et al. 2018), as in TRADES (Zhang et al. 2019) with
    the loss in place of the divergence.

    Example:
        >>> samples = torch.zeros(4, 1), torch.zeros(4, 1)
        >>> penalty = LocalRegularizer(lambda x: 3 * x, samples, radius=0.5, attack_interval=1)
        >>> round(float(penalty()), 3)  # |3 * 0.5|^2
        2.25
    """

    vanishes_on_constants = True
    first_share = 1.0  # the first penalty, of a network that nobody has attacked, is the largest, and falls within some steps

    @checked
    def __init__(
        self,
        model: Model,
        samples: tuple[Tensor, Tensor],
        *,
        domain: Box | None = None,
        seed: int = 0,
        radius: float = LocalOptions().radius,
        norm: float | str = LocalOptions().norm,
        attacked: int = LocalOptions().attacked,
        attack_interval: int = LocalOptions().attack_interval,
        attack_steps: int = LocalOptions().attack_steps,
        attack_hold: bool = LocalOptions().attack_hold,
    ) -> None:
        given: dict[str, Any] = {"radius": radius, "norm": norm, "attacked": attacked, "attack_interval": attack_interval}
        self.options = validated(LocalOptions, given | {"attack_steps": attack_steps, "attack_hold": attack_hold})
        super().__init__(model, interval=attack_interval, hold=attack_hold)
        self.domain, self.seed = domain, seed
        self._x, self._y = samples
        _check_samples(model, *samples, domain)
        self._draws = Draws(len(self._x), self.options.attacked, seed)

    @property
    def drawn(self) -> Tensor:
        """Which samples the penalty is of, `(attacked,)`."""
        return self._draws.drawn

    def _turn(self) -> None:
        """Draw the next samples."""
        self._draws.turn()

    def _evaluate(self) -> HeldGradient:
        """The penalty of the drawn samples and its gradient, part by part."""
        index, device, options = self.drawn.to(self._x.device), device_of(self.model, self._x.device), self.options
        x, y = self._x[index].to(device), self._y[index].to(device)
        # a closure evaluates a step several times: each time from the same first points
        generator = torch.Generator().manual_seed(self.seed + self.calls)
        start = random_points(x, options.radius, float(options.norm), self.domain, generator)
        (x, counts), (start, _), (y, _) = (processes.share(of_all) for of_all in (x, start, y))
        rows = self._rows(len(x))  # a part passes twice, moved and still
        parts = list(zip(x.split(rows), start.split(rows), y.split(rows), strict=True))
        with torch.autocast(device.type, enabled=False):
            with evaluating(self.model):
                found = [self._search(*part) for part in parts]  # of the one network, with the statistics that it has
            pieces = [
                partial(self._part, x, points, y, counts / len(self.drawn))
                for (x, _, y), points in zip(parts, found, strict=True)
            ]
            return evaluate(self.model, pieces)

    def _search(self, x: Tensor, start: Tensor, y: Tensor) -> Tensor:
        options, rise = self.options, partial(log_odds, y=y)
        if y.is_floating_point():
            with torch.no_grad():
                rise = partial(local_rises, still=self.model(x.clone()), y=y)
        ball = {"radius": options.radius, "norm": float(options.norm)}
        return worst_in_ball(self.model, x, start, rise, steps=options.attack_steps, domain=self.domain, **ball)

    def _part(self, x: Tensor, points: Tensor, y: Tensor, share: float) -> Tensor:
        moved, still = full_precision(self.model(torch.cat([points, x]))).split(len(x))
        return local_rises(moved, still, y).sum() * share

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes during training, for a checkpoint."""
        return {**super().state_dict(), **self._draws.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; `InputError` if it belongs to more samples."""
        self._draws.load_state_dict(state)
        super().load_state_dict(state)


def _check_samples(model: Model, x: Tensor, y: Tensor, domain: Box | None) -> None:
    device = device_of(model, x.device)
    if not y.is_floating_point():
        check_classifier(lambda x: model(x.to(device)).to(x.device), x, y)
    elif len(x) != len(y) or len(y) == 0 or not all_finite(x):
        got = f"x {tuple(x.shape)} and y {tuple(y.shape)}, or nan or inf in x"
        raise InputError("as many finite inputs as values, one at least", got, "Give the training samples.")
    else:
        forward_checked(model, x[:1].to(device))
    if domain is not None and not torch.equal(projected(x, domain), x):
        raise InputError("samples inside the domain", f"{domain}", "Give the box that the inputs live in, or none.")
