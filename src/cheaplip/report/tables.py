"""The summary of several runs as Markdown, CSV, JSON and on a terminal."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING, Literal

from ..run_folder import SCHEMA, Json, Run
from .aggregate import Estimate, Kind, Row, provenance, summary_table, used_columns
from .paper_values import NOTE

if TYPE_CHECKING:
    from rich.table import Table

# How numbers are written


def value_text(value: float, kind: Kind) -> str:
    """A value as shown. Bounds keep their meaning when rounded: a lower one goes down, an upper one up."""
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


def spread_text(estimate: Estimate, kind: Kind) -> str:
    """The interval's half-width as shown, and the number of seeds where it is not the row's; may be empty."""
    if estimate.ci95 is None:
        return ""
    return "± " + value_text(estimate.ci95, kind if kind in ("percent", "seconds") else "number")


_NAMES = ("Data", "Model", "Method")  # columns of words; the others are numbers


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    """Headings, then one list of texts a row; the two Lipschitz columns as one bracket."""
    several = len({(row.data, row.model) for row in rows}) > 1
    columns = [column for column in used_columns(rows) if not column.key.startswith("lipschitz_")]
    bracket = any("lipschitz_lower" in row.metrics or "lipschitz_upper" in row.metrics for row in rows)
    place = next((i for i, column in enumerate(columns) if column.key == "seconds"), len(columns))
    headings = [column.title + (" %" if column.kind == "percent" else "") for column in columns]
    if bracket:
        headings.insert(place, "Lipschitz")
    targets = any(row.target is not None for row in rows)
    names = [*(["Data", "Model"] if several else []), "Method", *(["Target"] if targets else []), "n"]
    table = [[*names, *headings]]
    for row in rows:
        values = [_cell(row, column.key, column.kind) for column in columns]
        if bracket:
            values.insert(place, f"{_bound(row, 'lower')} .. {_bound(row, 'upper')}")
        names = [*([row.data, row.model] if several else []), row.name]
        if targets:
            names.append(row.target_text)
        table.append([*names, str(row.n), *values])
    return table


def _cell(row: Row, key: str, kind: Kind) -> str:
    estimate = row.metrics.get(key)
    if estimate is None:
        return ""
    fewer = f"(n={estimate.n})" if estimate.n != row.n else ""
    paper = f"[{value_text(row.published[key], kind)}]" if key in row.published else ""
    return " ".join(filter(None, [value_text(estimate.mean, kind), spread_text(estimate, kind), fewer, paper]))


def _bound(row: Row, side: Literal["lower", "upper"]) -> str:
    estimate = row.metrics.get(f"lipschitz_{side}")
    if estimate is None:
        return "?"
    fewer = f" (n={estimate.n})" if estimate.n != row.n else ""
    return value_text(estimate.mean, side) + fewer


# The forms of the table


def markdown_table(rows: Sequence[Row]) -> str:
    """The table in Markdown; where the paper has a value, it follows in brackets, and a line says so."""
    cells = [[html.escape(text, quote=False).replace("|", "\\|") for text in line] for line in _cells(rows)]
    rule = ["---" if heading in _NAMES else "---:" for heading in cells[0]]
    table = "".join("| " + " | ".join(line) + " |\n" for line in [cells[0], rule, *cells[1:]])
    return table + (f"\n{NOTE}\n" if any(row.published for row in rows) else "")


def csv_table(rows: Sequence[Row]) -> str:
    """The table as CSV, at full precision: each metric, its half-width `*_ci95` and the paper's value `*_paper`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    keys = [column.key for column in used_columns(rows)]
    printed = sorted({key for row in rows for key in row.published if key in keys}, key=keys.index)
    names = [name for key in keys for name in (key, f"{key}_ci95")] + [f"{key}_paper" for key in printed]
    writer.writerow(["data", "model", "method", "target", "settings", "n", *names])
    for row in rows:
        estimates = [row.metrics.get(key) for key in keys]
        values = [v for e in estimates for v in ((None, None) if e is None else (e.mean, e.ci95))]
        values += [row.published.get(key) for key in printed]
        writer.writerow([row.data, row.model, row.method, row.target, row.settings, row.n, *values])
    return text.getvalue()


def json_table(rows: Sequence[Row]) -> Json:
    """The table for programs: `{schema, rows: [{method, target, n, metrics: {...}}], provenance}`."""
    return {
        "schema": SCHEMA,
        "interval": "ci95 is the half-width of the 95 % t-interval over n seeds; null for one seed",
        "rows": [
            {
                "data": row.data,
                "model": row.model,
                "method": row.method,
                "target": row.target,
                "settings": row.settings,
                "n": row.n,
                "metrics": {
                    key: {"mean": e.mean, "ci95": e.ci95, "n": e.n, "samples": e.samples} for key, e in row.metrics.items()
                },
                **({"paper": dict(row.published)} if row.published else {}),
            }
            for row in rows
        ],
        "provenance": provenance([run for row in rows for run in row.runs]),
    }


def rich_table(rows: Sequence[Row]) -> Table:
    """The table for a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    headings, *body = _cells(rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in _NAMES else "right")
    for line in body:
        table.add_row(*(Text(text) for text in line))  # Text: no markup is read out of names
    return table


def plain_table(rows: Sequence[Row]) -> str:
    """The table for a pipe or a log file: aligned columns, no lines are broken."""
    table = _cells(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    left = {i for i, heading in enumerate(table[0]) if heading in _NAMES}
    lines = [
        "  ".join(t.ljust(w) if i in left else t.rjust(w) for i, (t, w) in enumerate(zip(line, widths, strict=True)))
        for line in table
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(line.rstrip() for line in lines) + "\n"


def print_summary(runs: Sequence[Run]) -> None:
    """Print the table of `runs`: as a rich table on a terminal, else as plain text."""
    from rich.console import Console

    rows = summary_table(runs)
    console = Console()
    if console.is_terminal:
        console.print(rich_table(rows))
    else:
        print(plain_table(rows), end="")
