"""What an upper bound proves about classifications: a radius for every sample within which its class does not change."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..inference import check_classifier, forward, in_float64
from .bracket import LipschitzBracket, lipschitz_bracket
from .rounding import LOGITS, NEXT


def certified_radius(
    model: nn.Module, x: Tensor, bracket: LipschitzBracket | None = None, *, labels: Tensor | None = None
) -> Tensor:
    r"""No input within this distance (less than it) of x gets another class.

    With y the class of x, radius = min over j != y of (f_y(x) - f_j(x)) / K_yj, where K_yj >= Lip(f_y - f_j): the smaller
    of sqrt(2) upper (2 upper for the inf-norm on outputs) and the bracket's pairwise bounds.

    Args:
        model: the classifier, in exact arithmetic and evaluation mode.
        x: inputs, `(n, *input)`.
        bracket: of this very network; None: it is computed, with pairwise bounds of the same multipliers. The radius is
            in its norm on inputs; with a bracket on a domain it holds for inputs of the domain.
        labels: true classes, `(n,)`; a sample that is classified otherwise gets 0.

    Returns:
        `(n,)`, float64.

    Raises:
        InputError: a model without two outputs at least, labels or a bracket that do not fit.
        UnsupportedModuleError: no bracket is given and a layer has no rule.

    Source: Tsuzuku, Sato, Sugiyama, Lipschitz-margin training, 2018.
    """
    if bracket is None:
        bracket = lipschitz_bracket(model, x[:1], steps=1, require_upper=True)
    f = in_float64(model)
    with torch.no_grad():
        logits = torch.cat([forward(f, part.double()) for part in x.split(1000)])
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise InputError("a classifier with two outputs at least", f"outputs {tuple(logits.shape)}", "Give one a class.")
    constants = pair_constants(bracket, logits.shape[1]).to(logits)
    best = logits.argmax(1)
    margin = logits.gather(1, best[:, None]) - logits - LOGITS * logits.abs().amax(1, keepdim=True)
    radius = (margin.clamp(min=0) / constants[best]).nan_to_num(0.0, posinf=math.inf)
    radius = radius.scatter(1, best[:, None], math.inf).amin(1)
    if labels is None:
        return radius
    check_classifier(model, x, labels)
    return torch.where(best == labels, radius, 0.0)


def pair_constants(bracket: LipschitzBracket, classes: int) -> Tensor:
    """K_ij >= Lip(f_i - f_j) with respect to the bracket's norm on inputs, `(classes, classes)`, float64."""
    factor = math.sqrt(2) if bracket.output_norm == 2 else 2.0
    constants = torch.full((classes, classes), factor * bracket.upper * NEXT, dtype=torch.float64)
    if bracket.pairwise is not None and bracket.input_norm == 2:
        if bracket.pairwise.shape != constants.shape:
            got = f"one with {len(bracket.pairwise)}"
            raise InputError(f"a bracket of a network with {classes} outputs", got, "Give the bracket of this network.")
        constants = torch.minimum(constants, bracket.pairwise.to(constants))
    return constants


def certified_accuracy(radius: Tensor, eps: Sequence[float]) -> list[dict[str, float]]:
    """At each eps the share of samples with a radius above it: right and proved to stay so (radii with labels given)."""
    return [{"eps": e, "certified_accuracy": float((radius > e).double().mean()), "n": len(radius)} for e in eps]
