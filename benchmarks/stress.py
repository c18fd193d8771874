"""Does every setting end at its target? Initial weights, step sizes and the units of the inputs, on both data sets.

Each row is one run of CLIP (MLP 784-64-64-10, 30 epochs) with one thing set far off; the table says where it ended.

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

from cheaplip import fit
from cheaplip.data import Dataset, from_arrays, load
from cheaplip.errors import DivergenceError
from cheaplip.models import mlp
from cheaplip.provenance import provenance

TARGETS = {"mnist": 0.95, "fashion-mnist": 0.85}
CHANGES: dict[str, dict[str, float]] = {
    "default": {},
    **{f"initial weight {w:g}": {"initial_weight": w} for w in (1e-4, 1e-2, 1.0, 100.0)},
    **{f"step size {s:g}": {"step_size": s} for s in (0.003, 0.03, 3.0, 30.0)},
    "inputs x 0.001": {"input": 1e-3},
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


def one(name: str, label: str, change: dict[str, float]) -> dict[str, object]:
    """Train once; where did it end?"""
    torch.set_num_threads(1)
    data, target = load(name), TARGETS[name]
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
