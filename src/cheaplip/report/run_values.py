"""The values of a run, read from JSON that may be damaged or come from a stranger.

A value that is not a finite number is absent, and every text is one line without control characters.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..run_folder import Run


def metrics(run: Run) -> dict[str, float]:
    """What the run measured, by column key."""
    certified = points(run.result.get("certified"), "eps", "certified_accuracy")
    bounds = numbers(run.result.get("lipschitz"))
    found = numbers(run.result) | {f"certified_{eps:g}": accuracy for eps, accuracy in certified.items()}
    return found | {f"lipschitz_{side}": bound for side, bound in bounds.items()}


def settings(run: Run) -> dict[str, Any]:
    """The settings of the training, and those of the evaluation as "evaluation NAME"."""
    evaluation = mapping(run.result.get("evaluation"))
    return {**mapping(run.config.get("training")), **{f"evaluation {key}": value for key, value in evaluation.items()}}


def bound_texts(run: Run) -> dict[str, str]:
    """The methods of the Lipschitz bounds as `lower` and `upper`, their `scope`, the `reason` of a missing upper one."""
    lipschitz = mapping(run.result.get("lipschitz"))
    found = {"scope": lipschitz.get("scope"), "reason": lipschitz.get("reason"), **mapping(lipschitz.get("method"))}
    return {key: clean(text) for key, text in found.items() if text is not None}


def numbers(value: object) -> dict[str, float]:
    """The numbers of a JSON object; none if `value` is something else."""
    return {key: found for key, item in mapping(value).items() if (found := number(item)) is not None}


def points(records: object, x: str, y: str) -> dict[float, float]:
    """From `x` to `y`, for the objects of a JSON list that have both as numbers."""
    found = map(numbers, records) if isinstance(records, list) else ()
    return {record[x]: record[y] for record in found if x in record and y in record}


def number(value: object) -> float | None:
    """`value` as a float if it is a finite number; else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer too large for a float
        return None


def mapping(value: object) -> Mapping[str, Any]:
    """`value` if it is a JSON object; else an empty one."""
    return value if isinstance(value, Mapping) else {}


def clean(value: object) -> str:
    """The text of `value` on one line, without control characters."""
    return "".join(c if c.isprintable() else " " for c in str(value)).strip()


def distinct(values: Sequence[object]) -> list[Any]:
    """The different values in order of first appearance, whatever their type; None left out."""
    return list({json.dumps(value): value for value in values if value is not None}.values())


def numbers_first(value: object) -> tuple[float, str]:
    """Sorting key of any JSON values: numbers by size, then the others by their text."""
    found = number(value)
    return (math.inf if found is None else found), str(value)
