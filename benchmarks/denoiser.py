"""A denoiser whose residual has a constant below 1: PSNR, constant, cost, and whether plug-and-play iterations converge.

    python benchmarks/denoiser.py run              appends to results/denoiser/runs.jsonl what is not there yet
    python benchmarks/denoiser.py table            table.md and table.json, with the costs, measured now

The denoiser is D(y) = y - R(y), R of 8 convolutions with 32 channels (DnCNN without batch normalisation). With Lip(R) < 1
plug-and-play iterations converge for a strongly convex data term (Ryu et al. 2019). Beside it: no penalty, and a penalty on
the spectral norm of the Jacobian of R by power iteration (Pesquet et al. 2021), with two weights.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from ledger import carry_out, read
from torch import Tensor, nn
from torch.nn.functional import conv2d, mse_loss, relu

from cheaplip import DiscrepancyPrinciple, LipschitzRegularizer, PenaltyTerm, lower_bound, perturbed_pairs
from cheaplip.data import load
from cheaplip.provenance import provenance
from cheaplip.report.aggregate import mean_interval

OUT = Path("results/denoiser")
SEEDS = range(3)
NOISE, ALLOWED = 0.15, 0.9
STEPS, BATCH, LR = 800, 16, 1e-3
ITERATIONS, STEP, BLUR_NOISE = 300, 1.0, 0.02
POWER_STEPS = 5


def residual(channels: int = 32, depth: int = 8) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(1, channels, 3, padding=1), nn.ReLU()]
    for _ in range(depth - 2):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(channels, 1, 3, padding=1))


class Plain:
    """No penalty."""

    def __init__(self, model: nn.Module, noisy: Tensor) -> None:
        self.model = model

    def penalty(self, noisy: Tensor) -> Tensor:
        return torch.zeros(())

    def after(self) -> None:
        """After the optimizer's step."""


class Constraint(Plain):
    """Ours: Lip(R) <= 0.9 on pairs near noisy images."""

    def __init__(self, model: nn.Module, noisy: Tensor, interval: int) -> None:
        options: dict[str, Any] = {"interval": interval, "power": 1, "allowed": ALLOWED, "active": 8, "pool": 32}
        regularizer = LipschitzRegularizer(model, perturbed_pairs(noisy), domain=(-0.5, 1.5), explore=0.0, **options)
        self.term = PenaltyTerm(regularizer, DiscrepancyPrinciple(ALLOWED, quantity="lipschitz"))

    def penalty(self, noisy: Tensor) -> Tensor:
        return self.term(noisy)

    def after(self) -> None:
        self.term.step()


class JacobianNorm(Plain):
    """weight * mean of relu(|J_R(y)| - 0.9)^2, the norm by power iteration."""

    def __init__(self, model: nn.Module, noisy: Tensor, weight: float) -> None:
        super().__init__(model, noisy)
        self.weight = weight

    def penalty(self, noisy: Tensor) -> Tensor:
        y = noisy.clone().requires_grad_()
        outputs = self.model(y)
        v = torch.randn_like(y)
        for _ in range(POWER_STEPS):
            u = jacobian_times(outputs, y, v)
            (v,) = torch.autograd.grad(outputs, y, u, retain_graph=True)
            v = v / v.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1).clamp(min=1e-12)
        norm = jacobian_times(outputs, y, v.detach(), create_graph=True).flatten(1).norm(dim=1)
        return self.weight * relu(norm - ALLOWED).square().mean()


def jacobian_times(outputs: Tensor, y: Tensor, v: Tensor, create_graph: bool = False) -> Tensor:
    """J v by two backward passes."""
    dummy = torch.ones_like(outputs, requires_grad=True)
    (pulled,) = torch.autograd.grad(outputs, y, dummy, create_graph=True)
    (product,) = torch.autograd.grad(pulled, dummy, v, create_graph=create_graph, retain_graph=True)
    return product


METHODS: dict[str, tuple[type[Plain], dict[str, Any]]] = {
    "plain": (Plain, {}),
    "lipschitz=0.9, every step": (Constraint, {"interval": 1}),
    "lipschitz=0.9, every 4th step": (Constraint, {"interval": 4}),
    **{f"Jacobian norm, weight {weight:g}": (JacobianNorm, {"weight": weight}) for weight in (0.1, 1.0)},
}


class Training:
    """A denoiser on Fashion-MNIST; `steps` trains it."""

    def __init__(self, method: str, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.images = load("fashion-mnist").train_x
        torch.manual_seed(seed)
        self.model = residual()
        make, options = METHODS[method]
        self.regularized = make(self.model, self.noisy(self.batch(256)), **options)
        self.optimizer = torch.optim.Adam(self.model.parameters(), LR)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, STEPS, LR / 50)

    def batch(self, n: int) -> Tensor:
        return self.images[torch.randint(len(self.images), (n,), generator=self.generator)]

    def noisy(self, clean: Tensor) -> Tensor:
        return clean + NOISE * torch.randn(clean.shape, generator=self.generator)

    def steps(self, n: int) -> float:
        """Seconds that they took."""
        began = time.perf_counter()
        for _ in range(n):
            clean = self.batch(BATCH)
            noisy = self.noisy(clean)
            loss = 100 * mse_loss(noisy - self.model(noisy), clean) + self.regularized.penalty(noisy)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
            self.regularized.after()
        return time.perf_counter() - began


def psnr(x: Tensor, clean: Tensor) -> float:
    return float(-10 * torch.log10((x - clean).square().flatten(1).mean(1)).mean())


@torch.no_grad()
def plug_and_play(model: nn.Module, clean: Tensor, generator: torch.Generator) -> tuple[float, float]:
    """Deblurring by x <- D(x - A^T(A x - b)): the relative change of the last iteration, and the PSNR."""
    kernel = torch.full((1, 1, 3, 3), 1 / 9)

    def blur(x: Tensor) -> Tensor:
        return conv2d(x, kernel, padding=1)  # symmetric: its own transpose

    observed = blur(clean) + BLUR_NOISE * torch.randn(clean.shape, generator=generator)
    x, change = observed, math.inf
    for _ in range(ITERATIONS):
        forward = x - STEP * blur(blur(x) - observed)
        new = forward - model(forward)
        change = float((new - x).norm() / x.norm())
        x = new
        if not math.isfinite(change) or change > 1e6:
            return math.inf, -math.inf
    return change, psnr(x, clean)


def one(spec: dict[str, Any]) -> dict[str, Any]:
    trained = Training(**spec)
    trained.steps(STEPS)
    clean, generator = load("fashion-mnist").test_x[:200], torch.Generator().manual_seed(0)
    noisy = clean + NOISE * torch.randn(clean.shape, generator=generator)
    with torch.no_grad():
        denoised = noisy - trained.model(noisy)
    change, restored = plug_and_play(trained.model, clean[:50], generator)
    found = lower_bound(trained.model.eval(), noisy[:32], domain=(-0.5, 1.5), budget=60).value
    measured = {"psnr": psnr(denoised, clean), "constant": found, "change": change, "restored": restored}
    return {"spec": spec, **measured, "provenance": provenance(torch.device("cpu"))}


def costs(rounds: int = 5, steps: int = 4) -> dict[str, float]:
    """The time of a step over a plain one's: medians of the ratios of interleaved rounds."""
    runs = {method: Training(method, 0) for method in METHODS}
    times = [{method: run.steps(steps) for method, run in runs.items()} for _ in range(rounds + 1)][1:]
    return {method: statistics.median(t[method] / t["plain"] for t in times) for method in METHODS}


app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def run(out: Path = OUT, seeds: Annotated[int, typer.Option(help="How many.")] = len(SEEDS)) -> None:
    """All runs that are not there yet."""
    torch.set_num_threads(1)
    specs = [{"method": method, "seed": seed} for seed in SEEDS[:seeds] for method in METHODS]
    carry_out(out / "runs.jsonl", specs, one)


MEASURED = ("psnr", "constant", "change", "restored")


@app.command()
def table(out: Path = OUT) -> None:
    """table.md and table.json from the runs."""
    torch.set_num_threads(1)
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in read(out / "runs.jsonl"):
        groups.setdefault(record["spec"]["method"], []).append(record)
    cost = costs()
    rows, lines = [], ["| method | n | " + " | ".join(MEASURED) + " | step |", "|---" * (3 + len(MEASURED)) + "|"]
    for method, records in groups.items():
        values = {name: mean_interval([record[name] for record in records]) for name in MEASURED}
        rows.append({"method": method, "n": len(records), **values, "step": cost[method]})
        cells = [f"{mean:.3g} ± {ci95 or 0:.1g}" if math.isfinite(mean) else "diverges" for mean, ci95 in values.values()]
        lines.append("| " + " | ".join([method, str(len(records)), *cells, f"{cost[method]:.2f}"]) + " |")
    record = {"schema": 1, "rows": rows, "provenance": provenance(torch.device("cpu"))}
    (out / "table.json").write_text(json.dumps(record, indent=2) + "\n")
    (out / "table.md").write_text("\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    app()
