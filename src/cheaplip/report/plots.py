"""The plots of the run page. Each function returns an empty list where the runs hold no data for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ..run_folder import Run
from .aggregate import COLUMNS, Column, Row
from .run_values import distinct, metrics, numbers, points
from .style import MARKERS, PALETTE, Style, finish, new_figure, plain_log_ticks
from .tables import kind_of, value_text

INK = PALETTE["ink"][0]


@dataclass(frozen=True)
class _Line:
    row: Row
    x: list[float]
    mean: list[float]
    low: list[float]  # over the seeds
    high: list[float]


def training_plots(rows: Sequence[Row], styles: dict[Row, Style], name: str) -> list[Markup]:
    """Loss and accuracy over the epochs."""
    plots = []
    for key, unit, scale in (("loss", "", 1), ("accuracy", ", %", 100)):
        if lines := _history_lines(rows, f"train_{key}", scale):
            with new_figure() as figure:
                axes = figure.add_subplot(xlabel="epoch", ylabel=f"training {key}{unit}")
                if key == "loss":
                    _log_if_wide(axes, lines)
                _draw(axes, lines, styles)
                plots.append(finish(figure, f"{name}-{key}", f"Training {key} over the epochs", _line_words(lines)))
    return plots


def eps_plot(rows: Sequence[Row], styles: dict[Row, Style], name: str) -> list[Markup]:
    """Accuracy under the strong attack against the attack's length."""
    lines = _eps_lines(rows, "curve", "strong_accuracy")
    if not lines:
        return []
    with new_figure(width=5.2) as figure:
        axes = figure.add_subplot(xlabel="length of the attack, eps", ylabel="strong accuracy, %", ylim=(0, 100))
        for eps in distinct([numbers(run.result.get("evaluation")).get("eps") for row in rows for run in row.runs]):
            axes.axvline(eps, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
        _draw(axes, lines, styles, markers=True)
        return [finish(figure, f"{name}-eps", "Accuracy under the strong attack against eps", _line_words(lines))]


def certified_plot(rows: Sequence[Row], styles: dict[Row, Style], name: str) -> list[Markup]:
    """Certified accuracy against eps for the rows that have one, by local radii too, and the strong accuracy above it."""
    certified = _eps_lines(rows, "certified", "certified_accuracy")
    if not certified:
        return []
    locally = _eps_lines([line.row for line in certified], "certified_locally", "certified_accuracy")
    attacked = _eps_lines([line.row for line in certified], "curve", "strong_accuracy")
    largest = max(line.x[-1] for line in certified)
    with new_figure(width=5.2) as figure:
        axes = figure.add_subplot(xlabel="eps", ylabel="accuracy, %", ylim=(0, 100))
        _draw(axes, certified, styles, markers=True)
        for line in attacked:
            end = sum(x <= largest for x in line.x)
            _draw_thin(axes, line.x[:end], line.mean[:end], styles[line.row])
        for line in locally:
            style = styles[line.row]
            axes.plot(line.x, line.mean, color=style.ink, linewidth=1.2, linestyle=(0, (4, 2)), marker=MARKERS[style.colour])
        local = f" Certified locally. {_line_words(locally)}" if locally else ""
        words = f"Certified. {_line_words(certified)}{local} Attacked. {_line_words(attacked)}"
        return [finish(figure, f"{name}-certified", "Certified accuracy, and accuracy under the strong attack above it", words)]


def closing_plot(rows: Sequence[Row], styles: dict[Row, Style], name: str) -> list[Markup]:
    """The two ends of the bracket over the epochs, for the rows that were trained with a certificate."""
    uppers = {line.row: line for line in _history_lines(rows, "upper_bound")}
    lowers = _history_lines(list(uppers), "lower_bound")
    if not lowers:
        return []
    with new_figure(width=5.2) as figure:
        axes = figure.add_subplot(xlabel="epoch", ylabel="Lipschitz constant")
        _log_if_wide(axes, [*uppers.values(), *lowers])
        _draw(axes, list(uppers.values()), styles)
        for lower in lowers:
            style = styles[lower.row]
            _draw_thin(axes, lower.x, lower.mean, style)
            above, below = (dict(zip(line.x, line.mean, strict=True)) for line in (uppers[lower.row], lower))
            x = [epoch for epoch in above if epoch in below]
            axes.fill_between(x, [below[e] for e in x], [above[e] for e in x], color=style.ink, alpha=0.1, linewidth=0)
        words = f"Upper end. {_line_words(list(uppers.values()))} Lower end. {_line_words(lowers)}"
        return [finish(figure, f"{name}-closing", "The bracket over the epochs", words)]


def tuning_plot(rows: Sequence[Row], styles: dict[Row, Style], name: str) -> list[Markup]:
    """Weight over the training accuracy (or loss) against the epochs, for the rows that have a target."""
    tuned = [row for row in rows if row.steered_to is not None]
    weight = [line for line in _history_lines(tuned, "weight") if any(value > 0 for value in line.high)]
    loss = any(row.regression for row in tuned)
    scale, name_of_y = (1, "training loss") if loss else (100, "training accuracy, %")
    lines = _history_lines(tuned, "train_loss" if loss else "train_accuracy", scale)
    if not weight or not lines:
        return []
    with new_figure(width=5.2, height=4.6) as figure:
        top, bottom = figure.subplots(2, 1, sharex=True)
        top.set_ylabel("weight")
        _log_if_wide(top, weight)
        _draw(top, weight, styles)
        bottom.set(xlabel="epoch", ylabel=name_of_y)
        targets = {scale * row.steered_to: row.target_text for row in tuned if row.steered_to is not None}
        for i, (target, text) in enumerate(sorted(targets.items())):
            bottom.axhline(target, color=INK, linewidth=1, linestyle=(0, (5, 4)))
            aside = (4 + 32 * (i % 2), 0)  # neighbours may be close
            bottom.annotate(text, (1, target), aside, ("axes fraction", "data"), "offset points", fontsize=8, va="center")
        _draw(bottom, lines, styles)
        # The axis is limited to what lies near the targets; the first epochs may be outside.
        near = [*targets, *(value for line in lines for value in (line.low[-1], line.high[-1]))]
        bottom.set_ylim(*((0, 3 * max(near)) if loss else (max(0, min(near) - 15), min(101, max(near) + 4))))
        words = f"Weight. {_line_words(weight)} {name_of_y.capitalize()}. {_line_words(lines)}"
        return [finish(figure, f"{name}-tuning", "Weight and training result against the target", words)]


def _history_lines(rows: Sequence[Row], key: str, scale: float = 1) -> list[_Line]:
    """`scale` times `key` against the epoch."""
    return _lines(rows, lambda run: points(run.history, "epoch", key), scale)


def _eps_lines(rows: Sequence[Row], curve: str, key: str) -> list[_Line]:
    """`key` in percent against eps."""
    return _lines(rows, lambda run: points(run.result.get(curve), "eps", key), 100)


def _lines(rows: Sequence[Row], curve: Callable[[Run], dict[float, float]], scale: float) -> list[_Line]:
    """The curves of each row's seeds, at the places that all seeds with a curve have."""
    lines = []
    for row in rows:
        seeds = [found for run in row.runs if (found := curve(run))]
        x = sorted(set.intersection(*map(set, seeds))) if seeds else []
        if x:
            values = [[scale * seed[at] for seed in seeds] for at in x]
            means = [math.fsum(v) / len(v) for v in values]
            lines.append(_Line(row, x, means, [min(v) for v in values], [max(v) for v in values]))
    return lines


def _line_words(lines: Sequence[_Line]) -> str:
    return " ".join(
        f"{line.row.label}: from {line.mean[0]:.3g} at {line.x[0]:g} to {line.mean[-1]:.3g} at {line.x[-1]:g}."
        for line in lines
    )


def _draw(axes: Axes, lines: Sequence[_Line], styles: dict[Row, Style], *, markers: bool = False) -> None:
    for line in lines:
        style = styles[line.row]
        marker = MARKERS[style.colour] if markers or len(line.x) == 1 else ""
        if len(line.row.runs) > 1:
            axes.fill_between(line.x, line.low, line.high, color=style.ink, alpha=0.18, linewidth=0)
        axes.plot(line.x, line.mean, color=style.ink, linestyle=style.line, marker=marker, markersize=5)
    if not markers:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def _draw_thin(axes: Axes, x: Sequence[float], y: Sequence[float], style: Style) -> None:
    axes.plot(x, y, color=style.ink, linewidth=0.9, linestyle=style.line)


def _log_if_wide(axes: Axes, lines: Sequence[_Line]) -> None:
    """A log scale where the positive values span more than a factor of 10; zeros (a warm-up's weight) are left out."""
    positive = [value for line in lines for value in line.mean if value > 0]
    if positive and max(positive) > 10 * min(positive):
        axes.set_yscale("log", nonpositive="mask")
        axes.set_ylabel(axes.get_ylabel() + " (log scale)")
        plain_log_ticks(axes.yaxis, fine=max(positive) < 1e3 * min(positive))


def published_plot(rows: Sequence[Row], styles: dict[Row, Style], name: str) -> list[Markup]:
    """Our mean and its interval, and the printed value, for every accuracy that the paper or its code's README prints."""
    printed = [row for row in rows if row.published]
    columns = [c for c in COLUMNS if c.kind == "percent" and any(c.key in row.published for row in printed)]
    if not columns:
        return []
    with new_figure(width=2.1 + 1.9 * len(columns), height=1.1 + 0.34 * len(printed)) as figure:
        panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        _set_places(panels[0], printed)
        for axes, column in zip(panels, columns, strict=True):
            axes.set_xlabel(f"{column.title}, %")
            for place, row in enumerate(printed):
                if column.key in row.published:
                    axes.plot([100 * row.published[column.key]], [place], marker="x", color=INK, markersize=6)
                if (ours := row.metrics.get(column.key)) is not None:
                    look = {"fmt": MARKERS[styles[row].colour], "color": styles[row].ink, "markersize": 5, "capsize": 2}
                    axes.errorbar([100 * ours.mean], [place], xerr=[100 * (ours.ci95 or 0)], **look)
        words = " ".join(f"{row.label}: {', '.join(_published_words(row, columns))}." for row in printed)
        return [finish(figure, f"{name}-published", "Our means with their intervals, and the printed values as crosses", words)]


def _published_words(row: Row, columns: Sequence[Column]) -> list[str]:
    return [
        f"{c.title} {value_text(row.metrics[c.key].mean, c.kind)} against {value_text(row.published[c.key], c.kind)}"
        for c in columns
        if c.key in row.metrics and c.key in row.published
    ]


def bracket_plot(rows: Sequence[Row], styles: dict[Row, Style], name: str) -> list[Markup]:
    """A bar from the lower to the upper bound of the Lipschitz constant, one for each run, on a log scale."""
    brackets = {row: found for row in rows if (found := [bracket for run in row.runs if (bracket := _bracket(run))])}
    if not brackets:
        return []
    ends = [end for found in brackets.values() for bracket in found for end in bracket if end < math.inf]
    room = 1.5 * (max(ends) / min(ends)) ** 0.14  # for the numbers at the ends
    left, right = min(ends) / room, max(ends) * room
    with new_figure(width=5.2, height=0.9 + 0.52 * len(brackets)) as figure:
        axes = figure.add_subplot(xlabel="Lipschitz constant (log scale)", xscale="log", xlim=(left, right))
        _set_places(axes, list(brackets))
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        plain_log_ticks(axes.xaxis, fine=right < 1e3 * left)
        for place, (row, found) in enumerate(brackets.items()):
            _draw_brackets(axes, place, row, found, styles[row].ink)
        words = " ".join(f"{row.label}: {_bracket_words(row)}." for row in brackets)
        return [finish(figure, f"{name}-bracket", "Lower and upper bound of the Lipschitz constant", words)]


def _bracket(run: Run) -> tuple[float, float] | None:
    """Lower and upper bound on a log scale, the upper one infinite if there is none; None without a lower one."""
    lower, upper = (metrics(run).get(f"lipschitz_{side}", 0.0) for side in ("lower", "upper"))
    return (lower, upper if upper > 0 else math.inf) if lower > 0 else None


def _draw_brackets(axes: Axes, place: int, row: Row, brackets: Sequence[tuple[float, float]], colour: str) -> None:
    """The bars of a row's runs, one below the other; a bar without an upper bound runs out of the plot."""
    step = 0.6 / len(brackets)
    for i, bracket in enumerate(brackets):
        y = place + (i - (len(brackets) - 1) / 2) * step
        bar = [min(end, axes.get_xlim()[1]) for end in bracket]
        axes.plot(bar, [y, y], color=colour, linewidth=min(7.0, 28 * step), alpha=0.4, solid_capstyle="butt")
        for end in bracket:
            if end < math.inf:
                axes.plot([end], [y], "|", color=colour, markersize=min(13.0, 40 * step), markeredgewidth=2)
    lowest, highest = min(lower for lower, _ in brackets), max(upper for _, upper in brackets)
    for key, end, align, aside in (("lipschitz_lower", lowest, "right", -6), ("lipschitz_upper", highest, "left", 6)):
        if end < math.inf:
            text = value_text(row.metrics[key].mean, kind_of(key))
            axes.annotate(text, (end, place), (aside, 0), textcoords="offset points", ha=align, va="center", fontsize=8)


def _bracket_words(row: Row) -> str:
    lower, upper = row.metrics.get("lipschitz_lower"), row.metrics.get("lipschitz_upper")
    low = "no lower bound" if lower is None else f"at least {value_text(lower.mean, 'lower')}"
    return f"{low}, " + ("no upper bound" if upper is None else f"at most {value_text(upper.mean, 'upper')}")


def _set_places(axes: Axes, rows: Sequence[Row]) -> None:
    """Give each row a place on the vertical axis, the first on top."""
    labels = [row.label for row in rows]
    axes.set_yticks(range(len(rows)), [label if len(label) <= 32 else label[:31] + "…" for label in labels])
    axes.set_ylim(len(rows) - 0.4, -0.6)
