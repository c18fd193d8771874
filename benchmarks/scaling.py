"""One run on one, two and four processes: do they train the same network, and what does a step cost?

Every worker trains by `fit` under torchrun, on the CPU (gloo), with the same global batch. Reported are the largest difference
of a parameter against one process after some 200 steps, and between the processes; rows of forward passes a step and process;
time a step, beside plain training and beside a penalty that every process evaluates whole; and collectives and bytes of the
penalty. A run that is stopped on four processes goes on with two, one on two with one.

    python benchmarks/scaling.py --out results/scaling
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
import typer
from torch import Tensor, nn

import cheaplip
from cheaplip import processes
from cheaplip.models import mlp
from cheaplip.provenance import provenance
from cheaplip.training import loop

app = typer.Typer(add_completion=False)
EPOCHS, BATCH = 12, 64
COUNTS = (1, 2, 4)
OPTIONS: dict[str, Any] = {"epochs": EPOCHS, "warmup": 1, "initial_weight": 0.1, "seed": 1}


def normalised(kind: Any) -> nn.Module:
    """A small CNN with two normalisations."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), kind(16), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, stride=2, padding=1), kind(16), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(256, 10)),
    )


def sines() -> tuple[Tensor, Tensor]:
    """A regression with four inputs."""
    x = 4 * torch.rand(1400, 4, generator=torch.Generator().manual_seed(3)) - 2
    return x, x.sum(1, keepdim=True).sin()


ADAM: dict[str, Any] = {"optimizer": "Adam", "optimizer_options": {}, "lr": 0.003, "target": 0.8}
KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "MLP": (lambda: mlp((1, 8, 8), 10), lambda: cheaplip.data.load("digits"), ADAM),
    "MLP, largest quotient, accepted steps": (
        lambda: mlp((1, 8, 8), 10),
        lambda: cheaplip.data.load("digits"),
        {**ADAM, "reduction": "max", "ascent": "accepted", "power": 1},
    ),
    "MLP, local penalty": (
        lambda: mlp((1, 8, 8), 10),
        lambda: cheaplip.data.load("digits"),
        {**ADAM, "method": "local", "initial_weight": 0.3},
    ),
    "CNN with BatchNorm": (
        lambda: normalised(nn.BatchNorm2d),
        lambda: cheaplip.data.load("digits"),
        {"lr": 0.01, "target": 0.9},
    ),
    "CNN with GroupNorm": (
        lambda: normalised(lambda channels: nn.GroupNorm(4, channels)),
        lambda: cheaplip.data.load("digits"),
        {"lr": 0.01, "target": 0.5},
    ),
    "regression": (lambda: mlp((4,), 1), sines, {**ADAM, "lr": 0.01, "target": 0.4}),
}
"""Network, data and what is asked for."""
TIMED = ("MLP", "CNN with BatchNorm")


class Meter:
    """Rows of forward passes, in training and in evaluation mode, and the penalty's collectives and their bytes."""

    def __init__(self, network: nn.Module) -> None:
        self.rows = {True: 0, False: 0}
        self.collectives = self.bytes = 0
        network.register_forward_pre_hook(self._count)
        reduce = dist.all_reduce

        def counted(tensor: Tensor, *rest: Any) -> Any:
            self.collectives, self.bytes = self.collectives + 1, self.bytes + tensor.numel() * tensor.element_size()
            return reduce(tensor, *rest)

        dist.all_reduce = counted

    def _count(self, network: nn.Module, inputs: tuple[Tensor]) -> None:
        self.rows[network.training] += len(inputs[0])


def evaluate_whole() -> None:
    """Let every process evaluate the whole penalty, as if it were alone."""
    from cheaplip.regularization import held, lazy, local, regularizer

    assert processes.__spec__ is not None
    alone: Any = importlib.util.module_from_spec(processes.__spec__)
    assert processes.__spec__.loader is not None
    processes.__spec__.loader.exec_module(alone)
    alone.count = lambda: 1
    for module in (held, lazy, local, regularizer):
        module.processes = alone  # type: ignore[attr-defined]


@app.command()
def worker(settings: str, out: Path) -> None:
    """What each process does: train until an epoch, and save what it has."""
    torch.set_num_threads(1)
    asked = json.loads(settings)
    make, data, options = KINDS[asked["kind"]]
    torch.manual_seed(0)
    network = make()
    options = {**OPTIONS, **options, "batch_size": asked["batch"]}
    if asked["method"] == "plain":
        kept = {"epochs", "seed", "lr", "batch_size", "optimizer", "optimizer_options"} & options.keys()
        options = {name: options[name] for name in kept} | {"method": "standard"}
    elif asked["method"] == "whole":
        evaluate_whole()
    if asked["wide"]:
        options["active"] = 32 * asked["wide"]
    meter, marks, train_epoch = Meter(network), [], loop._train_epoch

    def counted(*arguments: Any) -> Any:
        if arguments[2].epoch == asked["until"]:
            raise SystemExit
        before = dict(meter.rows), meter.collectives, meter.bytes
        row = train_epoch(*arguments)
        steps = arguments[2].steps
        rows = {mode: (meter.rows[mode] - before[0][mode]) / steps for mode in (True, False)}
        sent = (meter.collectives - before[1]) / steps, (meter.bytes - before[2]) / steps
        marks.append(
            {"rows": rows[True], "penalty_rows": rows[False], "collectives": sent[0], "bytes": sent[1], "steps": steps}
        )
        return row

    loop._train_epoch = counted
    done = cheaplip.fit(network, data(), out=out / "run", resume=asked["resume"], **options)
    record = {"weights": done.model.state_dict(), "history": done.history, "marks": marks}
    torch.save(record, out / f"{processes.rank()}.pt")
    if dist.is_initialized():
        dist.destroy_process_group()


def train(folder: Path, kind: str, n: int, **more: Any) -> list[dict[str, Any]]:
    """Train on n processes; what each of them has saved, if it came to the end."""
    folder.mkdir(exist_ok=True)
    asked = {"kind": kind, "batch": BATCH, "until": EPOCHS, "resume": False, "method": "", "wide": 0} | more
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n), __file__, "worker"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*command, json.dumps(asked), str(folder)], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(n)] if asked["until"] == EPOCHS else []


def furthest(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of an entry of the state."""
    pairs = ((one["weights"][name], other["weights"][name]) for name in one["weights"])
    return max(float((mine.double() - theirs.double()).abs().max()) for mine, theirs in pairs)


def milliseconds(found: list[dict[str, Any]]) -> float:
    """Of a step: the median over the epochs in which the penalty acts."""
    rows = [row for row in found[0]["history"] if row["weight"] > 0] or found[0]["history"]
    return 1000 * statistics.median(row["seconds"] for row in rows) / found[0]["marks"][-1]["steps"]


def equality(kind: str, folder: Path) -> list[dict[str, Any]]:
    """The same run on every number of processes, and continued with half as many."""
    rows = []
    one = train(folder / "1", kind, 1)
    for n in COUNTS[1:]:
        many = train(folder / str(n), kind, n)
        resumed = train_halves(folder / f"{n} to {n // 2}", kind, n)
        row = {"network": kind, "processes": n, "steps": EPOCHS * one[0]["marks"][-1]["steps"]}
        row["parameters, against 1"] = furthest(one[0], many[0])
        row["between processes"] = max(furthest(many[0], other) for other in many[1:])
        row["resumed with half"] = furthest(many[0], resumed[0])
        row["weight"], row["weight, 1"] = (found[0]["history"][-1]["weight"] for found in (many, one))
        row["weight, resumed"] = resumed[0]["history"][-1]["weight"]
        row["weights of all"] = len({process["history"][-1]["weight"] for process in many})
        rows.append(row)
    return rows


def train_halves(folder: Path, kind: str, n: int) -> list[dict[str, Any]]:
    """Half of the epochs on n processes, the rest on half as many."""
    train(folder, kind, n, until=EPOCHS // 2)
    return train(folder, kind, n // 2, resume=True)


def costs(kind: str, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """Rows, bytes and time a step on every number of processes; times are medians of some rounds."""
    rows = []
    for n in COUNTS:
        times: dict[str, list[float]] = {"": [], "whole": [], "plain": []}
        last = {}
        for i in range(rounds):
            for method, taken in times.items():
                last[method] = train(folder / f"{n} {method} {i}", kind, n, method=method)
                taken.append(milliseconds(last[method]))
        row = {"network": kind, "processes": n, "batch a process": BATCH // n}
        for method, name in (("", "penalty rows"), ("whole", "penalty rows, whole")):
            row[name] = max(process["marks"][-1]["penalty_rows"] for process in last[method])
        row |= {name: last[""][0]["marks"][-1][name] for name in ("collectives", "bytes")}
        row |= {f"ms, {name or 'shared'}": statistics.median(taken) for name, taken in times.items()}
        rows.append(row)
    return rows


def weak(kind: str, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """As many rows and pairs a process, on one and two: milliseconds a step."""
    rows = []
    for n in (1, 2):
        more = {"batch": 256 * n, "wide": n}
        times = [milliseconds(train(folder / f"weak {n} {i}", kind, n, **more)) for i in range(rounds)]
        plain = [milliseconds(train(folder / f"plain {n} {i}", kind, n, **more, method="plain")) for i in range(rounds)]
        rows.append({"network": kind, "processes": n, "ms": statistics.median(times), "ms, plain": statistics.median(plain)})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """In markdown."""
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        shown = (f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values())
        lines.append("| " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"


@app.command()
def measure(
    out: Annotated[Path, typer.Option(help="Folder for table.json and table.md.")],
    rounds: Annotated[int, typer.Option(help="Of each timing.")] = 3,
) -> None:
    """Make the tables."""
    about = provenance(torch.device("cpu"))
    found: dict[str, list[dict[str, Any]]] = {"The same network": [], "A step": [], "Weak scaling": []}
    with tempfile.TemporaryDirectory() as scratch:
        for i, kind in enumerate(KINDS):
            folder = Path(scratch) / str(i)
            folder.mkdir()
            found["The same network"] += equality(kind, folder)
            if kind in TIMED:
                found["A step"] += costs(kind, folder, rounds)
                found["Weak scaling"] += weak(kind, folder, rounds)
            typer.echo(kind)
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.json").write_text(json.dumps({**found, "provenance": about}, indent=2) + "\n")
    (out / "table.md").write_text("\n".join(f"## {title}\n\n{table(rows)}" for title, rows in found.items()))


if __name__ == "__main__":
    app()
