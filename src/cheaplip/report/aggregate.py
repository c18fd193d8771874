"""What several runs say together.

A *row* is all runs of one (data, model, method, target) that differ in nothing but their seed; each of its metrics is
an *estimate*: the mean over the seeds and the half-width of the 95 % t-interval, which does not exist for one seed.
Runs of one group whose settings differ are never averaged: they become rows of their own, named by what differs.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import InputError
from ..run_folder import Json, Run
from .paper_values import published

METHODS = {"standard": "Standard", "weight": "Weight Reg.", "clip": "CLIP"}
"""Display names, in the order of the rows; any other method comes after them under its own name."""

_INCIDENTAL = {"seed", "device", "threads", "method", "target", "out", "resume", "data_dir"}
"""Settings that say how or where a run was made, not what it measures."""

Kind = Literal["percent", "number", "seconds", "lower", "upper"]


@dataclass(frozen=True)
class Column:
    """A metric of the table: its key in `result.json`, its heading, how its values are written."""

    key: str
    title: str
    kind: Kind


CERTIFIED_AT = (0.3, 0.5, 1.0, 1.58)
"""Radii whose certified accuracies are columns: those of the literature on MNIST."""

COLUMNS = (
    Column("train_accuracy", "Train", "percent"),
    Column("test_accuracy", "Test", "percent"),
    Column("noise_accuracy", "Noise", "percent"),
    Column("noise_accuracy_clamped", "Noise clamped", "percent"),
    Column("pgd_accuracy", "PGD eq. (14)", "percent"),
    Column("pgd_accuracy_clamped", "PGD clamped", "percent"),
    Column("strong_accuracy", "Strong", "percent"),
    *(Column(f"certified_{eps:g}", f"Certified {eps:g}", "percent") for eps in CERTIFIED_AT),
    Column("train_loss", "Train loss", "number"),
    Column("test_loss", "Test loss", "number"),
    Column("weight", "Weight", "number"),
    Column("lipschitz_lower", "Lipschitz lower", "lower"),
    Column("lipschitz_upper", "Lipschitz upper", "upper"),
    Column("seconds", "Seconds", "seconds"),
)


@dataclass(frozen=True)
class Estimate:
    """A metric over the seeds that have it."""

    mean: float
    ci95: float | None  # half-width of the t-interval; None for one seed
    n: int  # seeds
    samples: int | None  # samples behind each seed's value, the fewest if they differ; None if not stated


@dataclass(frozen=True, eq=False)  # by identity, so that a row can be looked up
class Row:
    """Runs that differ in nothing but their seed."""

    data: str
    model: str
    method: str
    target: float | None
    settings: str  # what tells this row from others of the same data, model, method and target; usually empty
    runs: tuple[Run, ...]  # by seed
    metrics: dict[str, Estimate]  # by column key; a metric nobody measured is absent

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.runs)

    @property
    def name(self) -> str:
        """The method as shown, with its distinguishing settings."""
        shown = METHODS.get(self.method, self.method)
        return f"{shown} ({self.settings})" if self.settings else shown

    @property
    def published(self) -> Mapping[str, float]:
        """The paper's values for this row, by column key; empty where it has none."""
        return published(self.data, self.model, self.method, self.target)

    @property
    def regression(self) -> bool:
        """Whether the runs are measured by their loss; their target is a loss then."""
        return "train_loss" in self.metrics and "train_accuracy" not in self.metrics

    @property
    def target_text(self) -> str:
        """The target as shown: 0.95 is "95 %", 0.918 is "91.8 %", a loss a plain number; empty without one."""
        if self.target is None:
            return ""
        return f"{self.target:.4g}" if self.regression else f"{100 * self.target:.4g} %"

    @property
    def label(self) -> str:
        """Name and target, as in legends."""
        return f"{self.name} {self.target_text}".rstrip()


def number(value: object) -> float | None:
    """`value` if it is a finite number; else None: files may hold anything."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def clean(value: object) -> str:
    """Text of `value` on one line, without control characters: names may come from a stranger's folder."""
    return "".join(c if c.isprintable() else " " for c in str(value)).strip()


def mapping(value: object) -> Mapping[str, Any]:
    """`value` if it is a JSON object; else an empty one."""
    return value if isinstance(value, Mapping) else {}


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half-width of its 95 % interval by Student's t, `t(0.975, n - 1) * s / sqrt(n)`; None for n = 1.

    >>> mean_interval([1.0, 3.0])  # t(0.975, 1) = 12.706, s = sqrt(2)
    (2.0, 12.706204736174694)
    """
    n = len(values)
    if n == 1:
        return values[0], None
    if min(values) == max(values):
        return values[0], 0.0  # exactly, where the formula would leave rounding errors
    mean = math.fsum(values) / n  # fsum: the order of the runs cannot matter
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    return mean, float(stdtrit(n - 1, 0.975)) * deviation / math.sqrt(n)


def summary_table(runs: Sequence[Run]) -> list[Row]:
    """The rows of `runs`: by data and model, then Standard, Weight Reg., CLIP, others, each by falling target.

    Raises:
        InputError: two runs differ in nothing, not even their seed, so one of them would be counted twice.
    """
    groups: dict[tuple[str, str, str, float | None], list[Run]] = {}
    for run in runs:
        data, model, method = (clean(run.result.get(key)) for key in ("data", "model", "method"))
        groups.setdefault((data, model, method, number(run.result.get("target"))), []).append(run)
    rows = []
    for (data, model, method, target), members in groups.items():
        for settings, same in _split_by_settings(members).items():
            same.sort(key=lambda run: _numbers_first(run.result["seed"]))
            _refuse_twins(same)
            rows.append(Row(data, model, method, target, settings, tuple(same), _estimates(same)))
    return sorted(rows, key=_order)


def _order(row: Row) -> tuple[Any, ...]:
    known = list(METHODS)
    place = known.index(row.method) if row.method in known else len(known)
    return row.data, row.model, place, row.method, -(row.target or 0.0), row.settings


def _split_by_settings(runs: Sequence[Run]) -> dict[str, list[Run]]:
    asked = []
    for run in runs:
        settings = dict(mapping(run.config.get("training")))
        settings |= {f"evaluation {key}": value for key, value in mapping(run.result.get("evaluation")).items()}
        asked.append({k: v for k, v in settings.items() if k.removeprefix("evaluation ") not in _INCIDENTAL})
    keys = sorted(set().union(*asked))
    different = [key for key in keys if len({json.dumps(settings.get(key)) for settings in asked}) > 1]
    whole = [_listed(settings, different) for settings in asked]
    # what is 0 is usually not there: "margin=8.0" beside no margin says enough
    short = [_listed(settings, [key for key in different if settings.get(key)]) for settings in asked]
    labels = short if len(set(short)) == len(set(whole)) else whole
    split: dict[str, list[Run]] = {}
    for run, label in zip(runs, labels, strict=True):
        split.setdefault(label, []).append(run)
    return split


def _listed(settings: Mapping[str, Any], keys: Sequence[str]) -> str:
    return clean(", ".join(f"{key}={settings.get(key)}" for key in keys))


def _refuse_twins(runs: Sequence[Run]) -> None:
    for first, second in itertools.pairwise(runs):
        if first.result["seed"] == second.result["seed"]:
            twins = f"seed {clean(first.result['seed'])} in {first.folder} and in {second.folder}"
            raise InputError("every seed of a row once", twins, "Leave one of the two folders out.")


def _estimates(runs: Sequence[Run]) -> dict[str, Estimate]:
    estimates = {}
    for column in COLUMNS:
        measured = [(run, value) for run in runs if (value := metric(run, column.key)) is not None]
        if measured:
            key = "certified" if column.key.startswith("certified_") else column.key
            counts = [number(mapping(run.result.get("samples")).get(key)) for run, _ in measured]
            samples = min((int(count) for count in counts if count is not None), default=None)
            estimates[column.key] = Estimate(*mean_interval([value for _, value in measured]), len(measured), samples)
    return estimates


def metric(run: Run, key: str) -> float | None:
    """A run's value of a column, None if it was not measured."""
    if key.startswith("lipschitz_"):
        return number(mapping(run.result.get("lipschitz")).get(key.removeprefix("lipschitz_")))
    if key.startswith("certified_"):
        points = run.result.get("certified")
        found = [mapping(point) for point in points] if isinstance(points, list) else []
        eps = float(key.removeprefix("certified_"))
        return next((number(point.get("certified_accuracy")) for point in found if point.get("eps") == eps), None)
    return number(run.result.get(key))


def used_columns(rows: Sequence[Row]) -> list[Column]:
    """The columns for which some row has a value."""
    return [column for column in COLUMNS if any(column.key in row.metrics for row in rows)]


def distinct(values: Sequence[object]) -> list[Any]:
    """The different values in order of first appearance, whatever their type; None left out."""
    return list({json.dumps(value): value for value in values if value is not None}.values())


def provenance(runs: Sequence[Run]) -> Json:
    """What the runs record of their making: the common value of each entry, or the different ones; first and last date."""
    records = [mapping(run.result.get("provenance")) for run in runs]
    seeds = sorted(distinct([run.result["seed"] for run in runs]), key=_numbers_first)
    merged: Json = {"runs": len(runs), "seeds": seeds}
    for key in dict.fromkeys(key for record in records for key in record):
        values = sorted(distinct([record.get(key) for record in records]), key=_numbers_first)
        if key == "date":
            values = values[:1] + values[1:][-1:]
        merged[key] = values[0] if len(values) == 1 else values or None
    return merged


def _numbers_first(value: object) -> tuple[float, str]:
    as_number = number(value)
    return (math.inf if as_number is None else as_number), str(value)
