"""Does every setting end at its target? Initial weights, step sizes, the units of inputs and outputs, on both data sets.

Each row is one run of CLIP (MLP 784-64-64-10, 30 epochs) with one thing set far off; the table says where it ended.
Outputs in other units need a loss in those units, so that row runs the loop of the README instead of `fit`.

    python benchmarks/stress.py --out results/stress
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from joblib import Parallel, delayed
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cheaplip import DiscrepancyPrinciple, LipschitzRegularizer, PenaltyTerm, fit, perturbed_pairs
from cheaplip.data import Dataset, from_arrays, load
from cheaplip.errors import DivergenceError
from cheaplip.models import mlp
from cheaplip.provenance import provenance
from cheaplip.robustness.accuracy import accuracy
from cheaplip.training.batches import TensorBatches, split

TARGETS = {"mnist": 0.95, "fashion-mnist": 0.85}
CHANGES: dict[str, dict[str, float]] = {
    "default": {},
    **{f"initial weight {w:g}": {"initial_weight": w} for w in (1e-4, 1e-2, 1.0, 100.0)},
    **{f"step size {s:g}": {"step_size": s} for s in (0.003, 0.03, 3.0, 30.0)},
    "inputs x 0.001": {"input": 1e-3},
    "outputs x 1000": {"output": 1e3},
}


class Rescaling(nn.Module):
    """Multiplies by c: behind it, a network sees its inputs in the units it was made for."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


def rescaled(data: Dataset, scale: float) -> Dataset:
    low, high = data.domain
    test = data.test_x * scale, data.test_y
    return from_arrays(data.train_x * scale, data.train_y, name=data.name, test=test, domain=(low * scale, high * scale))


def own_loop(data: Dataset, target: float, scale: float, epochs: int = 30) -> dict[str, object]:
    """CLIP in a loop of one's own, for a network with outputs `scale` times as large and a loss that undoes the scale."""
    torch.manual_seed(0)
    model = nn.Sequential(mlp((1, 28, 28), 10), Rescaling(scale))
    x, y = data.train_x, data.train_y
    parts = split(len(x), pair_share=0.1, validation_share=0.05, seed=0)
    batches = TensorBatches(x, y, parts.fit, batch_size=128, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    lr_schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches), eta_min=0.002)
    regularizer = LipschitzRegularizer(model, perturbed_pairs(x[parts.pairs]), domain=data.domain)
    term = PenaltyTerm(regularizer, DiscrepancyPrinciple(target))
    for epoch in range(1, epochs + 1):
        for xs, ys in batches.epoch(epoch):
            outputs = model(xs)
            loss = cross_entropy(outputs / scale, ys) + term(outputs, ys)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            lr_schedule.step()
            term.step()
        term.update_weight()
    train_accuracy = accuracy(model, x[parts.fit], y[parts.fit])
    return {
        "train_accuracy": train_accuracy,
        "off_by_points": 100 * (train_accuracy - target),
        "weight": term.scheduler.weight,
        "lower_bound": regularizer.refine(),
        "skipped_steps": regularizer.skipped,
    }


def one(name: str, label: str, change: dict[str, float]) -> dict[str, object]:
    """Train once; where did it end?"""
    torch.set_num_threads(1)
    data, target = load(name), TARGETS[name]
    if "output" in change:
        return {"data": name, "setting": label, "target": target} | own_loop(data, target, change["output"])
    torch.manual_seed(0)
    model: nn.Module = mlp((1, 28, 28), 10)
    options: dict[str, float] = {key: value for key, value in change.items() if key != "input"}
    if "input" in change:
        data, model = rescaled(data, change["input"]), nn.Sequential(Rescaling(1 / change["input"]), model)
        options |= {"pair_noise": 0.1 * change["input"]}
    row: dict[str, object] = {"data": name, "setting": label, "target": target}
    try:
        trained = fit(model, data, method="clip", target=target, **options)
    except DivergenceError as error:
        return row | {"ended": str(error)}
    return row | {
        "train_accuracy": trained.result["train_accuracy"],
        "off_by_points": 100 * (trained.result["train_accuracy"] - target),
        "weight": trained.result["weight"],
        "lower_bound": trained.history[-1]["lower_bound"],
        "skipped_steps": trained.result["skipped_steps"],
    }


def main(
    out: Annotated[Path, typer.Option(help="Folder for table.json and table.md.")] = Path("results/stress"), jobs: int = 2
) -> None:
    tasks = [delayed(one)(name, label, change) for name in TARGETS for label, change in CHANGES.items()]
    rows = Parallel(n_jobs=jobs, verbose=10)(tasks)
    out.mkdir(parents=True, exist_ok=True)
    record = {"schema": 1, "rows": rows, "provenance": provenance(torch.device("cpu"))}
    (out / "table.json").write_text(json.dumps(record, indent=2) + "\n")
    columns = ("data", "setting", "target", "train_accuracy", "off_by_points", "weight", "lower_bound", "skipped_steps")
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = [row.get(column, row.get("ended", "")) for column in columns]
        lines.append("| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells) + " |")
    (out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
