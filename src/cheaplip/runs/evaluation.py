"""One finished network on one data set: the measurements of `result.json`."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from .. import processes
from ..bounds.bracket import LipschitzBracket, lipschitz_bracket
from ..bounds.radius import certified_accuracy, certified_radius
from ..data.arrays import Dataset
from ..errors import UnsupportedModuleError
from ..inference import device_of, forward
from ..pairs.quotient import difference_quotient
from ..pairs.sets import PairSet
from ..progress import activity_shown, count_shown
from ..robustness.accuracy import RobustnessReport, evaluate_robustness
from .config import EvaluationConfig


def evaluate(
    model: nn.Module,
    data: Dataset,
    config: EvaluationConfig,
    *,
    seed: int = 0,
    pairs: PairSet | None = None,
    multipliers: Sequence[Tensor] = (),
) -> tuple[dict[str, Any], Tensor | None]:
    """Accuracies (or the test loss, for regression), the Lipschitz bracket and certified accuracies.

    Args:
        model: the trained network.
        data: its data set; the test part is measured.
        config: radii, iterations and sample counts.
        seed: of noise and random starts.
        pairs: the training's X_Lip, from which the lower bound is searched too.
        multipliers: of the training's certificate, from which the upper bound is searched; it is never above what they prove.

    Of several processes each attacks its share of the samples, and the first one alone searches the bracket.

    Returns:
        What `result.json` has of it, and the radii, as `bound_and_certify` gives them.
    """
    device = device_of(model)
    x, y = data.test_x.to(device), data.test_y.to(device)
    measured: dict[str, Any] = {"samples": {}}
    if data.classes is None:
        with torch.no_grad():
            measured["test_loss"] = float(mse_loss(forward(model, x), y))
        measured["samples"]["test_loss"] = len(x)
    else:
        attacks = config.model_dump(exclude={"lipschitz_samples", "certified"})
        report = _robustness(model, x, y, domain=data.domain, seed=seed, **attacks)
        measured = {**vars(report), "evaluation": report.settings}
        del measured["settings"]
    if processes.rank() > 0:
        return measured, None
    bounds, radius = bound_and_certify(model, data, config, config.certified, pairs=pairs, multipliers=multipliers)
    samples = measured["samples"] | bounds["samples"]
    return {**measured, **bounds, "samples": samples}, radius


def _robustness(
    model: nn.Module, x: Tensor, y: Tensor, *, attack_samples: int, curve_samples: int, **options: Any
) -> RobustnessReport:
    """`evaluate_robustness`, by all processes: of the samples that are attacked, each attacks every `count()`-th."""
    n, rank = processes.count(), processes.rank()
    attacked, curved = min(attack_samples, len(y)), min(curve_samples, len(y))
    if n == 1 or min(attacked, curved) < n:
        return evaluate_robustness(model, x, y, attack_samples=attacked, curve_samples=curved, **options)
    options |= {"attack_samples": len(range(rank, attacked, n)), "curve_samples": len(range(rank, curved, n))}
    report = evaluate_robustness(model, x[rank::n], y[rank::n], **options)
    samples = processes.total(report.samples.values())
    right = processes.total(getattr(report, name) * of_one for name, of_one in report.samples.items())
    along = processes.total(point["strong_accuracy"] * point["n"] for point in report.curve)
    shares: dict[str, Any] = {name: value / of_all for name, value, of_all in zip(report.samples, right, samples, strict=True)}
    curve = [
        {**point, "strong_accuracy": of_all / curved, "n": curved} for point, of_all in zip(report.curve, along, strict=True)
    ]
    return replace(report, **shares, curve=curve, samples=dict(zip(report.samples, map(round, samples), strict=True)))


def bound_and_certify(
    model: nn.Module,
    data: Dataset,
    config: EvaluationConfig,
    eps: Sequence[float],
    *,
    budget: float | None = 60.0,
    pairs: PairSet | None = None,
    multipliers: Sequence[Tensor] = (),
    local: bool = False,
    telling: str | None = None,
) -> tuple[dict[str, Any], Tensor | None]:
    """The bracket and, for a classifier with an upper end, the certified accuracy at each eps, if there are any.

    Args:
        model: the trained network.
        data: its data set; the test part is measured.
        config: how many samples the search for the lower end starts from.
        eps: radii at which to count.
        budget: seconds after which the searches stop with what they have; local radii take what is left of them.
        pairs: the training's X_Lip, from which the lower end is searched too.
        multipliers: as in `evaluate`.
        local: certify samples by balls of their own, too: as many of the first ones as there is time for.
        telling: a title for progress on standard error; None: nothing is shown.

    Returns:
        What `result.json` has of it, and the radius within which each test sample is certified, `(n,)`: 0 where it is not
        classified right, None without a certificate. With local radii `(n, 2)`, where these come second, nan where none was
        searched.
    """
    begun = time.monotonic()
    device = device_of(model)
    x, y = data.test_x.to(device), data.test_y.to(device)
    starts = x[: config.lipschitz_samples]
    pairwise = bool(eps) and data.classes is not None
    limit = "" if budget is None else f", at most {budget:g} s or so"
    with activity_shown(f"{telling}: bracket{limit}") if telling else contextlib.nullcontext():
        lipschitz, bracket = _lipschitz(
            model, starts, data.domain, pairs=pairs, multipliers=multipliers, budget=budget, pairwise=pairwise
        )
    measured: dict[str, Any] = {"lipschitz": lipschitz, "samples": {"lipschitz": len(starts)}}
    if bracket is not None and eps:
        lipschitz["seconds"] = bracket.seconds
    if bracket is None or not pairwise:
        return measured, None
    radius = certified_radius(model, x, bracket, labels=y)
    measured["certified"] = certified_accuracy(radius, eps)
    measured["samples"]["certified"] = len(x)
    left = math.inf if budget is None else budget - (time.monotonic() - begun)
    found = _local_radii(model, x, y, bracket, left, telling) if local and left > 0 else None
    if found is None:
        return measured, radius.cpu()
    measured["certified_locally"] = certified_accuracy(found, eps)
    measured["samples"]["certified_locally"] = len(found)
    beyond = found.new_full((len(x) - len(found),), torch.nan)
    return measured, torch.stack([radius, torch.cat([found, beyond])], 1).cpu()


def _local_radii(
    model: nn.Module, x: Tensor, y: Tensor, bracket: LipschitzBracket, seconds: float, telling: str | None
) -> Tensor | None:
    """Of the first samples, `(m,)`, as many as there is time for; None of a network that has none."""
    begun, found, size = time.monotonic(), x.new_zeros(0).double(), 1
    with count_shown(f"{telling}: local radii", len(x)) if telling else contextlib.nullcontext() as show:
        while len(found) < len(x) and (not len(found) or time.monotonic() - begun < seconds):
            some, last = slice(len(found), len(found) + size), time.monotonic()
            try:
                more = certified_radius(model, x[some], bracket, labels=y[some], local=True)
            except UnsupportedModuleError:
                return None
            found = torch.cat([found, more])
            if show is not None:
                show(len(found))
            if time.monotonic() - last < 1:  # a look at the clock every second or two
                size *= 2
    return found


def _lipschitz(
    model: nn.Module,
    x: Tensor,
    domain: tuple[float, float],
    *,
    pairs: PairSet | None,
    **options: Any,
) -> tuple[dict[str, Any], LipschitzBracket | None]:
    if pairs is not None:
        steepest = difference_quotient(model, pairs.u, pairs.v).topk(min(256, len(pairs))).indices
        pairs = PairSet(pairs.u[steepest].detach(), pairs.v[steepest].detach())
    bracket = lipschitz_bracket(model, x, domain=domain, pairs=pairs, **options)
    if bracket.reason is not None:
        method = {"lower": bracket.methods["lower"], "upper": None}
        return {"lower": bracket.lower, "upper": None, "method": method, "reason": bracket.reason}, None
    found = {name: getattr(bracket, name) for name in ("lower", "upper", "ratio", "scope")}
    return {**found, "method": bracket.methods}, bracket
