"""Tables and plots of `robustness_per_cost.py`."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.figure import Figure

METRICS = ("train", "test", "noise", "pgd", "strong", "lower")
DRAWN = {"adversarial": "s", "local": "D", "adversarial, half, 2 steps": "P", "adversarial, half, 1 step": "X"}
DRAWN |= {"CLIP (default)": "^", "CLIP, margins": "v", "jacobian": "o"}
"""Curves of the plot, with their markers."""
OURS = ("CLIP", "local")
EPOCHS = 30
EQUAL = ", equal time"
"""Ends the name of a method that was trained for as long as the local penalty."""
Row = dict[str, Any]
Targets = dict[str, tuple[float, ...]]


def markdown(rows: list[Row], targets_of: Targets) -> str:
    lines = []
    for data, targets in targets_of.items():
        for target in targets:
            lines += [
                f"### {data}, target {target:.0%}",
                "",
                "| method | n | cost | arithmetic | " + " | ".join(METRICS) + " |",
            ]
            lines.append("|---" * (4 + len(METRICS)) + "|")
            for row in (row for row in rows if (row["data"], row["target"]) == (data, target)):
                cells = [row["method"], str(row["n"]), f"{row['cost']['time']:.2f}", f"{row['cost']['arithmetic']:.2f}"]
                lines.append("| " + " | ".join([*cells, *(written(name, row["metrics"][name]) for name in METRICS)]) + " |")
            lines.append("")
    return "\n".join(lines)


def written(name: str, estimate: dict[str, Any]) -> str:
    scale, digits = (1, 2) if name == "lower" else (100, 1)
    text = f"{scale * estimate['mean']:.{digits}f}"
    return text if estimate["ci95"] is None else f"{text} ± {scale * estimate['ci95']:.{digits}f}"


def curves(rows: list[Row], targets_of: Targets) -> Figure:
    """Strong against clean accuracy on the test images."""
    figure = Figure(figsize=(10, 5), layout="constrained")
    for axes, data in zip(figure.subplots(1, 2), targets_of, strict=True):
        for label, marker in DRAWN.items():
            chosen = sorted(
                (row for row in rows if (row["data"], row["method"]) == (data, label)), key=lambda row: row["target"]
            )
            x, y = ([row["metrics"][name] for row in chosen] for name in ("test", "strong"))
            points = [[100 * e["mean"] for e in estimates] for estimates in (x, y)]
            bars = [[100 * (e["ci95"] or 0) for e in estimates] for estimates in (x, y)]
            cost = f"{chosen[0]['cost']['time']:.1f}x" if chosen else ""
            axes.errorbar(*points, xerr=bars[0], yerr=bars[1], marker=marker, capsize=2, label=f"{label}, {cost}")
        axes.set(title=data, xlabel="clean test accuracy, %", ylabel="accuracy under the strong attack, eps 2, %")
        axes.grid(alpha=0.3)
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, title="method, cost of a step")
    return figure


def strong_against_cost(rows: list[Row], settings: list[tuple[str, float]]) -> Figure:
    """Strong accuracy against the time of the whole training, at two (data, target), with the front of the best.

    A method has one curve, over the numbers of its epochs. Where points crowd, the first has its name.
    """
    figure = Figure(figsize=(11, 5), layout="constrained")
    for axes, (data, target) in zip(figure.subplots(1, 2), settings, strict=True):
        named: list[tuple[float, float]] = []
        methods: dict[str, list[tuple[float, float, float]]] = {}
        for row in (row for row in rows if (row["data"], row["target"]) == (data, target)):
            strong, total = row["metrics"]["strong"], row["cost"]["time"] * row["epochs"] / EPOCHS
            point = (total, 100 * strong["mean"], 100 * (strong["ci95"] or 0))
            methods.setdefault(row["method"].removesuffix(EQUAL), []).append(point)
        for method, points in methods.items():
            ours = method.startswith(OURS)
            x, y, bars = zip(*sorted(points), strict=True)
            axes.errorbar(x, y, yerr=bars, marker="^" if ours else "s", capsize=2, color="C0" if ours else "C1", lw=0.8)
            if all(abs(math.log(x[-1] / other)) > 0.2 or abs(y[-1] - height) > 1.5 for other, height in named):
                named.append((x[-1], y[-1]))
                axes.annotate(method, (x[-1], y[-1]), xytext=(4, 4), textcoords="offset points", fontsize=7)
        of_all = sorted((total, strong) for points in methods.values() for total, strong, _ in points)
        front = [point for i, point in enumerate(of_all) if all(point[1] > other for _, other in of_all[:i])]
        axes.step(*zip(*front, strict=True), where="post", color="0.5", ls="--", lw=1, label="best so far")
        axes.set(
            title=f"{data}, target {target:.0%}",
            xlabel="time of the training, 30 plain epochs = 1",
            ylabel="strong accuracy, %",
        )
        axes.set_xscale("log")
        axes.grid(alpha=0.3)
        axes.legend()
    return figure
