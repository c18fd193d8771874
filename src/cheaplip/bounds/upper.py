"""Upper bounds of Lip(f), proved: a list of methods, of which the smallest value counts.

A method is a function from a `Network` and a `Question` to an `UpperBound`, or None where it does not apply. Norms 2 and
inf, by what holds between them: |x|_inf <= |x|_2 <= sqrt(n) |x|_inf.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from ..domains import Domain, describe
from ..errors import InputError
from .graph import trace
from .layers.constants import infinity_norm, layer_norm
from .layers.intervals import layer_inputs
from .layers.layer import Layer, Shape
from .multipliers.bound import Certificate, certified, is_narrower
from .multipliers.chain import make_chain
from .network import Network, fold
from .rounding import PRODUCTS, ROOTS
from .subdivision import FEW, subdivide

PRODUCT, MULTIPLIERS = "product of layer norms", "multipliers, verified by Cholesky"
SUBDIVISION, TOO_LARGE = "subdivision of the domain", "too large for multipliers"


@dataclass(frozen=True)
class Norms:
    """Exponents of the norms on inputs and outputs, 2 or inf each."""

    input: float = 2
    output: float = 2


@dataclass(frozen=True)
class Question:
    """What is asked of a network."""

    domain: Domain | None = None  # where the bound need hold; None: everywhere
    norms: Norms = Norms()
    pairwise: bool = False  # whether to search multipliers for every difference of two outputs, too
    deadline: float = math.inf  # `time.monotonic()` at which searches stop with what they have


@dataclass(frozen=True)
class UpperBound:
    """A value that Lip(f) is at most."""

    value: float
    method: str
    scope: str  # on which inputs it holds
    pairwise: Tensor | None = None
    """`(outputs, outputs)`: upper bounds of Lip(f_i - f_j), 2-norm on inputs."""
    steepest: Tensor | None = None
    """`(1, *input)`, where subdivision has met the largest norm of the Jacobian."""
    final: bool = False  # so close to Lip(f) that no other method is tried


Method = Callable[[Network, Question], UpperBound | None]


@torch.no_grad()
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
    """The smallest of the values of `METHODS`.

    Args:
        model: a network that torch.fx can trace, of layers with a rule.
        shape: shape of one input, without the batch dimension.
        domain: box or ball on which it need hold only; it is never above the bound for all inputs. One of up to four inputs
            is subdivided; where that comes close to Lip(f), and f has one output alone, nothing else is tried.
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
    network, question = trace(model, shape), Question(domain, Norms(input_norm, output_norm), pairwise, deadline)
    found = []
    for method in METHODS:
        if (bound := method(network, question)) is not None:
            found.append(bound)
            if bound.final:
                return bound
    return _smallest(found)


def subdivision(network: Network, question: Question) -> UpperBound | None:
    """The interval of the Jacobian on ever smaller cells of a domain of few inputs; it may take half of the time."""
    chain, domain = network.last_chain, question.domain
    if domain is None or math.prod(network.shape) > FEW or not (chain.is_whole_network and chain.layers):
        return None
    now = time.monotonic()
    norms = {"input_norm": question.norms.input, "output_norm": question.norms.output}
    divided = subdivide(chain.layers, domain, deadline=now + (question.deadline - now) / 2, **norms)
    if divided is None:
        return None
    steepest = None if divided.steepest is None else divided.steepest.reshape(1, *network.shape)
    final = divided.close and math.prod(network.out) == 1
    return UpperBound(divided.upper, SUBDIVISION, describe(domain), steepest=steepest, final=final)


def multipliers(network: Network, question: Question) -> UpperBound | None:
    """The certificate for all inputs; in a network with branches that of each chain, where it is below the product."""
    chain = network.last_chain
    factor = fold(chain.source, partial(_chain_bound, deadline=question.deadline))
    matrices = make_chain(chain.layers) if chain.layers else None
    certificate = None if matrices is None else certified(matrices, pairwise=question.pairwise, deadline=question.deadline)
    if factor == 1 and chain.layers:
        if matrices is None:
            return UpperBound(math.inf, TOO_LARGE, describe(None))
        return _of_certificate(certificate, MULTIPLIERS, describe(None), question, network)
    last = UpperBound(_product(chain.layers) * (1 + PRODUCTS), PRODUCT, describe(None))
    if certificate is not None and certificate.value <= last.value:
        last = replace(last, value=certificate.value, method=MULTIPLIERS)
    method = f"sums and products of chains ({last.method})" if chain.layers else "sums and products of chains"
    branched = Certificate(factor * last.value, None, None)
    if certificate is not None and certificate.gram is not None and certificate.pairwise is not None:
        branched = Certificate(branched.value, factor**2 * certificate.gram, factor * certificate.pairwise)
    return _of_certificate(branched, method, describe(None), question, network)


def multipliers_on_domain(network: Network, question: Question) -> UpperBound | None:
    """The certificate for the narrower slopes that activations have on the domain, if some are at least 1 % narrower."""
    chain, domain = network.last_chain, question.domain
    if domain is None or not (chain.is_whole_network and chain.layers):
        return None
    local, everywhere = make_chain(chain.layers, layer_inputs(chain.layers, domain)), make_chain(chain.layers)
    if local is None or everywhere is None or not is_narrower(local, everywhere):
        return None
    certificate = certified(local, pairwise=question.pairwise, deadline=question.deadline)
    return _of_certificate(certificate, MULTIPLIERS, describe(domain), question, network)


def product(network: Network, question: Question) -> UpperBound:
    """The product of the layers' constants, equation (4) of the CLIP paper; sums and concatenations of such products."""
    value = fold(network.root, _product) * (1 + PRODUCTS)
    return _from_euclidean(UpperBound(value, PRODUCT, describe(None)), question, network)


def infinity_product(network: Network, question: Question) -> UpperBound | None:
    """The same in the inf-norm, which is better where that norm is asked for."""
    if question.norms == Norms(2, 2):
        return None
    value = fold(network.root, _infinity_product, max) * (1 + PRODUCTS)
    factor = math.sqrt(math.prod(network.out)) if question.norms.output == 2 else 1.0
    return _times(factor, UpperBound(value, f"{PRODUCT}, inf", describe(None)))


METHODS: Sequence[Method] = (subdivision, multipliers, multipliers_on_domain, product, infinity_product)


@torch.no_grad()
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
    root = trace(model, shape).root
    return fold(root, _product) if norm == 2 else fold(root, _infinity_product, max)


def _product(layers: Sequence[Layer]) -> float:
    return math.prod(layer_norm(layer.module, layer.shape) for layer in layers)


def _infinity_product(layers: Sequence[Layer]) -> float:
    return math.prod(infinity_norm(layer.module, layer.shape) for layer in layers)


def _chain_bound(layers: Sequence[Layer], deadline: float) -> float:
    """Of a chain inside a network: the certificate or the product, whichever is smaller."""
    matrices = make_chain(layers)
    certificate = None if matrices is None else certified(matrices, deadline=deadline)
    return min(_product(layers) * (1 + PRODUCTS), math.inf if certificate is None else certificate.value)


def _of_certificate(
    certificate: Certificate | None, method: str, scope: str, question: Question, network: Network
) -> UpperBound | None:
    if certificate is None:
        return None
    value = certificate.value
    if question.norms.output == math.inf and certificate.gram is not None:  # the rows' own constants
        value = float(certificate.gram.diagonal().max().sqrt()) * (1 + ROOTS)
    return _from_euclidean(UpperBound(value, method, scope, certificate.pairwise), question, network)


def _from_euclidean(bound: UpperBound, question: Question, network: Network) -> UpperBound:
    """A bound in the 2-norm as one in the norms of the question."""
    return _times(math.sqrt(math.prod(network.shape)) if question.norms.input == math.inf else 1.0, bound)


def _times(factor: float, bound: UpperBound) -> UpperBound:
    if factor == 1:
        return bound
    return replace(bound, value=factor * bound.value, method=f"{bound.method}, by the norms' equivalence")


def _smallest(found: Sequence[UpperBound]) -> UpperBound:
    """The bound of the smallest value, with all that the others know besides."""
    best = min(found, key=lambda bound: bound.value)
    notes = [bound.method for bound in found if bound.value == math.inf > best.value]
    pairwise = [bound.pairwise for bound in found if bound.pairwise is not None]
    return replace(
        best,
        method=f"{best.method} ({', '.join(notes)})" if notes else best.method,
        pairwise=torch.stack(pairwise).amin(0) if pairwise else None,
        steepest=next((bound.steepest for bound in found if bound.steepest is not None), None),
    )
