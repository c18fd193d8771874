"""The example pairs of a run, before and after ascent: read from `pairs.npz`, made ready for the page."""

from __future__ import annotations

import base64
import io
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.image import imsave

from ..errors import InputError
from ..runs import Run
from .rows import Row
from .tables import value_text

MOST_PAIRS = 4
"""Pairs shown of a run."""

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Point:
    """One input as the page shows it: an image, a curve, or a few numbers."""

    name: str  # u or v
    image: str | None  # data URI
    curve: str | None  # points of an SVG polyline in a box of 100 x 60
    numbers: str  # the values themselves where there are hardly any
    prediction: str  # empty for regression
    alternative: str  # what the picture shows, in words


@dataclass(frozen=True)
class Moment:
    """A pair before or after the ascent."""

    name: str
    points: tuple[Point, Point]
    quotient: str
    distance: str


@dataclass(frozen=True)
class Example:
    """A pair before and after."""

    before: Moment
    after: Moment


def examples_of(row: Row) -> tuple[Run, list[Example]] | None:
    """The first run of the row that has example pairs, and these; None if no run has any.

    Raises:
        InputError: a `pairs.npz` cannot be read or lacks an array.
    """
    for run in row.runs:
        if (run.folder / "pairs.npz").exists():
            return run, _read_examples(run)
    return None


def _read_examples(run: Run) -> list[Example]:
    path = run.folder / "pairs.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        return _examples(arrays)
    except (OSError, ValueError, LookupError, zipfile.BadZipFile) as error:
        got = f"no array {error}" if isinstance(error, KeyError) else error
        raise InputError(f"{path} with the pairs before and after ascent", got, "Train the run again.") from None


def _examples(arrays: dict[str, Array]) -> list[Example]:
    inputs = [arrays[f"{name}_{when}"][:MOST_PAIRS] for name in "uv" for when in ("before", "after")]  # (pairs, *input)
    everything = np.concatenate(inputs)
    if not np.isfinite(everything).all():
        raise ValueError("not all values are finite")
    # One scale of brightness, or of height, for everything shown.
    low, high = everything.min(initial=0.0), everything.max(initial=1.0)
    scaled = {key: (arrays[key] - low) / (high - low) for key in ("u_before", "v_before", "u_after", "v_after")}
    return [Example(_moment(arrays, scaled, i, "before"), _moment(arrays, scaled, i, "after")) for i in range(len(inputs[0]))]


def _moment(arrays: dict[str, Array], scaled: dict[str, Array], i: int, when: str) -> Moment:
    points = []
    for name in "uv":
        prediction = ""
        if f"label_{name}_{when}" in arrays:
            label, confidence = arrays[f"label_{name}_{when}"][i], arrays[f"confidence_{name}_{when}"][i]
            prediction = f"class {int(label)}, {value_text(float(confidence), 'percent')} %"
        words = f"Pair {i + 1}, {name} {when} ascent" + (f", predicted {prediction}" if prediction else "")
        values = arrays[f"{name}_{when}"][i]  # (*input)
        picture = scaled[f"{name}_{when}"][i]
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
    distance = np.linalg.norm((arrays[f"u_{when}"][i] - arrays[f"v_{when}"][i]).ravel())
    quotient = float(arrays[f"quotient_{when}"][i])
    return Moment(when, (points[0], points[1]), f"{quotient:.3g}", f"{distance:.3g}")


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
