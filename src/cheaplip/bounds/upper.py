"""Upper bounds of Lip(f), proved: the multiplier certificate where a chain of layers allows it, never above the product.

Norms 2 and inf, by what holds between them: |x|_inf <= |x|_2 <= sqrt(n) |x|_inf.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..domains import Domain, describe
from ..errors import InputError
from .graph import propagate
from .layers.constants import infinity_norm, layer_norm
from .layers.intervals import layer_inputs
from .layers.layer import Layer, Shape
from .multipliers.certificate import Chain, proved_bound
from .multipliers.chain import make_chain
from .multipliers.search import search_multipliers
from .rounding import PRODUCTS, ROOTS
from .subdivision import FEW, subdivide

PRODUCT, MULTIPLIERS = "product of layer norms", "multipliers, verified by Cholesky"
SUBDIVISION = "subdivision of the domain"

PAIR_ITERATIONS = 60
"""Of the search for each difference of two outputs, which starts from the multipliers of all outputs."""


@dataclass(frozen=True)
class UpperBound:
    """A value that Lip(f) is at most."""

    value: float
    method: str
    scope: str  # on which inputs it holds
    gram: Tensor | None = None
    """`(outputs, outputs)`, where there is one: |c . (f(x) - f(x'))|^2 <= c^T gram c |x - x'|_2^2 for every c."""
    pairwise: Tensor | None = None
    """`(outputs, outputs)`: upper bounds of Lip(f_i - f_j), 2-norm on inputs."""
    steepest: Tensor | None = None
    """`(1, *input)`, where subdivision has met the largest norm of the Jacobian."""


def product_of_norms(model: nn.Module, shape: Shape, norm: float = 2) -> float:
    """The product of the layers' constants, equation (4) of the CLIP paper; sums and concatenations of such products.

    Args:
        model: a network that torch.fx can trace, of layers with a rule.
        shape: shape of one input, without the batch dimension.
        norm: 2 or inf, on inputs and outputs alike.

    Raises:
        UnsupportedModuleError: a layer or an operation without a rule.
        InputError: parameters that are not finite.
    """
    certify = _product if norm == 2 else _infinity_product
    return propagate(model, shape, certify, largest=norm != 2).closed(certify).scale


def _product(layers: Sequence[Layer]) -> float:
    return math.prod(layer_norm(module, shape) for module, shape, _ in layers)


def _infinity_product(layers: Sequence[Layer]) -> float:
    return math.prod(infinity_norm(module, shape) for module, shape, _ in layers)


def upper_bound(
    model: nn.Module,
    shape: Shape,
    *,
    domain: Domain | None = None,
    input_norm: float = 2,
    output_norm: float = 2,
    pairwise: bool = False,
    deadline: float = math.inf,
) -> UpperBound:
    """The smallest upper bound at hand.

    Args:
        model: as in `product_of_norms`.
        shape: shape of one input.
        domain: box or ball on which it need hold only; it is never above the bound for all inputs. One of up to four inputs
            is subdivided; where that closes in on Lip(f), and f has one output alone, nothing else is tried.
        input_norm: 2 or inf.
        output_norm: 2 or inf.
        pairwise: search multipliers for every difference of two outputs too.
        deadline: `time.monotonic()` at which searches stop with what they have.

    Raises:
        UnsupportedModuleError: a layer or an operation without a rule.
        InputError: another norm, a domain that does not fit, parameters that are not finite.
    """
    for norm in (input_norm, output_norm):
        if norm not in (2, math.inf):
            raise InputError("norms 2 or inf for an upper bound", norm, "Choose one of these, or use the lower bound alone.")
    if domain is None or math.prod(shape) > FEW:
        return _undivided(model, shape, domain, input_norm, output_norm, pairwise, deadline)
    known = propagate(model, shape, _product)
    half = time.monotonic() + (deadline - time.monotonic()) / 2
    norms = {"input_norm": input_norm, "output_norm": output_norm}
    divided = subdivide(known.layers, domain, deadline=half, **norms) if known.alone and known.layers else None
    if divided is None:
        return _undivided(model, shape, domain, input_norm, output_norm, pairwise, deadline)
    steepest = None if divided.steepest is None else divided.steepest.reshape(1, *shape)
    own = UpperBound(divided.upper, SUBDIVISION, describe(domain), steepest=steepest)
    if divided.close and math.prod(known.layers[-1][2]) == 1:
        return own
    other = _undivided(model, shape, domain, input_norm, output_norm, pairwise, deadline)
    better = other if other.value <= own.value else own
    return replace(better, steepest=steepest, gram=other.gram, pairwise=other.pairwise)


def _undivided(
    model: nn.Module,
    shape: Shape,
    domain: Domain | None,
    input_norm: float,
    output_norm: float,
    pairwise: bool,
    deadline: float,
) -> UpperBound:
    euclidean = _euclidean(model, shape, domain, pairwise, deadline)
    if input_norm == output_norm == 2:
        return euclidean
    n = math.prod(shape)
    through = "by the norms' equivalence"
    rows = euclidean if euclidean.gram is None else replace(euclidean, value=_outwards(euclidean.gram.diagonal().max()))
    largest = UpperBound(product_of_norms(model, shape, math.inf), f"{PRODUCT}, inf", "all inputs")
    if output_norm == 2:
        outputs = _outputs(model, shape)
        candidates = [(math.sqrt(n), euclidean), (math.sqrt(outputs), largest)]
    else:
        candidates = [(1.0 if input_norm == 2 else math.sqrt(n), rows), (1.0, largest)]
    factor, best = min(candidates, key=lambda pair: pair[0] * pair[1].value)
    method = best.method if factor == 1 else f"{best.method}, {through}"
    return replace(best, value=factor * best.value, method=method, gram=euclidean.gram, pairwise=euclidean.pairwise)


def _euclidean(model: nn.Module, shape: Shape, domain: Domain | None, pairwise: bool, deadline: float) -> UpperBound:
    def certify(layers: Sequence[Layer]) -> float:
        return _chain_bound(layers, None, False, deadline).value

    known = propagate(model, shape, certify)
    whole = known.alone and bool(known.layers)  # only then do the chain's intervals begin with the domain
    best = _chain_bound(known.layers, domain if whole else None, pairwise, deadline)
    scale = known.scale
    if whole or (scale == 1 and known.layers):
        return best
    return replace(
        best,
        value=scale * best.value,
        method=f"sums and products of chains ({best.method})" if known.layers else "sums and products of chains",
        gram=None if best.gram is None else scale**2 * best.gram,
        pairwise=None if best.pairwise is None else scale * best.pairwise,
    )


def _chain_bound(layers: Sequence[Layer], domain: Domain | None, pairwise: bool, deadline: float) -> UpperBound:
    """Of a chain: the product, the certificate for all inputs, that for the domain if it knows more: the smallest."""
    product = UpperBound(_product(layers) * (1 + PRODUCTS), PRODUCT, describe(None))
    with torch.no_grad():
        chain = make_chain(layers) if layers else None
    if chain is None:
        return replace(product, method=f"{PRODUCT} (too large for multipliers)") if layers else product
    best = _certified(chain, pairwise, deadline, describe(None))
    if domain is not None:
        with torch.no_grad():
            local = make_chain(layers, layer_inputs(layers, domain))
        if local is not None and _narrower(local, chain):
            best = _smaller(best, _certified(local, pairwise, deadline, describe(domain)))
    if best is None:
        return product
    return best if best.value <= product.value else replace(best, value=product.value, method=PRODUCT, scope=product.scope)


def _certified(chain: Chain, pairwise: bool, deadline: float, scope: str) -> UpperBound | None:
    logs = search_multipliers(chain, deadline=deadline)
    proved = proved_bound(chain, logs)
    if proved is None:
        return None
    value, gram = proved
    if gram.dim() != 2:
        return UpperBound(value, MULTIPLIERS, scope)
    found = pair_bounds(gram)
    if pairwise:
        k = len(gram)
        for i, j in itertools.combinations(range(k), 2):
            if time.monotonic() > deadline:
                break
            contrast = torch.zeros(1, k, dtype=gram.dtype, device=gram.device)
            contrast[0, i], contrast[0, j] = 1.0, -1.0
            own = search_multipliers(chain, start=logs, contrast=contrast, iterations=PAIR_ITERATIONS, deadline=deadline)
            one = proved_bound(chain, own)
            if one is not None:
                found[i, j] = found[j, i] = min(float(found[i, j]), float(pair_bounds(one[1])[i, j]))
    return UpperBound(value, MULTIPLIERS, scope, gram, found)


def pair_bounds(gram: Tensor) -> Tensor:
    """Upper bounds of Lip(f_i - f_j) from the matrix of `verified_bound`, `(outputs, outputs)`, rounded upwards."""
    diagonal = gram.diagonal()
    total = diagonal[:, None] + diagonal
    squares = total - 2 * gram + ROOTS * total  # of both: the difference may cancel
    return (squares.clamp(min=0).sqrt() * (1 + ROOTS)).fill_diagonal_(0.0)


def _smaller(first: UpperBound | None, second: UpperBound | None) -> UpperBound | None:
    if first is None or second is None:
        return first or second
    best = min(first, second, key=lambda bound: bound.value)
    if first.pairwise is None or second.pairwise is None:
        return best
    return replace(best, pairwise=torch.minimum(first.pairwise, second.pairwise))


def _narrower(local: Chain, chain: Chain) -> bool:
    """Whether some slope interval is at least 1 % narrower than everywhere: else a second search is in vain."""
    pairs = zip(local.slopes, chain.slopes, strict=True)
    return any(bool(((high - low) < 0.99 * (wide_high - wide_low)).any()) for (low, high), (wide_low, wide_high) in pairs)


def _outwards(square: Tensor) -> float:
    return float(square.sqrt()) * (1 + ROOTS)


def _outputs(model: nn.Module, shape: Shape) -> int:
    first = next(itertools.chain(model.parameters(), model.buffers()), torch.zeros(()))
    with torch.no_grad():
        return int(model(torch.zeros(2, *shape, dtype=first.dtype, device=first.device))[0].numel())
