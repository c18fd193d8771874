"""One finished network on one data set: the measurements of `result.json`, and the pairs a report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ..bounds.bracket import LipschitzBracket, lipschitz_bracket
from ..bounds.lower import lower_bound
from ..bounds.radius import certified_accuracy, certified_radius
from ..data.arrays import Dataset
from ..errors import UnsupportedModuleError
from ..inference import device_of, forward
from ..norms import sample_norm
from ..pairs.ascent import keep_valid, normalized_step, quotient_and_gradient
from ..pairs.quotient import difference_quotient
from ..pairs.sets import PairSet
from ..records import validated
from ..robustness.accuracy import evaluate_robustness
from ..run_folder import write_atomic

SHOWN_PAIRS = 4

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Protocol(BaseModel):
    """How a network is evaluated; see `evaluate_robustness` for the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    eps: Positive = 2.0
    noise: Positive = 1.0
    iterations: PositiveInt = 100
    restarts: PositiveInt = 1
    attack_samples: PositiveInt = 2000
    curve: tuple[Positive, ...] = Field((0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0), strict=False)
    curve_samples: PositiveInt = 500
    lipschitz_samples: PositiveInt = 500
    """Test inputs from which the lower bound of Lip(f) is searched."""
    certified: tuple[Positive, ...] = Field((), strict=False)
    """Radii at which the test samples are certified, with multipliers searched for every pair of classes."""

    def altered(self, options: Mapping[str, Any]) -> Protocol:
        """The same with other fields, the curve in proportion to eps; `InputError` for a name or a value that is not valid."""
        changed = validated(Protocol, {**self.model_dump(), **options})
        if changed.eps == self.eps or "curve" in options:
            return changed
        curve = tuple(float(f"{point * changed.eps / self.eps:.4g}") for point in self.curve)
        return changed.model_copy(update={"curve": curve})


PROTOCOLS = {"digits": Protocol().altered({"eps": 0.75})}
"""Where the images are not 28x28: digits have 8x8 pixels and about a third of MNIST's norm, so eps is 0.75 there."""


def assess(
    model: nn.Module, data: Dataset, protocol: Protocol, *, seed: int = 0, pairs: PairSet | None = None
) -> tuple[dict[str, Any], Tensor | None]:
    """Accuracies (or the test loss, for regression), the Lipschitz bracket and certified accuracies.

    Args:
        model: the trained network.
        data: its data set; the test part is measured.
        protocol: radii, iterations and sample counts.
        seed: of noise and random starts.
        pairs: the training's X_Lip, from which the lower bound is searched too.

    Returns:
        What `result.json` has of it, and the radii, as `certify` gives them.
    """
    device = device_of(model)
    x, y = data.test_x.to(device), data.test_y.to(device)
    measured: dict[str, Any] = {"samples": {}}
    if data.classes is None:
        with torch.no_grad():
            measured["test_loss"] = float(mse_loss(forward(model, x), y))
        measured["samples"]["test_loss"] = len(x)
    else:
        attacks = protocol.model_dump(exclude={"lipschitz_samples", "certified"})
        report = evaluate_robustness(model, x, y, domain=data.domain, seed=seed, **attacks)
        measured = {**vars(report), "evaluation": report.settings}
        del measured["settings"]
    bounds, radius = certify(model, data, protocol, protocol.certified, pairs=pairs)
    samples = measured["samples"] | bounds["samples"]
    return {**measured, **bounds, "samples": samples}, radius


def certify(
    model: nn.Module,
    data: Dataset,
    protocol: Protocol,
    eps: Sequence[float],
    *,
    budget: float | None = None,
    pairs: PairSet | None = None,
) -> tuple[dict[str, Any], Tensor | None]:
    """The bracket and, for a classifier with an upper end, the certified accuracy at each eps, if there are any.

    Returns:
        What `result.json` has of it, and the radius within which each test sample is certified, `(n,)`: 0 where it is not
        classified right, None without a certificate.
    """
    device = device_of(model)
    x, y = data.test_x.to(device), data.test_y.to(device)
    starts = x[: protocol.lipschitz_samples]
    pairwise = bool(eps) and data.classes is not None
    lipschitz, bracket = _lipschitz(model, starts, data.domain, pairs=pairs, budget=budget, pairwise=pairwise)
    measured: dict[str, Any] = {"lipschitz": lipschitz, "samples": {"lipschitz": len(starts)}}
    if bracket is not None and eps:
        lipschitz["seconds"] = bracket.seconds
    if bracket is None or not pairwise:
        return measured, None
    radius = certified_radius(model, x, bracket, labels=y)
    measured["certified"] = certified_accuracy(radius, eps)
    measured["samples"]["certified"] = len(x)
    return measured, radius.cpu()


def _lipschitz(
    model: nn.Module, x: Tensor, domain: tuple[float, float], *, pairs: PairSet | None = None, **options: Any
) -> tuple[dict[str, Any], LipschitzBracket | None]:
    if pairs is not None:
        steepest = difference_quotient(model, pairs.u, pairs.v).topk(min(256, len(pairs))).indices
        pairs = PairSet(pairs.u[steepest].detach(), pairs.v[steepest].detach())
    try:
        bracket = lipschitz_bracket(model, x, domain=domain, pairs=pairs, **options)
    except UnsupportedModuleError as error:
        lower = lower_bound(model, x, domain=domain, pairs=pairs)
        method = {"lower": lower.method, "upper": None}
        return {"lower": lower.value, "upper": None, "method": method, "reason": str(error)}, None
    found = {name: getattr(bracket, name) for name in ("lower", "upper", "ratio", "scope")}
    return {**found, "method": bracket.methods}, bracket


def example_pairs(model: nn.Module, data: Dataset, *, steps: int = 200, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Pairs of test inputs of different classes before and after `steps` of ascent: what the paper's Figure 1 shows.

    Returns:
        The arrays of `pairs.npz`: inputs `(k, *input)`, predicted labels, confidences and quotients `(k,)`.
    """
    device = device_of(model)
    order = torch.randperm(len(data.test_x), generator=torch.Generator().manual_seed(seed))
    x, y = data.test_x[order[:200]].to(device), data.test_y[order[:200]].to(device)
    first = [int((y == label).nonzero()[0]) for label in torch.unique(y)]
    # each class with the next but one in a ring, from the last on: of Fashion-MNIST, boot and trouser as in the paper
    ring = range(-1, min(SHOWN_PAIRS, len(first)) - 1)
    u = x[[first[i] for i in ring]]
    v = x[[first[(i + min(2, len(first) - 1)) % len(first)] for i in ring]]
    arrays = _described(model, u, v, "before")
    separation = 0.01 * float(sample_norm(u - v).median())
    points = torch.stack([u, v], dim=1)
    for _ in range(steps):
        _, gradient = quotient_and_gradient(model, points)
        points = keep_valid(normalized_step(points, gradient, 0.05), points, separation, data.domain)
    return arrays | _described(model, points[:, 0], points[:, 1], "after")


@torch.no_grad()
def _described(model: nn.Module, u: Tensor, v: Tensor, when: str) -> dict[str, np.ndarray[Any, Any]]:
    arrays = {f"quotient_{when}": difference_quotient(model, u, v)}
    for name, points in (("u", u), ("v", v)):
        confidence, label = forward(model, points).softmax(1).max(1)
        arrays |= {f"{name}_{when}": points, f"label_{name}_{when}": label, f"confidence_{name}_{when}": confidence}
    return {name: tensor.cpu().numpy() for name, tensor in arrays.items()}


def write_pairs(path: Path, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    """Write `pairs.npz`, atomically."""

    def save(temporary: Path) -> None:
        with temporary.open("wb") as file:  # numpy would append .npz to a name
            np.savez_compressed(file, allow_pickle=False, **arrays)

    write_atomic(path, save)
