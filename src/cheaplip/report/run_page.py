"""The report of training runs: one HTML file that needs nothing else, not even a network, and the tables beside it.

A page is a list of *experiments*, the rows of one (data, model). An experiment is a table and a list of *sections*, each
with a text and plots or pairs. A section for which the runs hold no data does not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ..errors import InputError
from ..run_folder import Run, claimed, write_text
from . import captions
from .aggregate import Row, provenance, summary_table, used_columns
from .examples import Example, examples_of
from .paper_values import NOTE
from .plots import bracket_plot, certified_plot, closing_plot, eps_plot, published_plot, training_plots, tuning_plot
from .render import render
from .run_values import clean, distinct, numbers
from .style import Style, row_styles
from .tables import csv_table, json_table, markdown_table, write_tables

Plots = Callable[[Sequence[Row], dict[Row, Style], str], list[Markup]]
"""From the rows, their styles and a name for the ids to the drawings."""


@dataclass(frozen=True)
class Section:
    """A heading, a text, and plots or pairs."""

    name: str  # unique on the page
    title: str
    text: str
    plots: list[Markup] = field(default_factory=list)
    legend: list[Row] = field(default_factory=list)  # the rows drawn, where the plots do not name them
    pairs: list[tuple[str, list[Example]]] = field(default_factory=list)  # with the label of their row


def write_report(runs: Sequence[Run], out: Path) -> Path:
    """Write `index.html`, `table.md`, `table.csv` and `table.json` into `out`; return the page's path.

    Raises:
        InputError: no runs, the same run twice, a damaged `pairs.npz`, or `out` cannot be written.
    """
    if not runs:
        raise InputError("at least one run", "none", "Give the folders of finished runs.")
    rows = summary_table(runs)
    page = _page(rows)
    with claimed(out):
        write_text(out / "index.html", page)
        write_tables(out, markdown_table(rows), csv_table(rows), json_table(rows))
    return out / "index.html"


def _page(rows: list[Row]) -> str:
    styles = row_styles(rows)
    grouped = groupby(rows, key=lambda row: (row.data, row.model))
    return render(
        "runs.html.j2",
        title=", ".join(distinct([row.data for row in rows])),
        provenance=provenance([run for row in rows for run in row.runs]),
        lead=captions.lead(rows),
        methods=captions.about_methods(rows),
        experiments=[_experiment(f"e{i}", list(members), styles) for i, (_, members) in enumerate(grouped, start=1)],
        styles=styles,
        runs=[_run_facts(row, run) for row in rows for run in row.runs],
        printed_note=NOTE,
    )


def _experiment(name: str, rows: list[Row], styles: dict[Row, Style]) -> dict[str, Any]:
    tuned = [row for row in rows if row.steered_to is not None]

    def section(key: str, title: str, text: str, draw: Plots, legend: Sequence[Row] = ()) -> Section:
        return Section(f"{name}-{key}", title, text, draw(rows, styles, f"{name}-p"), list(legend))

    pairs = [(row.label, examples) for row in rows if (examples := examples_of(row))]
    sections = [
        section("published", "Beside the printed values", captions.PUBLISHED, published_plot),
        section("training", "Training", captions.TRAINING, training_plots, rows),
        section("eps", "Accuracy against the length of the attack", captions.EPS, eps_plot, rows),
        section("certified", "What is proved, and what an attack finds", captions.CERTIFIED, certified_plot, rows),
        section("tuning", "How the weight finds its target", captions.TUNING, tuning_plot, tuned),
        section("bracket", "Lipschitz constant", captions.BRACKET, bracket_plot),
        section("closing", "The bracket in training", captions.CLOSING, closing_plot, rows),
        Section(f"{name}-pairs", "Pairs before and after ascent", captions.PAIRS, pairs=pairs),
    ]
    return {
        "data": rows[0].data,
        "model": rows[0].model,
        "rows": rows,
        "columns": used_columns(rows),
        "targets": bool(tuned),
        "several_seeds": any(row.n > 1 for row in rows),
        "published": any(row.published for row in rows),
        "columns_text": captions.about_columns(rows),
        "notes": captions.missing_bounds(rows) + captions.missed_targets(rows),
        "sections": [section for section in sections if section.plots or section.pairs],
    }


def _run_facts(row: Row, run: Run) -> dict[str, str]:
    return {
        "Run": row.label,
        "Seed": clean(run.result["seed"]),
        "Epochs": clean(run.result.get("epochs", len(run.history))),
        "Skipped steps": str(sum(int(numbers(epoch).get("skipped_steps", 0)) for epoch in run.history)),
        "Folder": clean(run.folder.name),
    }
