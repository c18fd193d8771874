"""What networks of orthonormal matrices certify, for L2 radii, by nothing but their constant.

Ordinary layers with |x| between them, plain training (`fit`, method `standard`) by `StiefelMuon` with the margin loss; the
bracket and the radii are of `lipschitz_bracket` and `certified_radius`, all inputs, all 10,000 test images. `strong` is of the
first 2,000 at eps 2. AutoAttack gets the first 500 test images at eps 1.58: `AutoAttack` is what it leaves, `fooled` counts
those among them that are certified there, and must be 0. `seconds` of training. Needs the extra `attacks`.

    python benchmarks/orthonormal.py run mnist            appends to runs.jsonl what is not there yet
    python benchmarks/orthonormal.py table                table.md and table.json
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
import typer
from autoattack import by_judge
from ledger import Record, Spec, carry_out, read
from torch import nn

from cheaplip import certified_radius, evaluate_robustness, fit, lipschitz_bracket
from cheaplip.data import load
from cheaplip.models import mlp
from cheaplip.provenance import provenance
from cheaplip.report.aggregate import mean_interval

OUT = Path("results/orthonormal")
SEEDS = range(20, 25)
EPS = (0.3, 0.5, 1.0, 1.58)
JUDGED = 500
COMMON: dict[str, Any] = {"method": "standard", "optimizer": "StiefelMuon", "lr": 0.06, "batch_size": 500}
MARGIN = {"mnist": {"margin": 8.0, "saturation": 0.3}, "fashion-mnist": {"margin": 8.0, "saturation": 0.15}}
NETWORKS = {"MLP 64-64": 60, "MLP 256-256-256-256": 60, "CNN": 30, "MLP 256-256-256-256, constant 3": 60}
"""And the epochs. The product of norms is 4 unless said otherwise: a smaller one asks for larger radii."""
METRICS = (
    "train",
    "test",
    *(f"certified {eps:g}" for eps in EPS),
    "strong",
    "AutoAttack",
    "fooled",
    "lower",
    "upper",
    "seconds",
)
app = typer.Typer(add_completion=False, help=__doc__)


def network(kind: str) -> nn.Sequential:
    """Dense layers; the CNN has two convolutions whose windows do not overlap, and five dense layers."""
    if kind != "CNN":
        return mlp((1, 28, 28), 10, hidden=[int(width) for width in kind.split()[1].strip(",").split("-")], activation="abs")
    convolutions = [nn.Conv2d(1, 16, 2, stride=2), nn.LeakyReLU(-1.0), nn.Conv2d(16, 64, 2, stride=2), nn.LeakyReLU(-1.0)]
    return nn.Sequential(*convolutions, *mlp((64, 7, 7), 10, hidden=(256,) * 4, activation="abs"))


def one(spec: Spec) -> Record:
    torch.set_num_threads(1)
    data = load(spec["data"])
    torch.manual_seed(spec["seed"])
    model = network(spec["network"])
    options = {**COMMON, **MARGIN[spec["data"]], "epochs": NETWORKS[spec["network"]]}
    options["optimizer_options"] = {"lipschitz": 3.0 if spec["network"].endswith("constant 3") else 4.0}
    trained = fit(model, data, seed=spec["seed"], **options)
    x, y = data.test_x, data.test_y
    bracket = lipschitz_bracket(model, x[:500], budget=20.0)
    radius = certified_radius(model, x, bracket, labels=y)
    report = evaluate_robustness(model, x, y, eps=2.0, attack_samples=2000, domain=data.domain)
    first = torch.arange(JUDGED)
    beaten = by_judge(model, data, first, EPS[-1])
    values = {
        "train": trained.result["train_accuracy"],
        "test": report.test_accuracy,
        **{f"certified {eps:g}": float((radius > eps).double().mean()) for eps in EPS},
        "strong": report.strong_accuracy,
        "AutoAttack": 1 - float(beaten.double().mean()),
        "fooled": int((beaten & (radius[:JUDGED] > EPS[-1])).sum()),
        "lower": bracket.lower,
        "upper": bracket.upper,
        "seconds": trained.result["seconds"],
    }
    return {"spec": spec, **values, "provenance": provenance(torch.device("cpu"))}


@app.command()
def run(data: str, out: Path = OUT, networks: str = ";".join(NETWORKS), seeds: int = len(SEEDS), jobs: int = 1) -> None:
    """All runs of one data set that are not there yet, seed by seed; networks apart by semicolons."""
    specs = [{"data": data, "network": name, "seed": seed} for seed in SEEDS[:seeds] for name in networks.split(";")]
    carry_out(out / "runs.jsonl", specs, one, jobs)


@app.command()
def table(out: Path = OUT) -> None:
    """table.md and table.json from the runs."""
    lines, rows = ["| data | network | n | " + " | ".join(METRICS) + " |", "|---" * (3 + len(METRICS)) + "|"], []
    records = read(out / "runs.jsonl")
    for data, name in [(data, name) for data in MARGIN for name in NETWORKS]:
        same = [record for record in records if (record["spec"]["data"], record["spec"]["network"]) == (data, name)]
        if not same:
            continue
        found = {metric: mean_interval([record[metric] for record in same]) for metric in METRICS}
        rows.append({"data": data, "network": name, "n": len(same), "metrics": found})
        cells = [_cell(metric, *interval) for metric, interval in found.items()]
        lines.append(f"| {data} | {name} | {len(same)} | " + " | ".join(cells) + " |")
    (out / "table.json").write_text(json.dumps({"schema": 1, "rows": rows}, indent=2) + "\n")
    (out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _cell(metric: str, mean: float, ci95: float | None) -> str:
    """Shares in %."""
    if metric in ("lower", "upper", "seconds", "fooled"):
        return f"{mean:.0f}" if metric in ("seconds", "fooled") else f"{mean:.6g}"
    return f"{100 * mean:.1f}" + ("" if ci95 is None else f" ± {math.ceil(1000 * ci95) / 10:.1f}")


if __name__ == "__main__":
    app()
