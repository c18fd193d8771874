"""The strong attack and the certificate against an independent judge: AutoAttack's L2 apgd-ce and apgd-t.

For finished classifier runs. `ours` is `normalized_pgd` as the tables have it, `AutoAttack` the accuracy under apgd-ce (5
restarts) and then apgd-t on what is left, 100 iterations each, on the same first `--samples` test images. `fooled` counts
samples that `cheaplip certify` has certified at an eps (its radii.csv is made where it is missing) and that AutoAttack
fools all the same: it must be 0. Needs the extra `attacks`.

    python benchmarks/autoattack.py runs/clip-0 runs/weight-0 --eps 0.5,1.58,2 --out results/autoattack
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Annotated

import safetensors.torch
import torch
import typer
from pyautoattack import AutoAttack
from torch import nn

from cheaplip.data import load
from cheaplip.jobs import RADII, WEIGHTS, bound_run, read_job
from cheaplip.provenance import provenance
from cheaplip.robustness import evaluate_robustness


def judged(folder: Path, eps: list[float], samples: int) -> list[dict[str, object]]:
    """A row for each eps."""
    job = read_job(folder)
    data = load(job.data)
    model: nn.Module = job.model.build(data, job.training.seed)
    model.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    model.eval()
    if not (folder / RADII).exists():
        bound_run(folder)
    with (folder / RADII).open() as file:
        radius = torch.tensor([float(sample["radius"]) for sample in csv.DictReader(file)])[:samples]
    x, y = data.test_x[:samples], data.test_y[:samples]
    rows: list[dict[str, object]] = []
    for e in eps:
        settings = {"iterations": 100, "attack_samples": samples, "curve": (), "domain": data.domain}
        ours = evaluate_robustness(model, x, y, eps=e, **settings).strong_accuracy
        judge = AutoAttack(model, attacks=["apgd-ce", "apgd-t"], version="custom", norm="L2", eps=e, seed=0)
        attacked = judge.run_standard_evaluation(x, y, batch_size=1000)[0]
        inside = (attacked - x).flatten(1).norm(dim=1) <= e * (1 + 1e-5)
        with torch.no_grad():
            right = model(attacked.clamp(*data.domain)).argmax(1) == y
        certified = radius > e
        rows.append({
            "run": folder.name, "eps": e, "n": len(y), "ours": ours, "AutoAttack": float(right.double().mean()),
            "certified": float(certified.double().mean()), "fooled": int((certified & ~right & inside).sum()),
        })  # fmt: skip
    return rows


def main(
    runs: Annotated[list[Path], typer.Argument(help="Finished run folders.")],
    eps: str = "0.3,0.5,1,1.58,2",
    samples: int = 10_000,
    out: Annotated[Path, typer.Option(help="Folder for table.json and table.md.")] = Path("results/autoattack"),
) -> None:
    torch.set_num_threads(1)
    rows = [row for run in runs for row in judged(run, [float(e) for e in eps.split(",")], samples)]
    out.mkdir(parents=True, exist_ok=True)
    record = {"schema": 1, "rows": rows, "provenance": provenance(torch.device("cpu"))}
    (out / "table.json").write_text(json.dumps(record, indent=2) + "\n")
    lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    for row in rows:
        lines.append("| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row.values()) + " |")
    (out / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
