"""The figures of the regression experiment, drawn from the content of its `curves.json`.

`draw_panels`, `draw_discrepancy` and `draw_path` draw on a figure of `drawing.new_figure`; `write_figures` makes files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ..run_folder import Json, write_atomic
from .experiment_page import Panel, Part, drawn, write_study
from .measured import MeasuredRow
from .style import PALETTE, finish, new_figure

INK, FAINT, GREY, BLUE, ORANGE = (PALETTE[name][0] for name in ("ink", "faint", "standard", "clip", "weight"))

PANELS = (10.0, 1.0, 1e-10, 0.0)
"""The weights of Figure 2, in its order."""

ROWS = {"sigmoid": "sigmoid output", "squared": "sigmoid, squared Lip", "linear": "linear output"}


def fits_of(curves: Json, kind: str, seed: int | None = None) -> list[Json]:
    """The stored fits of one kind (a key of `ROWS`, `path` or `discrepancy`), of one seed or of all."""
    return [fit for fit in curves["fits"] if fit["kind"] == kind and seed in (None, fit["seed"])]


def draw_panels(figure: Figure, curves: Json, seed: int = 0) -> None:
    """Figure 2: the data, the truth and the fit for lambda = 10, 1, 1e-10 and 0; one row for each reading."""
    kinds = [kind for kind in ROWS if fits_of(curves, kind, seed)]
    grid = figure.subplots(len(kinds), len(PANELS), sharex=True, sharey=True, squeeze=False)
    for line, kind in zip(grid, kinds, strict=True):
        fits = {fit["lambda"]: fit for fit in fits_of(curves, kind, seed)}
        for axes, weight in zip(line, PANELS, strict=True):
            _scene(axes, curves, seed)
            if weight in fits:
                axes.plot(curves["x"], fits[weight]["fit"], color=BLUE, label="fit")
                constant = fits[weight]["lipschitz"]
                text = "Lip < 0.001" if constant < 1e-3 else f"Lip {constant:.3g}"
                axes.text(0.5, 0.97, text, transform=axes.transAxes, ha="center", va="top")
        line[0].set_ylabel(ROWS[kind])
    for axes, weight in zip(grid[0], PANELS, strict=True):
        axes.set_title(f"λ = {weight:g}", fontsize=10)
    _key(figure, grid[0][0])


def draw_discrepancy(figure: Figure, curves: Json, seed: int = 0) -> None:
    """The fit whose weight the discrepancy principle found, beside the one without a penalty."""
    axes = figure.add_subplot(xlabel="x")
    _scene(axes, curves, seed)
    (plain,) = [fit for fit in fits_of(curves, "linear", seed) if fit["lambda"] == 0]
    (found,) = fits_of(curves, "discrepancy", seed)
    for fit, colour, dashes in ((plain, ORANGE, (0, (4, 2))), (found, BLUE, "-")):
        label = f"λ = {fit['lambda']:.2g}: Lip {fit['lipschitz']:.2g}"
        axes.plot(curves["x"], fit["fit"], color=colour, linestyle=dashes, label=label)
    _key(figure, axes)


def draw_path(figure: Figure, curves: Json) -> None:
    """The L-curve: constant against risk over all weights, one line a seed, the fit by discrepancy marked on it."""
    left, right = figure.subplots(1, 2)
    seeds = sorted({fit["seed"] for fit in fits_of(curves, "path")})
    for seed in seeds:
        fits = fits_of(curves, "path", seed)
        weights, risks, constants = ([fit[name] for fit in fits] for name in ("lambda", "risk", "lipschitz"))
        shown = {"linewidth": 1.2, "alpha": 0.75}
        left.plot(risks, constants, color=BLUE, marker="o", markersize=2.5, **shown)
        right.plot(weights, risks, color=ORANGE, label="risk" if seed == seeds[0] else None, **shown)
        label = "Lipschitz constant" if seed == seeds[0] else None
        right.plot(weights, constants, color=BLUE, linestyle=(0, (4, 2)), label=label, **shown)
    for i, fit in enumerate(fits_of(curves, "discrepancy")):
        label = "by discrepancy" if i == 0 else None
        left.plot(fit["risk"], fit["lipschitz"], "s", color=ORANGE, markersize=5, label=label, zorder=3)
    left.set(xlabel="risk (training loss)", ylabel="Lipschitz constant on [-4, 4]", xscale="log")
    right.set(xlabel="λ", xscale="log", yscale="log")
    # constants of almost 0, where the fit is constant, would stretch the scale until nothing else can be seen
    right.set_ylim(bottom=1e-4)
    _decades(left.xaxis, subs=(1, 2, 5))
    _decades(right.xaxis)
    _decades(right.yaxis)
    for axes in (left, right):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)


FIGURES: dict[str, tuple[Callable[[Figure, Json], None], float, float]] = {
    "panels": (draw_panels, 9.0, 5.8),
    "discrepancy": (draw_discrepancy, 5.2, 3.4),
    "l-curve": (draw_path, 8.0, 3.4),
}
"""Name -> how it is drawn, and its size in inches."""


NEEDS = {"panels": ("sigmoid", "squared", "linear"), "discrepancy": ("linear", "discrepancy"), "l-curve": ("path",)}
"""The kinds of fits that a figure shows."""

LEAD = (
    "A curve through noisy data with gaps. How does the weight λ of the Lipschitz penalty shape the fit, how steep does it "
    "become, and does it oscillate where there are no data? The table has a lower and a proved upper end of each fit's "
    "Lipschitz constant on [-4, 4]."
)
TEXTS = {
    "panels": (
        "Figure 2 of the paper",
        "The same network, trained for λ = 0, then 10, 1 and 1e-10, each from where the one before ended. The paper's "
        "network ends in a sigmoid, which cannot be negative; below it the same with the square of the constant as penalty, as "
        "the authors' code has it, and with a linear output. With the constant itself, λ = 10 and 1 must give flat fits.",
    ),
    "discrepancy": (
        "The weight found by itself",
        "The discrepancy principle moves λ until the training loss is the variance of the noise.",
    ),
    "l-curve": (
        "Risk against Lipschitz constant",
        "A fit for every λ, from the largest to the smallest, each from where the one before ended; one line a seed.",
    ),
}
SLIDER = "The fits along that path, of the first seed. A larger weight makes the curve flatter and the risk larger."


def write_page(curves: Json, rows: Sequence[MeasuredRow], out: Path, provenance: Mapping[str, Any]) -> None:
    """Write `out`/index.html, with every figure for whose parts there are curves, and the path under a slider."""
    parts = []
    for name, (draw, width, height) in FIGURES.items():
        title, text = TEXTS[name]
        if all(fits_of(curves, kind) for kind in NEEDS[name]):
            plot = drawn(lambda figure: draw(figure, curves), (width, height), name, title, _in_words(curves, NEEDS[name]))  # noqa: B023
            parts.append(Part(title, text, [plot]))
    if fits_of(curves, "path"):
        parts.append(Part("Try it: the fit for every weight", SLIDER, panel=path_panel(curves)))
    write_study(out, title="Regression, Figure 2", lead=LEAD, parts=parts, rows=rows, provenance=provenance)


def path_panel(curves: Json, seed: int = 0) -> Panel:
    """Data, truth and the fit of one seed along the path, from the smallest weight to the largest."""
    fits = sorted(fits_of(curves, "path", seed), key=lambda fit: float(fit["lambda"]))
    with new_figure(width=6.4, height=3.6) as figure:
        figure.set_layout_engine("none")  # places are fixed, so that the lines can be laid over the drawing
        axes = figure.add_axes((0.08, 0.13, 0.9, 0.83))
        axes.set(xlabel="x")
        _scene(axes, curves, seed)
        for fit in fits:
            axes.plot(curves["x"], fit["fit"], alpha=0)  # for the limits
        axes.legend(frameon=False, loc="upper center", ncols=2)
        axes.autoscale_view()
        scale, height = 72 / figure.dpi, 72 * figure.get_size_inches()[1]
        steps = []
        for fit in fits:
            points = scale * axes.transData.transform(list(zip(curves["x"], fit["fit"], strict=True)))
            label = f"λ = {fit['lambda']:.3g}: risk {fit['risk']:.3g}, Lipschitz constant {fit['lipschitz']:.3g}"
            steps.append({"label": label, "points": " ".join(f"{x:.1f},{height - y:.1f}" for x, y in points)})
        drawing = finish(figure, "path", "Data, truth and the fit for one weight", "Move the slider for another weight.")
    line = Markup('<polyline fill="none" stroke="var(--clip)" stroke-width="1.8" points="{}"/></svg>').format(
        steps[0]["points"]
    )
    return Panel(drawing.replace(Markup("</svg>"), line), steps, 0)


def write_figures(curves: Json, out: Path) -> None:
    """Write every figure for whose parts there are curves as SVG into `out`."""
    for name, (draw, width, height) in FIGURES.items():
        if not all(fits_of(curves, kind) for kind in NEEDS[name]):
            continue
        with new_figure(width=width, height=height) as figure:
            draw(figure, curves)
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            write_atomic(out / f"{name}.svg", lambda path: figure.savefig(path, format="svg", metadata=nothing))  # noqa: B023


def _scene(axes: Axes, curves: Json, seed: int) -> None:
    axes.plot(curves["x"], curves["truth"], color=GREY, linewidth=1.2, label="truth")
    for data in curves["data"]:
        if data["seed"] == seed:
            axes.plot(data["x"], data["y"], "o", color=INK, markersize=2.4, label="data")
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _key(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)


def _decades(axis: Axis, subs: tuple[int, ...] = (1,)) -> None:
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # 0.01, not a power typeset as a picture
    axis.set_minor_locator(NullLocator())


def _in_words(curves: Json, kinds: Sequence[str]) -> str:
    """The first seed's fits of these kinds."""
    fits = [fit for kind in kinds for fit in fits_of(curves, kind, 0)]
    return "; ".join(
        f"{fit['kind']}, λ = {fit['lambda']:.2g}: risk {fit['risk']:.2g}, Lip {fit['lipschitz']:.2g}" for fit in fits
    )
