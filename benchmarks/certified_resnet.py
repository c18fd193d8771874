"""The certificate in the penalty of a residual network with batch normalisation: the bracket without it and with it.

    python benchmarks/certified_resnet.py run      appends to runs.jsonl what is not there yet
    python benchmarks/certified_resnet.py table    table.md and table.json

The first 12,000 images of Fashion-MNIST, 20 epochs, target 85 %; `step_cost.py` has the cost of a step.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import peers
import step_cost
import torch
import typer
from ledger import Record, Spec, carry_out, read

from cheaplip import certified_radius, fit, lipschitz_bracket
from cheaplip.data import load
from cheaplip.provenance import provenance
from cheaplip.report.aggregate import mean_interval
from cheaplip.robustness.accuracy import accuracy

OUT = Path("results/certified-resnet")
SEEDS = range(10, 13)
IMAGES, EPOCHS, TARGET, SECONDS = 12_000, 20, 0.85, 30.0
METHODS = {"standard": {"method": "standard"}, "CLIP": {"target": TARGET}}
METHODS |= {f"CLIP, certify {share}": {"target": TARGET, "certify": share} for share in (0.1, 1.0)}
METRICS = ("train", "test", "lower", "upper", "certified 0.1", "certified 0.3", "seconds")
app = typer.Typer(add_completion=False, help=__doc__)


def one(spec: Spec) -> Record:
    torch.set_num_threads(1)
    data = peers.placed(load("fashion-mnist"))
    data = replace(data, train_x=data.train_x[:IMAGES], train_y=data.train_y[:IMAGES])
    torch.manual_seed(spec["seed"])
    model = step_cost.resnet(channels=1, width=8).to(peers.DEVICE)
    trained = fit(model, data, seed=spec["seed"], epochs=EPOCHS, **METHODS[spec["method"]])
    bracket = lipschitz_bracket(model, data.test_x[:500], budget=SECONDS)
    radius = certified_radius(model, data.test_x, bracket, labels=data.test_y)
    values = (trained.result["train_accuracy"], accuracy(model, data.test_x, data.test_y), bracket.lower, bracket.upper)
    certified = (float((radius >= eps).double().mean()) for eps in (0.1, 0.3))
    record = dict(zip(METRICS, (*values, *certified, trained.result["seconds"]), strict=True))
    return {"spec": spec, **record, "provenance": provenance(peers.DEVICE)}


@app.command()
def run(out: Path = OUT, seeds: int = len(SEEDS), jobs: int = 1) -> None:
    """All runs that are not there yet, seed by seed."""
    specs = [{"method": method, "seed": seed} for seed in SEEDS[:seeds] for method in METHODS]
    carry_out(out / "runs.jsonl", specs, one, jobs)


@app.command()
def table(out: Path = OUT) -> None:
    """table.md and table.json from the runs."""
    lines, rows = ["| method | n | " + " | ".join(METRICS) + " |", "|---" * (2 + len(METRICS)) + "|"], []
    records = read(out / "runs.jsonl")
    for method in METHODS:
        of_method = [record for record in records if record["spec"]["method"] == method]
        if not of_method:
            continue
        found = {name: mean_interval([record[name] for record in of_method]) for name in METRICS}
        rows.append({"method": method, "n": len(of_method), "metrics": found})
        cells = [f"{mean:.4g}" + ("" if ci95 is None else f" ± {ci95:.2g}") for mean, ci95 in found.values()]
        lines.append(f"| {method} | {len(of_method)} | " + " | ".join(cells) + " |")
    (out / "table.json").write_text(json.dumps({"schema": 1, "rows": rows}, indent=2) + "\n")
    (out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    app()
