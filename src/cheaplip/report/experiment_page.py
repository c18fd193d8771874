"""The page of an experiment that is no grid of training runs: sections with figures, then the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..run_folder import write_text
from .aggregate import MeasuredRow
from .render import render
from .tables import by_first_label


@dataclass(frozen=True)
class Panel:
    """A drawing with one line that a slider moves through `steps`."""

    drawing: Markup  # holds the polyline
    steps: list[dict[str, str]]  # of {label, points}


@dataclass(frozen=True)
class PageSection:
    """A heading, a text, and a plot or a panel."""

    title: str
    text: str
    plot: Markup | None = None
    panel: Panel | None = None


def write_experiment_page(
    out: Path,
    *,
    title: str,
    lead: str,
    sections: Sequence[PageSection],
    rows: Sequence[MeasuredRow],
    provenance: Mapping[str, Any],
) -> None:
    """Write `out`/index.html."""
    tables = by_first_label(rows)
    page = render("experiment.html.j2", title=title, provenance=provenance, lead=lead, sections=sections, tables=tables)
    write_text(out / "index.html", page)
