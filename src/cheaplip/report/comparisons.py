"""The plots of the report with a line for each row: Lipschitz brackets, and our means beside the paper's."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.axes import Axes

from ..run_folder import Run
from .aggregate import COLUMNS, Row, metric
from .plots import plain_log_ticks
from .style import MARKERS, PALETTE, Style, finish, new_figure
from .tables import value_text


def published_plot(rows: Sequence[Row], styles: dict[Row, Style], name: str) -> Markup | None:
    """Our mean and its interval, and the printed value, for every accuracy that the paper or its code's README prints."""
    printed = [row for row in rows if row.published]
    columns = [c for c in COLUMNS if c.kind == "percent" and any(c.key in row.published for row in printed)]
    if not columns:
        return None
    with new_figure(width=2.1 + 1.9 * len(columns), height=1.1 + 0.34 * len(printed)) as figure:
        panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        panels[0].set_yticks(range(len(printed)), [_short(row.label) for row in printed])
        panels[0].set_ylim(len(printed) - 0.4, -0.6)
        for axes, column in zip(panels, columns, strict=True):
            axes.set_xlabel(f"{column.title}, %")
            for place, row in enumerate(printed):
                colour, marker = PALETTE[styles[row].colour][0], MARKERS[styles[row].colour]
                if column.key in row.published:
                    axes.plot([100 * row.published[column.key]], [place], marker="x", color=PALETTE["ink"][0], markersize=6)
                if (ours := row.metrics.get(column.key)) is not None:
                    half = 100 * (ours.ci95 or 0)
                    axes.errorbar([100 * ours.mean], [place], xerr=[half], fmt=marker, color=colour, markersize=5, capsize=2)
        words = " ".join(f"{row.label}: {_printed_words(row)}." for row in printed)
        return finish(figure, f"{name}-published", "Our means with their intervals, and the printed values as crosses", words)


def _printed_words(row: Row) -> str:
    pairs = [(c.title, row.metrics.get(c.key), row.published.get(c.key)) for c in COLUMNS if c.kind == "percent"]
    return ", ".join(
        f"{title} {value_text(ours.mean, 'percent')} against {value_text(printed, 'percent')}"
        for title, ours, printed in pairs
        if ours is not None and printed is not None
    )


def bracket_plot(rows: Sequence[Row], styles: dict[Row, Style], name: str) -> Markup | None:
    """A bar from the lower to the upper bound of the Lipschitz constant, one for each run, on a log scale."""
    bounded = [row for row in rows if any(_bounds(run)[0] for run in row.runs)]
    if not bounded:
        return None
    ends = [value for row in bounded for run in row.runs for value in _bounds(run) if value]
    room = 1.5 * (max(ends) / min(ends)) ** 0.14  # for the numbers at the ends
    low, high = min(ends) / room, max(ends) * room
    with new_figure(width=5.2, height=0.9 + 0.52 * len(bounded)) as figure:
        axes = figure.add_subplot(xlabel="Lipschitz constant (log scale)", xscale="log", xlim=(low, high))
        axes.set_yticks(range(len(bounded)), [_short(row.label) for row in bounded])
        axes.set_ylim(len(bounded) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        plain_log_ticks(axes.xaxis, high / low)
        for place, row in enumerate(bounded):
            _draw_brackets(axes, place, row, styles[row], high)
        words = " ".join(f"{row.label}: {_bracket_words(row)}." for row in bounded)
        return finish(figure, f"{name}-bracket", "Lower and upper bound of the Lipschitz constant", words)


def _draw_brackets(axes: Axes, place: int, row: Row, style: Style, far: float) -> None:
    colour = PALETTE[style.colour][0]
    brackets = [(lower, upper) for lower, upper in map(_bounds, row.runs) if lower]
    step = 0.6 / len(brackets)
    for i, (lower, upper) in enumerate(brackets):
        y = place + (i - (len(brackets) - 1) / 2) * step
        axes.plot([lower, upper or far], [y, y], color=colour, linewidth=min(7.0, 28 * step), alpha=0.4, solid_capstyle="butt")
        axes.plot([lower], [y], "|", color=colour, markersize=min(13.0, 40 * step), markeredgewidth=2)
        if upper:
            axes.plot([upper], [y], "|", color=colour, markersize=min(13.0, 40 * step), markeredgewidth=2)
    lowest, highest = min(lower for lower, _ in brackets), max((upper or far) for _, upper in brackets)
    lower_mean, upper_mean = (row.metrics.get(f"lipschitz_{side}") for side in ("lower", "upper"))
    if lower_mean:
        text = value_text(lower_mean.mean, "lower")
        axes.annotate(text, (lowest, place), (-6, 0), textcoords="offset points", ha="right", va="center", fontsize=8)
    if upper_mean and highest < far:
        text = value_text(upper_mean.mean, "upper")
        axes.annotate(text, (highest, place), (6, 0), textcoords="offset points", ha="left", va="center", fontsize=8)


def _bounds(run: Run) -> tuple[float | None, float | None]:
    """Lower and upper bound where they have a place on a log scale."""
    lower, upper = metric(run, "lipschitz_lower"), metric(run, "lipschitz_upper")
    return lower if lower and lower > 0 else None, upper if upper and upper > 0 else None


def _short(name: str) -> str:
    return name if len(name) <= 32 else name[:31] + "…"


def _bracket_words(row: Row) -> str:
    lower, upper = row.metrics.get("lipschitz_lower"), row.metrics.get("lipschitz_upper")
    low = "no lower bound" if lower is None else f"at least {value_text(lower.mean, 'lower')}"
    return f"{low}, " + ("no upper bound" if upper is None else f"at most {value_text(upper.mean, 'upper')}")
