"""The strong attack and the certificate against an independent judge: AutoAttack's L2 apgd-ce and apgd-t.

For finished classifier runs. `ours` is `strong_attack` as the tables have it, `AutoAttack` the accuracy under apgd-ce (5
restarts) and then apgd-t on what is left, 100 iterations each, on the same first `--samples` test images. `certified` is the
share of all test images that `cheaplip bound` has certified at an eps (its radii.csv is made where it is missing). Every
one of them is attacked too, by the judge and by `strong_attack` from 5 random starts: `fooled` counts those that either
fools all the same, and must be 0. Needs the extra `attacks`.

    python benchmarks/autoattack.py runs/clip-0 runs/weight-0 --eps 0.5,1.58,2 --out results/autoattack
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import safetensors.torch
import torch
import typer
from pyautoattack import AutoAttack
from torch import Tensor, nn

from cheaplip.data import Dataset, load
from cheaplip.models.spec import build_network
from cheaplip.provenance import provenance
from cheaplip.robustness.accuracy import evaluate_robustness
from cheaplip.robustness.attacks import random_start, strong_attack
from cheaplip.run_folder import RADII, WEIGHTS
from cheaplip.runs.configure import read_config
from cheaplip.runs.execute import bound_run


def judged(folder: Path, eps: list[float], samples: int) -> Iterator[dict[str, object]]:
    """A row for each eps."""
    job = read_config(folder)
    data = load(job.data)
    model: nn.Module = build_network(job.model, data, job.training.seed)
    model.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    model.eval()
    if not (folder / RADII).exists():
        bound_run(folder)
    with (folder / RADII).open() as file:
        radius = torch.tensor([float(sample["radius"]) for sample in csv.DictReader(file)])
    x, y = data.test_x, data.test_y
    first = torch.arange(min(samples, len(y)))
    for e in eps:
        certified = (radius > e).nonzero()[:, 0]
        ours = evaluate_robustness(model, x, y, eps=e, attack_samples=samples, domain=data.domain).strong_accuracy
        fooled = by_judge(model, data, certified, e) | by_restarts(model, data, certified, e, 5)
        yield {
            "run": folder.name,
            "eps": e,
            "n": len(first),
            "ours": ours,
            "AutoAttack": 1 - float(by_judge(model, data, first, e).double().mean()),
            "certified": len(certified) / len(y),
            "certified n": len(certified),
            "fooled": int(fooled.sum()),
        }


def by_judge(model: nn.Module, data: Dataset, index: Tensor, eps: float) -> Tensor:
    """Which of these samples AutoAttack fools within eps and the domain."""
    if len(index) == 0:
        return torch.zeros(0, dtype=torch.bool)
    x, y = data.test_x[index], data.test_y[index]
    judge = AutoAttack(model, attacks=["apgd-ce", "apgd-t"], version="custom", norm="L2", eps=eps, seed=0, device=x.device)
    attacked = judge.run_standard_evaluation(x, y, batch_size=1000)[0]
    inside = (attacked - x).flatten(1).norm(dim=1) <= eps * (1 + 1e-5)
    with torch.no_grad():
        return (model(attacked.clamp(*data.domain)).argmax(1) != y) & inside


def by_restarts(model: nn.Module, data: Dataset, index: Tensor, eps: float, restarts: int) -> Tensor:
    """Which of these samples the strong attack fools, from some of `restarts` random starts."""
    fooled = torch.zeros(len(index), dtype=torch.bool)
    for part in torch.arange(len(index)).split(500) if len(index) else ():
        x, y = data.test_x[index[part]], data.test_y[index[part]]
        for seed in range(restarts):
            start = random_start(x, eps, torch.Generator().manual_seed(seed))
            fooled[part] |= strong_attack(model, x, y, eps=eps, step=eps / 8, domain=data.domain, start=start)[1]
    return fooled


def main(
    runs: Annotated[list[Path], typer.Argument(help="Finished run folders.")],
    eps: str = "0.3,0.5,1,1.58,2",
    samples: int = 1000,
    out: Annotated[Path, typer.Option(help="Folder for table.json and table.md.")] = Path("results/autoattack"),
) -> None:
    torch.set_num_threads(1)
    rows = []
    for run in runs:
        for row in judged(run, [float(e) for e in eps.split(",")], samples):
            rows.append(row)
            write(out, rows)


def write(out: Path, rows: list[dict[str, object]]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    record = {"schema": 1, "rows": rows, "provenance": provenance(torch.device("cpu"))}
    (out / "table.json").write_text(json.dumps(record, indent=2) + "\n")
    lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    for row in rows:
        lines.append("| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row.values()) + " |")
    (out / "table.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    typer.run(main)
