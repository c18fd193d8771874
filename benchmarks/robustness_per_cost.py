"""Robustness at equal clean accuracy, and what it costs: CLIP and its variants beside their peers (MLP 784-64-64-10).

    python benchmarks/robustness_per_cost.py tune      one seed, scored on held-out training images; chooses the settings
    python benchmarks/robustness_per_cost.py run       the runs of table and curves, all seeds, scored on the test images
    python benchmarks/robustness_per_cost.py table     costs, table and plots from the runs

Runs are appended to runs.jsonl as they finish, and a run that is there is not repeated. Every method is steered to the
target by its own weight (adversarial training by its eps). The tuning has a seed of its own and sees no test image.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import peers
import torch
import typer
from joblib import Parallel, delayed

from cheaplip import evaluate_robustness, fit
from cheaplip.bounds.lower import lower_bound
from cheaplip.config import configure
from cheaplip.data import load
from cheaplip.models import mlp
from cheaplip.provenance import provenance
from cheaplip.robustness import accuracy
from cheaplip.tasks import split

OUT = Path("results/robustness-per-cost")
TUNING_SEED = 100
CLASSES = 10
Spec = dict[str, Any]


def one(spec: Spec, out: Path) -> None:
    """Train and measure one run; append its line."""
    torch.set_num_threads(1)
    data = load(spec["data"])
    tuning = spec["seed"] == TUNING_SEED
    options = {"seed": spec["seed"], "target": spec["target"], **spec.get("options", {})}
    if tuning:
        options |= {"validation_share": 0.1}
    kind = spec["method"]
    activation = spec.get("activation", "softplus")
    record: dict[str, Any] = {}
    if kind in ("adversarial", "jacobian"):
        config = configure(**options)
        model, weight = peers.train(kind, data, config, activation)
    else:
        torch.manual_seed(spec["seed"])
        trained = fit(mlp(data.train_x.shape[1:], CLASSES, activation=activation), data, method=kind, **options)
        config, model, weight = configure(method=kind, **options), trained.model, trained.result["weight"]
        record |= {"seconds": trained.result["seconds"], "pair_lower": trained.history[-1]["lower_bound"]}
    shares = {"pair_share": config.pair_share, "validation_share": config.validation_share}
    parts = split(len(data.train_x), **shares, seed=spec["seed"])
    x, y = (data.train_x[parts.validation], data.train_y[parts.validation]) if tuning else (data.test_x, data.test_y)
    report = evaluate_robustness(model, x, y, curve=(), domain=data.domain, seed=spec["seed"])
    record |= {
        "weight": weight,
        "train": accuracy(model, data.train_x[parts.fit], data.train_y[parts.fit]),
        "test": report.test_accuracy,
        "noise": report.noise_accuracy,
        "pgd": report.pgd_accuracy,
        "strong": report.strong_accuracy,
        "lower": lower_bound(model, x[:500], domain=data.domain).value,
    }
    with out.open("a") as file:  # one short line: appended whole, also beside another process
        file.write(json.dumps({"spec": spec, **record, "provenance": provenance(torch.device("cpu"))}) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def carry_out(specs: list[Spec], path: Path, jobs: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    done = [record["spec"] for record in read(path)]
    Parallel(n_jobs=jobs, verbose=10)(delayed(one)(spec, path) for spec in specs if spec not in done)


app = typer.Typer(add_completion=False, help=__doc__)


@app.callback()
def main() -> None:
    pass


Jobs = Annotated[int, typer.Option(help="Runs at once, one thread each.")]


@app.command()
def tune(jobs: Jobs = 2, out: Path = OUT) -> None:
    """Activation and learning rate of adversarial training, of the Jacobian penalty and of CLIP."""
    specs = [
        {"data": data, "method": method, "target": target, "seed": TUNING_SEED, "activation": activation, "options": {"lr": lr}}
        for method in ("adversarial", "clip", "jacobian")
        for activation in ("relu", "sigmoid", "softplus")
        for lr in (0.05, 0.1, 0.2)
        for data, target in (("mnist", 0.96), ("fashion-mnist", 0.80))
    ]
    carry_out(specs, out / "tuning.jsonl", jobs)


if __name__ == "__main__":
    app()
