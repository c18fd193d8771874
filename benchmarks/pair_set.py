"""Does the pair set find the constant? Its largest quotient after training against a long independent search.

The search: 256 restarts of 1,000 steps of ascent in float64, half from test images with a random step away, half from
uniform noise, in the box [0, 1]; and the Jacobian's norm on 2,000 test images. Each row is one CLIP run.

    python benchmarks/pair_set.py --out results/pair-set
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from joblib import Parallel, delayed
from torch import nn

from cheaplip import fit
from cheaplip.bounds.jacobian import jacobian_lower_bound
from cheaplip.bounds.lower import pair_lower_bound
from cheaplip.data import Dataset, load
from cheaplip.models import mlp
from cheaplip.provenance import provenance

TARGETS = {"mnist": 0.95, "fashion-mnist": 0.85}
RESTARTS, STEPS, POINTS = 256, 1000, 2000


def search(model: nn.Module, data: Dataset, seed: int) -> dict[str, float]:
    """Lower bounds of Lip(f) on the box that know nothing of the training's pairs."""
    generator = torch.Generator().manual_seed(1000 + seed)
    half = RESTARTS // 2
    images = data.test_x[torch.randperm(len(data.test_x), generator=generator)[:half]]
    start = torch.cat([images, torch.rand(images.shape, generator=generator)])
    target = torch.rand(start.shape, generator=generator)
    other = start + 0.1 * (target - start)
    found = {}
    for name, part in (("from images", slice(0, half)), ("from noise", slice(half, None))):
        found[name] = pair_lower_bound(model, start[part], other[part], steps=STEPS, domain=data.domain).value
    x = data.test_x[:POINTS]
    beside = x + 1e-6 * torch.rand(x.shape, generator=generator)
    found["Jacobian on images"] = jacobian_lower_bound(model, beside).value
    return found


def one(name: str, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    data = load(name)
    torch.manual_seed(seed)
    model = mlp((1, 28, 28), 10)
    trained = fit(model, data, method="clip", target=TARGETS[name], seed=seed)
    found = search(trained.model, data, seed)
    largest = trained.result["pair_lower_bound"]
    return {"data": name, "seed": seed, "pair set": largest, **found, "ratio": largest / max(found.values())}


def main(
    out: Annotated[Path, typer.Option(help="Folder for table.json and table.md.")] = Path("results/pair-set"),
    seeds: int = 3,
    jobs: int = 2,
) -> None:
    rows = Parallel(n_jobs=jobs, verbose=10)(delayed(one)(name, seed) for name in TARGETS for seed in range(seeds))
    out.mkdir(parents=True, exist_ok=True)
    record = {"schema": 1, "rows": rows, "provenance": provenance(torch.device("cpu"))}
    (out / "table.json").write_text(json.dumps(record, indent=2) + "\n")
    lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    lines += [
        "| " + " | ".join(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row.values()) + " |"
        for row in rows
    ]
    (out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
