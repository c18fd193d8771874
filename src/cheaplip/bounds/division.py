"""Upper bounds of Lip(f) on a domain by dividing it: into cells, and into branches of neurons."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

from ..domains import describe
from .branching import branch
from .question import Method, Norms, Question, UpperBound, from_euclidean, smallest
from .serial import serial
from .subdivision import MANY, is_smooth, subdivide
from .zonotope import narrowed

SUBDIVISION, BRANCHING = "subdivision of the domain", "multipliers in branches of neurons"
SMOOTH_SHARE, RIVAL_SHARE = 0.9, 0.1
"""Of the time: for subdivision with smooth activations, and for the methods that tell whether it is worth while."""


def is_divisible(question: Question) -> bool:
    """Whether subdivision of the domain or branches of neurons are tried, which can use all the time that they get."""
    network = question.local
    return network is not None and math.prod(network.shape) <= MANY and bool(serial(network))


def division(question: Question, rivals: Sequence[Method]) -> UpperBound | None:
    """Subdivision of the domain, and branches of neurons where that does not end close to Lip(f).

    Subdivision may take half of the time; with smooth activations, where branches gain little, nearly all of it. Where it does
    not seem to end below what the rivals prove, branches come first.

    Args:
        question: what to bound.
        rivals: methods that are quick.
    """
    network, domain = question.local, question.domain
    if network is None or domain is None or not (layers := serial(network)):
        return None
    now, found, branched = time.monotonic(), list[UpperBound](), False
    time_left = question.deadline - now

    def of(methods: Sequence[Method], asked: Question) -> float:
        found.extend(bound for bound in (method(asked) for method in methods) if bound is not None)
        return min((bound.value for bound in found), default=math.inf)

    def branches() -> float:
        nonlocal branched
        branched = True
        return of([_branching], question)

    divided = subdivide(
        layers,
        domain,
        input_norm=question.norms.input,
        output_norm=question.norms.output,
        deadline=now + (SMOOTH_SHARE if is_smooth(layers) else 0.5) * time_left,
        reached=question.attained,
        quick=lambda: of(rivals, replace(question, pairwise=False, deadline=time.monotonic() + RIVAL_SHARE * time_left)),
        slow=branches,
    )
    if divided is not None:
        steepest = None if divided.steepest is None else divided.steepest.reshape(1, *network.shape)
        final = divided.close and math.prod(network.out) == 1
        bound = UpperBound(divided.upper, SUBDIVISION, describe(domain), steepest=steepest, final=final)
        if divided.close:
            return bound
        found.append(bound)
    if not branched:
        branches()
    return smallest(found) if found else None


def _branching(question: Question) -> UpperBound | None:
    """Multipliers in branches of neurons on a domain; it may take half of the time."""
    network, domain = question.local, question.domain
    if network is None or domain is None or not (layers := serial(network)):
        return None
    now = time.monotonic()
    branched = branch(narrowed(layers, domain), domain, deadline=now + (question.deadline - now) / 2)
    if branched is None:
        return None
    plain = question.norms == Norms(2, 2)
    final = plain and branched.close and math.prod(network.out) == 1
    steepest = branched.steepest.reshape(1, *network.shape) if plain else None
    bound = UpperBound(branched.upper, BRANCHING, describe(domain), steepest=steepest, final=final)
    return from_euclidean(bound, question)
