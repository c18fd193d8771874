"""Wasserstein distances by critics of Lipschitz constant 1: the constant, the estimate, what it proves, and the time.

    pip install -e .                               scipy comes with it
    python benchmarks/critic.py run                appends to results/critic/runs.jsonl what is not there yet
    python benchmarks/critic.py table              table.md and table.json

The distance of two finite samples of one size is exact, by an assignment problem. A critic f of constant Lip(f) estimates it
as the difference of its means over a lower bound of Lip(f), and proves a lower bound: the difference over the upper one.
Gradient penalties (WGAN-GP, and WGAN-LP, its one-sided form) are at points between the samples; their weight is 10, the
authors'. All critics are trained alike, by Adam, and the activation of each method is the better one of seed 100.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import typer
from ledger import carry_out, read
from scipy.optimize import linear_sum_assignment
from sklearn.datasets import load_digits
from torch import Tensor, nn

from cheaplip import DiscrepancyPrinciple, LipschitzRegularizer, PenaltyTerm, lipschitz_bracket, perturbed_pairs
from cheaplip.provenance import provenance
from cheaplip.regularization.certificate import with_certificate
from cheaplip.report.aggregate import mean_interval

OUT = Path("results/critic")
SEEDS = range(3)
TUNING_SEED = 100
STEPS, LR = 3000, 0.003
WIDTHS = (64, 64, 64, 64)
BETAS = (0.5, 0.9)


def samples(data: str, seed: int) -> tuple[Tensor, Tensor]:
    """Eight Gaussians on a circle against one in the middle, or images of the digit 0 against those of the digit 1."""
    if data == "digits":
        x, y = load_digits(return_X_y=True)
        of = [torch.tensor(x[y == digit] / 16, dtype=torch.float32)[:178] for digit in (0, 1)]
        return of[0], of[1]
    generator = torch.Generator().manual_seed(seed)
    angle = torch.randint(8, (512,), generator=generator) * math.pi / 4
    circle = 2 * torch.stack([angle.cos(), angle.sin()], dim=1) + 0.1 * torch.randn(512, 2, generator=generator)
    return circle, torch.randn(512, 2, generator=generator)


def exact_distance(a: Tensor, b: Tensor) -> float:
    costs = torch.cdist(a.double(), b.double()).numpy()
    return float(costs[linear_sum_assignment(costs)].mean())


def critic(inputs: int, activation: str) -> nn.Sequential:
    made: dict[str, Callable[[], nn.Module]] = {"abs": lambda: nn.LeakyReLU(-1.0), "relu": nn.ReLU, "tanh": nn.Tanh}
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise((inputs, *WIDTHS)):
        layers += [nn.Linear(fan_in, fan_out), made[activation]()]
    return nn.Sequential(*layers, nn.Linear(WIDTHS[-1], 1))


class Plain:
    """No penalty: its step is the unit of time."""

    def __init__(self, model: nn.Module, a: Tensor, b: Tensor) -> None:
        self.model, self.a, self.b = model, a, b

    def penalty(self) -> Tensor:
        return torch.zeros(())

    def after(self) -> None:
        """After the optimizer's step."""

    def upper(self) -> float:
        """What the training itself proves of Lip(f)."""
        return math.inf


class Constraint(Plain):
    """Ours: Lip(f) <= 1."""

    def __init__(self, model: nn.Module, a: Tensor, b: Tensor, certify: float, initial: float | None) -> None:
        points = torch.cat([a, b])
        box = float(points.min()), float(points.max())
        pairs = perturbed_pairs(points, noise=0.1 * float(points.std()))
        regularizer = LipschitzRegularizer(model, pairs, domain=box, interval=1, power=1, allowed=1.0, hold=False)
        scheduler = DiscrepancyPrinciple(1.0, quantity="lipschitz", initial=initial)
        self.term = PenaltyTerm(with_certificate(regularizer, certify), scheduler)

    def penalty(self) -> Tensor:
        return self.term()

    def after(self) -> None:
        self.term.step()

    def upper(self) -> float:
        return self.term.metrics()["upper_bound"] or math.inf


class GradientPenalty(Plain):
    """WGAN-GP, or one-sided WGAN-LP."""

    def __init__(self, model: nn.Module, a: Tensor, b: Tensor, one_sided: bool) -> None:
        super().__init__(model, a, b)
        self.one_sided = one_sided

    def penalty(self) -> Tensor:
        share = torch.rand(len(self.a), 1)
        between = (share * self.a + (1 - share) * self.b[torch.randperm(len(self.b))]).requires_grad_()
        (gradient,) = torch.autograd.grad(self.model(between).sum(), between, create_graph=True)
        excess = gradient.norm(dim=1) - 1
        return 10 * (excess.relu() if self.one_sided else excess).square().mean()


METHODS: dict[str, tuple[type[Plain], dict[str, Any]]] = {
    "lipschitz=1, certify 1": (Constraint, {"certify": 1.0, "initial": None}),
    "lipschitz=1, certify 1, weight from 0.001": (Constraint, {"certify": 1.0, "initial": 1e-3}),
    "lipschitz=1, certify 1, weight from 1000": (Constraint, {"certify": 1.0, "initial": 1e3}),
    "lipschitz=1, pairs alone": (Constraint, {"certify": 0.0, "initial": None}),
    "WGAN-GP": (GradientPenalty, {"one_sided": False}),
    "WGAN-LP": (GradientPenalty, {"one_sided": True}),
}
ACTIVATIONS = {"digits": {"WGAN-GP": "relu"}, "gaussians": {"WGAN-LP": "relu"}}
"""Where it is not |x|: the best estimate in the tuning."""


class Training:
    """A critic and its samples; `steps` trains it."""

    def __init__(self, data: str, method: str, activation: str, seed: int) -> None:
        self.a, self.b = samples(data, seed)
        torch.manual_seed(seed)
        self.model = critic(self.a.shape[1], activation)
        make, options = METHODS.get(method, (Plain, {}))
        self.regularized = make(self.model, self.a, self.b, **options)
        self.optimizer = torch.optim.Adam(self.model.parameters(), LR, betas=BETAS)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, STEPS, LR / 100)

    def steps(self, n: int) -> float:
        """Seconds that they took."""
        began = time.perf_counter()
        for _ in range(n):
            loss = self.model(self.b).mean() - self.model(self.a).mean() + self.regularized.penalty()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            self.regularized.after()
        return time.perf_counter() - began


def one(spec: dict[str, Any]) -> dict[str, Any]:
    trained = Training(**spec)
    trained.steps(STEPS)
    model, a, b = trained.model, trained.a, trained.b
    with torch.no_grad():
        difference = float(model(a).mean() - model(b).mean())
    bracket, exact = lipschitz_bracket(model, torch.cat([a, b])[:300], budget=20), exact_distance(a, b)
    upper = min(bracket.upper, trained.regularized.upper())
    return {
        "spec": spec,
        "exact": exact,
        "lower": bracket.lower,
        "upper": upper,
        "estimate": difference / bracket.lower / exact,
        "proved": difference / upper / exact,
        "provenance": provenance(torch.device("cpu")),
    }


def costs(data: str, rounds: int = 9, steps: int = 20) -> dict[str, float]:
    """The time of a step over a plain one's, side by side: medians of the ratios of interleaved rounds."""
    runs = {method: Training(data, method, "abs", 0) for method in ["plain", *METHODS]}
    for run in runs.values():
        run.steps(steps)  # the first search of a certificate
    times = [{method: run.steps(steps) for method, run in runs.items()} for _ in range(rounds)]
    return {method: statistics.median(t[method] / t["plain"] for t in times) for method in METHODS}


app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def tune(out: Path = OUT) -> None:
    """The activation of each method."""
    methods = ("lipschitz=1, certify 1", "WGAN-GP", "WGAN-LP")
    specs = [
        {"data": data, "method": method, "activation": activation, "seed": TUNING_SEED}
        for data in ("gaussians", "digits")
        for method in methods
        for activation in ("abs", "relu", "tanh")
    ]
    torch.set_num_threads(1)
    carry_out(out / "tuning.jsonl", specs, one)


@app.command()
def run(out: Path = OUT) -> None:
    """All runs that are not there yet."""
    specs = [
        {"data": data, "method": method, "activation": ACTIVATIONS[data].get(method, "abs"), "seed": seed}
        for seed in SEEDS
        for data in ("gaussians", "digits")
        for method in METHODS
    ]
    torch.set_num_threads(1)
    carry_out(out / "runs.jsonl", specs, one)


MEASURED = ("lower", "upper", "estimate", "proved")


@app.command()
def table(out: Path = OUT) -> None:
    """table.md and table.json from the runs, with the costs, measured now."""
    torch.set_num_threads(1)
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for record in read(out / "runs.jsonl"):
        spec = record["spec"]
        groups.setdefault((spec["data"], spec["method"], spec["activation"]), []).append(record)
    cost = {data: costs(data) for data in {data for data, *_ in groups}}
    head = ["data", "method", "activation", "n", *MEASURED, "step"]
    rows, lines = [], ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for (data, method, activation), records in groups.items():
        values = {name: mean_interval([record[name] for record in records]) for name in MEASURED}
        step = cost[data][method]
        rows.append({"data": data, "method": method, "activation": activation, "n": len(records), **values, "step": step})
        cells = [data, method, activation, str(len(records))]
        cells += [f"{mean:.3f} ± {ci95 or 0:.3f}" for mean, ci95 in values.values()]
        lines.append("| " + " | ".join([*cells, f"{step:.2f}"]) + " |")
    record = {"schema": 1, "rows": rows, "provenance": provenance(torch.device("cpu"))}
    (out / "table.json").write_text(json.dumps(record, indent=2) + "\n")
    (out / "table.md").write_text("\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    app()
