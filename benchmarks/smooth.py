"""The bracket of networks of smooth activations on the box [-1, 1]: how wide is it, by the number of inputs?

Two hidden layers of 64 and one output, as initialised by torch (0 steps) and after regression of a smooth function that
depends mostly on four of the inputs. Seconds are of one thread.

    python benchmarks/smooth.py --out results/bounds-smooth
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional

from cheaplip import lipschitz_bracket
from cheaplip.provenance import provenance

CASES = [
    *((inputs, nn.GELU) for inputs in (2, 4, 6, 10, 20)),
    *((inputs, activation) for inputs in (6, 10) for activation in (nn.SiLU, nn.Tanh, nn.Softplus)),
]
STEPS = 500
"""Of training."""


def target(x: Tensor) -> Tensor:
    a, b, c, d = (x[:, i % x.shape[1]] for i in range(4))
    waves = torch.sin(2 * a + b) + c * d + torch.cos(2 * x.sum(1) / math.sqrt(x.shape[1])) / 2
    return waves + 0.3 * x.square().mean(1)


def regressed(inputs: int, activation: Callable[[], nn.Module], steps: int) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(inputs, 64), activation(), nn.Linear(64, 64), activation(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(steps):
        x = 2 * torch.rand(256, inputs) - 1
        loss = functional.mse_loss(model(x)[:, 0], target(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def bracketed(inputs: int, activation: Callable[[], nn.Module], steps: int, budget: float) -> dict[str, Any]:
    model = regressed(inputs, activation, steps)
    begun = time.process_time()
    bracket = lipschitz_bracket(model, 2 * torch.rand(50, inputs) - 1, domain=(-1.0, 1.0), budget=budget)
    row = {"inputs": inputs, "activation": getattr(activation, "__name__", ""), "steps": steps}
    row |= {name: getattr(bracket, name) for name in ("lower", "upper", "ratio", "seconds")}
    return row | {"of processor": time.process_time() - begun, "upper by": bracket.methods["upper"]}


def main(
    out: Annotated[Path, typer.Option(help="Folder for table.json and table.md.")] = Path("results/bounds-smooth"),
    budget: Annotated[float, typer.Option(help="Seconds for each bracket.")] = 60.0,
) -> None:
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for inputs, activation in CASES:
        for steps in (0, STEPS):
            rows.append(bracketed(inputs, activation, steps, budget))
            record = {"schema": 1, "budget": budget, "table": rows, "provenance": provenance(torch.device("cpu"))}
            (out / "table.json").write_text(json.dumps(record, indent=2) + "\n")
            lines = ["| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
            lines += ["| " + " | ".join(map(cell, row.values())) + " |" for row in rows]
            (out / "table.md").write_text("\n".join(lines) + "\n")


def cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    typer.run(main)
