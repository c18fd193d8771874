"""Upper bounds of Lip(f), proved: a list of methods, of which the smallest value counts.

Norms 2 and inf, by what holds between them: |x|_inf <= |x|_2 <= sqrt(n) |x|_inf.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..domains import Domain, describe
from ..errors import InputError, UnsupportedModuleError
from .division import division
from .ellipsoid import ellipsoid
from .graph import trace
from .layers.constants import infinity_norm
from .layers.joined import joined
from .layers.layer import Layer, Shape
from .multipliers.bound import Certificate, certified, is_narrower, pair_bounds
from .multipliers.certificate import Chain, proved_root
from .multipliers.chain import make_chain
from .network import Network, fold
from .question import TOO_LARGE, Method, Norms, Question, UpperBound, from_euclidean, smallest, times
from .rounding import PRODUCTS, ROOTS
from .serial import serial, steps_of
from .zonotope import narrowed

PRODUCT, MULTIPLIERS = "product of layer norms", "multipliers, verified by Cholesky"
ELLIPSOID = "multipliers in closed form, of all values"


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
    multipliers: Sequence[Tensor] = (),
) -> UpperBound:
    """The smallest of the values of `METHODS`.

    Args:
        model: a network of layers with a rule.
        shape: shape of one input, without the batch dimension.
        domain: box or ball on which it need hold only; it is never above the bound for all inputs. One of up to six inputs,
            or 32 with smooth activations, is subdivided; where that comes close to Lip(f), and f has one output alone,
            nothing else is tried.
        input_norm: 2 or inf.
        output_norm: 2 or inf.
        pairwise: search multipliers for every difference of two outputs too.
        deadline: `time.monotonic()` at which searches stop with what they have.
        multipliers: logarithms of multipliers, a vector for each activation of the network's chain. The search starts there,
            and the bound is never above what they prove.

    Raises:
        UnsupportedModuleError: a layer or an operation without a rule.
        InputError: another norm, a domain or multipliers that do not fit, parameters that are not finite.
    """
    norms = Norms(input_norm, output_norm)
    question = ask(model, shape, domain=domain, norms=norms, pairwise=pairwise, multipliers=multipliers)
    return answer(replace(question, deadline=deadline))


def ask(
    model: nn.Module,
    shape: Shape,
    *,
    domain: Domain | None,
    norms: Norms,
    pairwise: bool,
    multipliers: Sequence[Tensor],
) -> Question:
    """The question of `upper_bound`, which raises its errors, at once."""
    for norm in (norms.input, norms.output):
        if norm not in (2, math.inf):
            raise InputError("norms 2 or inf for an upper bound", norm, "Choose one of these, or use the lower bound alone.")
    everywhere = trace(model, shape)
    products = everywhere.products()
    if domain is None and products and not math.isfinite(_folded(everywhere)):
        raise UnsupportedModuleError(
            "a network with a constant on all inputs",
            f"products of values at {', '.join(sorted({product.where for product in products}))}",
            "Give domain=, a box or a Ball: there the values are bounded, and so is the constant.",
        )
    local = None if domain is None else trace(model, shape, domain)
    return Question(everywhere, local, domain, norms, pairwise, multipliers=multipliers)


@torch.no_grad()
def answer(question: Question) -> UpperBound:
    """By all methods, unless one ends so close to Lip(f) that no other is tried."""
    found = []
    for method in METHODS:
        if (bound := method(question)) is not None:
            found.append(bound)
            if bound.final and not question.multipliers:
                return bound
    return smallest(found)


def multipliers(question: Question) -> UpperBound | None:
    """The certificate: of the whole network where it is a chain or can be written as one, else of its chains."""
    found: list[UpperBound | None] = []
    chains: list[Chain] = []
    for network, scope in reversed(question.networks):
        layers = serial(network)
        if layers and question.domain is not None and network is question.local:
            layers = narrowed(layers, question.domain)
        if layers:
            chain = make_chain(layers)
            if chain is None:
                found.append(UpperBound(math.inf, TOO_LARGE, scope))
            elif not chains or is_narrower(chain, chains[0]):
                chains.append(chain)
                certificate = certified(chain, known=question.multipliers, **_limits(question))
                found.append(_of_certificate(certificate, MULTIPLIERS, scope, question))
        else:
            found.append(_of_chains(network, scope, question))
    proved = [bound for bound in found if bound is not None]
    return smallest(proved) if proved else None


def _of_chains(network: Network, scope: str, question: Question) -> UpperBound | None:
    """The certificate of each chain in a network with branches, where it is below the product."""
    last = network.last_chain
    factor = fold(network, partial(_chain_bound, deadline=question.deadline), root=last.source)
    matrices = make_chain(last.layers) if last.layers else None
    certificate = None if matrices is None else certified(matrices, **_limits(question))
    value, method = _product(last.layers) * (1 + PRODUCTS), PRODUCT
    if certificate is not None and certificate.value <= value:
        value, method = certificate.value, MULTIPLIERS
    method = f"sums and products of chains ({method})" if last.layers else "sums and products of chains"
    branched = Certificate(factor * value, None, None)
    if certificate is not None and certificate.gram is not None and certificate.pairwise is not None and math.isfinite(factor):
        branched = Certificate(branched.value, factor**2 * certificate.gram, factor * certificate.pairwise)
    return _of_certificate(branched, method, scope, question)


def ellipsoids(question: Question) -> UpperBound | None:
    """The certificate of any network that is not wide, with multipliers in closed form; it takes half of the time or so."""
    found: list[UpperBound | None] = []
    for network, scope in question.networks:
        chain = network.last_chain
        if network is question.everywhere and chain.is_whole_network and steps_of(chain.layers):
            continue  # the search finds better multipliers
        gram = ellipsoid(network, question.deadline)
        value = None if gram is None else proved_root(gram)
        if gram is not None and value is not None:
            found.append(_of_certificate(Certificate(value, gram, pair_bounds(gram)), ELLIPSOID, scope, question))
    proved = [bound for bound in found if bound is not None]
    return smallest(proved) if proved else None


def product(question: Question) -> UpperBound:
    """The product of the layers' constants, equation (4) of the CLIP paper; sums and concatenations of such products."""
    bounds = [UpperBound(_folded(network) * (1 + PRODUCTS), PRODUCT, scope) for network, scope in question.networks]
    return from_euclidean(min(bounds, key=lambda bound: bound.value), question)


def infinity_product(question: Question) -> UpperBound | None:
    """The same in the inf-norm, which is better where that norm is asked for."""
    network = question.everywhere
    if question.norms == Norms(2, 2) or network.products():
        return None
    value = fold(network, _infinity_product, max) * (1 + PRODUCTS)
    factor = math.sqrt(math.prod(network.out)) if question.norms.output == 2 else 1.0
    return times(factor, UpperBound(value, f"{PRODUCT}, inf", describe(None)))


METHODS: Sequence[Method] = (
    partial(division, rivals=(multipliers, product)),
    ellipsoids,
    multipliers,
    product,
    infinity_product,
)


@torch.no_grad()
def product_of_norms(model: nn.Module, shape: Shape, norm: float = 2) -> float:
    """The product of the layers' constants, equation (4) of the CLIP paper; sums and concatenations of such products.

    Args:
        model: a network of layers with a rule.
        shape: shape of one input, without the batch dimension.
        norm: 2 or inf, on inputs and outputs alike.

    Raises:
        UnsupportedModuleError: a layer or an operation without a rule.
        InputError: parameters that are not finite.
    """
    network = trace(model, shape)
    return _folded(network) if norm == 2 else fold(network, _infinity_product, max)


def _folded(network: Network) -> float:
    return fold(network, _product)


def _limits(question: Question) -> dict[str, Any]:
    return {"pairwise": question.pairwise, "deadline": question.deadline}


def _product(layers: Sequence[Layer]) -> float:
    return math.prod(layer.constant for layer in joined(layers))


def _infinity_product(layers: Sequence[Layer]) -> float:
    return math.prod(infinity_norm(layer.module, layer.shape) for layer in layers)


def _chain_bound(layers: Sequence[Layer], deadline: float) -> float:
    """Of a chain inside a network: the certificate or the product, whichever is smaller."""
    matrices = make_chain(layers)
    certificate = None if matrices is None else certified(matrices, deadline=deadline)
    return min(_product(layers) * (1 + PRODUCTS), math.inf if certificate is None else certificate.value)


def _of_certificate(certificate: Certificate | None, method: str, scope: str, question: Question) -> UpperBound | None:
    if certificate is None:
        return None
    value = certificate.value
    if question.norms.output == math.inf and certificate.gram is not None:  # the rows' own constants
        value = float(certificate.gram.diagonal().max().sqrt()) * (1 + ROOTS)
    return from_euclidean(UpperBound(value, method, scope, certificate.pairwise), question)
