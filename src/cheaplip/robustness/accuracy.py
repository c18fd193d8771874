"""How many samples a classifier gets right: clean, under noise, under eq. (14), under a strong attack, and versus eps."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from ..arguments import checked
from ..domains import Box, projected
from ..errors import InputError, require_in
from ..inference import Model, check_classifier, evaluating, forward
from .attacks import classified, gaussian_noise, random_start, require_gradient, signed_pgd, strong_attack

CHUNK = 500
"""Samples in one forward pass; fixed, so that a seed gives the same noise and the same starts everywhere."""


LARGEST_RADIUS = 1e17
"""Of attacks and noise: the square of a longer step overflows in single precision, and the attack would stand still."""
LARGEST_COUNT = 1_000_000
"""Of steps, starts and samples that are attacked: no evaluation of more comes to an end."""


@dataclass(frozen=True)
class RobustnessReport:
    """Accuracies as fractions, each with the number of samples behind it in `samples`."""

    test_accuracy: float
    noise_accuracy: float  # Gaussian noise, not clamped: the reading that fits the paper's table
    noise_accuracy_clamped: float  # the same, clamped to the domain
    pgd_accuracy: float  # eq. (14), not clamped
    pgd_accuracy_clamped: float  # the same, each step clamped to the domain
    strong_accuracy: float  # normalised-gradient L2 PGD from random starts, clamped; robust only if no iterate fools
    curve: list[dict[str, float]]  # of {eps, strong_accuracy, n}: robust at eps and at every smaller eps of the curve
    samples: dict[str, int] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)


def accuracy(model: Model, x: Tensor, y: Tensor) -> float:
    """Share of x, `(n, *input)`, whose largest output is at the label y, `(n,)`; evaluation mode."""
    return int(_right(model, x, y).sum()) / len(y)


@checked
def evaluate_robustness(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    eps: float = 2.0,
    noise: float = 1.0,
    iterations: int = 100,
    step: float | None = None,
    restarts: int = 1,
    domain: Box | None = (0.0, 1.0),
    attack_samples: int = 2000,
    curve: Sequence[float] = (),
    curve_samples: int = 1000,
    seed: int = 0,
) -> RobustnessReport:
    """Accuracy of a classifier, clean and disturbed. L2 norm; the first samples of x are the attacked ones.

    Args:
        model: the classifier; evaluated in evaluation mode, its mode restored.
        x: inputs, `(n, *input)`, on the model's device.
        y: labels, `(n,)` int64.
        eps: radius of both attacks, in units of the inputs.
        noise: standard deviation of the Gaussian noise.
        iterations: steps of both attacks.
        step: their step size; by default eps / 8, the paper's 0.25 at its eps of 2.
        restarts: random starts of the strong attack; a sample is robust only if none fools it.
        domain: box of the inputs, for the clamped noise and the strong attack; None: no box.
        attack_samples: how many samples both attacks get.
        curve: radii at which to attack strongly as well (one start each).
        curve_samples: how many samples the curve gets.
        seed: of noise and random starts.

    Raises:
        InputError: inputs, labels and model that do not fit, inputs outside the domain, a radius <= 0 or too large
            for the numbers' type, a step that rounding swallows, counts < 1, outputs through which no gradient passes.
    """
    for name, value in {"eps": eps, "noise": noise, "step": step, **{f"curve point {e}": e for e in curve}}.items():
        if value is not None:
            require_in(name, value, f"(0, {LARGEST_RADIUS})", "Give a positive number in units of the inputs.")
    step = eps / 8 if step is None else step
    counts = {"iterations": iterations, "restarts": restarts, "samples": attack_samples, "curve samples": curve_samples}
    for name, count in counts.items():
        require_in(name, count, f"[1, {LARGEST_COUNT}]")
    require_in("seed", seed, f"[{-(2**63)}, {2**63 - 1}]")
    check_classifier(model, x, y)
    if domain is not None and not (domain[0] <= x.amin() and x.amax() <= domain[1]):
        got = f"{domain} and inputs from {float(x.amin()):g} to {float(x.amax()):g}"
        raise InputError("a domain (low, high) that holds all inputs", got, "Give the inputs' box, or None for no box.")
    largest = float(x.abs().amax())
    if step < torch.finfo(x.dtype if x.is_floating_point() else torch.float32).eps * largest:
        do = "Scale the inputs and eps, or shift the inputs towards 0."
        raise InputError("steps of the attack that change the inputs", f"{step:g} on inputs up to {largest:g}", do)
    generator = torch.Generator().manual_seed(seed)
    attacked, curved = slice(0, attack_samples), slice(0, curve_samples)
    with evaluating(model):
        require_gradient(model, x[attacked][:CHUNK], y[attacked][:CHUNK])
        noisy, clamped = _noise_accuracies(model, x, y, noise, generator, domain)
        pgd = _signed_accuracy(model, x[attacked], y[attacked], eps, step, iterations, None)
        pgd_clamped = pgd
        if domain is not None:
            pgd_clamped = _signed_accuracy(model, x[attacked], y[attacked], eps, step, iterations, domain)
        strong = _standing(
            model, x[attacked], y[attacked], itertools.repeat(eps, restarts), iterations, domain, generator, step
        )[-1]
        radii = sorted(curve)
        along = _standing(model, x[curved], y[curved], radii, iterations, domain, generator)
        test = accuracy(model, x, y)
    n, n_attacked = len(y), len(y[attacked])
    samples = dict.fromkeys(["test_accuracy", "noise_accuracy", "noise_accuracy_clamped"], n)
    samples |= dict.fromkeys(["pgd_accuracy", "pgd_accuracy_clamped", "strong_accuracy"], n_attacked)
    settings: dict[str, object] = {"eps": eps, "noise": noise, "iterations": iterations, "step": step}
    settings |= {"restarts": restarts, "domain": domain, "seed": seed}
    points = [{"eps": e, "strong_accuracy": a, "n": len(y[curved])} for e, a in zip(radii, along, strict=True)]
    return RobustnessReport(test, noisy, clamped, pgd, pgd_clamped, strong, points, samples, settings)


def _noise_accuracies(
    model: Model, x: Tensor, y: Tensor, sigma: float, generator: Generator, domain: Box | None
) -> tuple[float, float]:
    right = clamped_right = 0
    for xs, ys in _chunks(x, y):
        noisy = gaussian_noise(xs, sigma, generator)
        right += int(_right(model, noisy, ys).sum())
        clamped_right += int(_right(model, noisy if domain is None else projected(noisy, domain), ys).sum())
    return right / len(y), clamped_right / len(y)


def _signed_accuracy(model: Model, x: Tensor, y: Tensor, eps: float, step: float, iterations: int, domain: Box | None) -> float:
    right = 0
    for xs, ys in _chunks(x, y):
        adversarial = signed_pgd(model, xs, ys, eps=eps, step=step, iterations=iterations, domain=domain)
        right += int(_right(model, adversarial, ys).sum())
    return right / len(y)


def _standing(
    model: Model,
    x: Tensor,
    y: Tensor,
    radii: Iterable[float],
    iterations: int,
    domain: Box | None,
    generator: Generator,
    step: float | None = None,
) -> list[float]:
    """Share of samples, right as they are, that no strong attack so far has fooled, after each of the radii in turn."""
    standing = _right(model, x, y)
    shares = []
    for eps in radii:
        start = random_start(x, eps, generator)
        for index in standing.nonzero().squeeze(1).split(CHUNK):
            _, fooled = strong_attack(
                model,
                x[index],
                y[index],
                eps=eps,
                step=eps / 8 if step is None else step,
                iterations=iterations,
                domain=domain,
                start=start[index],
            )
            standing[index] = ~fooled
        shares.append(int(standing.sum()) / len(y))
    return shares


@torch.no_grad()
def _right(model: Model, x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([classified(forward(model, xs), ys) for xs, ys in _chunks(x, y)])


def _chunks(x: Tensor, y: Tensor) -> zip[tuple[Tensor, Tensor]]:
    return zip(x.split(CHUNK), y.split(CHUNK), strict=True)
