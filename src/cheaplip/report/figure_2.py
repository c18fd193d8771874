"""The figures of the regression experiment, drawn from the content of its `curves.json`.

`draw_panels`, `draw_discrepancy` and `draw_path` draw on a figure of `style.new_figure`; `write_figures` writes files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..files import write_atomic
from ..run_folder import Json
from .aggregate import MeasuredRow
from .experiment_page import PageSection, Panel, write_experiment_page
from .style import NO_METADATA, PALETTE, finish, new_figure, plain_log_ticks

INK, GREY, BLUE, ORANGE = (PALETTE[name][0] for name in ("ink", "standard", "clip", "weight"))

PANEL_WEIGHTS = (10.0, 1.0, 1e-10, 0.0)
"""The weights of Figure 2, in its order."""

KIND_LABELS = {"sigmoid": "sigmoid output", "squared": "sigmoid, squared Lip", "linear": "linear output"}


def fits_of(curves: Json, kind: str, seed: int | None = None) -> list[Json]:
    """The stored fits of one kind (a key of `KIND_LABELS`, `path` or `discrepancy`), of one seed or of all."""
    return [fit for fit in curves["fits"] if fit["kind"] == kind and seed in (None, fit["seed"])]


def draw_panels(figure: Figure, curves: Json, seed: int = 0) -> None:
    """Figure 2: the data, the truth and the fit for lambda = 10, 1, 1e-10 and 0; one row for each reading."""
    kinds = [kind for kind in KIND_LABELS if fits_of(curves, kind, seed)]
    grid = figure.subplots(len(kinds), len(PANEL_WEIGHTS), sharex=True, sharey=True, squeeze=False)
    for line, kind in zip(grid, kinds, strict=True):
        fits = {fit["lambda"]: fit for fit in fits_of(curves, kind, seed)}
        for axes, weight in zip(line, PANEL_WEIGHTS, strict=True):
            _scene(axes, curves, seed)
            if weight in fits:
                axes.plot(curves["x"], fits[weight]["fit"], color=BLUE, label="fit")
                constant = fits[weight]["lipschitz"]
                text = "Lip < 0.001" if constant < 1e-3 else f"Lip {constant:.3g}"
                axes.text(0.5, 0.97, text, transform=axes.transAxes, ha="center", va="top")
        line[0].set_ylabel(KIND_LABELS[kind])
    for axes, weight in zip(grid[0], PANEL_WEIGHTS, strict=True):
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
    for i, seed in enumerate(sorted({fit["seed"] for fit in fits_of(curves, "path")})):
        fits = fits_of(curves, "path", seed)
        weights, risks, constants = ([fit[name] for fit in fits] for name in ("lambda", "risk", "lipschitz"))
        line = {"linewidth": 1.2, "alpha": 0.75}
        left.plot(risks, constants, color=BLUE, marker="o", markersize=2.5, **line)
        right.plot(weights, risks, color=ORANGE, label=None if i else "risk", **line)
        right.plot(weights, constants, color=BLUE, linestyle=(0, (4, 2)), label=None if i else "Lipschitz constant", **line)
    for i, fit in enumerate(fits_of(curves, "discrepancy")):
        label = None if i else "by discrepancy"
        left.plot(fit["risk"], fit["lipschitz"], "s", color=ORANGE, markersize=5, label=label, zorder=3)
    left.set(xlabel="risk (training loss)", ylabel="Lipschitz constant on [-4, 4]", xscale="log")
    right.set(xlabel="λ", xscale="log", yscale="log")
    # A constant fit has a constant of almost 0, which would stretch the scale.
    right.set_ylim(bottom=1e-4)
    for axis, fine in ((left.xaxis, True), (right.xaxis, False), (right.yaxis, False)):
        plain_log_ticks(axis, fine=fine)
    for axes in (left, right):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=8)


@dataclass(frozen=True)
class FigureSpec:
    """A figure: how it is drawn, its size in inches, the kinds of fits that it needs, its title and text on the page."""

    draw: Callable[[Figure, Json], None]
    size: tuple[float, float]
    kinds: tuple[str, ...]
    title: str
    text: str


PANELS_TEXT = (
    "The same network, trained for λ = 0, then 10, 1 and 1e-10, each from where the one before ended. The paper's "
    "network ends in a sigmoid, which cannot be negative; below it the same with the square of the constant as penalty, as "
    "the authors' code has it, and with a linear output. With the constant itself, λ = 10 and 1 must give flat fits."
)
DISCREPANCY_TEXT = "The discrepancy principle moves λ until the training loss is the variance of the noise."
PATH_TEXT = "A fit for every λ, from the largest to the smallest, each from where the one before ended; one line a seed."
FIGURES = {
    "panels": FigureSpec(draw_panels, (9.0, 5.8), tuple(KIND_LABELS), "Figure 2 of the paper", PANELS_TEXT),
    "discrepancy": FigureSpec(
        draw_discrepancy, (5.2, 3.4), ("linear", "discrepancy"), "The weight found by itself", DISCREPANCY_TEXT
    ),
    "l-curve": FigureSpec(draw_path, (8.0, 3.4), ("path",), "Risk against Lipschitz constant", PATH_TEXT),
}

LEAD = (
    "A curve through noisy data with gaps. How does the weight λ of the Lipschitz penalty shape the fit, how steep does it "
    "become, and does it oscillate where there are no data? The table has a lower and a proved upper end of each fit's "
    "Lipschitz constant on [-4, 4]."
)
SLIDER = "The fits along that path, of the first seed. A larger weight makes the curve flatter and the risk larger."


def _drawings(curves: Json) -> Iterator[tuple[str, FigureSpec, Figure]]:
    """Every figure for whose kinds there are fits, drawn; each must be saved before the next is asked for."""
    for name, spec in FIGURES.items():
        if all(fits_of(curves, kind) for kind in spec.kinds):
            with new_figure(*spec.size) as figure:
                spec.draw(figure, curves)
                yield name, spec, figure


def write_figures(curves: Json, out: Path) -> None:
    """Write every figure for whose kinds there are fits as SVG into `out`."""
    for name, _, figure in _drawings(curves):
        write_atomic(out / f"{name}.svg", partial(figure.savefig, format="svg", metadata=NO_METADATA))


def write_page(curves: Json, rows: Sequence[MeasuredRow], out: Path, provenance: Mapping[str, Any]) -> None:
    """Write `out`/index.html, with every figure for whose kinds there are fits, and the path under a slider."""
    sections = []
    for name, spec, figure in _drawings(curves):
        svg = finish(figure, name, spec.title, _fit_words(curves, spec.kinds))
        # As wide as its figure, so that letters have one size in all of them.
        plot = Markup('<div style="max-width: {:g}rem">{}</div>').format(8 * spec.size[0], svg)
        sections.append(PageSection(spec.title, spec.text, plot))
    if fits_of(curves, "path"):
        sections.append(PageSection("Try it: the fit for every weight", SLIDER, panel=path_panel(curves)))
    title = "Regression, Figure 2"
    write_experiment_page(out, title=title, lead=LEAD, sections=sections, rows=rows, provenance=provenance)


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
    return Panel(drawing.replace(Markup("</svg>"), line), steps)


def _scene(axes: Axes, curves: Json, seed: int) -> None:
    axes.plot(curves["x"], curves["truth"], color=GREY, linewidth=1.2, label="truth")
    for data in curves["data"]:
        if data["seed"] == seed:
            axes.plot(data["x"], data["y"], "o", color=INK, markersize=2.4, label="data")
    axes.xaxis.set_major_locator(MaxNLocator(5))


def _key(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)


def _fit_words(curves: Json, kinds: Sequence[str]) -> str:
    """The first seed's fits of these kinds."""
    fits = [fit for kind in kinds for fit in fits_of(curves, kind, 0)]
    return "; ".join(
        f"{fit['kind']}, λ = {fit['lambda']:.2g}: risk {fit['risk']:.2g}, Lip {fit['lipschitz']:.2g}" for fit in fits
    )
