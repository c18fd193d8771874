"""The page of an experiment that is no grid of runs: its figures, its tables, maybe a path of fits under a slider."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from .measured import MeasuredRow, kind_of
from .render import render, write_text
from .style import finish, new_figure
from .tables import spread_text, value_text


@dataclass(frozen=True)
class Panel:
    """A drawing with one line that a slider moves through `steps`."""

    drawing: Markup  # holds the polyline
    steps: list[dict[str, str]]  # of {label, points}
    first: int  # the step shown at first


@dataclass(frozen=True)
class Part:
    """A heading, a text, and what there is to see."""

    title: str
    text: str
    plots: Sequence[Markup] = ()
    panel: Panel | None = None


def drawn(draw: Callable[[Figure], None], size: tuple[float, float], name: str, title: str, description: str) -> Markup:
    """The figure that `draw` makes, `size` in inches, as an element of the page."""
    with new_figure(width=size[0], height=size[1]) as figure:
        draw(figure)
        svg = finish(figure, name, title, description)
    return Markup('<div style="max-width: {:g}rem">{}</div>').format(8 * size[0], svg)  # letters of one size in all figures


def write_study(
    out: Path, *, title: str, lead: str, parts: Sequence[Part], rows: Sequence[MeasuredRow], provenance: Mapping[str, Any]
) -> None:
    """Write `out`/index.html: the parts, then a table for each value of the rows' first label."""
    tables = [list(members) for _, members in groupby(rows, key=lambda row: next(iter(row.labels.values())))]
    page = render(
        "study.html.j2",
        title=title,
        provenance=provenance,
        lead=lead,
        parts=parts,
        tables=tables,
        kind_of=kind_of,
        value_text=value_text,
        spread_text=spread_text,
    )
    write_text(out / "index.html", page)
