"""Tables as Markdown, CSV and JSON: the summary of training runs, and the rows that other experiments measured."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Literal

from ..run_folder import SCHEMA, Json, Run, write_json, write_text
from .aggregate import Estimate, Kind, MeasuredRow, Row, measured_rows, provenance, summary_table, union, used_columns
from .paper_values import NOTE

# Numbers as text


def value_text(value: float, kind: Kind) -> str:
    """A value, rounded. A lower bound is rounded down and an upper one up, so that both stay bounds."""
    if kind == "percent":
        return f"{100 * value:.1f}"
    if kind == "seconds":
        return f"{value:.1f}"
    if value == 0:
        return "0"
    rounding = {"lower": ROUND_FLOOR, "upper": ROUND_CEILING}.get(kind, ROUND_HALF_EVEN)
    exact = Decimal(repr(value))
    three_digits = exact.quantize(Decimal(1).scaleb(exact.adjusted() - 2), rounding).normalize()
    return f"{three_digits:f}" if 1e-4 <= abs(value) < 1e6 else f"{three_digits:e}"


def interval_text(estimate: Estimate, kind: Kind) -> str:
    """The interval's half-width, rounded; empty for one seed."""
    if estimate.ci95 is None:
        return ""
    return "± " + value_text(estimate.ci95, kind if kind in ("percent", "seconds") else "number")


def kind_of(key: str) -> Kind:
    """How a measured metric of this name is rounded: bounds outwards."""
    return "lower" if key.endswith("_lower") else "upper" if key.endswith("_upper") else "number"


# Markdown

_MARKUP = re.compile(r"[\\`*~|]|\](?=[(\[])|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown reads as code, emphasis, the end of a cell, or a link."""


def markdown_table(rows: Sequence[Row]) -> str:
    """The summary; where the paper has a value, it follows in brackets, and a line says so."""
    columns: dict[str, Callable[[Row], str]] = {}
    if len({(row.data, row.model) for row in rows}) > 1:
        columns |= {"Data": lambda row: row.data, "Model": lambda row: row.model}
    columns["Method"] = lambda row: row.name
    words = len(columns)
    if any(row.target_text for row in rows):
        columns["Target"] = lambda row: row.target_text
    columns["n"] = lambda row: str(row.n)
    for column in used_columns(rows):
        if column.key.startswith("lipschitz_"):
            columns["Lipschitz"] = lambda row: f"{_bound(row, 'lower')} .. {_bound(row, 'upper')}"
        else:
            columns[column.title + (" %" if column.kind == "percent" else "")] = partial(_cell, column.key, column.kind)
    table = _markdown([list(columns), *([text(row) for text in columns.values()] for row in rows)], words)
    return table + (f"\n{NOTE}\n" if any(row.published for row in rows) else "")


def _measured_markdown(rows: Sequence[MeasuredRow]) -> str:
    """A table for each value of the first label."""
    tables = []
    for members in by_first_label(rows):
        labels, keys = union(row.labels for row in members), union(row.metrics for row in members)
        lines = [[*labels, "n", *(key.replace("_", " ") for key in keys)]]
        for row in members:
            cells = [_cell(key, kind_of(key), row) for key in keys]
            lines.append([*(row.labels.get(label, "") for label in labels), str(row.n), *cells])
        tables.append(_markdown(lines, len(labels)))
    return "\n".join(tables)


def by_first_label(rows: Sequence[MeasuredRow]) -> list[list[MeasuredRow]]:
    """Neighbouring rows whose first label is the same: each list is a table of its own."""
    return [list(members) for _, members in groupby(rows, key=lambda row: next(iter(row.labels.values())))]


def _markdown(lines: Sequence[Sequence[str]], words: int) -> str:
    """A table of the headings and the rows; the first `words` columns hold words, the others numbers."""
    headings, *body = [[_MARKUP.sub(r"\\\g<0>", html.escape(text, quote=False)) for text in line] for line in lines]
    rule = ["---" if i < words else "---:" for i in range(len(headings))]
    return "".join(f"| {' | '.join(line)} |\n" for line in (headings, rule, *body))


def _cell(key: str, kind: Kind, row: Row | MeasuredRow) -> str:
    estimate = row.metrics.get(key)
    if estimate is None:
        return ""
    fewer = f"(n={estimate.n})" if estimate.n != row.n else ""
    paper = f"[{value_text(row.published[key], kind)}]" if key in row.published else ""
    return " ".join(filter(None, [value_text(estimate.mean, kind), interval_text(estimate, kind), fewer, paper]))


def _bound(row: Row, side: Literal["lower", "upper"]) -> str:
    estimate = row.metrics.get(f"lipschitz_{side}")
    if estimate is None:
        return "?"
    return value_text(estimate.mean, side) + (f" (n={estimate.n})" if estimate.n != row.n else "")


# CSV and JSON


def csv_table(rows: Sequence[Row]) -> str:
    """The summary at full precision: each metric, its half-width `*_ci95`, and the paper's value `*_paper`."""
    return _csv(rows, [column.key for column in used_columns(rows)])


def json_table(rows: Sequence[Row]) -> Json:
    """The summary for programs: `{schema, rows: [{method, target, n, metrics: {...}}], provenance}`."""
    return _json(rows, [run for row in rows for run in row.runs], ("mean", "ci95", "n", "samples"))


def _csv(rows: Sequence[Row | MeasuredRow], keys: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    labels = union(row.labels for row in rows)
    printed = [key for key in keys if any(key in row.published for row in rows)]
    metrics = [name for key in keys for name in (key, f"{key}_ci95")]
    writer.writerow([*map(_no_formula, labels), "n", *metrics, *(f"{key}_paper" for key in printed)])
    for row in rows:
        estimates = [row.metrics.get(key) for key in keys]
        values = [v for e in estimates for v in ((None, None) if e is None else (e.mean, e.ci95))]
        paper = [row.published.get(key) for key in printed]
        writer.writerow([*(_no_formula(row.labels.get(name)) for name in labels), row.n, *values, *paper])
    return text.getvalue()


def _no_formula(value: object) -> object:
    """A text that a spreadsheet does not run: those that begin like a formula get an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _json(rows: Sequence[Row | MeasuredRow], runs: Sequence[Run], fields: Sequence[str], **more: object) -> Json:
    return {
        "schema": SCHEMA,
        "interval": "ci95 is the half-width of the 95 % t-interval over n seeds; null for one seed",
        "rows": [
            {
                **row.labels,
                "n": row.n,
                "metrics": {key: {field: getattr(e, field) for field in fields} for key, e in row.metrics.items()},
                **({"paper": dict(row.published)} if row.published else {}),
            }
            for row in rows
        ],
        **more,
        "provenance": provenance(runs),
    }


# Files and the terminal


def write_tables(out: Path, markdown: str, table: str, content: Json) -> None:
    """Write `table.md`, `table.csv` and `table.json` into `out`."""
    write_text(out / "table.md", markdown)
    write_text(out / "table.csv", table)
    write_json(out / "table.json", content)


def write_measured(runs: Sequence[Run], out: Path) -> str:
    """Write the tables of an experiment's rows into `out`; return the Markdown, which is readable as plain text."""
    rows = measured_rows(runs)
    markdown = _measured_markdown(rows)
    content = _json(rows, runs, ("mean", "ci95"), settings=runs[0].result["settings"])
    write_tables(out, markdown, _csv(rows, union(row.metrics for row in rows)), content)
    return markdown


def print_summary(runs: Sequence[Run]) -> None:
    """Print the summary of `runs` in Markdown; a terminal gets it rendered."""
    from rich.console import Console
    from rich.markdown import Markdown

    table = markdown_table(summary_table(runs))
    console = Console()
    if console.is_terminal:
        console.print(Markdown(table))
    else:
        print(table, end="")
