"""Figure 2 of the paper: regression with gaps in the data, section 4.1; and the path of all weights beside it.

The objective is (2) with the mean squared error and the paper's penalty (5), the largest quotient of a pair set that is
redrawn every epoch. Left open by the paper and chosen here: the fields of `Figure2Config`, Adam, full batches (so an epoch is
a step, and no pair lives long enough to climb), a cosine learning rate in every phase. What such a pair set sees of the
constant is measured as `pairs_share`: nearly all of it where the penalty acts, about half of a kink that it left free.

At lambda >= `constant_threshold` the minimiser of (2) is a constant, whatever the network; so the panels lambda = 10 and
1 must be constants with this loss. In the authors' code the penalty is the square of the constant, for which no weight
makes the minimiser constant: `squared` is that reading. And lambda = 1e-10 is so small that the fit should be that of
lambda = 0 from the same start: `chain` trains that control too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ..bounds.bracket import lipschitz_bracket
from ..inference import in_float64
from ..models.architectures import mlp
from ..pairs.quotient import difference_quotient
from ..pairs.sets import uniform_pairs
from ..regularization.discrepancy import DiscrepancyPrinciple
from ..regularization.regularizer import LipschitzRegularizer
from ..regularization.scheduler import ConstantWeight, WeightScheduler
from ..regularization.term import PenaltyTerm
from ..report.aggregate import measured_rows, provenance
from ..report.figure_2 import write_figures, write_page
from ..report.tables import write_measured
from ..run_folder import SCHEMA, Json, Run, claimed, write_text
from ..runs.grid import Failure
from .measurements import Measurement, run_measurements

Loss = Callable[[Tensor, Tensor], Tensor]

LOW, HIGH = -4.0, 4.0
INTERVALS = ((-4.0, -3.0), (-0.3, 0.3), (3.0, 4.0))
"""Where there are data; between them are the gaps."""

CHAIN = (0.0, 10.0, 1.0, 1e-10)
"""The paper's weights, each phase started from the one before."""


@dataclass(frozen=True)
class Figure2Config:
    """What the paper leaves open."""

    points: int = 100  # uniform on [-4, 4]; those in the intervals are kept, about 32
    noise: float = 0.067  # standard deviation
    hidden: tuple[int, ...] = (500, 200, 100)  # the paper's
    pairs: int = 32  # in X_Lip
    pair_noise: float = 0.1  # standard deviation of the step from x to x'
    lr: float = 0.003
    chain_steps: int = 2500  # of each phase
    path_steps: int = 800
    path: tuple[float, ...] = (1, 0.464, 0.215, 0.1, 0.0464, 0.0215, 0.01, 0.00464, 0.00215, 0.001, 3.16e-4, 1e-4)
    grid: int = 161  # points of a stored fit
    fine_grid: int = 8001  # points on which the true constant is measured


def truth(x: Tensor) -> Tensor:
    """f(x) = max(|x| - 3, 0) / 2; Lip(f) = 1/2."""
    return (x.abs() - 3).clamp(min=0) / 2


def sample(seed: int, settings: Figure2Config) -> tuple[Tensor, Tensor]:
    """Noisy values of `truth` in the three intervals, sorted: x and y, `(n, 1)`."""
    generator = torch.Generator().manual_seed(seed)
    x = LOW + (HIGH - LOW) * torch.rand(settings.points, generator=generator)
    noise = settings.noise * torch.randn(settings.points, generator=generator)
    x, order = x.sort()
    kept = torch.stack([(low <= x) & (x <= high) for low, high in INTERVALS]).any(0)
    return x[kept, None], (truth(x) + noise[order])[kept, None]


def constant_threshold(x: Tensor, y: Tensor) -> float:
    """The least lambda at which the mean of y minimises (2) with the mean squared error, in one dimension.

    From the constant c = mean(y), a direction g with Lip(g) <= 1 lowers the risk at the rate 2/n sum (y_i - c) g(x_i), and
    raises the penalty at the rate lambda. The largest such rate is the Kantorovich-Rubinstein norm of the residuals,

        2 * integral of |G(t)| dt,   G(t) = 1/n sum of y_i - c over x_i <= t.

    The risk is convex in f, so at and above this lambda no function at all does better than the constant.
    """
    x, order = x.flatten().double().sort()
    residual = y.flatten().double()[order] - y.double().mean()
    return float(2 * (residual.cumsum(0)[:-1].abs() * x.diff()).sum() / len(x))


def train(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    scheduler: WeightScheduler,
    steps: int,
    settings: Figure2Config,
    seed: int,
    loss_of: Loss = mse_loss,
    power: int = 1,
) -> None:
    """Algorithm 2 on full batches: fresh pairs, one step on loss + lambda * Lip(f, X_Lip)^power, the discrepancy principle."""
    x, y = data
    pairs = uniform_pairs(torch.tensor(LOW), torch.tensor(HIGH), settings.pairs, settings.pair_noise, seed=seed)
    regularizer = LipschitzRegularizer(
        model,
        pairs,
        active=settings.pairs,
        interval=1,
        reduction="max",
        power=power,
        domain=(LOW, HIGH),
        explore=0,
        seed=seed,
    )
    term = PenaltyTerm(regularizer, scheduler)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, fused=True)
    lr_schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        if scheduler.weight > 0:
            regularizer.redraw()
        loss = loss_of(model(x), y)
        objective = loss + term()  # lambda * Lip(f, X_Lip)^power, on pairs without ascent
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        lr_schedule.step()
        term.update_weight(loss.item())


def chain(seed: int, settings: Figure2Config, *, kind: str, output_activation: str | None, power: int = 1) -> Json:
    """The four panels, and the control: lambda = 0 from where lambda = 1e-10 started."""
    data, model = sample(seed, settings), _network(settings, output_activation)
    rows, fits = [], []
    for weight in CHAIN:
        if weight == CHAIN[-1]:
            start = {name: value.clone() for name, value in model.state_dict().items()}
        train(model, data, ConstantWeight(weight), settings.chain_steps, settings, seed, power=power)
        metrics = measure(model, data, settings)
        rows.append({"fit": kind, "lambda": f"{weight:g}", "metrics": metrics})
        fits.append(_fit(model, settings, kind, weight, metrics))
    panel = _curve(model, settings)
    model.load_state_dict(start)
    train(model, data, ConstantWeight(0.0), settings.chain_steps, settings, seed)
    metrics = measure(model, data, settings)
    metrics["distance_to_1e-10"] = float((_curve(model, settings) - panel).abs().max())
    rows.append({"fit": kind, "lambda": "0 after 1", "metrics": metrics})
    return {"rows": rows, "fits": fits}


def path(seed: int, settings: Figure2Config) -> Json:
    """From the largest weight to the smallest, each fit started from the one before: the L-curve."""
    data, model = sample(seed, settings), _network(settings, None)
    x, y = data
    threshold = constant_threshold(x, y)
    rows: list[Json] = [{"fit": "constant", "lambda": "from", "metrics": {"weight": threshold}}]
    fits = []
    for weight in settings.path:
        train(model, data, ConstantWeight(weight), settings.path_steps, settings, seed)
        metrics = measure(model, data, settings)
        rows.append({"fit": "path", "lambda": f"{weight:g}", "metrics": metrics})
        fits.append(_fit(model, settings, "path", weight, metrics))
    points = {"x": _rounded(x.flatten()), "y": _rounded(y.flatten())}
    return {"rows": rows, "fits": fits, "data": {**points, "constant_threshold": threshold}}


def discrepancy(seed: int, settings: Figure2Config) -> Json:
    """The weight found by the discrepancy principle: training loss = variance of the noise."""
    data, model = sample(seed, settings), _network(settings, None)
    scheduler = DiscrepancyPrinciple(settings.noise**2, quantity="loss", initial=0.01, warmup=0, every=20)
    train(model, data, scheduler, settings.chain_steps, settings, seed)
    metrics = {"weight": scheduler.weight, **measure(model, data, settings)}
    rows = [{"fit": "discrepancy", "lambda": "found", "metrics": metrics}]
    return {"rows": rows, "fits": [_fit(model, settings, "discrepancy", scheduler.weight, metrics)]}


def measure(model: nn.Module, data: tuple[Tensor, Tensor], settings: Figure2Config) -> dict[str, float]:
    """Risk, error, constants and oscillation of one fit.

    `lipschitz` is the largest slope between neighbours of the fine grid, in float64: in one dimension the true constant on
    [-4, 4], up to the grid; `lipschitz_lower` and `lipschitz_upper` are its bracket there, proved. The oscillation in the
    gaps is the total variation there, where the truth is constant; `gap_error` the largest distance from it. `pairs_share`
    is the largest quotient of a fresh X_Lip, in units of `lipschitz`: the mean over 100 of them.
    """
    x, y = data
    grid = torch.linspace(LOW, HIGH, settings.fine_grid, dtype=torch.float64)[:, None]
    with torch.no_grad():
        risk = float(mse_loss(model(x), y))
        double = in_float64(model)
        fit = double(grid)
        slopes = difference_quotient(double, grid[:-1], grid[1:])
        pairs = uniform_pairs(torch.tensor(LOW), torch.tensor(HIGH), 100 * settings.pairs, settings.pair_noise)
        largest = difference_quotient(double, pairs.u.double(), pairs.v.double()).view(100, -1).amax(1)
    bracket = lipschitz_bracket(model, grid[:: len(grid) // 40].float(), domain=(LOW, HIGH))
    gaps = [((before < grid) & (grid < after))[:, 0] for (_, before), (after, _) in pairwise(INTERVALS)]
    return {
        "train_loss": risk,
        "test_error": float(mse_loss(fit, truth(grid))),
        "lipschitz": float(slopes.max()),
        "lipschitz_lower": bracket.lower,
        "lipschitz_upper": bracket.upper,
        "pairs_share": float(largest.mean() / slopes.max()),
        "gap_variation": sum(float(fit[gap].diff(dim=0).abs().sum()) for gap in gaps),
        "gap_error": max(float((fit - truth(grid))[gap].abs().max()) for gap in gaps),
    }


MEASUREMENTS: dict[str, Measurement] = {
    "sigmoid": partial(chain, kind="sigmoid", output_activation="sigmoid"),
    "squared": partial(chain, kind="squared", output_activation="sigmoid", power=2),
    "linear": partial(chain, kind="linear", output_activation=None),
    "discrepancy": discrepancy,
    "path": path,
}


def reproduce_regression(
    out: Path,
    *,
    seeds: int,
    settings: Figure2Config | None = None,
    workers: int = 1,
    backend: str = "local",
    progress: bool = False,
) -> tuple[str, list[Failure]]:
    """Run all parts and write table, `curves.json` and figures into `out`; returns the table's text and what failed.

    Args:
        out: folder; the parts go below it.
        seeds: of data, initialisation and pairs: 0, 1, ...
        settings: what the paper leaves open.
        workers: parts at once.
        backend: see `run_grid`.
        progress: show finished parts.

    Raises:
        InputError: what `run_measurements` refuses.
    """
    settings = settings or Figure2Config()
    runs, failures = run_measurements(
        MEASUREMENTS, settings, out / "parts", seeds=seeds, workers=workers, backend=backend, progress=progress
    )
    if not runs:
        return "", failures
    curves = _curves(runs, settings)
    with claimed(out):
        write_text(out / "curves.json", json.dumps(curves) + "\n")
        write_figures(curves, out)
        write_page(curves, measured_rows(runs), out, provenance(runs))
        return write_measured(runs, out), failures


def _curves(runs: Sequence[Run], settings: Figure2Config) -> Json:
    """What the figures and the page draw: every stored fit, by part, seed and weight."""
    x = torch.linspace(LOW, HIGH, settings.grid)
    fits = [{"seed": run.result["seed"], **fit} for run in runs for fit in run.result["fits"]]
    data = [{"seed": run.result["seed"], **run.result["data"]} for run in runs if "data" in run.result]
    return {"schema": SCHEMA, "x": _rounded(x), "truth": _rounded(truth(x)), "data": data, "fits": fits}


def _fit(model: nn.Module, settings: Figure2Config, kind: str, weight: float, metrics: dict[str, float]) -> Json:
    numbers = {"risk": metrics["train_loss"], "lipschitz": metrics["lipschitz"]}
    return {"kind": kind, "lambda": weight, **numbers, "fit": _rounded(_curve(model, settings))}


def _network(settings: Figure2Config, output_activation: str | None) -> nn.Module:
    return mlp((1,), 1, hidden=settings.hidden, activation="sigmoid", output_activation=output_activation)


@torch.no_grad()
def _curve(model: nn.Module, settings: Figure2Config) -> Tensor:
    values: Tensor = model(torch.linspace(LOW, HIGH, settings.grid)[:, None])
    return values.flatten()


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.tolist()]
