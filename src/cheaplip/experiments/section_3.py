"""Section 3 of the paper as numbers: Propositions 2, 3 and 4, Remark 2 and example (1), on cases with known answers.

Propositions 2 and 3 speak of minimisers of (2), so they are checked on networks of which only the last layer is trained:
(2) is convex then, and `solver` finds its minimisers. In one dimension the hidden ReLUs have their kinks at the data, so
that the network can be any function that is linear between them; the largest slope between neighbours is then both
Lip(f) on [-1, 1] and, of the data, the smallest constant of any interpolant. A network trained in all layers stands
beside it: what is found there are local minimisers. Proposition 4 is checked on the library's own training.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from ..bounds.bracket import lipschitz_bracket
from ..bounds.jacobian import jacobian_norms
from ..bounds.upper import product_of_norms
from ..models.architectures import mlp
from ..norms import sample_norm
from ..pairs.quotient import quotient_of
from ..pairs.sets import PairSet
from ..regularization.scheduler import ConstantWeight
from ..report.aggregate import measured_rows, provenance
from ..report.section_3 import write_page
from ..report.tables import write_measured
from ..run_folder import Json, claimed
from ..runs.grid import Failure
from . import figure_2
from .measurements import Measurement, run_measurements
from .sqp import Solution, solve_path


@dataclass(frozen=True)
class Section3Config:
    """Sizes of the cases."""

    points: int = 8  # of the data in one dimension
    points_a_side: int = 3  # of those in two
    starts: int = 3  # random initialisations a path is followed from
    weights: int = 17  # of a path, from twice the threshold of Proposition 4 to a 10,000th of it
    hidden: int = 8  # tanh units of the network trained in all layers
    features: int = 50  # frozen tanh units in two dimensions
    grid: int = 8  # points a side of X_Lip in two dimensions
    iterations: int = 60  # of the solver, for each weight
    steps: int = 800  # of the library's training, Proposition 4


def monotonicity(seed: int, settings: Section3Config) -> Json:
    """Proposition 2: along a rising lambda the risk never falls and the constant never rises."""
    x, y = scattered(seed, settings.points, 1)
    threshold = figure_2.constant_threshold(x, y)
    weights = [float(w) for w in threshold * np.geomspace(2, 2e-4, settings.weights)]
    rows = []
    for name, make, every in (("last layer", _kinked, 1), ("all layers", _free, 2)):
        paths = []
        for start in range(settings.starts):
            torch.manual_seed(1000 * seed + start)
            model = make(x, settings)
            paths.append(list(solve_path(model, (x, y), _neighbours(x), weights[::every], iterations=settings.iterations)))
        rows.append({"claim": "Prop. 2", "case": name, "metrics": _violations(paths)})
    return {"rows": rows}


def _violations(paths: Sequence[Sequence[Solution]]) -> dict[str, float]:
    """How far the best of the starts is from monotone, relative to the range, and how far the starts are from each other."""
    together = list(zip(*paths, strict=True))
    best = [min(solutions, key=lambda s: s.objective) for solutions in together]  # from the largest weight down
    risks, constants = np.array([s.risk for s in best]), np.array([s.lipschitz for s in best])
    spread = [max(s.objective for s in solutions) / min(s.objective for s in solutions) - 1 for solutions in together]
    return {
        "risk_falls_by": float(max(np.diff(risks).max(), 0) / np.ptp(risks)),
        "constant_rises_by": float(max(-np.diff(constants).min(), 0) / np.ptp(constants)),
        "spread_of_starts": max(spread),
        "converged_share": float(np.mean([s.converged for path in paths for s in path])),
    }


def minimal_constant(seed: int, settings: Section3Config) -> Json:
    """Proposition 3: as lambda falls to 0, an interpolant of the smallest possible constant."""
    x, y = scattered(seed, settings.points, 1)
    least = float(_slopes(x, y, torch.arange(len(x) - 1), torch.arange(1, len(x))).max())
    rows = []
    for weight in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        model = _kinked(x, settings)
        (found,) = solve_path(model, (x, y), _neighbours(x), [weight], iterations=settings.iterations)
        metrics = {"risk": found.risk, "lipschitz": found.lipschitz, "least": least, "ratio": found.lipschitz / least}
        rows.append({"claim": "Prop. 3", "case": "1-D, last layer", "lambda": f"{weight:g}", "metrics": metrics})
    # an extension of the data to the plane that has their constant exists by McShane's theorem, of several values by
    # Kirszbraun's; none has a smaller one
    fine = _plane(101).flatten(0, 1)
    for outputs in (1, 2):
        x, y = scattered(seed, settings.points_a_side, 2, outputs)
        i, j = torch.triu_indices(len(x), len(x), 1)
        least = float(_slopes(x, y, i, j).max())
        model, pairs = _features(settings, outputs), _lattice(settings, x)
        case = f"2-D, {'one value' if outputs == 1 else 'two values'}, last layer"
        for found in solve_path(model, (x, y), pairs, [1e-3, 1e-5], iterations=settings.iterations):
            metrics = {"risk": found.risk, "lipschitz": found.lipschitz, "least": least, "ratio": found.lipschitz / least}
            metrics["ratio_of_jacobian"] = float(jacobian_norms(model, fine).max()) / least
            rows.append({"claim": "Prop. 3", "case": case, "lambda": f"{found.weight:g}", "metrics": metrics})
    return {"rows": rows}


def constant_limit(seed: int, settings: Section3Config) -> Json:
    """Proposition 4 and Remark 2: for large lambda the best constant that the network can be.

    First the least lambda at which the minimiser is constant, which the convex case attains exactly; then the library's
    own training at a large lambda, where the constant is known in closed form.
    """
    x, y = scattered(seed, settings.points, 1)
    threshold = figure_2.constant_threshold(x, y)
    rows = []
    for factor in (1.01, 0.99):
        model = _kinked(x, settings)
        weights = [2 * threshold, factor * threshold]
        *_, found = solve_path(model, (x, y), _neighbours(x), weights, iterations=settings.iterations)
        distance = float((model(x) - y.mean()).abs().max().detach())
        metrics = {"lipschitz": found.lipschitz, "distance": distance}
        rows.append({"claim": "Prop. 4", "case": f"threshold, last layer, {factor} of it", "metrics": metrics})
    generator = torch.Generator().manual_seed(seed)
    x = 8 * torch.rand(40, 1, generator=generator) - 4
    noise = torch.randn(40, 1, generator=generator)
    shares = torch.tensor([0.5, 0.3, 0.2])
    labels = torch.multinomial(shares, 40, replacement=True, generator=generator)
    labels[:3] = torch.arange(3)  # every class is there
    frequency = torch.bincount(labels).float() / len(labels)
    values = 0.3 + 0.1 * x + 0.3 * noise
    cases: list[tuple[str, nn.Module, Tensor, Callable[[Tensor, Tensor], Tensor], Tensor, Callable[[Tensor], Tensor]]] = [
        ("squared loss: the mean", _net(1), values, mse_loss, values.mean(0), lambda z: z),
        (
            "squared loss, Hardtanh output: the mean projected on [-1, 1]",
            nn.Sequential(_net(1), nn.Hardtanh()),
            values + 1.5,
            mse_loss,
            (values + 1.5).mean(0).clamp(-1, 1),
            lambda z: z,
        ),
        ("cross-entropy: the log frequencies", _net(3), labels, cross_entropy, frequency.log(), lambda z: z.log_softmax(1)),
    ]
    options = figure_2.Figure2Config(lr=0.01)
    grid = torch.linspace(figure_2.LOW, figure_2.HIGH, 401)[:, None]
    for name, model, y, loss, expected, reading in cases:
        figure_2.train(model, (x, y), ConstantWeight(10.0), settings.steps, options, seed, loss)
        with torch.no_grad():
            outputs = model(grid)
        distance = float((reading(outputs) - expected).abs().max())
        lipschitz = float(quotient_of(outputs.diff(dim=0), grid.diff(dim=0)).max())
        rows.append({"claim": "Prop. 4", "case": name, "metrics": {"lipschitz": lipschitz, "distance": distance}})
    return {"rows": rows}


def absolute_value(seed: int, settings: Section3Config) -> Json:
    """Example (1): |x| as a ReLU network has the constant 1, its layers' norms the product 2."""
    model = absolute_value_network()
    inputs = 2 * torch.rand(50, 1, generator=torch.Generator().manual_seed(seed)) - 1
    bracket = lipschitz_bracket(model, inputs)
    metrics = {"lipschitz_lower": bracket.lower, "lipschitz_upper": bracket.upper, "product": product_of_norms(model, (1,))}
    return {"rows": [{"claim": "Example (1)", "case": bracket.methods["upper"], "metrics": metrics}]}


def absolute_value_network() -> nn.Sequential:
    """|x| = W2 relu(W1 x) with W1 = (1, -1)^T and W2 = (1, 1): equation (1)."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    nn.utils.vector_to_parameters(torch.tensor([1.0, -1.0, 1.0, 1.0]), model.parameters())
    return model


MEASUREMENTS: dict[str, Measurement] = {
    "monotonicity": monotonicity,
    "minimal-constant": minimal_constant,
    "constant-limit": constant_limit,
    "absolute-value": absolute_value,
}


def reproduce_analysis(
    out: Path,
    *,
    seeds: int,
    settings: Section3Config | None = None,
    workers: int = 1,
    backend: str = "local",
    progress: bool = False,
) -> tuple[str, list[Failure]]:
    """Run all parts and write table and page into `out`; see `figure_2.reproduce_regression`."""
    asked = settings or Section3Config()
    runs, failures = run_measurements(
        MEASUREMENTS, asked, out / "parts", seeds=seeds, workers=workers, backend=backend, progress=progress
    )
    if not runs:
        return "", failures
    with claimed(out):
        write_page(measured_rows(runs), out, provenance(runs))
        return write_measured(runs, out), failures


def scattered(seed: int, points_a_side: int, dimensions: int, outputs: int = 1) -> tuple[Tensor, Tensor]:
    """Random values at the points of a jittered lattice in [-1, 1]^dimensions, none near another: x and y, float64."""
    generator = torch.Generator().manual_seed(seed)
    side = torch.linspace(-0.8, 0.8, points_a_side, dtype=torch.float64).tolist()
    lattice = torch.tensor(list(itertools.product(side, repeat=dimensions)), dtype=torch.float64)
    jitter = 0.3 * (torch.rand(lattice.shape, generator=generator, dtype=torch.float64) - 0.5)
    y = 0.5 * torch.randn(len(lattice), outputs, generator=generator, dtype=torch.float64)
    return lattice + 1.6 / (points_a_side - 1) * jitter, y


def _slopes(x: Tensor, y: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return quotient_of(y[i] - y[j], x[i] - x[j])


def _kinked(x: Tensor, settings: Section3Config) -> nn.Module:
    """A function linear between the data, its last layer free: ReLUs with kinks at -1 and at the data."""
    hidden, last = nn.Linear(1, len(x) + 1).double(), nn.Linear(len(x) + 1, 1).double()
    nn.init.ones_(hidden.weight)
    hidden.bias.data = -torch.cat([x.new_tensor([-1.0]), x[:, 0]])
    return nn.Sequential(hidden.requires_grad_(False), nn.ReLU(), last)


def _free(x: Tensor, settings: Section3Config) -> nn.Module:
    return mlp((1,), 1, hidden=(settings.hidden,), activation="tanh").double()


def _features(settings: Section3Config, outputs: int) -> nn.Module:
    """Random tanh units of one slope in random directions, frozen; the last layer is free."""
    hidden, last = nn.Linear(2, settings.features).double(), nn.Linear(settings.features, outputs).double()
    direction = torch.randn(settings.features, 2, dtype=torch.float64)
    hidden.weight.data = 4 * direction / sample_norm(direction)[:, None]
    nn.init.uniform_(hidden.bias, -4, 4)
    return nn.Sequential(hidden.requires_grad_(False), nn.Tanh(), last)


def _net(outputs: int) -> nn.Sequential:
    return mlp((1,), outputs, hidden=(16,), activation="tanh")


def _neighbours(x: Tensor) -> PairSet:
    """Neighbours among the data and the ends of [-1, 1]; a fine grid between them, for networks with other kinks."""
    points = torch.cat([x, torch.linspace(-1, 1, 41, dtype=x.dtype)[:, None]]).sort(dim=0).values
    return PairSet(points[:-1], points[1:])


def _lattice(settings: Section3Config, x: Tensor) -> PairSet:
    """Pairs of neighbours, along the sides and the diagonals, of a lattice on [-1, 1]^2, and all pairs of the data."""
    g = _plane(settings.grid)
    i, j = torch.triu_indices(len(x), len(x), 1)
    ends = [(g[1:], g[:-1]), (g[:, 1:], g[:, :-1]), (g[1:, 1:], g[:-1, :-1]), (g[1:, :-1], g[:-1, 1:])]
    u = torch.cat([x[i], *(one.reshape(-1, 2) for one, _ in ends)])
    return PairSet(u, torch.cat([x[j], *(other.reshape(-1, 2) for _, other in ends)]))


def _plane(points_a_side: int) -> Tensor:
    side = torch.linspace(-1, 1, points_a_side, dtype=torch.float64)
    return torch.stack(torch.meshgrid(side, side, indexing="ij"), -1)
