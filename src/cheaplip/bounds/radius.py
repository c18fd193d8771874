"""What an upper bound proves about classifications: a radius for every sample within which its class does not change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ..arguments import checked
from ..domains import Ball
from ..errors import InputError, UnsupportedModuleError
from ..inference import check_classifier, forward, in_float64
from .bracket import LipschitzBracket, lipschitz_bracket
from .centred import certified_distances as certified_together
from .centred import dense_network, largest_radius
from .ellipsoid import MOST, ellipsoid
from .graph import trace
from .multipliers.bound import pair_bounds
from .network import Applied, Network
from .rounding import LOGITS, NEXT
from .serial import serial
from .serial import steps_of as matrices_of
from .wide import ENTRIES, Steps, certified_distances, steps_of

POINT = 1e-9
"""Radius of a ball that is nearly a point."""


@checked
def certified_radius(
    model: nn.Module,
    x: Tensor,
    bracket: LipschitzBracket | None = None,
    *,
    labels: Tensor | None = None,
    local: bool = False,
) -> Tensor:
    r"""No input within this distance (less than it) of x gets another class.

    With y the class of x, radius = min over j != y of (f_y(x) - f_j(x)) / K_yj, where K_yj >= Lip(f_y - f_j): the smaller
    of sqrt(2) upper (2 upper for the inf-norm on outputs) and the bracket's pairwise bounds. With `local` the radius is the
    largest that was found for which a bound of the changes from x on alone, of f_y - f_j in the ball of that radius round x,
    proves it (see `bounds.centred`): never smaller than without, and often several times larger.

    Args:
        model: the classifier, in exact arithmetic and evaluation mode.
        x: inputs, `(n, *input)`.
        bracket: of this very network; None: it is computed, with pairwise bounds of the same multipliers. The radius is
            in its norm on inputs; with a bracket on a domain it holds for inputs of the domain.
        labels: true classes, `(n,)`; a sample that is classified otherwise gets 0.
        local: whether to bound each sample's ball by itself, on the 2-norm: some 15 ms a sample for hidden layers of 64, in
            dense networks and small ones of convolutions and sums; seconds a sample in others of up to 1536 values at a time;
            up to half a minute a sample in wider ones of linear layers (average pooling is one), activations, max-pooling in
            windows and sums (see `bounds.wide`).

    Returns:
        `(n,)`, float64.

    Raises:
        InputError: a model without two outputs at least, labels or a bracket that do not fit; `local` on the inf-norm.
        UnsupportedModuleError: no bracket is given and a layer has no rule; `local` of a wider network with another layer.

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
    margin = margin.clamp(min=0).scatter(1, best[:, None], math.inf)
    if local:
        radius = _locally(model, x, constants[best], margin, bracket)
    else:
        radius = (margin / constants[best]).nan_to_num(0.0, posinf=math.inf).amin(1)
    if labels is None:
        return radius
    check_classifier(model, x, labels)
    return torch.where(best == labels, radius, 0.0)


def _locally(model: nn.Module, x: Tensor, constants: Tensor, margin: Tensor, bracket: LipschitzBracket) -> Tensor:
    if bracket.input_norm != 2:
        do = "Ask for a bracket with input_norm=2."
        raise InputError("a bracket in the 2-norm on inputs for local radii", f"input_norm={bracket.input_norm:g}", do)
    layers = serial(trace(model, tuple(x.shape[1:])))
    steps = matrices_of(layers) if layers else None
    network = dense_network(steps) if steps else None
    if network is None:
        return _by_balls(model, x, constants, margin)
    samples = x.flatten(1).to(network.affine[0].weight)
    return certified_together(network, samples, constants.to(samples), margin.to(samples)).to(margin)


def _by_balls(model: nn.Module, x: Tensor, constants: Tensor, margin: Tensor) -> Tensor:
    """By the certificate of any network (`ellipsoid`) on a ball round each sample, one after another."""
    shape = tuple(x.shape[1:])
    network = trace(model, shape)
    widest = max(math.prod(value.shape) for value in network.order)
    if widest > MOST:
        return _of_wide(model, network, widest, x, constants, margin)

    def found(i: int, radius: Tensor) -> Tensor:
        gram = ellipsoid(trace(model, shape, Ball(x[i], max(float(radius), POINT))))
        if gram is None:
            return radius.new_zeros(1)
        own = torch.minimum(pair_bounds(gram)[int(margin[i].argmax())].to(margin) * NEXT, constants[i])
        return (margin[i] / own).nan_to_num(0.0, math.inf).amin()[None]

    everywhere = (margin / constants).nan_to_num(0.0, posinf=math.inf).amin(1)
    return torch.cat([largest_radius(partial(found, i), everywhere[i : i + 1]) for i in range(len(x))])


def _of_wide(model: nn.Module, network: Network, widest: int, x: Tensor, constants: Tensor, margin: Tensor) -> Tensor:
    do = "Leave local=True away."
    steps = steps_of(network)
    if not isinstance(steps, Steps):
        kind = type(steps.layer.module if isinstance(steps, Applied) else steps).__name__
        alone = "linear layers, activations, MaxPool and sums alone (no AdaptiveMaxPool, concatenation, product, normalisation)"
        expected = f"{alone}, or at most {MOST} values at a time, for local radii"
        raise UnsupportedModuleError(expected, f"{kind} in a {type(model).__name__} with {widest}", do)
    if math.prod(network.shape) * widest > ENTRIES:
        got = f"{math.prod(network.shape)} inputs and {widest} values in a {type(model).__name__}"
        raise UnsupportedModuleError(f"inputs times values of at most {ENTRIES} for local radii", got, do)
    return certified_distances(steps, x.cpu(), constants.cpu(), margin.cpu()).to(margin)


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
