"""An ordinary network with a certificate in its penalty beside one of layers that are 1-Lipschitz by construction.

Same widths, same data: MLPs by `fit(certify=...)` and deel-torchlip's of SpectralLinear and GroupSort2, with its losses (tau
of the cross-entropy and the margin of the hinge trade accuracy for robustness, as our target does). Its step takes several
times as long as ours: 150 of our epochs take one and a half times as long as its 30, 60 of them 0.6 times. `seconds` are
processor seconds.
The 1-Lipschitz network is certified by the product of the norms of its exported weights, in float64: how near to 1 its
iterations came is not taken on trust. `strong` on the first 2,000 test images at eps 2, `certified` on all 10,000.

    pip install deel-torchlip
    python benchmarks/one_lipschitz.py --seeds 5 --out results/one-lipschitz
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import torch
import typer
from deel import torchlip
from torch import Tensor, nn

from cheaplip import LipschitzBracket, certified_radius, evaluate_robustness, fit, lipschitz_bracket
from cheaplip.bounds.radius import certified_accuracy
from cheaplip.data import Dataset, load
from cheaplip.experiments.table_1 import slow
from cheaplip.models import mlp
from cheaplip.provenance import provenance
from cheaplip.training.batches import TensorBatches, split

EPS = (0.3, 0.5, 1.0, 1.58)
EPOCHS = 30

Loss = Callable[[Tensor, Tensor], Tensor]


def one_hot(loss: Loss) -> Loss:
    """Targets of +1 and -1, as the losses of deel-torchlip with a margin want them."""
    return lambda outputs, y: loss(outputs, 2 * nn.functional.one_hot(y, outputs.shape[1]).to(outputs) - 1)


LOSSES: dict[str, Callable[[], Loss]] = {
    **{f"cross-entropy, tau {tau:g}": lambda tau=tau: torchlip.TauCrossEntropyLoss(tau) for tau in (0.5, 1, 2, 4, 8, 16)},
    **{
        f"soft HKR, margin {m:g}": lambda m=m: one_hot(torchlip.SoftHKRMulticlassLoss(alpha=0.98, min_margin=m))
        for m in (1.0, 2.0, 3.0, 4.0)
    },
}
OURS = {
    "ReLU, target 95, 60 epochs": {"activation": "relu", "target": 0.95, "epochs": 60},
    "abs, target 95, 60 epochs": {"activation": "abs", "target": 0.95, "epochs": 60},
    "abs, target 95, 150 epochs": {"activation": "abs", "target": 0.95, "epochs": 150},
    "abs, target 97, 150 epochs": {"activation": "abs", "target": 0.97, "epochs": 150},
}


def constrained(data: Dataset, loss: Loss, seed: int) -> tuple[nn.Module, float]:
    """A trained network of 1-Lipschitz layers, exported to plain ones, and its norm."""
    torch.manual_seed(seed)
    linear, sort = torchlip.SpectralLinear, torchlip.GroupSort2
    model = torchlip.Sequential(nn.Flatten(), linear(784, 64), sort(), linear(64, 64), sort(), linear(64, 10))
    parts = split(len(data.train_x), pair_share=0.1, validation_share=0.05, seed=seed)
    batches = TensorBatches(data.train_x, data.train_y, indices=parts.fit, batch_size=128, seed=seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)  # 1e-2 ends in nan
    steps = EPOCHS * len(batches)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.51 + 0.49 * math.cos(math.pi * step / steps))
    for epoch in range(1, EPOCHS + 1):
        for x, y in batches.epoch(epoch):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
            scheduler.step()
    plain = model.vanilla_export().eval()
    norms = [torch.linalg.matrix_norm(m.weight.detach().double(), 2) for m in plain.modules() if isinstance(m, nn.Linear)]
    return plain, float(torch.stack(norms).prod())


def row(model: nn.Module, data: Dataset, radius: Tensor) -> dict[str, float]:
    report = evaluate_robustness(model, data.test_x, data.test_y)
    found = {"test": report.test_accuracy, "strong": report.strong_accuracy}
    return found | {f"certified {one['eps']:g}": one["certified_accuracy"] for one in certified_accuracy(radius, EPS)}


def runs(data: Dataset, seed: int) -> list[dict[str, Any]]:
    rows = []
    for name, options in OURS.items():
        begun = time.process_time()
        torch.manual_seed(seed)
        settings = slow("mnist", options["target"], options["activation"]) | {"epochs": options["epochs"], "seed": seed}
        model = mlp((1, 28, 28), 10, activation=settings.pop("activation"))
        fit(model, data, **settings)
        seconds = time.process_time() - begun
        bracket = lipschitz_bracket(model, data.test_x[:500], domain=data.domain, pairwise=True)
        found = row(model, data, certified_radius(model, data.test_x, bracket, labels=data.test_y))
        rows.append({"network": "ordinary", "training": name, **found, "upper": bracket.upper, "seconds": seconds})
    for name, loss in LOSSES.items():
        begun = time.process_time()
        model, norm = constrained(data, loss(), seed)
        seconds = time.process_time() - begun
        bracket = LipschitzBracket(lower=0.0, upper=norm, witness=(), methods={}, scope="all inputs", seconds=0.0)
        found = row(model, data, certified_radius(model, data.test_x, bracket, labels=data.test_y))
        rows.append({"network": "1-Lipschitz layers", "training": name, **found, "upper": norm, "seconds": seconds})
    return rows


def main(
    out: Annotated[Path, typer.Option(help="Folder for table.json and table.md.")] = Path("results/one-lipschitz"),
    seeds: int = 5,
    first: int = 20,
) -> None:
    torch.set_num_threads(1)
    data = load("mnist")
    found: list[list[dict[str, Any]]] = []
    for seed in range(first, first + seeds):
        found.append(runs(data, seed))
        write(out, found, list(range(first, seed + 1)))


def write(out: Path, found: list[list[dict[str, Any]]], seeds: list[int]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    record = {"schema": 1, "epochs": EPOCHS, "seeds": seeds, "runs": found, "provenance": provenance(torch.device("cpu"))}
    (out / "table.json").write_text(json.dumps(record, indent=2) + "\n")
    names = list(found[0][0])
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for same in zip(*found, strict=True):
        cells = [str(same[0][name]) for name in names[:2]]
        for name in names[2:]:
            values = [one[name] for one in same]
            scale = 100 if values[0] <= 1 and name not in ("upper", "seconds") else 1
            cells.append(f"{scale * mean(values):.3g} ({scale * min(values):.3g} to {scale * max(values):.3g})")
        lines.append("| " + " | ".join(cells) + " |")
    (out / "table.md").write_text(f"Mean, least and largest of {len(seeds)} seeds.\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    typer.run(main)
