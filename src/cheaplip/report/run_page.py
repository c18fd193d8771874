"""The report page: one HTML file that needs nothing else, not even a network, and the tables beside it.

A page is a list of *experiments*, the rows of one (data, model); an experiment is its table and a list of *sections*,
each with a text and plots or pairs. A section for which the runs hold no data does not exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from markupsafe import Markup

from ..errors import InputError
from ..run_folder import Run, write_json
from . import captions
from .aggregate import Column, Row, clean, distinct, mapping, number, provenance, summary_table, used_columns
from .comparisons import bracket_plot, published_plot
from .examples import Example, examples_of
from .paper_values import NOTE
from .plots import certified_plot, closing_plot, eps_plot, training_plots, tuning_plot
from .render import render, write_text
from .style import Style, row_styles
from .tables import csv_table, json_table, markdown_table, spread_text, value_text


@dataclass(frozen=True)
class Section:
    """A heading, a text, and what there is to see."""

    name: str  # unique on the page
    title: str
    text: str
    plots: list[Markup] = field(default_factory=list)
    legend: list[Row] = field(default_factory=list)  # the rows drawn, where the plots do not name them
    pairs: list[tuple[str, list[Example]]] = field(default_factory=list)  # whose, and which


@dataclass(frozen=True)
class Experiment:
    """All rows of one data set and model."""

    data: str
    model: str
    rows: list[Row]
    columns: list[Column]
    targets: bool  # some row has one
    several_seeds: bool
    published: bool  # the paper has values for some row
    columns_text: list[tuple[str, str]]
    notes: list[str]
    sections: list[Section]


def write_report(runs: Sequence[Run], out: Path) -> Path:
    """Write `index.html`, `table.md`, `table.csv` and `table.json` into `out`; return the page's path.

    Raises:
        InputError: no runs, the same run twice, a damaged `pairs.npz`, or `out` cannot be written.
    """
    if not runs:
        raise InputError("at least one run", "none", "Give the folders of finished runs.")
    rows = summary_table(runs)
    contents = {"index.html": _page(rows), "table.md": markdown_table(rows), "table.csv": csv_table(rows)}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in contents.items():
            write_text(out / name, text)
        write_json(out / "table.json", json_table(rows))
    except OSError as error:
        do = "Choose another folder for the report."
        raise InputError(f"a folder that can be written, {out}", error.strerror or error, do) from None
    return out / "index.html"


def _page(rows: list[Row]) -> str:
    styles = row_styles(rows)
    grouped = groupby(rows, key=lambda row: (row.data, row.model))
    runs = [run for row in rows for run in row.runs]
    return render(
        "runs.html.j2",
        title=", ".join(distinct([row.data for row in rows])),
        provenance=provenance(runs),
        lead=captions.lead(rows),
        methods=captions.about_methods(rows),
        experiments=[_experiment(i, list(members), styles) for i, (_, members) in enumerate(grouped, start=1)],
        styles=styles,
        runs=[_run_facts(row, run) for row in rows for run in row.runs],
        printed_note=NOTE,
        value_text=value_text,
        spread_text=spread_text,
    )


def _experiment(number_: int, rows: list[Row], styles: dict[Row, Style]) -> Experiment:
    name = f"e{number_}"
    kinds = (published_plot, eps_plot, certified_plot, tuning_plot, bracket_plot, closing_plot)
    drawn = (plot(rows, styles, f"{name}-p") for plot in kinds)
    beside, eps, certified, tuning, bracket, closing = ([plot] if plot else [] for plot in drawn)
    pairs = [(row.label, found[1]) for row in rows if (found := examples_of(row)) is not None]
    tuned = [row for row in rows if row.target is not None]
    sections = [
        Section(f"{name}-published", "Beside the printed values", captions.PUBLISHED, beside),
        Section(f"{name}-training", "Training", captions.TRAINING, training_plots(rows, styles, f"{name}-p"), rows),
        Section(f"{name}-eps", "Accuracy against the length of the attack", captions.EPS, eps, rows),
        Section(f"{name}-certified", "What is proved, and what an attack finds", captions.CERTIFIED, certified, rows),
        Section(f"{name}-tuning", "How the weight finds its target", captions.TUNING, tuning, tuned),
        Section(f"{name}-bracket", "Lipschitz constant", captions.BRACKET, bracket),
        Section(f"{name}-closing", "The bracket in training", captions.CLOSING, closing, rows),
        Section(f"{name}-pairs", "Pairs before and after ascent", captions.PAIRS, pairs=[pair for pair in pairs if pair[1]]),
    ]
    present = [section for section in sections if section.plots or section.pairs]
    columns = used_columns(rows)
    about, notes = captions.about_columns(rows), captions.missing_bounds(rows)
    several = any(row.n > 1 for row in rows)
    printed = any(row.published for row in rows)
    return Experiment(rows[0].data, rows[0].model, rows, columns, bool(tuned), several, printed, about, notes, present)


def _run_facts(row: Row, run: Run) -> dict[str, str]:
    skipped = sum(int(number(mapping(record).get("skipped_steps")) or 0) for record in run.history)
    return {
        "Run": row.label,
        "Seed": clean(run.result["seed"]),
        "Epochs": clean(run.result.get("epochs", len(run.history))),
        "Skipped steps": str(skipped),
        "Folder": clean(run.folder.name),
    }
