"""How tight is the bracket, what does it prove, what does it cost? Trained networks, then random ones of growing size.

Networks are trained once and kept under --models. Lower and upper ends are for all inputs; seconds are processor seconds of
one thread. Certified accuracies are of all 10,000 test images. `fooled` counts those that are certified at an eps and yet
fooled by normalised-gradient PGD (20 steps, random start) at that eps: it must be 0. `strong` is the accuracy of the first
1,000 under 50 steps. `certified` takes the multipliers of all outputs, `pairwise` those found for each pair of classes.

    python benchmarks/bounds.py --out results/bounds
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from cheaplip import certified_radius, fit, lipschitz_bracket
from cheaplip.bounds.radius import certified_accuracy
from cheaplip.bounds.upper import product_of_norms, upper_bound
from cheaplip.data import Dataset, load
from cheaplip.models import cnn, mlp
from cheaplip.provenance import provenance
from cheaplip.robustness.attacks import normalized_pgd, random_start

KINDS = [
    ("relu", "standard", None),
    ("relu", "weight", 0.95),
    ("sigmoid", "standard", None),
    ("sigmoid", "weight", 0.95),
    ("relu", "clip", 0.97),
    ("relu", "clip", 0.95),
    ("relu", "clip", 0.9),
]
EPS = (0.3, 0.5, 1.0, 1.58)
SIZES = [(width, 2) for width in (64, 128, 256, 512, 1024, 2048)] + [
    (width, depth) for depth in (4, 8) for width in (64, 256, 1024)
]
NAMES = ("bracket", "fashion cnn", "certified", "size")
BUDGET = 30.0  # seconds for each of the sizes, and for the pairs of classes


def trained(models: Path, data: Dataset, kind: tuple[str, str, float | None], seed: int) -> nn.Module:
    activation, method, target = kind
    build = cnn if activation == "cnn" else mlp
    torch.manual_seed(seed)
    model = build((1, 28, 28), 10, activation="relu" if activation == "cnn" else activation)
    file = models / f"{activation}-{method}-{'' if target is None else round(100 * target)}-{seed}.pt"
    if not file.exists():
        models.mkdir(parents=True, exist_ok=True)
        options = {"epochs": 2} if activation == "cnn" else {}
        fit(model, data, method=method, seed=seed, **options, **({} if target is None else {"target": target}))
        torch.save({"state": model.state_dict()}, file)
    model.load_state_dict(torch.load(file, weights_only=True)["state"])
    return model.eval()


def bracketed(model: nn.Module, data: Dataset, seed: int, **options: Any) -> tuple[dict[str, Any], Any]:
    order = torch.randperm(len(data.test_x), generator=torch.Generator().manual_seed(seed))[:100]
    begun = time.process_time()
    bracket = lipschitz_bracket(model, data.test_x[order], **options)
    row = {
        "test": float((model(data.test_x).argmax(1) == data.test_y).double().mean()),
        "product": product_of_norms(model, (1, 28, 28)),
        "lower": bracket.lower,
        "upper": bracket.upper,
        "ratio": bracket.ratio,
        "seconds": time.process_time() - begun,
    }
    return row, bracket


def proved(model: nn.Module, data: Dataset) -> dict[str, Any]:
    row, shared = bracketed(model, data, 0)
    begun = time.process_time()
    own = lipschitz_bracket(model, data.test_x[:1], steps=1, pairwise=True, budget=BUDGET)
    found: dict[str, Any] = {"test": row["test"], "seconds pairwise": time.process_time() - begun}
    radii = [certified_radius(model, data.test_x, bracket, labels=data.test_y) for bracket in (shared, own)]
    for eps in EPS:
        for name, radius in zip(("certified", "pairwise"), radii, strict=True):
            found[f"{name} {eps:g}"] = certified_accuracy(radius, [eps])[0]["certified_accuracy"]
        found[f"strong {eps:g}"] = 1 - float(attacked(model, data, torch.arange(1000), eps, 50).double().mean())
        certified = (torch.stack(radii).amax(0) > eps).nonzero()[:, 0]
        found[f"fooled {eps:g}"] = int(attacked(model, data, certified, eps, 20).sum())
    return found


def attacked(model: nn.Module, data: Dataset, index: Tensor, eps: float, steps: int) -> Tensor:
    """Which of these samples are fooled."""
    if len(index) == 0:
        return torch.zeros(0, dtype=torch.bool)
    x, y = data.test_x[index], data.test_y[index]
    start = random_start(x, eps, torch.Generator().manual_seed(0))
    return normalized_pgd(model, x, y, eps=eps, step=eps / 8, iterations=steps, domain=data.domain, start=start)[1]


def sizes() -> Iterator[dict[str, Any]]:
    for size in SIZES:
        with multiprocessing.get_context("spawn").Pool(1) as alone:  # so that the peak of memory is its own
            yield alone.apply(sized, size)


def sized(width: int, depth: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = mlp((1, 28, 28), 10, hidden=(width,) * depth, activation="relu")
    begun = time.process_time()
    product = product_of_norms(model, (1, 28, 28))
    first = time.process_time() - begun
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    upper = upper_bound(model, (1, 28, 28), deadline=time.monotonic() + BUDGET)
    return {
        "width": width,
        "hidden layers": depth,
        "product": product,
        "upper": upper.value,
        "seconds": time.process_time() - begun,
        "of them product": first,
        "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "of them before": before // 1024,
    }


def main(
    out: Annotated[Path, typer.Option(help="Folder for table.json and table.md.")] = Path("results/bounds"),
    models: Annotated[Path, typer.Option(help="Where trained networks are kept.")] = Path("build/bounds-models"),
    table: Annotated[list[str] | None, typer.Option(help="Only this table, the others are kept; may be repeated.")] = None,
    seeds: int = 5,
) -> None:
    torch.set_num_threads(1)
    before = json.loads((out / "table.json").read_text())["tables"] if table else {}
    tables = {name: [] if name in (table or NAMES) else before.get(name, []) for name in NAMES}

    def brackets() -> Iterator[dict[str, Any]]:
        mnist = load("mnist")
        for seed in range(seeds):
            for kind in KINDS:
                label = {"activation": kind[0], "method": kind[1], "target": kind[2], "seed": seed}
                yield {**label, **bracketed(trained(models, mnist, kind, seed), mnist, seed)[0]}

    def convolutional() -> Iterator[dict[str, Any]]:
        fashion = load("fashion-mnist")
        model = trained(models, fashion, ("cnn", "standard", None), 0)
        yield {"seed": 0, **bracketed(model, fashion, 0, budget=100.0)[0]}

    def certificates() -> Iterator[dict[str, Any]]:
        mnist = load("mnist")
        for seed in range(seeds):
            for kind in KINDS:
                if kind[0] == "relu":
                    label = {"method": kind[1], "target": kind[2], "seed": seed}
                    yield {**label, **proved(trained(models, mnist, kind, seed), mnist)}

    for name, rows in zip(NAMES, (brackets, convolutional, certificates, sizes), strict=True):
        for row in rows() if name in (table or NAMES) else ():
            tables[name].append(row)
            write(out, tables)


def write(out: Path, tables: dict[str, list[dict[str, Any]]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    record = {"schema": 1, "tables": tables, "provenance": provenance(torch.device("cpu"))}
    (out / "table.json").write_text(json.dumps(record, indent=2) + "\n")
    lines = []
    for name, rows in tables.items():
        if rows:
            lines += [f"\n## {name}\n", "| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
            lines += ["| " + " | ".join(map(cell, row.values())) + " |" for row in rows]
    (out / "table.md").write_text("\n".join(lines).lstrip() + "\n")


def cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


if __name__ == "__main__":
    typer.run(main)
