"""What is certified by a bound for all inputs and by a bound of each sample's own ball.

MNIST: the networks of `bounds.py`, trained without a certificate. `all inputs` has multipliers searched for each pair of
classes, `own ball` is `certified_radius(..., local=True)`; both of all 10,000 test images. `strong` is the accuracy of the
first 1,000 under 50 steps of normalised-gradient PGD. The first `--judged` of those that are certified by balls of their own
are given to AutoAttack at that eps: `fooled` must be 0. Needs the extra `attacks`. With `--cnn` N the paper's CNN, trained
plainly and by CLIP for a few epochs, and the first N test images. With `--ordinary` the small networks of `networks.py`
instead: medians of the radii of five test samples, and of the distances at which the strong attack fools them.

    python benchmarks/local_radii.py --out results/certified-locally
    python benchmarks/local_radii.py --cnn 8 --out results/certified-locally/cnn
    python benchmarks/local_radii.py --ordinary --out results/certified-locally/ordinary
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from autoattack import by_judge
from networks import ORDINARY, fitted
from torch import Tensor, nn

from bounds import BUDGET, EPS, KINDS, attacked, cell, trained
from cheaplip import certified_radius, fit, lipschitz_bracket
from cheaplip.data import Dataset, load
from cheaplip.models import cnn
from cheaplip.provenance import provenance
from cheaplip.robustness.attacks import strong_attack

Kind = tuple[str, str, float | None]
SAMPLES, SECONDS = 5, 10.0
"""Of each ordinary network; for its bracket."""
CNNS = {
    "standard": {"method": "standard", "epochs": 3},
    "clip": {"method": "clip", "target": 0.95, "epochs": 4, "initial_weight": 1e-3},
}
"""Options of `fit`. At the default initial weight four epochs of CLIP end at chance."""
CNN_EPS = (0.05, 0.1, 0.15, 0.2, 0.3)


def certified(models: Path, data: Dataset, kind: Kind, seed: int, judged: int) -> Iterator[dict[str, Any]]:
    """A row for each eps."""
    model = trained(models, data, kind, seed)
    x, y = data.test_x, data.test_y
    label = {"method": kind[1], "target": kind[2], "seed": seed}
    with torch.no_grad():
        label["test"] = float((model(x).argmax(1) == y).double().mean())
    bracket = lipschitz_bracket(model, x[:1], steps=1, pairwise=True, budget=BUDGET)
    shared = certified_radius(model, x, bracket, labels=y)
    begun = time.process_time()
    own = certified_radius(model, x, bracket, labels=y, local=True)
    seconds = (time.process_time() - begun) / len(x)
    for eps in EPS:
        index = (own > eps).nonzero()[:judged, 0]
        yield {
            **label,
            "eps": eps,
            "all inputs": float((shared > eps).double().mean()),
            "own ball": float((own > eps).double().mean()),
            "strong": 1 - float(attacked(model, data, torch.arange(1000), eps, 50).double().mean()),
            "seconds a sample": seconds,
            "attacked": len(index),
            "fooled": int(by_judge(model, data, index, eps).sum()),
        }


def main(
    out: Annotated[Path, typer.Option(help="Folder for table.json and table.md.")] = Path("results/certified-locally"),
    models: Annotated[Path, typer.Option(help="Where trained networks are kept.")] = Path("build/bounds-models"),
    seeds: int = 2,
    judged: Annotated[int, typer.Option(help="Certified samples for AutoAttack at each eps.")] = 500,
    samples: Annotated[int, typer.Option("--cnn", help="The paper's CNN, and so many samples.")] = 0,
    ordinary: Annotated[bool, typer.Option("--ordinary", help="The networks of networks.py instead.")] = False,
) -> None:
    torch.set_num_threads(1)
    rows = []
    for row in of_cnn(models, samples) if samples else of_ordinary() if ordinary else of_mnist(models, seeds, judged):
        rows.append(row)
        write(out, rows)


def of_mnist(models: Path, seeds: int, judged: int) -> Iterator[dict[str, Any]]:
    data = load("mnist")
    for seed in range(seeds):
        for kind in KINDS:
            if kind[0] == "relu":
                yield from certified(models, data, kind, seed, judged)


def of_cnn(models: Path, samples: int) -> Iterator[dict[str, Any]]:
    data = load("mnist")
    for name, options in CNNS.items():
        torch.manual_seed(0)
        model, file = cnn((1, 28, 28), 10), models / f"few-cnn-{name}.pt"
        if not file.exists():
            models.mkdir(parents=True, exist_ok=True)
            fit(model, data, seed=0, **options)
            torch.save(model.state_dict(), file)
        model.load_state_dict(torch.load(file, weights_only=True))
        x, y = data.test_x[:samples], data.test_y[:samples]
        with torch.no_grad():
            test = float((model.eval()(data.test_x).argmax(1) == data.test_y).double().mean())
        bracket = lipschitz_bracket(model, x[:1], steps=1, pairwise=True, budget=BUDGET)
        shared = certified_radius(model, x, bracket, labels=y)
        begun = time.process_time()
        own = certified_radius(model, x, bracket, labels=y, local=True)
        seconds = (time.process_time() - begun) / samples
        for eps in CNN_EPS:
            index = (own > eps).nonzero()[:, 0]
            yield {
                "method": name,
                "target": options.get("target"),
                "test": test,
                "samples": samples,
                "eps": eps,
                "all inputs": float((shared > eps).double().mean()),
                "own ball": float((own > eps).double().mean()),
                "strong": 1 - float(attacked(model, data, torch.arange(samples), eps, 50).double().mean()),
                "median own": float(own.median()),
                "seconds a sample": seconds,
                "attacked": len(index),
                "fooled": int(by_judge(model, data, index, eps).sum()),
            }


def of_ordinary() -> Iterator[dict[str, Any]]:
    data = load("digits")
    for name, build in ORDINARY.items():
        model = fitted(build, data)
        with torch.no_grad():
            right = (model(data.test_x).argmax(1) == data.test_y).nonzero()[:SAMPLES, 0]
        x, y = data.test_x[right], data.test_y[right]
        bracket = lipschitz_bracket(model, x, budget=SECONDS)
        shared = certified_radius(model, x, bracket)
        begun = time.process_time()
        own = certified_radius(model, x, bracket, local=True)
        seconds = (time.process_time() - begun) / len(x)
        beyond = torch.stack([fooling_distance(model, x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
        yield {
            "network": name,
            "all inputs": float(shared.median()),
            "own ball": float(own.median()),
            "fooled at": float(beyond.median()),
            "largest own / fooled": float((own / beyond).max()),
            "seconds a sample": seconds,
        }


def fooling_distance(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The least of some distances, 10 % apart, at which the strong attack fools a sample."""
    for eps in (0.02 * 1.1**k for k in range(70)):
        if strong_attack(model, x, y, eps=eps, step=eps / 8)[1].any():
            break
    return torch.tensor(eps).double()


def write(out: Path, rows: list[dict[str, Any]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    record = {"schema": 1, "rows": rows, "provenance": provenance(torch.device("cpu"))}
    (out / "table.json").write_text(json.dumps(record, indent=2) + "\n")
    lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    lines += ["| " + " | ".join(map(cell, row.values())) + " |" for row in rows]
    (out / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    typer.run(main)
