"""The page of the analysis experiment: Section 3 of the paper in words, its numbers in tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .aggregate import MeasuredRow
from .experiment_page import PageSection, write_experiment_page

LEAD = "What the theory promises of the penalised problem, held against cases whose answers are known."
SECTIONS = (
    PageSection(
        "Proposition 2: the weight trades risk for slope",
        "Along a rising λ the risk of the minimisers never falls and their Lipschitz constant never rises. With only the last "
        "layer free the problem is convex, and a deterministic solver finds its minimisers: the violations are 0 within the "
        "solver's accuracy. With all layers free it finds local minimisers, which differ from start to start.",
    ),
    PageSection(
        "Proposition 3: a vanishing weight finds the flattest interpolant",
        "As λ falls to 0, the fit tends to one that meets the data with the smallest Lipschitz constant possible. In one "
        "dimension that is the largest slope between neighbours, in two that over all pairs (McShane; Kirszbraun, where the "
        "data have two values). The column ratio is the constant found on the pair set over the smallest possible; in two "
        "dimensions the Jacobian between the points of the pair set is larger, since the network's features cannot follow "
        "the extension exactly.",
    ),
    PageSection(
        "Proposition 4 and Remark 2: a large weight finds the best constant",
        "In one dimension even the exact λ from which on the minimiser is constant is known: just above it the fit is flat, "
        "just below it is not. For squared loss the constant is the mean of the labels, projected on what the output can "
        "reach; for cross-entropy the logits are the logarithms of the class frequencies. The distance is the largest on "
        "[-4, 4].",
    ),
    PageSection(
        "Example (1): the product of the layers' norms is loose",
        "|x| as a ReLU network has the constant 1; the product of its layers' norms is 2.",
    ),
)


def write_page(rows: Sequence[MeasuredRow], out: Path, provenance: Mapping[str, Any]) -> None:
    """Write `out`/index.html."""
    title = "Analysis, Section 3"
    write_experiment_page(out, title=title, lead=LEAD, sections=SECTIONS, rows=rows, provenance=provenance)
