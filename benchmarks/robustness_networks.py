"""The local penalty, CLIP and adversarial training on the paper's CNN and on a residual network with batch normalisation.

    python benchmarks/robustness_networks.py run       appends to runs.jsonl what is not there yet
    python benchmarks/robustness_networks.py table     table.md and table.json

Fashion-MNIST, 20 epochs, all steered to one clean training accuracy. No setting was chosen here: each is the library's or, for
the peers, that of `robustness_per_cost.py`. The first network of each method is also attacked by AutoAttack (needs the extra
`attacks`). With a GPU the whole takes minutes, without one hours.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import peers
import step_cost
import torch
import typer
from autoattack import by_judge
from ledger import Record, Spec, carry_out, read
from robustness_tables import written
from torch import nn

from cheaplip import evaluate_robustness, lipschitz_bracket
from cheaplip.data import load
from cheaplip.models import cnn
from cheaplip.provenance import provenance
from cheaplip.report.aggregate import mean_interval
from cheaplip.robustness.accuracy import accuracy

OUT = Path("results/robustness-networks")
SEEDS = range(10, 13)
TARGET, EPOCHS, CLASSES = 0.85, 20, 10
ATTACKED, JUDGED = 2_000, 500
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "CNN": lambda: cnn((1, 28, 28), CLASSES),
    "ResNet": lambda: step_cost.resnet(channels=1, width=8),
}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "CLIP": ("clip", {}),
    "CLIP, noise": ("clip", {"input_noise": 1.0}),
    "CLIP, certificate": ("clip", {"certify": 0.1}),
    "local": ("local", {}),
    "adversarial, 7 steps": ("adversarial", {}),
    "adversarial, 1 step": ("adversarial", {"steps": 1}),
    "adversarial, half, 2 steps": ("adversarial", {"steps": 2, "share": 0.5}),
    "adversarial, half, 1 step": ("adversarial", {"steps": 1, "share": 0.5}),
    "free, m = 4": ("free", {"replays": 4}),
}
"""The kind of training, and its options: settings of `fit`, or those of the peer."""
METRICS = ("train", "test", "noise", "pgd", "strong")
BOUNDED = "CLIP"
"""Begins the names of methods whose networks get a bracket."""
SECONDS = 30.0
"""For it."""
app = typer.Typer(add_completion=False, help=__doc__)


def one(spec: Spec) -> Record:
    torch.set_num_threads(1)
    data, (kind, options) = peers.placed(load("fashion-mnist")), METHODS[spec["method"]]
    settings = {"seed": spec["seed"], "epochs": EPOCHS, "target": TARGET}
    torch.manual_seed(spec["seed"])
    model = NETWORKS[spec["network"]]()
    given = (settings, options) if kind in peers.PEERS else (settings | options, {})
    record = peers.trained(kind, model, data, *given)
    report = evaluate_robustness(
        model, data.test_x, data.test_y, curve=(), domain=data.domain, seed=spec["seed"], attack_samples=ATTACKED
    )
    accuracies = (report.test_accuracy, report.noise_accuracy, report.pgd_accuracy, report.strong_accuracy)
    values = (accuracy(model, data.train_x, data.train_y), *accuracies)
    record |= dict(zip(METRICS, values, strict=True))
    if spec["method"].startswith(BOUNDED):
        bracket = lipschitz_bracket(model, data.test_x[:500], budget=SECONDS)
        record |= {"lower": bracket.lower, "upper": bracket.upper}
    if spec["seed"] == SEEDS[0]:
        fewer = evaluate_robustness(model, data.test_x, data.test_y, curve=(), domain=data.domain, attack_samples=JUDGED)
        fooled = by_judge(model, data, torch.arange(JUDGED), 2.0)
        record |= {"strong_of_judged": fewer.strong_accuracy, "autoattack": 1 - float(fooled.double().mean())}
    return {"spec": spec, **record, "provenance": provenance(peers.DEVICE)}


@app.command()
def run(
    out: Path = OUT,
    network: Annotated[str, typer.Option(help="CNN, ResNet or both.")] = "CNN,ResNet",
    methods: Annotated[str, typer.Option(help="Separated by semicolons.")] = ";".join(METHODS),
    seeds: int = len(SEEDS),
    jobs: Annotated[int, typer.Option(help="Runs at once, one thread each.")] = 1,
) -> None:
    """All runs that are not there yet, seed by seed."""
    specs = [
        {"network": name, "method": method, "seed": seed}
        for seed in SEEDS[:seeds]
        for name in network.split(",")
        for method in methods.split(";")
    ]
    carry_out(out / "runs.jsonl", specs, one, jobs)


@app.command()
def table(out: Path = OUT) -> None:
    """table.md and table.json from the runs."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in read(out / "runs.jsonl"):
        groups.setdefault((record["spec"]["network"], record["spec"]["method"]), []).append(record)
    lines = ["| network | method | n | " + " | ".join(METRICS) + " | Lipschitz |", "|---" * (4 + len(METRICS)) + "|"]
    rows = []
    for (network, method), records in sorted(groups.items(), key=lambda item: item[0][0]):
        known = [name for name in (*METRICS, "lower", "upper") if name in records[0]]
        estimates = {name: mean_interval([record[name] for record in records]) for name in known}
        metrics = {name: {"mean": mean, "ci95": ci95} for name, (mean, ci95) in estimates.items()}
        rows.append({"network": network, "method": method, "n": len(records), "metrics": metrics})
        bracket = f"{metrics['lower']['mean']:.3g} .. {metrics['upper']['mean']:.3g}" if "lower" in known else ""
        cells = [network, method, str(len(records)), *(written(name, metrics[name]) for name in METRICS), bracket]
        lines.append("| " + " | ".join(cells) + " |")
    (out / "table.json").write_text(json.dumps({"schema": 1, "rows": rows}, indent=2) + "\n")
    (out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    app()
