"""Branch and bound on neurons: the certificate of those inputs at which a neuron is on one side of its kink, or the other.

On a convex domain Lip(f) is the largest norm of the Jacobian, and each input lies in one of the branches, in which the
neuron has fewer slopes, and later ones lie in smaller regions. The branch of the largest bound is split again. So this ends
near Lip(f) where few neurons change sides on the domain, however many inputs there are.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..domains import Domain, box_of, projected
from .climbing import climb_jacobian, pays
from .layers.activations import acts_entrywise, derivative
from .layers.constants import exact_copy
from .layers.layer import Layer
from .multipliers.certificate import Chain, proved_bound
from .multipliers.chain import make_chain
from .multipliers.search import search_multipliers
from .serial import steps_of
from .zonotope import is_empty, propagate

TOLERANCE = 0.01
"""The search ends when the bound is at most this share above the largest norm that was met."""
WIDE, ROWS = 1e-3, 1024
"""A neuron of less different slopes is not split; networks of more entries are not tried."""
REFINEMENT = 15
"""Iterations of the search for a branch, from the multipliers of the one it was split from."""
PATIENCE = 40
"""Branches without a gain of 1 % after which it gives up."""


@dataclass(frozen=True)
class Branched:
    """What was proved, and where the Jacobian is about as large."""

    upper: float
    largest: float
    steepest: Tensor  # (1, *input)

    @property
    def close(self) -> bool:
        """Whether the two have met, but for the tolerance."""
        return self.upper <= (1 + TOLERANCE) * self.largest


@torch.no_grad()
def branch(layers: Sequence[Layer], domain: Domain, *, deadline: float = math.inf) -> Branched | None:
    """An upper bound of Lip(f) on the domain, in the 2-norm.

    Args:
        layers: all of f, matrices and activations in turn, whose regions hold on the domain.
        domain: box or ball.
        deadline: `time.monotonic()` at which to stop with what there is.

    Returns:
        None for layers of other kinds, for wide networks, and where nothing is proved.
    """
    shape = layers[0].shape
    wide = sum(math.prod(layer.out) for layer in layers)
    low, high = box_of(domain, shape)
    if wide > ROWS or not (low < high).all() or not pays(low) or steps_of(layers) is None:
        return None
    if not (root := _bounded(layers, None, deadline)):
        return None
    f = nn.Sequential(*(exact_copy(layer.module).cpu() for layer in layers))
    # not at the centre itself: there may be kinks, where no derivative is
    away = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.5
    start = projected((low + high) / 2 + 0.1 * (high - low) * away, domain)
    until = min(deadline, time.monotonic() + 2.0)
    met = climb_jacobian(f, start, domain, input_norm=2, output_norm=2, deadline=until)
    ties = itertools.count()
    queue = [(-root.value, next(ties), root)]
    closed, idle, before = 0.0, 0, root.value
    while queue and -queue[0][0] > (1 + TOLERANCE) * met.value and time.monotonic() <= deadline and idle < PATIENCE:
        _, _, node = heapq.heappop(queue)
        halves = _halves(node)
        if not halves:
            closed = max(closed, node.value)
            break
        for half in halves:
            smaller, limits = propagate(half, domain)
            if is_empty(limits, domain, shape):
                continue
            found = _bounded(smaller, node, deadline)
            if found is None:
                closed = max(closed, node.value)
                continue
            value = min(found.value, node.value)  # no part is steeper than the whole
            heapq.heappush(queue, (-value, next(ties), replace(found, value=value)))
        now = max([closed, *(-value for value, _, _ in queue[:1])])
        idle, before = (0, now) if now < 0.99 * before else (idle + 1, before)
    upper = max([closed, *(-value for value, _, _ in queue)])
    return Branched(upper, met.value, met.witness[0][None])


@dataclass(frozen=True)
class _Node:
    layers: Sequence[Layer]
    value: float
    logs: list[Tensor]
    chain: Chain


def _bounded(layers: Sequence[Layer], parent: _Node | None, deadline: float) -> _Node | None:
    chain = make_chain(layers)
    acting = sum(acts_entrywise(layer.module) for layer in layers)
    if chain is None or len(chain.slopes) != acting or any(weight.dim() != 2 for weight in chain.weights):
        return None
    if parent is None:
        logs = search_multipliers(chain, deadline=deadline)
    else:
        logs = search_multipliers(chain, start=parent.logs, iterations=REFINEMENT, deadline=deadline)
    proved = proved_bound(chain, logs)
    return None if proved is None else _Node(layers, proved[0], logs, chain)


def _halves(node: _Node) -> list[list[Layer]]:
    """The two sides of the neuron whose slopes matter most; none where no neuron has several."""
    spans = [
        (high - low).expand(len(weight)) for (low, high), weight in zip(node.chain.slopes, node.chain.weights, strict=False)
    ]
    influence = _influence(node.chain)
    scores = [span * share for span, share in zip(spans, influence, strict=True)]
    sizes = [len(score) for score in scores]
    place = int(torch.cat(scores).argmax()) if sizes else 0
    index = next((i for i, end in enumerate(itertools.accumulate(sizes)) if place < end), None)
    if index is None:
        return []
    neuron = place - sum(sizes[:index])
    if spans[index][neuron] < WIDE:
        return []
    position = [i for i, layer in enumerate(node.layers) if acts_entrywise(layer.module)][index]
    layer = node.layers[position]
    low, high = layer.region.low.flatten(), layer.region.high.flatten()
    kinks = [point for point in _kinks(layer.module) if low[neuron] < point < high[neuron]]
    cut = min(kinks, key=abs) if kinks else float(low[neuron] + high[neuron]) / 2
    halves = []
    for end, beyond in (("high", -math.inf), ("low", math.inf)):
        ends = {"low": low.clone(), "high": high.clone()}
        # next to the kink, beyond which there is no other slope: at the kink itself both sides would count
        ends[end][neuron] = math.nextafter(cut, beyond) if kinks else cut
        low_end, high_end = (one.reshape(layer.region.low.shape) for one in ends.values())
        region = replace(layer.region, low=low_end, high=high_end)
        halves.append([*node.layers[:position], replace(layer, region=region), *node.layers[position + 1 :]])
    return halves


def _kinks(module: nn.Module) -> list[float]:
    return [point for point, values in derivative(module)[1].items() if len(set(values)) > 1]


def _influence(chain: Chain) -> list[Tensor]:
    """For each neuron how much of the input reaches it and how much of it the output, at the mean of the slopes."""
    ahead = chain.weights[0]
    into = []
    for weight, (low, high) in zip(chain.weights[1:], chain.slopes, strict=True):
        into.append(torch.linalg.vector_norm(ahead, dim=1))
        ahead = weight @ (((low + high) / 2).expand(len(ahead))[:, None] * ahead)
    back = chain.weights[-1]
    out: list[Tensor] = []
    for weight, (low, high) in zip(reversed(chain.weights[:-1]), reversed(chain.slopes), strict=True):
        out.insert(0, torch.linalg.vector_norm(back, dim=0))
        back = (back * ((low + high) / 2).expand(back.shape[1])) @ weight
    return [a * b for a, b in zip(into, out, strict=True)]
