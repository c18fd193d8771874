"""Does every setting end at its target? Weights, step sizes, units, lengths of a run, optimizers, on both data sets.

Each row is one run of CLIP (MLP 784-64-64-10, 30 epochs) with one thing set far off; the table says where it ended. Outputs
in other units need a loss in those units, and other optimizers a loop of one's own: those rows do not run `fit`.

    python benchmarks/stress.py --out results/stress
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from joblib import Parallel, delayed
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cheaplip import ConstantWeight, DiscrepancyPrinciple, LipschitzRegularizer, PenaltyTerm, fit, perturbed_pairs
from cheaplip.data import Dataset, from_arrays, load
from cheaplip.errors import DivergenceError
from cheaplip.models import mlp
from cheaplip.provenance import provenance
from cheaplip.robustness.accuracy import accuracy
from cheaplip.training.batches import TensorBatches, split
from cheaplip.training.presets import configure
from cheaplip.training.schedule import make_lr_schedule

TARGETS = {"mnist": 0.95, "fashion-mnist": 0.85}
CHANGES: dict[str, dict[str, Any]] = {
    "default": {},
    **{f"initial weight {w:g}": {"initial_weight": w} for w in (1e-4, 1e-2, 1.0, 100.0)},
    **{f"step size {s:g}": {"step_size": s} for s in (0.003, 0.03, 3.0, 30.0)},
    "inputs x 0.001": {"input": 1e-3},
    **{f"{epochs} epochs": {"epochs": epochs} for epochs in (3, 10, 300)},
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


SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)


@dataclass(frozen=True)
class Loop:
    """A loop of one's own, and what is unusual in it."""

    scale: float = 1.0  # of the outputs; the loss undoes it
    optimizer: Callable[..., torch.optim.Optimizer] = SGD
    one_cycle: float | None = None  # the largest learning rate; else a cosine
    clip: float | None = None  # of the norm of the gradients
    accumulation: int = 1  # micro-batches in a step
    batch_size: int = 128
    weight: float | None = None  # constant, instead of a target
    epochs: int = 30


LOOPS = {
    "outputs x 1000": Loop(scale=1e3),
    "own loop": Loop(),
    "clipping at 1": Loop(clip=1.0),
    "clipping at 0.1": Loop(clip=0.1),
    "AdamW": Loop(optimizer=partial(torch.optim.AdamW, lr=0.001)),
    "AdamW, clipping at 1": Loop(optimizer=partial(torch.optim.AdamW, lr=0.001), clip=1.0),
    "OneCycle": Loop(one_cycle=0.2),
    **{f"accumulation of {n}": Loop(accumulation=n, batch_size=128 // n) for n in (2, 4, 8)},
    "LBFGS, batches of 5,000": Loop(
        optimizer=partial(torch.optim.LBFGS, max_iter=10, line_search_fn="strong_wolfe"), batch_size=5000
    ),
    **{f"constant weight {w:g}": Loop(weight=w) for w in (0.03, 0.3, 3.0)},
}


def own_loop(data: Dataset, target: float, loop: Loop) -> dict[str, object]:
    """CLIP in a loop of one's own, on an MLP."""
    torch.manual_seed(0)
    model = nn.Sequential(mlp((1, 28, 28), 10), Rescaling(loop.scale))
    x, y = data.train_x, data.train_y
    parts = split(len(x), pair_share=0.1, validation_share=0.05, seed=0)
    batches = TensorBatches(x, y, indices=parts.fit, batch_size=loop.batch_size, seed=0)
    optimizer = loop.optimizer(model.parameters())
    steps = loop.epochs * len(batches) // loop.accumulation
    if loop.one_cycle is None:
        factor = make_lr_schedule(configure(target=target, epochs=1), steps)
        lr_schedule: torch.optim.lr_scheduler.LRScheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    else:
        lr_schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, loop.one_cycle, total_steps=steps + 1)
    regularizer = LipschitzRegularizer(model, perturbed_pairs(x[parts.pairs]), domain=data.domain)
    scheduler = DiscrepancyPrinciple(target) if loop.weight is None else ConstantWeight(loop.weight)
    term = PenaltyTerm(regularizer, scheduler)

    def backward(xs: Tensor, ys: Tensor) -> Tensor:
        outputs = model(xs)
        loss = (cross_entropy(outputs / loop.scale, ys) + term(outputs, ys)) / loop.accumulation
        loss.backward()
        return loss

    def closure(xs: Tensor, ys: Tensor) -> Tensor:
        optimizer.zero_grad()
        return backward(xs, ys)

    for epoch in range(1, loop.epochs + 1):
        for i, (xs, ys) in enumerate(batches.epoch(epoch), start=1):
            if isinstance(optimizer, torch.optim.LBFGS):
                optimizer.step(partial(closure, xs, ys))
            else:
                backward(xs, ys)
                if i % loop.accumulation:
                    continue
                if loop.clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), loop.clip)
                optimizer.step()
                optimizer.zero_grad()
            lr_schedule.step()
            term.step()
        term.update_weight()
    train_accuracy = accuracy(model, x[parts.fit], y[parts.fit])
    return {
        "train_accuracy": train_accuracy,
        "off_by_points": 100 * (train_accuracy - target) if loop.weight is None else "",
        "weight": term.scheduler.weight,
        "lower_bound": regularizer.refine(),
        "skipped_steps": regularizer.skipped,
    }


def one(name: str, label: str) -> dict[str, object]:
    """Train once; where did it end?"""
    torch.set_num_threads(1)
    data, target = load(name), TARGETS[name]
    if label in LOOPS:
        return {"data": name, "setting": label, "target": target} | own_loop(data, target, LOOPS[label])
    change = CHANGES[label]
    torch.manual_seed(0)
    model: nn.Module = mlp((1, 28, 28), 10)
    options: dict[str, Any] = {key: value for key, value in change.items() if key != "input"}
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
    tasks = [delayed(one)(name, label) for name in TARGETS for label in (*CHANGES, *LOOPS)]
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
