"""Peak memory of a network like ResNet-50 at 3 x 224 x 224: a plain step, a step with the penalty, `refine`, `lower_bound`.

    python benchmarks/memory.py                    prints the table; each measurement has a process of its own

The peak is the largest resident set of the process, less that of a process that only makes the network and the batch.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Annotated

import torch
import typer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cheaplip import ConstantWeight, LipschitzRegularizer, PenaltyTerm, lower_bound, perturbed_pairs

CLASSES = 1000


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a skip."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(width_in, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            *(nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)),
        )
        self.skip: nn.Module = nn.Identity()
        if stride > 1 or width_in != 4 * width:
            self.skip = nn.Sequential(nn.Conv2d(width_in, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.skip(x)).relu()


def network() -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for width, depth, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(depth):
            layers.append(Bottleneck(inputs, width, stride if i == 0 else 1))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES))


def shortly(of: Callable[[], object], seconds: int = 60) -> None:
    """For so long: the peak comes in the first of many like steps."""

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    with contextlib.suppress(TimeoutError):
        of()


def measured(task: str, batch: int) -> float:
    """Runs one task; returns the peak in MiB."""
    torch.manual_seed(0)
    model, x, y = network(), torch.rand(batch, 3, 224, 224), torch.randint(CLASSES, (batch,))
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    regularizer = LipschitzRegularizer(model, perturbed_pairs(torch.rand(40, 3, 224, 224)), interval=1)
    term = PenaltyTerm(regularizer, ConstantWeight(1e-3))

    def step(penalised: bool) -> None:
        outputs = model(x)
        loss = cross_entropy(outputs, y)
        if penalised:
            loss = loss + term(outputs, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if penalised:
            term.step()

    def after_a_call(of: Callable[[], object]) -> Callable[[], object]:
        def run() -> object:
            regularizer.batch_size = batch  # as the term tells it
            return of()

        return run

    tasks: dict[str, Callable[[], object]] = {
        "nothing": lambda: None,
        "plain step": lambda: step(False),
        "penalised step": lambda: step(True),
        "refine": after_a_call(lambda: shortly(regularizer.refine)),
        "lower_bound": lambda: lower_bound(model.eval(), x, steps=1, budget=60),
    }
    tasks[task]()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


TASKS = ("nothing", "plain step", "penalised step", "refine", "lower_bound")


def main(batch: int = 32, task: Annotated[str | None, typer.Option(help="One of them, in this process.")] = None) -> None:
    torch.set_num_threads(1)
    if task is not None:
        print(measured(task, batch))
        return
    command = [sys.executable, __file__, "--batch", str(batch), "--task"]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # freed memory goes back: no holes are counted
    peaks = {}
    for name in TASKS:
        done = subprocess.run([*command, name], capture_output=True, check=True, text=True, env=environment)
        peaks[name] = float(done.stdout)
    unit = peaks["plain step"] - peaks["nothing"]
    for name, peak in peaks.items():
        print(f"| {name} | {peak:.0f} MiB | {(peak - peaks['nothing']) / unit:.2f} |")


if __name__ == "__main__":
    typer.run(main)
