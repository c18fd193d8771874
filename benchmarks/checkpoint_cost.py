"""What losing nothing costs: a checkpoint an epoch, flushed and with its sha256, and the lock of the run folder.

Both as shares of the epoch that they follow, and the checkpoint beside a plain `torch.save` of the same record.

    python benchmarks/checkpoint_cost.py --out results/checkpoint-cost        (CHEAPLIP_DATA or a download provides MNIST)
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import torch
import typer
from torch import nn

from cheaplip import fit
from cheaplip.data import Dataset, load
from cheaplip.models import cnn, mlp
from cheaplip.provenance import provenance
from cheaplip.run_folder import claimed
from cheaplip.training import checkpoint

RUNS: dict[str, tuple[str, int | None, Callable[[], nn.Module]]] = {
    "digits, MLP 64-64-64-10": ("digits", None, lambda: mlp((1, 8, 8), 10)),
    "MNIST, MLP 784-64-64-10": ("mnist", None, lambda: mlp((1, 28, 28), 10)),
    "MNIST, MLP 784-1024-1024-10": ("mnist", None, lambda: mlp((1, 28, 28), 10, hidden=(1024, 1024))),
    "10,000 of MNIST, the paper's CNN": ("mnist", 10_000, lambda: cnn((1, 28, 28), 10)),
}
"""Data, how many of its samples, and the network."""
COLUMNS = {
    "checkpoint / epoch": "checkpoint",
    "lock / epoch": "lock",
    "checkpoint / plain torch.save": "plain",
    "MB": "megabytes",
}


def seconds_of(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def measured(name: str, epochs: int) -> dict[str, list[float]]:
    """Of each epoch, the ratios."""
    source, samples, make = RUNS[name]
    data: Dataset = load(source)
    x, y = data.train_x[:samples], data.train_y[:samples]
    save, found = checkpoint.save, {column: list[float]() for column in COLUMNS.values()}

    def timed(out: Path, state: checkpoint.State, *rest: Any) -> None:
        taken = seconds_of(lambda: save(out, state, *rest))
        epoch = state.history[-1]["seconds"]
        plain = seconds_of(lambda: torch.save(state.state_dict(), out.parent / "plain.pt"))

        def lock() -> None:
            with claimed(out.parent / "locked"):
                pass

        found["checkpoint"].append(taken / epoch)
        found["lock"].append(seconds_of(lock) / epoch)
        found["plain"].append(taken / plain)
        found["megabytes"].append(checkpoint.checkpoints(out)[0].stat().st_size / 1e6)

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(dir=".") as folder, patch.object(checkpoint, "save", timed):
        fit(make(), (x, y), weight=0.1, epochs=epochs, out=Path(folder) / "run")
    return found


def rows(tables: dict[str, dict[str, list[float]]]) -> list[str]:
    """The medians, and the largest ratio to an epoch."""
    head = ["run", *COLUMNS, "largest checkpoint / epoch"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name, found in tables.items():
        values = [*(statistics.median(found[column]) for column in COLUMNS.values()), max(found["checkpoint"])]
        lines.append(f"| {' | '.join([name, *(f'{value:.2g}' for value in values)])} |")
    return lines


def main(
    out: Annotated[Path, typer.Option(help="Folder for table.json and table.md.")] = Path("results/checkpoint-cost"),
    epochs: Annotated[int, typer.Option(help="Of each run.", min=1)] = 10,
) -> None:
    """Measure what a checkpoint and the lock take."""
    torch.set_num_threads(1)
    tables = {name: measured(name, epochs) for name in RUNS}
    record = {"schema": 1, "epochs": epochs, "tables": tables, "provenance": provenance(torch.device("cpu"))}
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.json").write_text(json.dumps(record, indent=2) + "\n")
    (out / "table.md").write_text("\n".join(rows(tables)) + "\n")
    print("\n".join(rows(tables)))


if __name__ == "__main__":
    typer.run(main)
