"""Time of an epoch of `fit` (method standard, MNIST, the paper's MLP) relative to a bare loop over tensors, side by side; and
what the lock of a run folder and an epoch's flushed, checksummed checkpoint take, relative to an epoch.

python benchmarks/epoch_time.py            (CHEAPLIP_DATA or a download provides MNIST)
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.nn.functional import cross_entropy

from cheaplip import fit
from cheaplip.data import Dataset, load
from cheaplip.models import mlp
from cheaplip.run_folder import claimed
from cheaplip.training import checkpoint
from cheaplip.training.batches import split

ROUNDS, EPOCHS, BATCH = 5, 3, 128


def bare(data: Dataset) -> float:
    """Seconds an epoch of the shortest loop that trains the same network on the same samples."""
    torch.manual_seed(0)
    x, y = data.train_x, data.train_y
    samples = split(len(x), pair_share=0.1, validation_share=0.05, seed=0).fit
    model = mlp((1, 28, 28), 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    started = time.perf_counter()
    for _ in range(EPOCHS):
        order = samples[torch.randperm(len(samples))]
        for i in range(0, len(order) - BATCH + 1, BATCH):
            index = order[i : i + BATCH]
            loss = cross_entropy(model(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return (time.perf_counter() - started) / EPOCHS


def ours(data: Dataset) -> float:
    """Seconds an epoch of `fit`, as its own records say."""
    torch.manual_seed(0)
    trained = fit(mlp((1, 28, 28), 10), data, method="standard", epochs=EPOCHS, batch_size=BATCH)
    return trained.result["seconds"] / EPOCHS


def saving(data: Dataset) -> tuple[float, float]:
    """Seconds that an epoch's files take, and that the lock of the folder takes, once a run."""
    waited, save = [], checkpoint.save

    def timed(*given: Any) -> None:
        started = time.perf_counter()
        save(*given)
        waited.append(time.perf_counter() - started)

    with tempfile.TemporaryDirectory(dir=".") as folder, patch.object(checkpoint, "save", timed):
        out = Path(folder) / "run"
        started = time.perf_counter()
        with claimed(out):
            lock = time.perf_counter() - started
        torch.manual_seed(0)
        fit(mlp((1, 28, 28), 10), data, method="standard", epochs=EPOCHS, batch_size=BATCH, out=out)
    return statistics.median(waited), lock


def main() -> None:
    torch.set_num_threads(1)
    data = load("mnist")
    bare(data), ours(data)  # warm up
    ratios, shares = [], []
    for _ in range(ROUNDS):
        base, own, (saved, lock) = bare(data), ours(data), saving(data)
        ratios.append(own / base)
        shares.append(saved / own)
        print(f"bare {base:.3f} s, fit {own:.3f} s an epoch, ratio {own / base:.3f}")
        print(f"checkpoint {1000 * saved:.1f} ms an epoch, ratio {saved / own:.4f}; lock {1000 * lock:.2f} ms a run")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"median ratio {statistics.median(ratios):.3f}, of a checkpoint {statistics.median(shares):.4f}")
    print(f"peak memory {peak:.0f} MiB")


if __name__ == "__main__":
    main()
