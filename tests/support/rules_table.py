"""Writes docs/rules.md, the table of all rules, from the rules themselves: `python tests/support/rules_table.py`."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from cheaplip.bounds.layers import derivative, layer_norm, local_norm, slope_interval
from cheaplip.bounds.operations import rules
from cheaplip.bounds.operations.combining import COMBINING
from cheaplip.bounds.operations.decompositions import DECOMPOSITIONS, MODULE_DECOMPOSITIONS
from cheaplip.bounds.operations.modules import MODULES
from cheaplip.bounds.operations.ordering import ORDERING

PAGE = Path(__file__).parents[2] / "docs" / "rules.md"
HEAD = """# Which layers and operations have a rule

Made by `python tests/support/rules_table.py` from the rules themselves. Constants are those of the 2-norm, upper bounds that
are proved. "On a domain" is narrower wherever values are known to lie in a box or a ball (`domain=`). What is missing is
refused by name, and can be registered (see [bracket.md](bracket.md)).

## Layers

| layer | constant on all inputs | on a domain |
|---|---|---|
"""
ARGUMENTS = {nn.Threshold: (0.0, 0.0)}


def page() -> str:
    """The whole text."""
    return HEAD + "\n".join([*layers(), *activations(), *written_out(), "", *functions()]) + "\n"


def layers() -> list[str]:
    """One row for each rule, with all layers that share it."""
    shared: dict[str, list[type]] = {}
    for kind, rule in layer_norm.registry.items():
        if kind.__module__.startswith("torch.nn"):
            shared.setdefault(" ".join((rule.__doc__ or "").split()), []).append(kind)
    rows = []
    for text, kinds in shared.items():
        local = "narrower" if any(kind in local_norm.registry for kind in kinds) else "the same"
        rows.append(f"| {names(kinds)} | {text.replace('|', chr(92) + '|')} | {local} |")
    return rows


def activations() -> list[str]:
    """Their slopes, by `slope_interval`."""
    rows = []
    for kind in derivative.registry:
        if kind.__module__.startswith("torch.nn") and kind is not nn.Module:
            low, high = (float(end) for end in slope_interval(kind(*ARGUMENTS.get(kind, ()))))
            rows.append(f"| {kind.__name__} | slopes in [{low:.4g}, {high:.4g}] as it is made by default | narrower |")
    return rows


def written_out() -> list[str]:
    """Layers and functions that are products of values."""
    recurrent = [kind for kind in MODULE_DECOMPOSITIONS if issubclass(kind, nn.RNNBase)]
    others = [kind for kind in MODULE_DECOMPOSITIONS if kind not in recurrent]
    products = ", ".join([names(others), *(f"`{name}`" for name in DECOMPOSITIONS)])
    return [
        f"| {names(recurrent)} | step by step, for the length of the input | narrower |",
        f"| {products} | none, unless the inputs are normalised | a bound |",
    ]


def functions() -> list[str]:
    """Functions and methods by name."""
    kinds = {
        "The same as a layer": [*MODULES],
        "Linear without negative coefficients, by Schur's test (bicubic: by the norms of two matrices)": rules.LINEAR,
        "The same entries in another shape, or of another type": [*rules.RESHAPES, *rules.CASTS, *rules.DROPOUTS],
        "Sorting and the largest along an axis or of two values, constant 1": [*ORDERING],
        "Sums, concatenations, and products (of two values: on a domain)": [*COMBINING],
    }
    listed = [
        f"- {title}: {', '.join(f'`{name}`' for name in sorted(members) if name[0] != '_')}."
        for title, members in kinds.items()
    ]
    return ["## Functions and methods", "", *listed]


def names(kinds: list[type]) -> str:
    """Separated by commas."""
    return ", ".join(kind.__name__ for kind in kinds)


if __name__ == "__main__":
    PAGE.write_text(page())
