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
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import typer
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
Step = Callable[[], Tensor]


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


def constrained(model: nn.Module, a: Tensor, b: Tensor, certify: float, initial: float | None) -> Step:
    """Ours: Lip(f) <= 1."""
    points = torch.cat([a, b])
    box = float(points.min()), float(points.max())
    regularizer = LipschitzRegularizer(
        *(model, perturbed_pairs(points, noise=0.1 * float(points.std()))),
        **{"domain": box, "interval": 1, "power": 1, "allowed": 1.0, "hold": False},
    )
    term = PenaltyTerm(with_certificate(regularizer, certify), DiscrepancyPrinciple(1.0, quantity="lipschitz", initial=initial))

    def step() -> Tensor:
        return term()

    step.after = term.step  # type: ignore[attr-defined]
    return step


def gradient_penalty(model: nn.Module, a: Tensor, b: Tensor, one_sided: bool) -> Step:
    def step() -> Tensor:
        share = torch.rand(len(a), 1)
        between = (share * a + (1 - share) * b[torch.randperm(len(b))]).requires_grad_()
        (gradient,) = torch.autograd.grad(model(between).sum(), between, create_graph=True)
        excess = gradient.norm(dim=1) - 1
        return 10 * (excess.relu() if one_sided else excess).square().mean()

    return step


def plain(model: nn.Module, a: Tensor, b: Tensor) -> Step:
    """No penalty: its step is the unit of time."""
    return lambda: torch.zeros(())


METHODS: dict[str, tuple[Callable[..., Step], dict[str, Any]]] = {
    "lipschitz=1, certify 1": (constrained, {"certify": 1.0, "initial": None}),
    "lipschitz=1, certify 1, weight from 0.001": (constrained, {"certify": 1.0, "initial": 1e-3}),
    "lipschitz=1, certify 1, weight from 1000": (constrained, {"certify": 1.0, "initial": 1e3}),
    "lipschitz=1, pairs alone": (constrained, {"certify": 0.0, "initial": None}),
    "WGAN-GP": (gradient_penalty, {"one_sided": False}),
    "WGAN-LP": (gradient_penalty, {"one_sided": True}),
}
ACTIVATIONS = {"digits": {"WGAN-GP": "relu", "WGAN-LP": "relu"}, "gaussians": {"WGAN-GP": "relu", "WGAN-LP": "relu"}}
"""Where it is not |x|; from the tuning."""


def train(data: str, method: str, activation: str, seed: int, steps: int = STEPS) -> tuple[nn.Module, Tensor, Tensor, float]:
    """The critic, the samples, and the seconds of a step."""
    a, b = samples(data, seed)
    torch.manual_seed(seed)
    model = critic(a.shape[1], activation)
    make, options = METHODS.get(method, (plain, {}))
    penalty = make(model, a, b, **options)
    optimizer = torch.optim.Adam(model.parameters(), LR, betas=BETAS)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, LR / 100)
    began = time.perf_counter()
    for _ in range(steps):
        loss = model(b).mean() - model(a).mean() + penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        getattr(penalty, "after", lambda: None)()
    return model, a, b, (time.perf_counter() - began) / steps


def one(spec: dict[str, Any]) -> dict[str, Any]:
    model, a, b, seconds = train(**spec)
    with torch.no_grad():
        difference = float(model(a).mean() - model(b).mean())
    bracket, exact = lipschitz_bracket(model, torch.cat([a, b])[:300], budget=20), exact_distance(a, b)
    *_, plain_seconds = train(spec["data"], "plain", spec["activation"], spec["seed"], steps=200)
    return {
        "spec": spec,
        "exact": exact,
        "lower": bracket.lower,
        "upper": bracket.upper,
        "estimate": difference / bracket.lower / exact,
        "proved": difference / bracket.upper / exact,
        "step": seconds / plain_seconds,
        "provenance": provenance(torch.device("cpu")),
    }


app = typer.Typer(add_completion=False, help=__doc__)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def carry_out(specs: list[dict[str, Any]], path: Path) -> None:
    torch.set_num_threads(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    done = [record["spec"] for record in read(path)]
    for spec in specs:
        if spec not in done:
            record = one(spec)
            print(spec, {name: round(record[name], 4) for name in MEASURED}, flush=True)
            with path.open("a") as file:
                file.write(json.dumps(record) + "\n")


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
    carry_out(specs, out / "tuning.jsonl")


@app.command()
def run(out: Path = OUT) -> None:
    """All runs that are not there yet."""
    specs = [
        {"data": data, "method": method, "activation": ACTIVATIONS[data].get(method, "abs"), "seed": seed}
        for seed in SEEDS
        for data in ("gaussians", "digits")
        for method in METHODS
    ]
    carry_out(specs, out / "runs.jsonl")


MEASURED = ("lower", "upper", "estimate", "proved", "step")


@app.command()
def table(out: Path = OUT) -> None:
    """table.md and table.json from the runs."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for record in read(out / "runs.jsonl"):
        spec = record["spec"]
        groups.setdefault((spec["data"], spec["method"], spec["activation"]), []).append(record)
    rows, lines = [], ["| data | method | activation | n | " + " | ".join(MEASURED) + " |", "|---" * (4 + len(MEASURED)) + "|"]
    for labels, records in groups.items():
        values = {name: mean_interval([record[name] for record in records]) for name in MEASURED}
        rows.append({**dict(zip(("data", "method", "activation"), labels, strict=True)), "n": len(records), **values})
        cells = [*labels, str(len(records)), *(f"{mean:.3f} ± {ci95 or 0:.3f}" for mean, ci95 in values.values())]
        lines.append("| " + " | ".join(cells) + " |")
    (out / "table.json").write_text(json.dumps({"schema": 1, "rows": rows}, indent=2) + "\n")
    (out / "table.md").write_text("\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    app()
