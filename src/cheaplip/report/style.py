"""How the report draws: colours, styles, and matplotlib figures turned into inline SVG.

Colours are CSS custom properties, so that one SVG serves the light and the dark page. Letters stay letters, in the
page's own font. Every plot has a title and a description for screen readers. Nothing depends on the clock.
"""

from __future__ import annotations

import io
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from .aggregate import METHOD_LABELS, Row

PALETTE = {  # light, dark; grey, orange, blue differ for every kind of colour vision and in brightness
    "ink": ("#20262e", "#e4e7eb"),
    "faint": ("#d3d8de", "#3a424d"),
    "standard": ("#727b87", "#a2acb9"),
    "weight": ("#c0620a", "#f0a03c"),
    "clip": ("#0b62b0", "#62b2f7"),
    "other-1": ("#0a7f5c", "#3fce9f"),
    "other-2": ("#a8388a", "#ea8fcf"),
    "other-3": ("#8f6b00", "#d8c04a"),
}
"""Custom properties of the page and their colours. The light ones are also the marks by which plots find them."""

MARKERS = {"standard": "o", "weight": "s", "clip": "^", "other-1": "D", "other-2": "v", "other-3": "P"}
_DASHES: tuple[tuple[float, ...], ...] = ((), (6, 2), (2, 2), (7, 2, 2, 2), (10, 3), (1, 3))
_RC: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "cheaplip",
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.size": 9,
    "axes.edgecolor": PALETTE["ink"][0],
    "axes.labelcolor": PALETTE["ink"][0],
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALETTE["faint"][0],
    "grid.linewidth": 0.6,
    "text.color": PALETTE["ink"][0],
    "xtick.color": PALETTE["ink"][0],
    "ytick.color": PALETTE["ink"][0],
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
"""The metadata that an SVG leaves out, so that the same drawing is always the same file."""


@dataclass(frozen=True)
class Style:
    """How a row is drawn everywhere on the page: the colour and marker are its method's, the dashes its target's."""

    colour: str  # a key of PALETTE
    dashes: tuple[float, ...]

    @property
    def ink(self) -> str:
        """The colour as matplotlib wants it."""
        return PALETTE[self.colour][0]

    @property
    def line(self) -> tuple[float, tuple[float, ...] | None]:
        """The dash pattern as matplotlib wants it."""
        return 0.0, self.dashes or None


def row_styles(rows: Sequence[Row]) -> dict[Row, Style]:
    """A style for every row: methods keep their colour, rows of one method get different dashes."""
    others = sorted({row.method for row in rows} - METHOD_LABELS.keys())
    colours = {method: method for method in METHOD_LABELS} | {method: f"other-{i % 3 + 1}" for i, method in enumerate(others)}
    dashes: dict[tuple[str, str, str], Iterator[tuple[float, ...]]] = defaultdict(lambda: cycle(_DASHES))
    return {row: Style(colours[row.method], next(dashes[row.data, row.model, row.method])) for row in rows}


def plain_log_ticks(axis: Axis, *, fine: bool) -> None:
    """Ticks of a log scale as plain numbers: at the powers of 10; if `fine`, also at 2 and 5 times them."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if fine else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))  # 0.01, not a power typeset as a picture
    axis.set_minor_locator(NullLocator())


@contextmanager
def new_figure(width: float = 4.7, height: float = 3.1) -> Iterator[Figure]:
    """A figure in the report's style, sizes in inches; draw on it and `finish` it inside."""
    with matplotlib.rc_context(_RC), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser has the letters that matplotlib's font lacks
        yield Figure(figsize=(width, height), layout="constrained")


def finish(figure: Figure, name: str, title: str, description: str) -> Markup:
    """The figure as inline SVG in the colours of the page; `name` must be unique on it and makes the ids unique."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata=NO_METADATA)
    found = re.search(r'viewBox="([^"]+)"[^>]*>(.*)</svg>', buffer.getvalue(), re.DOTALL)
    assert found is not None  # matplotlib writes nothing else
    box, body = found.groups()
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", body)
    for key, (light, _) in PALETTE.items():
        body = body.replace(light, f"var(--{key})")
    words = Markup('<title id="{0}-title">{1}</title><desc id="{0}-desc">{2}</desc>').format(name, title, description)
    opening = Markup('<svg viewBox="{}" role="img" aria-labelledby="{}-title {}-desc">').format(box, name, name)
    return opening + words + Markup(body) + Markup("</svg>")  # matplotlib has escaped its texts
