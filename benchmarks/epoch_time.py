"""Time of an epoch of `fit` (method standard, MNIST, the paper's MLP) relative to a bare loop over tensors, side by side.

python benchmarks/epoch_time.py            (CHEAPLIP_DATA or a download provides MNIST)
"""

from __future__ import annotations

import resource
import statistics
import time

import torch
from torch.nn.functional import cross_entropy

from cheaplip import fit
from cheaplip.data import Dataset, load
from cheaplip.models import mlp
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


def main() -> None:
    torch.set_num_threads(1)
    data = load("mnist")
    bare(data), ours(data)  # warm up
    ratios = []
    for _ in range(ROUNDS):
        base, own = bare(data), ours(data)
        ratios.append(own / base)
        print(f"bare {base:.3f} s, fit {own:.3f} s an epoch, ratio {own / base:.3f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"median ratio {statistics.median(ratios):.3f}")
    print(f"peak memory {peak:.0f} MiB")


if __name__ == "__main__":
    main()
