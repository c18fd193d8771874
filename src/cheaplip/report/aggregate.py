"""Runs that differ only in their seed become one row of a table.

Each metric of a row is an *estimate*: the mean over the seeds and the half-width of the 95 % t-interval, which does not
exist for one seed. Runs of one (data, model, method, target) whose settings differ are never averaged: they become
rows of their own, named by the settings that differ.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ..errors import InputError
from ..run_folder import Json, Run
from .paper_values import published
from .run_values import clean, distinct, mapping, metrics, number, numbers, numbers_first, settings

METHOD_LABELS = {"standard": "Standard", "weight": "Weight Reg.", "clip": "CLIP"}
"""Names of the paper's methods, in the order of the rows; any other method comes after them under its own name."""

_INCIDENTAL = {"seed", "device", "threads", "method", "target", "tolerance", "out", "resume", "data_dir"}
"""Settings that say how or where a run was made, not what it measures."""

Kind = Literal["percent", "number", "seconds", "lower", "upper"]


@dataclass(frozen=True)
class Column:
    """A metric of the table: its key, its heading, how its values are written."""

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
    """Training runs that differ only in their seed."""

    data: str
    model: str
    method: str
    target: float | None
    tolerance: float | None
    settings: str  # what tells this row from others of the same data, model, method, target and tolerance; usually empty
    runs: tuple[Run, ...]  # by seed
    metrics: dict[str, Estimate]  # by column key; a metric that no run has is absent

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.runs)

    @property
    def labels(self) -> Mapping[str, object]:
        """What identifies the row, by name."""
        return {name: getattr(self, name) for name in ("data", "model", "method", "target", "tolerance", "settings")}

    @property
    def name(self) -> str:
        """The method's label and the settings that tell this row apart."""
        label = METHOD_LABELS.get(self.method, self.method)
        return f"{label} ({self.settings})" if self.settings else label

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
        """What was asked: 0.95 is "95 %", a loss a plain number, a tolerance "-1 %" (of the loss "+1 %"); else empty."""
        if self.target is not None:
            return f"{self.target:.4g}" if self.regression else f"{100 * self.target:.4g} %"
        return "" if self.tolerance is None else f"{'+' if self.regression else '-'}{100 * self.tolerance:.3g} %"

    @property
    def steered_to(self) -> float | None:
        """The target, or the mean of those that the tolerance has made in the runs."""
        if self.target is not None or self.tolerance is None:
            return self.target
        made = [value for run in self.runs if (value := number(run.result.get("steered_to"))) is not None]
        return sum(made) / len(made) if made else None

    @property
    def label(self) -> str:
        """Name and target, as in legends."""
        return f"{self.name} {self.target_text}".rstrip()


@dataclass(frozen=True, eq=False)
class MeasuredRow:
    """A row of an experiment that is no grid of training runs."""

    labels: Mapping[str, str]  # such as lambda
    metrics: Mapping[str, Estimate]
    n: int  # seeds
    published: ClassVar[Mapping[str, float]] = {}


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
    groups: dict[tuple[str, str, str, float | None, float | None], list[Run]] = {}
    for run in runs:
        data, model, method = (clean(run.result.get(key)) for key in ("data", "model", "method"))
        wish = number(run.result.get("target")), number(run.result.get("tolerance"))
        groups.setdefault((data, model, method, *wish), []).append(run)
    rows = []
    for key, members in groups.items():
        for text, same in _split_by_settings(members).items():
            same.sort(key=lambda run: numbers_first(run.result["seed"]))
            _refuse_twins(same)
            samples = [numbers(run.result.get("samples")) for run in same]
            estimates = _estimates([metrics(run) for run in same], samples, [column.key for column in COLUMNS])
            rows.append(Row(*key, text, tuple(same), estimates))
    return sorted(rows, key=_order)


def measured_rows(runs: Sequence[Run]) -> list[MeasuredRow]:
    """The `rows` of the runs' results, those with the same labels as one, in order of first appearance."""
    groups: dict[tuple[tuple[str, str], ...], list[dict[str, float]]] = {}
    for row in itertools.chain.from_iterable(run.result["rows"] for run in runs):
        labels = tuple((name, value) for name, value in row.items() if name != "metrics")
        groups.setdefault(labels, []).append(numbers(row["metrics"]))
    return [
        MeasuredRow(dict(labels), _estimates(seeds, [{}] * len(seeds), union(seeds)), len(seeds))
        for labels, seeds in groups.items()
    ]


def _order(row: Row) -> tuple[Any, ...]:
    known = list(METHOD_LABELS)
    place = known.index(row.method) if row.method in known else len(known)
    return row.data, row.model, place, row.method, -(row.target or 0.0), row.settings


def _split_by_settings(runs: Sequence[Run]) -> dict[str, list[Run]]:
    asked = [{k: v for k, v in settings(run).items() if k.removeprefix("evaluation ") not in _INCIDENTAL} for run in runs]
    different = [key for key in sorted(union(asked)) if len({json.dumps(one.get(key)) for one in asked}) > 1]
    whole = [_settings_text(one, different) for one in asked]
    # A setting of 0 is usually an option not taken: "margin=8.0" beside no margin says enough.
    short = [_settings_text(one, [key for key in different if one.get(key)]) for one in asked]
    split: dict[str, list[Run]] = {}
    for run, text in zip(runs, short if len(set(short)) == len(set(whole)) else whole, strict=True):
        split.setdefault(text, []).append(run)
    return split


def _settings_text(asked: Mapping[str, Any], keys: Sequence[str]) -> str:
    return clean(", ".join(f"{key}={asked.get(key)}" for key in keys))


def _refuse_twins(runs: Sequence[Run]) -> None:
    for first, second in itertools.pairwise(runs):
        if first.result["seed"] == second.result["seed"]:
            twins = f"seed {clean(first.result['seed'])} in {first.folder} and in {second.folder}"
            raise InputError("every seed of a row once", twins, "Leave one of the two folders out.")


def _estimates(
    seeds: Sequence[Mapping[str, float]], samples: Sequence[Mapping[str, float]], keys: Sequence[str]
) -> dict[str, Estimate]:
    """The estimate of each key that some seed has, and the samples behind it."""
    estimates = {}
    for key in keys:
        counted_as = "certified" if key.startswith("certified_") else key
        measured = [(seed[key], counts.get(counted_as)) for seed, counts in zip(seeds, samples, strict=True) if key in seed]
        if measured:
            values, counts = zip(*measured, strict=True)
            fewest = min((int(count) for count in counts if count is not None), default=None)
            estimates[key] = Estimate(*mean_interval(values), len(values), fewest)
    return estimates


def union(mappings: Iterable[Mapping[str, object]]) -> list[str]:
    """The keys of all mappings, each once, in order of first appearance."""
    return list(dict.fromkeys(key for one in mappings for key in one))


def used_columns(rows: Sequence[Row]) -> list[Column]:
    """The columns for which some row has a value."""
    return [column for column in COLUMNS if any(column.key in row.metrics for row in rows)]


def provenance(runs: Sequence[Run]) -> Json:
    """What the runs record of their making: the common value of each entry, or the different ones; first and last date."""
    records = [mapping(run.result.get("provenance")) for run in runs]
    seeds = sorted(distinct([run.result["seed"] for run in runs]), key=numbers_first)
    merged: Json = {"runs": len(runs), "seeds": seeds}
    for key in union(records):
        values = sorted(distinct([record.get(key) for record in records]), key=numbers_first)
        if key == "date":
            values = values[:1] + values[1:][-1:]
        merged[key] = values[0] if len(values) == 1 else values or None
    return merged
