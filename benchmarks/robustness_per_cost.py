"""Robustness at equal clean accuracy, and what it costs: CLIP, the local penalty and their peers (MLP 784-64-64-10).

    python benchmarks/robustness_per_cost.py tune      one seed, scored on held-out training images; chooses the settings
    python benchmarks/robustness_per_cost.py cheap     the local penalty and the cheap peers, scored on the test images
    python benchmarks/robustness_per_cost.py run       the runs of table and curves, all seeds, scored on the test images
    python benchmarks/robustness_per_cost.py judge     AutoAttack beside the strong attack, one network of each method
    python benchmarks/robustness_per_cost.py table     costs, table and plots from the runs

Runs are appended to runs.jsonl as they finish, and a run that is there is not repeated. Every method is steered to the
target by its own weight (adversarial training by its eps). The tuning has a seed of its own and sees no test image.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import peers
import step_cost
import torch
import typer
from ledger import Record, Spec, append, carry_out, missing, read
from robustness_tables import EQUAL, METRICS, curves, markdown, strong_against_cost

from cheaplip import evaluate_robustness
from cheaplip.bounds.lower import lower_bound
from cheaplip.data import load
from cheaplip.models import mlp
from cheaplip.provenance import provenance
from cheaplip.report.aggregate import mean_interval
from cheaplip.robustness.accuracy import accuracy
from cheaplip.training.batches import split
from cheaplip.training.presets import configure

OUT = Path("results/robustness-per-cost")
SEEDS = range(10, 15)  # seen neither by the tuning nor by whoever chose the library's defaults
TUNING_SEED = 100
CLASSES = 10
TABLES = {"mnist": (0.95,), "fashion-mnist": (0.85, 0.76)}
CURVES = {"mnist": (0.93, 0.95, 0.96, 0.97), "fashion-mnist": (0.74, 0.76, 0.80, 0.85)}
AT = [("mnist", 0.95), ("fashion-mnist", 0.85)]
"""Where the plot of cost is taken."""
# activation and learning rate, from the tuning
BEST = {"adversarial": ("softplus", 0.1), "clip": ("softplus", 0.1), "jacobian": ("relu", 0.1)}
MARGIN = {"margin": 4.0, "saturation": 0.3}  # the same for both data
VARIANTS: dict[str, dict[str, Any]] = {
    "CLIP (default)": {},
    "CLIP, margins": MARGIN,
    "CLIP, maximum, power 1": {"reduction": "max", "power": 1},
    "CLIP, power 1": {"power": 1},
    "CLIP, m = 4": {"active": 4},
    "CLIP, m = 16": {"active": 16},
    "CLIP, m = 64": {"active": 64},
    "CLIP, every step": {"interval": 1},
    "CLIP, every 2nd": {"interval": 2},
    "CLIP, every 4th": {"interval": 4},
    "CLIP, all pairs in turn": {"pool": 6000},
}
PEERS: dict[str, dict[str, Any]] = {
    "adversarial, 3 steps": {"steps": 3},
    "adversarial, 2 steps": {"steps": 2},
    "adversarial, 1 step": {"steps": 1},
    "adversarial, half, 2 steps": {"steps": 2, "share": 0.5},
    "adversarial, half, 2 long steps": {"steps": 2, "share": 0.5, "long_steps": True},
    "adversarial, half, 1 step": {"steps": 1, "share": 0.5},
    "adversarial, quarter, 2 steps": {"steps": 2, "share": 0.25},
    "adversarial, quarter, 1 step": {"steps": 1, "share": 0.25},
    "free, m = 4": {"replays": 4},
    "free, m = 8": {"replays": 8},
    "TRADES": {},
}
"""Beside `adversarial` (7 steps on the whole batch): fewer steps, a share of each batch, free, and TRADES with 7 steps. Long
steps are those of the local penalty's search."""
EPOCHS = {"local": 30, "CLIP (default)": 36, "CLIP, margins": 33, "adversarial": 6, "adversarial, 1 step": 20}
EPOCHS |= {"adversarial, half, 2 steps": 23, "adversarial, half, 1 step": 31, "adversarial, quarter, 2 steps": 31}
EPOCHS |= {"free, m = 4": 38, "TRADES": 6, "jacobian": 23}
"""As many as 30 of the local penalty take, by the committed costs of a step."""
CHEAP = ("local", "adversarial, half, 2 steps", "adversarial, half, 1 step", "adversarial, quarter, 2 steps")
CHEAP += ("adversarial, quarter, 1 step", "free, m = 4", "adversarial, 1 step")
LABELS = ("CLIP (default)", "CLIP, margins", "adversarial", "jacobian", "weight", "standard")


def one(spec: Spec) -> Record:
    """Train and measure one run."""
    torch.set_num_threads(1)
    data = peers.placed(load(spec["data"]))
    tuning = spec["seed"] == TUNING_SEED
    options = {"seed": spec["seed"], "target": spec["target"], **spec.get("options", {})}
    if tuning:
        options |= {"validation_share": 0.1}
    torch.manual_seed(spec["seed"])
    model = mlp(data.train_x.shape[1:], CLASSES, activation=spec.get("activation", "softplus"))
    record = peers.trained(spec["method"], model, data, options, spec.get("peer", {}))
    shares = {name: getattr(configure(**options), name) for name in ("pair_share", "validation_share")}
    parts = split(len(data.train_x), **shares, seed=spec["seed"])
    x, y = (data.train_x[parts.validation], data.train_y[parts.validation]) if tuning else (data.test_x, data.test_y)
    report = evaluate_robustness(model, x, y, curve=(), domain=data.domain, seed=spec["seed"])
    record |= {
        "train": accuracy(model, data.train_x[parts.fit], data.train_y[parts.fit]),
        "test": report.test_accuracy,
        "noise": report.noise_accuracy,
        "pgd": report.pgd_accuracy,
        "strong": report.strong_accuracy,
        "lower": lower_bound(model, x[:500], domain=data.domain).value,
    }
    return {"spec": spec, **record, "provenance": provenance(peers.DEVICE)}


app = typer.Typer(add_completion=False, help=__doc__)


@app.callback()
def main() -> None:
    pass


Jobs = Annotated[int, typer.Option(help="Runs at once, one thread each.")]


@app.command()
def tune(jobs: Jobs = 2, out: Path = OUT) -> None:
    """Activation and learning rate, and with the best of them the loss, on held-out training images."""
    choices = [("relu", 0.05), ("relu", 0.1), ("sigmoid", 0.1), ("softplus", 0.1)]
    methods = ("adversarial", "clip", "jacobian")
    settings = [(method, activation, {"lr": lr}) for method in methods for activation, lr in choices]
    settings += [(method, activation, {"lr": lr} | MARGIN) for method, (activation, lr) in BEST.items()]
    specs = [
        {"data": data, "method": method, "target": target, "seed": TUNING_SEED, "activation": activation, "options": options}
        for method, activation, options in settings
        for data, target in (("mnist", 0.96), ("fashion-mnist", 0.80))
    ]
    carry_out(out / "tuning.jsonl", specs, one, jobs)


@app.command()
def run(jobs: Jobs = 2, out: Path = OUT) -> None:
    """Everything that the table and the curves need: the tables' methods, then the curves, then CLIP's variants."""
    carry_out(out / "runs.jsonl", [*tables(), *curve_points(), *variants()], one, jobs)


@app.command()
def cheap(
    jobs: Jobs = 2,
    out: Path = OUT,
    data: Annotated[str, typer.Option(help="mnist or fashion-mnist.")] = "mnist",
    targets: Annotated[str, typer.Option(help="Such as 0.95,0.96; by default all of the curve.")] = "",
    seeds: Annotated[int, typer.Option(help="How many of the five.")] = 5,
    labels: Annotated[
        str, typer.Option(help="Methods, separated by semicolons; by default the local penalty and the cheap.")
    ] = "",
) -> None:
    """The local penalty and the cheap peers, seed by seed."""
    goals = [float(target) for target in targets.split(",")] if targets else CURVES[data]
    chosen = labels.split(";") if labels else CHEAP
    specs = [spec_of(label, data, target, seed) for seed in SEEDS[:seeds] for target in goals for label in chosen]
    carry_out(out / "runs.jsonl", specs, one, jobs)


@app.command()
def equal(jobs: Jobs = 2, out: Path = OUT, seeds: Annotated[int, typer.Option(help="How many of the five.")] = 3) -> None:
    """All methods for the time that the local penalty takes for its epochs: the dear ones have fewer, the cheap ones more."""
    specs = [
        spec_of(label, data, target, seed) | {"label": label + EQUAL}
        for seed in SEEDS[:seeds]
        for data, target in AT
        for label in EPOCHS
    ]
    for spec in specs:
        spec["options"] = spec.get("options", {}) | {"epochs": EPOCHS[spec["label"].removesuffix(EQUAL)]}
    carry_out(out / "runs.jsonl", specs, one, jobs)


@app.command()
def judge(out: Path = OUT, samples: int = 500) -> None:
    """AutoAttack beside the strong attack on the first test images, one network of each method; needs the extra `attacks`."""
    from autoattack import by_judge

    torch.set_num_threads(1)
    specs = [spec_of(label, data, target, SEEDS[0]) for data, target in AT for label in (*LABELS, *PEERS, "local")]
    for spec in missing(out / "judged.jsonl", specs):
        data = peers.placed(load(spec["data"]))
        torch.manual_seed(spec["seed"])
        model = mlp(data.train_x.shape[1:], CLASSES, activation=spec.get("activation", "softplus"))
        options = {"seed": spec["seed"], "target": spec["target"], **spec.get("options", {})}
        peers.trained(spec["method"], model, data, options, spec.get("peer", {}))
        ours = evaluate_robustness(
            model, data.test_x, data.test_y, curve=(), domain=data.domain, seed=spec["seed"], attack_samples=samples
        )
        fooled = by_judge(model, data, torch.arange(samples), 2.0)
        record = {"strong": ours.strong_accuracy, "AutoAttack": 1 - float(fooled.double().mean())}
        append(out / "judged.jsonl", {"spec": spec, **record, "provenance": provenance(peers.DEVICE)})
        print(spec["data"], spec["label"], record, flush=True)


def spec_of(label: str, data: str, target: float, seed: int) -> Spec:
    at = {"label": label, "data": data, "target": target, "seed": seed}
    if label in VARIANTS:
        return {**at, "method": "clip", "options": VARIANTS[label]}
    if label in PEERS:
        activation, lr = BEST["adversarial"]
        method = label.partition(",")[0].lower()
        return {**at, "method": method, "activation": activation, "options": {"lr": lr}, "peer": PEERS[label]}
    if label in BEST:
        activation, lr = BEST[label]
        return {**at, "method": label, "activation": activation, "options": {"lr": lr}}
    return {**at, "method": label}


def tables() -> list[Spec]:
    settings = [(data, target) for data, targets in TABLES.items() for target in targets]
    return [spec_of(label, *setting, seed) for seed in SEEDS for setting in settings for label in LABELS]


def curve_points() -> list[Spec]:
    settings = [(data, target) for data, targets in CURVES.items() for target in targets if target not in TABLES[data]]
    return [spec_of(label, *setting, seed) for seed in SEEDS[:3] for setting in settings for label in LABELS[:3]]


def variants() -> list[Spec]:
    return [spec_of(label, "mnist", 0.95, seed) for seed in SEEDS for label in VARIANTS if label not in LABELS]


def costs(rounds: int = 15) -> dict[str, dict[str, float]]:
    """Time and arithmetic of one step of each method, relative to a plain one, side by side."""
    torch.set_num_threads(1)
    methods = {
        "plain": step_cost.plain,
        "weight": step_cost.weight,
        "adversarial": step_cost.adversarial(),
        "jacobian": step_cost.jacobian,
        "local": step_cost.local(configure(method="local")),
        "free, m = 4": step_cost.free,
        "free, m = 8": step_cost.free,
        "TRADES": step_cost.trades,
    }
    methods |= {label: step_cost.adversarial(**peer) for label, peer in PEERS.items() if label.startswith("adversarial")}
    methods |= {label: step_cost.clip(configure(**options)) for label, options in VARIANTS.items()}
    make, shape = step_cost.NETWORKS["mlp 784-64-64-10"]
    return step_cost.measure(make, shape, methods, 128, torch.device("cpu"), rounds, 4)


@app.command()
def table(out: Path = OUT) -> None:
    """table.json, table.md, curves.svg and cost.svg from runs.jsonl."""
    groups: dict[tuple[str, float, str], list[dict[str, Any]]] = {}
    for record in read(out / "runs.jsonl"):
        spec = record["spec"]
        groups.setdefault((spec["data"], spec["target"], spec["label"]), []).append(record)
    ratio = costs()
    ratio["standard"] = ratio.pop("plain")
    rows = []
    for (data, target, label), records in groups.items():
        estimates = {name: mean_interval([record[name] for record in records]) for name in METRICS}
        metrics = {name: {"mean": mean, "ci95": ci95} for name, (mean, ci95) in estimates.items()}
        rows.append(
            {
                "data": data,
                "target": target,
                "method": label,
                "n": len(records),
                "metrics": metrics,
                "cost": ratio[label.removesuffix(EQUAL)],
                "epochs": records[0]["spec"].get("options", {}).get("epochs", configure().epochs),
            }
        )
    record = {"schema": 1, "rows": rows, "provenance": provenance(torch.device("cpu"))}
    (out / "table.json").write_text(json.dumps(record, indent=2) + "\n")
    (out / "table.md").write_text(markdown(rows, CURVES))
    for name, figure in (("curves", curves(rows, CURVES)), ("cost", strong_against_cost(rows, AT))):
        figure.savefig(out / f"{name}.svg")
        figure.savefig(out / f"{name}.png", dpi=110)
    print(markdown(rows, CURVES))


if __name__ == "__main__":
    app()
