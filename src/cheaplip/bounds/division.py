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
    """Whether subdivision of the domain is tried, which can use all the time that it gets."""
    network = question.local
    return network is not None and math.prod(network.shape) <= MANY and bool(serial(network))


def division(question: Question, rivals: Sequence[Method]) -> UpperBound | None:
    """Subdivision of the domain, and branches of neurons where that does not end close to Lip(f).

    Args:
        question: what to bound.
        rivals: methods that are quick; subdivision stops where it would end above what they prove.
    """
    divided = _subdivision(question, rivals)
    if divided is not None and divided.close:
        return divided
    found = [bound for bound in (divided, _branching(question)) if bound is not None]
    return smallest(found) if found else None


def _subdivision(question: Question, rivals: Sequence[Method]) -> UpperBound | None:
    """A bound of the Jacobian on ever smaller cells of a domain of few inputs.

    It may take half of the time, and with smooth activations, where branches of neurons gain little, nearly all of it; unless
    it does not seem to end below the certificate, which is then asked for.
    """
    network, domain = question.local, question.domain
    if network is None or domain is None or not is_divisible(question) or not (layers := serial(network)):
        return None
    now, share = time.monotonic(), SMOOTH_SHARE if is_smooth(layers) else 0.5
    time_left = question.deadline - now
    others: list[UpperBound] = []

    def rival() -> float:
        quick = replace(question, pairwise=False, deadline=time.monotonic() + RIVAL_SHARE * time_left)
        others.extend(bound for bound in (method(quick) for method in rivals) if bound is not None)
        return min(bound.value for bound in others)

    norms = {"input_norm": question.norms.input, "output_norm": question.norms.output}
    until = now + share * time_left
    divided = subdivide(layers, domain, deadline=until, known=question.known, rival=rival, **norms)
    if divided is None:
        return None
    steepest = None if divided.steepest is None else divided.steepest.reshape(1, *network.shape)
    final = divided.close and math.prod(network.out) == 1
    bound = UpperBound(divided.upper, SUBDIVISION, describe(domain), steepest=steepest, close=divided.close, final=final)
    return smallest([bound, *others]) if others else bound


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
