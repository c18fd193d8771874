"""Noise and attacks on classifiers: eq. (14) of the paper, and a strong L2 attack. Deterministic for a seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor

from ..domains import Box, projected
from ..errors import InputError
from ..inference import Model
from ..norms import per_sample, sample_norm, sample_unit

TARGETS = 4
"""Classes that the strong attack aims at one by one."""
FIRST, LAST = 16.0, 1 / 3
"""Of its steps, in units of `step`."""


def gaussian_noise(x: Tensor, sigma: float, generator: Generator, domain: Box | None = None) -> Tensor:
    """Noisy x + sigma * r, r standard normal (drawn on the CPU: the same on every device), clamped to `domain`."""
    noisy = x + sigma * torch.randn(x.shape, generator=generator).to(x)
    return noisy if domain is None else projected(noisy, domain)


def signed_pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float = 2.0,
    step: float = 0.25,
    iterations: int = 100,
    domain: Box | None = None,
) -> Tensor:
    r"""Equation (14) of the CLIP paper: x_adv <- Pi(x_adv + step * sign(grad l)), from x, the last iterate.

    l is the cross-entropy. Pi is the projection onto the L2 ball of radius `eps` round x (and then onto `domain`, if given).
    The sign step is far longer than eps in high dimension, so this is a weak attack, here to compare with the paper.

    Args:
        model: the classifier, in evaluation mode already.
        x: inputs, `(n, *input)`.
        y: labels, `(n,)`.
        eps: radius of the ball.
        step: alpha.
        iterations: number of steps.
        domain: also stay in (low, high); the paper does not.
    """
    adversarial = x
    for _ in range(iterations):
        gradient, _ = _ascent(model, adversarial, y, log_odds)
        adversarial = _project(adversarial + step * gradient.sign(), x, eps, domain)
    return adversarial


def normalized_pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float = 2.0,
    step: float = 0.25,
    iterations: int = 100,
    domain: Box | None = None,
    start: Tensor | None = None,
    last: float | None = None,
    target: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """L2 attack: steps along a normalised gradient, projected on the ball and then the box; see `strong_attack`.

    The objective is the (soft) largest other logit minus that of the label, in units of the logits' spread. So the attack
    does not depend on the scale of the logits, unlike one on the cross-entropy, which is weak on networks with small logits.
    A sample is fooled if any iterate is misclassified, the start and the end included; it then stays at the first such
    point and is not attacked further.

    Args:
        model: the classifier, in evaluation mode already.
        x: inputs, `(n, *input)`.
        y: labels, `(n,)`.
        eps: radius of the ball.
        step: length of a step.
        iterations: number of steps.
        domain: the inputs' domain (low, high).
        start: first points, `(n, *input)`, projected too; x itself by default.
        last: length of the last step, to which they fall or rise geometrically; by default all are as long.
        target: classes `(n,)` whose logits take the place of the largest other one.

    Returns:
        The adversarial points `(n, *input)` and whether each sample was fooled, `(n,)` bool.
    """
    adversarial = x.clone() if start is None else _project(start, x, eps, domain)
    fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    standing = torch.arange(len(x), device=x.device)  # indices of the samples not fooled yet
    for i in range(iterations):
        if len(standing) == 0:
            return adversarial, fooled
        rise = _soft_margin if target is None else partial(_margin, target=target[standing])
        gradient, right = _ascent(model, adversarial[standing], y[standing], rise)
        fooled[standing] = ~right
        standing, gradient = standing[right], gradient[right]
        length = step if last is None else step * (last / step) ** (i / max(iterations - 1, 1))
        ahead = adversarial[standing] + length * sample_unit(gradient)
        adversarial[standing] = _project(ahead, x[standing], eps, domain)
    with torch.no_grad():
        fooled[standing] = ~classified(model(adversarial[standing]), y[standing])
    return adversarial, fooled


def strong_attack(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step: float,
    iterations: int = 100,
    domain: Box | None = None,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`normalized_pgd` on the largest other logit, then on each of the `TARGETS` that are largest at x, with falling steps.

    One objective after the other finds what one alone misses: on adversarially trained networks 3 to 4 points more samples, as
    many as AutoAttack's apgd-ce and apgd-t with twenty times the gradients. The `iterations` gradients are shared out evenly.

    Args:
        model: the classifier, in evaluation mode already.
        x: inputs, `(n, *input)`.
        y: labels, `(n,)`.
        eps: radius of the ball.
        step: steps fall from 16 times it to a third of it.
        iterations: number of gradients.
        domain: the inputs' domain (low, high).
        start: first points of the first objective, `(n, *input)`; x itself by default, as for the others.

    Returns:
        The adversarial points `(n, *input)` and whether each sample was fooled, `(n,)` bool.

    Source: targets one by one as in apgd-t (Croce and Hein 2020).
    """
    with torch.no_grad():
        others = model(x).scatter(1, y[:, None], -torch.inf).nan_to_num(nan=-torch.inf, neginf=-torch.inf)
        targets = others.topk(min(TARGETS, others.shape[1] - 1), dim=1).indices
    share = iterations // (targets.shape[1] + 1)
    attack = partial(normalized_pgd, model, eps=eps, step=FIRST * step, last=LAST * step, domain=domain)
    adversarial, fooled = attack(x, y, iterations=iterations - share * targets.shape[1], start=start)
    for target in targets.unbind(1):
        left = (~fooled).nonzero().squeeze(1)
        adversarial[left], fooled[left] = attack(x[left], y[left], iterations=share, target=target[left])
    return adversarial, fooled


def random_start(x: Tensor, eps: float, generator: Generator) -> Tensor:
    """Points uniform in the L2 balls of radius `eps` round x, drawn on the CPU."""
    direction = torch.randn(x.shape, generator=generator).to(x)
    dimension = x[0].numel()
    radius = eps * torch.rand(len(x), generator=generator).to(x) ** (1 / dimension)
    return x + per_sample(radius, x) * sample_unit(direction)


def require_gradient(model: Model, x: Tensor, y: Tensor) -> None:
    """Raise `InputError` if outputs that depend on x pass no gradient: every sample that is right would count as robust.

    A network that is constant round every sample is robust, and has none either.
    """
    with torch.no_grad():
        right = classified(model(x), y)
    x, y = x[right], y[right]
    if len(y) == 0:
        return
    try:
        gradient, _ = _ascent(model, x, y, log_odds)
    except RuntimeError as error:
        if "does not require grad" not in str(error) and "not have been used in the graph" not in str(error):
            raise
        gradient = torch.zeros_like(x)
    with torch.no_grad():
        if gradient.any() or torch.equal(model(x), model(x + 1e-3 * (1 + x.abs()))):
            return
    do = "Attacks follow the gradient: leave out detach(), round() and such, or attack a smooth stand-in."
    raise InputError("a model whose outputs pass a gradient to the inputs", "none, or not a finite one", do)


def classified(logits: Tensor, y: Tensor) -> Tensor:
    """Which samples are classified as y, `(n,)` bool; nan is no classification."""
    return (logits.argmax(1) == y) & ~logits.isnan().any(1)


def _ascent(model: Model, x: Tensor, y: Tensor, rise: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The gradient of each sample's `rise(logits, y)`, and which samples are classified as y."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        (gradient,) = torch.autograd.grad(rise(logits, y).sum(), x)
    return gradient.nan_to_num(0.0), classified(logits.detach(), y)


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """Of the other classes: log(exp(l) - 1), l the cross-entropy. Rises with l, but is not flat where the network is sure."""
    label = y[:, None]
    return logits.scatter(1, label, -torch.inf).logsumexp(1) - logits.gather(1, label).squeeze(1)


def _margin(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)


def _soft_margin(logits: Tensor, y: Tensor) -> Tensor:
    """The soft largest other logit minus that of the label, in units of a quarter of the logits' spread.

    Without the units an attack would look weaker the smaller the logits are, as in networks with a small Lipschitz
    constant: close logits all pull at once. The spread is a constant to the gradient. The factor 4 measured strongest on
    adversarially trained and on CLIP networks alike, before the hard margin and the cross-entropy.
    """
    spread = logits.detach().std(1, keepdim=True)
    return log_odds(4 * logits / torch.where(spread > 0, spread, 1.0), y)


def _project(adversarial: Tensor, x: Tensor, eps: float, domain: Box | None) -> Tensor:
    """Projection onto the ball round x; then onto the box, which only shortens the way as x lies in it."""
    offset = adversarial - x
    length = sample_norm(offset)
    scale = torch.where(length > eps, eps / torch.where(length > 0, length, 1.0), 1.0)
    inside = x + per_sample(scale, x) * offset
    return inside if domain is None else projected(inside, domain)
