"""`lipschitz_bracket`: lower <= Lip(f) <= upper, with the methods, the scope and the witness."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from ..pairs import PairSet
from .layers import product_of_norms
from .lower import lower_bound


@dataclass(frozen=True)
class LipschitzBracket:
    """lower <= Lip(f) <= upper, for the network in evaluation mode and exact arithmetic."""

    lower: float
    upper: float
    witness: tuple[Tensor, ...]  # the pair (u, v) or the point at which `lower` is attained
    methods: dict[str, str]  # of {"lower": ..., "upper": ...}
    scope: str  # on which inputs the bracket holds


def lipschitz_bracket(
    model: nn.Module,
    inputs: Tensor,
    *,
    domain: tuple[float, float] | None = None,
    pairs: PairSet | None = None,
    steps: int = 50,
) -> LipschitzBracket:
    """A lower and an upper bound of Lip(f), Euclidean norms.

    The lower end is the best of ascent on pairs and of Jacobian norms; the upper end the product of layer norms.

    Args:
        model: f; for the upper end an `nn.Sequential` of layers with a known constant.
        inputs: start points of the search for the lower end, `(n, *input)`.
        domain: box on which Lip(f) is meant; the search stays in it (the upper end holds everywhere).
        pairs: further start pairs, such as those of a regularizer.
        steps: ascent steps.

    Raises:
        InputError: no inputs, inputs or parameters that are not finite.
        UnsupportedModuleError: a layer without a rule; `lower_bound` still works.
    """
    upper = product_of_norms(model, tuple(inputs.shape[1:]))
    lower = lower_bound(model, inputs, domain=domain, pairs=pairs, steps=steps)
    scope = "all inputs" if domain is None else f"inputs in [{domain[0]:g}, {domain[1]:g}]"
    methods = {"lower": lower.method, "upper": "product of layer norms"}
    upper = max(upper, lower.value)  # on a linear map they are the same number, computed in two ways
    return LipschitzBracket(lower.value, upper, lower.witness, methods, scope)
