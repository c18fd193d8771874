"""The example pairs of a run before and after ascent, read from `pairs*.npz` and turned into pictures and texts.

`pairs.npz` belongs to the trained network, `pairs-7.npz` to the network after epoch 7.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.image import imsave

from ..errors import InputError
from ..files import read_npz
from ..run_folder import PAIRS, Run
from .aggregate import Row
from .run_values import clean
from .tables import value_text

MAX_PAIRS = 4
"""Pairs on the page of one run."""
PARTS = {"u", "v", "quotient", *(f"{part}_{point}" for part in ("label", "confidence") for point in "uv")}
"""Of the names of the arrays, before `_before` and `_after`."""
LARGEST_PICTURES = 2**26
"""Bytes of an array of inputs that a page can hold."""

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Point:
    """One input as the page shows it: an image, a curve, or a few numbers."""

    name: str  # u or v
    image: str | None  # data URI
    curve: str | None  # points of an SVG polyline in a box of 100 x 60
    numbers: str  # the values, if they are at most 4
    prediction: str  # empty for regression
    alternative: str  # the picture in words


@dataclass(frozen=True)
class Moment:
    """A pair before the ascent, or after it on the network of some epoch."""

    name: str
    points: tuple[Point, Point]
    quotient: str
    distance: str


Example = list[Moment]
"""A pair before the ascent, after it across training, and after it on the trained network."""


def examples_of(row: Row) -> list[Example]:
    """The example pairs of the row's first run that has some; empty if no run has any.

    Raises:
        InputError: a file of pairs cannot be read or lacks an array.
    """
    run = next((run for run in row.runs if (run.folder / PAIRS).exists()), None)
    return [] if run is None else _read_examples(run)


def _read_examples(run: Run) -> list[Example]:
    names = run.result.get("class_names")
    class_names = [clean(name) for name in names] if isinstance(names, list) else []
    trained = _read(run.folder / PAIRS)
    epochs = {
        int(found[1]): path for path in run.folder.glob("pairs-*.npz") if (found := re.search(r"-(\d+)\.npz$", path.name))
    }
    stages = [("before ascent", "before", trained)]
    stages += [(f"after ascent, epoch {epoch}", "after", _read(path)) for epoch, path in sorted(epochs.items())]
    stages.append(("after ascent", "after", trained))
    inputs = [arrays[f"{name}_{when}"] for _, when, arrays in stages for name in "uv"]  # (pairs, *input)
    # All pictures have one scale of brightness, or of height.
    span = min(0.0, *(points.min() for points in inputs)), max(1.0, *(points.max() for points in inputs))
    pairs = min(len(points) for points in inputs)
    return [[_moment(arrays, i, title, when, span, class_names) for title, when, arrays in stages] for i in range(pairs)]


def _read(path: Path) -> dict[str, Array]:
    """The arrays of one file, the first pairs of each."""
    do = "Train the run again."
    held = read_npz(path, lambda name: name.removesuffix("_before").removesuffix("_after") in PARTS, do, LARGEST_PICTURES)
    arrays = {name: array[:MAX_PAIRS] if array.ndim else array for name, array in held.items()}
    if problem := next(_problems(arrays), None):
        raise InputError(f"{path} with the pairs before and after ascent", problem, do)
    return arrays


def _problems(arrays: dict[str, Array]) -> Iterator[str]:
    """What keeps the arrays from being shown."""
    for name in (f"{part}_{when}" for part in ("u", "v", "quotient") for when in ("before", "after")):
        if name not in arrays:
            yield f"no array {name}"
    n = arrays["u_before"].shape[:1]
    for name, array in arrays.items():
        inputs = name[:2] in ("u_", "v_")
        if array.dtype.kind not in "biuf" or array.size == 0 or not np.isfinite(array).all():
            yield f"other than finite numbers in {name}"
        if array.shape != (arrays[f"u_{name[2:]}"].shape if inputs else n) or array.shape[:1] != n:
            yield f"an array {name} of shape {array.shape}"


def _moment(
    arrays: dict[str, Array], i: int, title: str, when: str, span: tuple[float, float], class_names: Sequence[str]
) -> Moment:
    points = []
    for name in "uv":
        prediction = ""
        if f"label_{name}_{when}" in arrays:
            label, confidence = int(arrays[f"label_{name}_{when}"][i]), arrays[f"confidence_{name}_{when}"][i]
            called = class_names[label] if 0 <= label < len(class_names) else f"class {label}"
            prediction = f"{called}, {value_text(float(confidence), 'percent')} %"
        words = f"Pair {i + 1}, {name} {title}" + (f", predicted {prediction}" if prediction else "")
        values = arrays[f"{name}_{when}"][i]  # (*input)
        picture = (values - span[0]) / (span[1] - span[0])
        is_image = picture.ndim == 2 or (picture.ndim == 3 and len(picture) in (1, 3))
        points.append(
            Point(
                name,
                _png(picture) if is_image else None,
                _polyline(picture) if not is_image and values.size > 4 else None,
                ", ".join(f"{value:.3g}" for value in values.ravel()) if values.size <= 4 else "",
                prediction,
                words,
            )
        )
    distance = np.linalg.norm(np.subtract(arrays[f"u_{when}"][i], arrays[f"v_{when}"][i], dtype=float).ravel())
    quotient = float(arrays[f"quotient_{when}"][i])
    return Moment(title, (points[0], points[1]), f"{quotient:.3g}", f"{distance:.3g}")


def _png(picture: Array) -> str:
    """A picture in [0, 1], (h, w) or (c, h, w), as a data URI."""
    if picture.ndim == 3:
        picture = picture[0] if len(picture) == 1 else np.moveaxis(picture, 0, -1)
    buffer = io.BytesIO()
    unsigned: dict[str, Any] = {"Software": None}  # the same bytes from every version of matplotlib
    imsave(buffer, picture, format="png", cmap="gray", vmin=0, vmax=1, metadata=unsigned)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _polyline(heights: Array) -> str:
    across = np.linspace(2, 98, heights.size)
    return " ".join(f"{x:.1f},{58 - 56 * y:.1f}" for x, y in zip(across, heights.ravel(), strict=True))
