"""The curves of the report. Each function returns nothing to show where the runs hold no data for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from .aggregate import Row, distinct, mapping, number
from .style import MARKERS, PALETTE, Style, finish, new_figure


@dataclass(frozen=True)
class _Line:
    row: Row
    x: list[float]
    mean: list[float]
    low: list[float]  # over the seeds
    high: list[float]


def training_plots(rows: Sequence[Row], styles: dict[Row, Style], name: str) -> list[Markup]:
    """Loss and accuracy over the epochs."""
    loss = _history_lines(rows, "train_loss")
    accuracy = _history_lines(rows, "train_accuracy", scale=100)
    plots = []
    if loss:
        with new_figure() as figure:
            axes = figure.add_subplot(xlabel="epoch", ylabel="training loss")
            _log_if_wide(axes, loss)
            _draw(axes, loss, styles)
            plots.append(finish(figure, f"{name}-loss", "Training loss over the epochs", _in_words(loss)))
    if accuracy:
        with new_figure() as figure:
            axes = figure.add_subplot(xlabel="epoch", ylabel="training accuracy, %")
            _draw(axes, accuracy, styles)
            plots.append(finish(figure, f"{name}-accuracy", "Training accuracy over the epochs", _in_words(accuracy)))
    return plots


def eps_plot(rows: Sequence[Row], styles: dict[Row, Style], name: str) -> Markup | None:
    """Accuracy under the strong attack against the attack's length."""
    lines = [line for row in rows if (line := _curve_line(row)) is not None]
    if not lines:
        return None
    with new_figure(width=5.2) as figure:
        axes = figure.add_subplot(xlabel="length of the attack, eps", ylabel="strong accuracy, %", ylim=(0, 100))
        for eps in distinct([mapping(run.result.get("evaluation")).get("eps") for row in rows for run in row.runs]):
            if (place := number(eps)) is not None:
                axes.axvline(place, color=PALETTE["ink"][0], linewidth=0.8, linestyle=(0, (1, 2)))
        _draw(axes, lines, styles, markers=True)
        return finish(figure, f"{name}-eps", "Accuracy under the strong attack against eps", _in_words(lines))


def certified_plot(rows: Sequence[Row], styles: dict[Row, Style], name: str) -> Markup | None:
    """Certified accuracy against eps for the rows that have one, and above it the accuracy under the strong attack."""
    proved = [line for row in rows if (line := _curve_line(row, "certified", "certified_accuracy")) is not None]
    if not proved:
        return None
    with new_figure(width=5.2) as figure:
        axes = figure.add_subplot(xlabel="eps", ylabel="accuracy, %", ylim=(0, 100))
        furthest = max(line.x[-1] for line in proved)
        attacked = [line for one in proved if (line := _curve_line(one.row)) is not None]
        _draw(axes, proved, styles, markers=True)
        for line in attacked:
            near = [i for i, x in enumerate(line.x) if x <= furthest]
            x, y = [line.x[i] for i in near], [line.mean[i] for i in near]
            axes.plot(x, y, color=PALETTE[styles[line.row].colour][0], linewidth=0.9, linestyle=styles[line.row].line)
        words = f"Certified. {_in_words(proved)} Attacked. {_in_words(attacked)}"
        return finish(figure, f"{name}-certified", "Certified accuracy, and accuracy under the strong attack above it", words)


def closing_plot(rows: Sequence[Row], styles: dict[Row, Style], name: str) -> Markup | None:
    """The bracket over the epochs, for the rows that were trained with a certificate: upper end, lower end, what is between."""
    uppers = _history_lines(rows, "upper_bound")
    lowers = {line.row: line for line in _history_lines([line.row for line in uppers], "lower_bound")}
    if not lowers:
        return None
    with new_figure(width=5.2) as figure:
        axes = figure.add_subplot(xlabel="epoch", ylabel="Lipschitz constant")
        _log_if_wide(axes, [*uppers, *lowers.values()])
        _draw(axes, uppers, styles)
        for upper in uppers:
            lower, colour = lowers[upper.row], PALETTE[styles[upper.row].colour][0]
            axes.plot(lower.x, lower.mean, color=colour, linewidth=0.9, linestyle=styles[upper.row].line)
            above, below = (dict(zip(line.x, line.mean, strict=True)) for line in (upper, lower))
            x = [epoch for epoch in upper.x if epoch in below]
            axes.fill_between(x, [below[e] for e in x], [above[e] for e in x], color=colour, alpha=0.1, linewidth=0)
        words = f"Upper end. {_in_words(uppers)} Lower end. {_in_words(list(lowers.values()))}"
        return finish(figure, f"{name}-closing", "The bracket over the epochs", words)


def tuning_plot(rows: Sequence[Row], styles: dict[Row, Style], name: str) -> Markup | None:
    """Weight over the training accuracy (or loss) against the epochs, for the rows that have a target."""
    tuned = [row for row in rows if row.target is not None]
    weight = [line for line in _history_lines(tuned, "weight") if any(value > 0 for value in line.high)]
    loss = any(row.regression for row in tuned)
    scale, name_of_y = (1, "training loss") if loss else (100, "training accuracy, %")
    lines = _history_lines(tuned, "train_loss" if loss else "train_accuracy", scale=scale)
    if not weight or not lines:
        return None
    with new_figure(width=5.2, height=4.6) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True)
        top.set_ylabel("weight")
        _log_if_wide(top, weight)
        _draw(top, weight, styles)
        bottom.set(xlabel="epoch", ylabel=name_of_y)
        targets = {scale * row.target: row.target_text for row in tuned if row.target is not None}
        for i, (target, text) in enumerate(sorted(targets.items())):
            bottom.axhline(target, color=PALETTE["ink"][0], linewidth=1, linestyle=(0, (5, 4)))
            aside = (4 + 32 * (i % 2), 0)  # neighbours may be close
            bottom.annotate(text, (1, target), aside, ("axes fraction", "data"), "offset points", fontsize=8, va="center")
        _draw(bottom, lines, styles)
        # What happens near the targets is what matters; the first epochs may be out of sight.
        near = [*targets, *(value for line in lines for value in (line.low[-1], line.high[-1]))]
        if loss:
            bottom.set_ylim(0, 3 * max(near))
        else:
            bottom.set_ylim(max(0, min(near) - 15), min(101, max(near) + 4))
        words = f"Weight. {_in_words(weight)} {name_of_y.capitalize()}. {_in_words(lines)}"
        return finish(figure, f"{name}-tuning", "Weight and training result against the target", words)


def _history_lines(rows: Sequence[Row], key: str, *, scale: float = 1) -> list[_Line]:
    """`key` against the epoch, at the epochs that all seeds of a row have."""
    lines = []
    for row in rows:
        histories = [_points(run.history, "epoch", key, scale) for run in row.runs]
        if (line := _over_seeds(row, histories)) is not None:
            lines.append(line)
    return lines


def _curve_line(row: Row, key: str = "curve", value: str = "strong_accuracy") -> _Line | None:
    curves = [run.result.get(key) for run in row.runs]
    points = [_points(curve, "eps", value, 100) for curve in curves if isinstance(curve, list)]
    return _over_seeds(row, points)


def _points(records: Sequence[object], x: str, y: str, scale: float) -> dict[float, float]:
    pairs = [(number(mapping(record).get(x)), number(mapping(record).get(y))) for record in records]
    return {at: scale * value for at, value in pairs if at is not None and value is not None}


def _over_seeds(row: Row, seeds: Sequence[dict[float, float]]) -> _Line | None:
    seeds = [seed for seed in seeds if seed]
    common = sorted(set.intersection(*(set(seed) for seed in seeds))) if seeds else []
    if not common:
        return None
    values = [[seed[x] for seed in seeds] for x in common]
    means = [math.fsum(v) / len(v) for v in values]
    return _Line(row, common, means, [min(v) for v in values], [max(v) for v in values])


def _in_words(lines: Sequence[_Line]) -> str:
    return " ".join(
        f"{line.row.label}: from {line.mean[0]:.3g} at {line.x[0]:g} to {line.mean[-1]:.3g} at {line.x[-1]:g}."
        for line in lines
    )


def _draw(axes: Axes, lines: Sequence[_Line], styles: dict[Row, Style], *, markers: bool = False) -> None:
    for line in lines:
        style = styles[line.row]
        colour = PALETTE[style.colour][0]
        marker = MARKERS[style.colour] if markers or len(line.x) == 1 else ""
        if len(line.row.runs) > 1:
            axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
        axes.plot(line.x, line.mean, color=colour, linestyle=style.line, marker=marker, markersize=5)
    if not markers:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def _log_if_wide(axes: Axes, lines: Sequence[_Line]) -> None:
    """A log scale where the positive values span more than a factor of 10; zeros (a warm-up's weight) are left out."""
    positive = [value for line in lines for value in line.mean if value > 0]
    if positive and max(positive) > 10 * min(positive):
        axes.set_yscale("log", nonpositive="mask")
        axes.set_ylabel(axes.get_ylabel() + " (log scale)")
        plain_log_ticks(axes.yaxis, max(positive) / min(positive))


def plain_log_ticks(axis: Axis, span: float) -> None:
    """Ticks of a log scale that spans the factor `span`, written as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 1e3 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # 0.01, not a power typeset as a picture
    axis.set_minor_locator(NullLocator())
