"""Regression when only the noise level is known: constants and errors on functions whose slopes are known.

    python benchmarks/noise_level.py run         appends to results/noise-level/runs.jsonl what is not there yet
    python benchmarks/noise_level.py table       table.md and table.json

x^2 on [0, 10] has the constant 20. A step tanh(20 x) on [-1, 1] has 20 too, at one place. Samples are uniform; inputs and
values are scaled to the unit, and all that is said is in the units of the function.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import typer
from ledger import carry_out, read
from torch import Tensor

from cheaplip import fit, lipschitz_bracket
from cheaplip.inference import forward
from cheaplip.models import mlp
from cheaplip.provenance import provenance
from cheaplip.report.aggregate import mean_interval

OUT = Path("results/noise-level")
SEEDS = range(5)
SAMPLES = 500
FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "x^2": (torch.square, 0.0, 10.0),
    "tanh(20 x)": (lambda x: (20 * x).tanh(), -1.0, 1.0),
}
NOISE = {"x^2": (0.25, 0.5, 1.0, 2.0, 5.0), "tanh(20 x)": (0.05, 0.1, 0.2)}
WISHES = ("plain", "noise level", "tolerance")


def one(spec: dict[str, Any]) -> dict[str, Any]:
    """Train once; the bracket on the interval and the error against the function without noise."""
    torch.set_num_threads(1)
    function, low, high = FUNCTIONS[spec["function"]]
    generator = torch.Generator().manual_seed(spec["seed"])
    x = low + (high - low) * torch.rand(SAMPLES, 1, generator=generator)
    y = function(x) + spec["noise"] * torch.randn(SAMPLES, 1, generator=generator)
    centre, half, mean, scale = (low + high) / 2, (high - low) / 2, y.mean(), float(y.std())
    inputs, values = (x - centre) / half, (y - mean) / scale
    wish = {
        "plain": {"weight": 0.0},
        "noise level": {"target": (spec["noise"] / scale) ** 2},
        "tolerance": {"tolerance": 0.01},
    }[spec["wish"]]
    torch.manual_seed(spec["seed"])
    model = mlp((1,), 1, hidden=(64, 64))
    trained = fit(
        model,
        (inputs, values),
        **wish,
        epochs=spec["epochs"],
        batch_size=32,
        optimizer="Adam",
        optimizer_options={},
        lr=0.01,
        seed=spec["seed"],
    )
    grid = torch.linspace(low, high, 5000)[:, None]
    with torch.no_grad():
        error = scale * forward(model, (grid - centre) / half) + mean - function(grid)
    bracket = lipschitz_bracket(model, inputs[:200], domain=(-1.0, 1.0), budget=10)
    return {
        "spec": spec,
        "lower": bracket.lower * scale / half,
        "upper": bracket.upper * scale / half,
        "error": float(error.square().mean().sqrt()) / spec["noise"],
        "loss": trained.result["train_loss"] * (scale / spec["noise"]) ** 2,
        "weight": trained.result["weight"],
        "told": trained.result["target_note"] is not None,
        "provenance": provenance(torch.device("cpu")),
    }


app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def run(out: Path = OUT, epochs: int = 400) -> None:
    """Train what is not there yet."""
    specs = [
        {"function": function, "noise": noise, "wish": wish, "seed": seed, "epochs": epochs}
        for function, levels in NOISE.items()
        for noise in levels
        for seed in SEEDS
        for wish in WISHES
    ]
    carry_out(out / "runs.jsonl", specs, one)


@app.command()
def table(out: Path = OUT) -> None:
    """Means and 95 % intervals."""
    records = read(out / "runs.jsonl")
    rows, lines = [], ["| function | noise | wish | n | lower | upper | error / noise | loss / noise^2 | weight 0 | told |"]
    lines.append("|---|---|---|---|---|---|---|---|---|---|")
    for function, levels in NOISE.items():
        for noise in levels:
            for wish in WISHES:
                of = [
                    r
                    for r in records
                    if (r["spec"]["function"], r["spec"]["noise"], r["spec"]["wish"]) == (function, noise, wish)
                ]
                means = {name: mean_interval([r[name] for r in of]) for name in ("lower", "upper", "error", "loss")}
                counts = [sum(r["weight"] == 0 for r in of), sum(r["told"] for r in of)]
                rows.append({"function": function, "noise": noise, "wish": wish, "n": len(of), **means, "told": counts[1]})
                shown = [f"{mean:.3g} ± {interval:.2g}" for mean, interval in means.values()]
                lines.append("| " + " | ".join([function, f"{noise:g}", wish, str(len(of)), *shown, *map(str, counts)]) + " |")
    (out / "table.md").write_text("\n".join(lines) + "\n")
    (out / "table.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    app()
