"""Noise and attacks on classifiers: eq. (14) of the paper, and a strong L2 attack. Deterministic for a seed."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from .norms import per_sample, sample_norm
from .quotient import Model

Box = tuple[float, float]


def gaussian_noise(x: Tensor, sigma: float, generator: Generator, box: Box | None = None) -> Tensor:
    """Noisy x + sigma * r, r standard normal (drawn on the CPU: the same noise on every device), clamped to `box` if given."""
    noisy = x + sigma * torch.randn(x.shape, generator=generator).to(x)
    return noisy if box is None else noisy.clamp(*box)


def signed_pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float = 2.0,
    step: float = 0.25,
    iterations: int = 100,
    box: Box | None = None,
) -> Tensor:
    r"""Equation (14) of the CLIP paper: x_adv <- Pi(x_adv + step * sign(grad l)), from x, the last iterate.

    Pi is the projection onto the L2 ball of radius `eps` round x (and then onto `box`, if given). The sign step is far
    longer than eps in high dimension, so this is a weak attack, here to compare with the paper.

    Args:
        model: the classifier, in evaluation mode already.
        x: inputs, `(n, *input)`.
        y: labels, `(n,)`.
        eps: radius of the ball.
        step: alpha.
        iterations: number of steps.
        box: also stay in (low, high); the paper does not.
    """
    adversarial = x
    for _ in range(iterations):
        gradient, _ = _loss_gradient(model, adversarial, y)
        adversarial = _project(adversarial + step * gradient.sign(), x, eps, box)
    return adversarial


def normalized_pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float = 2.0,
    step: float = 0.25,
    iterations: int = 100,
    box: Box | None = None,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Strong L2 attack: steps of length `step` along the normalised gradient, projected on the ball and then the box.

    A sample is fooled if any point on the way is misclassified, the start and the end included; it then stays at the
    first such point and costs nothing further.

    Args:
        model: the classifier, in evaluation mode already.
        x: inputs, `(n, *input)`.
        y: labels, `(n,)`.
        eps: radius of the ball.
        step: length of a step.
        iterations: number of steps.
        box: the inputs' domain (low, high).
        start: first points, `(n, *input)`, projected too; x itself by default.

    Returns:
        The adversarial points `(n, *input)` and whether each sample was fooled, `(n,)` bool.
    """
    adversarial = x.clone() if start is None else _project(start, x, eps, box)
    fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    standing = torch.arange(len(x), device=x.device)  # indices of the samples not fooled yet
    for _ in range(iterations):
        gradient, wrong = _loss_gradient(model, adversarial[standing], y[standing])
        fooled[standing] = wrong
        standing, gradient = standing[~wrong], gradient[~wrong]
        if len(standing) == 0:
            return adversarial, fooled
        length = sample_norm(gradient)
        direction = gradient / per_sample(torch.where(length > 0, length, 1.0), gradient)
        adversarial[standing] = _project(adversarial[standing] + step * direction, x[standing], eps, box)
    with torch.no_grad():
        fooled[standing] = model(adversarial[standing]).argmax(1) != y[standing]
    return adversarial, fooled


def random_start(x: Tensor, eps: float, generator: Generator) -> Tensor:
    """Points uniform in the L2 balls of radius `eps` round x, drawn on the CPU."""
    direction = torch.randn(x.shape, generator=generator).to(x)
    dimension = x[0].numel()
    radius = eps * torch.rand(len(x), generator=generator).to(x) ** (1 / dimension)
    return x + per_sample(radius / sample_norm(direction), x) * direction


def _loss_gradient(model: Model, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of the summed cross-entropy with respect to x, and which samples are misclassified."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        (gradient,) = torch.autograd.grad(cross_entropy(logits, y, reduction="sum"), x)
    return gradient, logits.detach().argmax(1) != y


def _project(adversarial: Tensor, x: Tensor, eps: float, box: Box | None) -> Tensor:
    """Projection onto the ball round x; then onto the box, which only shortens the way as x lies in it."""
    offset = adversarial - x
    length = sample_norm(offset)
    scale = torch.where(length > eps, eps / torch.where(length > 0, length, 1.0), 1.0)
    projected = x + per_sample(scale, x) * offset
    return projected if box is None else projected.clamp(*box)
