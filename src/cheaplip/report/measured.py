"""Tables of experiments that are no grids of runs: whatever rows their parts measured, as means over the seeds."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from ..run_folder import SCHEMA, Json, Run, write_json
from .aggregate import Estimate, Kind, mean_interval, number, provenance
from .render import write_text
from .tables import spread_text, value_text


@dataclass(frozen=True, eq=False)
class MeasuredRow:
    """One row of every seed: its labels, such as lambda, and an estimate of each of its metrics."""

    labels: Mapping[str, str]
    metrics: Mapping[str, Estimate]
    n: int  # seeds


def measured_rows(runs: Sequence[Run]) -> list[MeasuredRow]:
    """The `rows` of the runs' results, those with the same labels as one, in order of first appearance."""
    groups: dict[tuple[tuple[str, str], ...], list[Mapping[str, float]]] = {}
    for run in runs:
        for row in run.result["rows"]:
            labels = tuple((name, value) for name, value in row.items() if name != "metrics")
            groups.setdefault(labels, []).append(row["metrics"])
    return [MeasuredRow(dict(labels), _estimates(records), len(records)) for labels, records in groups.items()]


def write_measured(runs: Sequence[Run], out: Path) -> str:
    """Write `table.json`, `table.md` and `table.csv` into `out`; returns the Markdown, which is readable as plain text."""
    rows = measured_rows(runs)
    markdown = measured_markdown(rows)
    for name, text in {"table.md": markdown, "table.csv": _csv(rows)}.items():
        write_text(out / name, text)
    write_json(out / "table.json", _json(rows, runs))
    return markdown


def measured_markdown(rows: Sequence[MeasuredRow]) -> str:
    """A table for each value of the first label; mean and half-width of the 95 % interval, empty where not measured."""
    tables = []
    for _, group in groupby(rows, key=lambda row: next(iter(row.labels.values()))):
        members = list(group)
        labels = list(dict.fromkeys(name for row in members for name in row.labels))
        keys = list(dict.fromkeys(key for row in members for key in row.metrics))
        cells = [[*labels, "n", *(key.replace("_", " ") for key in keys)]]
        cells.append(["---"] * len(labels) + ["---:"] * (1 + len(keys)))
        for row in members:
            values = [_text(key, row.metrics[key]) if key in row.metrics else "" for key in keys]
            cells.append([*(row.labels.get(name, "") for name in labels), str(row.n), *values])
        tables.append("".join(f"| {' | '.join(line)} |\n" for line in cells))
    return "\n".join(tables)


def kind_of(key: str) -> Kind:
    """How a metric of this name is rounded: bounds outwards."""
    return "lower" if key.endswith("_lower") else "upper" if key.endswith("_upper") else "number"


def _estimates(records: Sequence[Mapping[str, float]]) -> dict[str, Estimate]:
    estimates = {}
    for key in dict.fromkeys(key for record in records for key in record):
        values = [value for record in records if (value := number(record.get(key))) is not None]
        if values:
            estimates[key] = Estimate(*mean_interval(values), len(values), None)
    return estimates


def _text(key: str, estimate: Estimate) -> str:
    return f"{value_text(estimate.mean, kind_of(key))} {spread_text(estimate, kind_of(key))}".rstrip()


def _json(rows: Sequence[MeasuredRow], runs: Sequence[Run]) -> Json:
    return {
        "schema": SCHEMA,
        "interval": "ci95 is the half-width of the 95 % t-interval over n seeds; null for one seed",
        "rows": [
            {
                **row.labels,
                "n": row.n,
                "metrics": {key: {"mean": e.mean, "ci95": e.ci95} for key, e in row.metrics.items()},
            }
            for row in rows
        ],
        "settings": runs[0].result["settings"],
        "provenance": provenance(runs),
    }


def _csv(rows: Sequence[MeasuredRow]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    labels = list(dict.fromkeys(name for row in rows for name in row.labels))
    keys = list(dict.fromkeys(key for row in rows for key in row.metrics))
    writer.writerow([*labels, "n", *(name for key in keys for name in (key, f"{key}_ci95"))])
    for row in rows:
        estimates = [row.metrics.get(key) for key in keys]
        values = [v for e in estimates for v in ((None, None) if e is None else (e.mean, e.ci95))]
        writer.writerow([*(row.labels.get(name) for name in labels), row.n, *values])
    return text.getvalue()
