"""What is asked of a network, what an answer is, and which of several answers counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..domains import Domain, describe
from .network import Network

TOO_LARGE = "too large for multipliers"


@dataclass(frozen=True)
class Norms:
    """Exponents of the norms on inputs and outputs, 2 or inf each."""

    input: float = 2
    output: float = 2


@dataclass(frozen=True)
class Question:
    """What is asked of a network."""

    everywhere: Network
    local: Network | None = None  # the same with its regions on the domain
    domain: Domain | None = None  # where the bound need hold; None: everywhere
    norms: Norms = Norms()
    pairwise: bool = False  # whether to search multipliers for every difference of two outputs, too
    deadline: float = math.inf  # `time.monotonic()` at which searches stop with what they have
    attained: float = 0.0  # what the bound is at least: searches may stop near it
    multipliers: Sequence[Tensor] = ()  # logarithms of multipliers that the search starts from

    @property
    def networks(self) -> list[tuple[Network, str]]:
        """With and without the domain, and the scope in words."""
        local = [] if self.local is None else [(self.local, describe(self.domain))]
        return [*local, (self.everywhere, describe(None))]


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


Method = Callable[[Question], UpperBound | None]
"""None where it does not apply."""


def from_euclidean(bound: UpperBound, question: Question) -> UpperBound:
    """A bound in the 2-norm as one in the norms of the question."""
    return times(math.sqrt(math.prod(question.everywhere.shape)) if question.norms.input == math.inf else 1.0, bound)


def times(factor: float, bound: UpperBound) -> UpperBound:
    """The bound times what two norms differ by at most."""
    if factor == 1:
        return bound
    return replace(bound, value=factor * bound.value, method=f"{bound.method}, by the norms' equivalence")


def smallest(found: Sequence[UpperBound]) -> UpperBound:
    """The bound of the smallest value, with all that the others know besides."""
    best = min(found, key=lambda bound: bound.value)
    notes = [bound.method for bound in found if bound.method == TOO_LARGE and math.isfinite(best.value)]
    pairwise = [bound.pairwise for bound in found if bound.pairwise is not None]
    return replace(
        best,
        method=f"{best.method} ({', '.join(notes)})" if notes else best.method,
        pairwise=torch.stack([one.to(pairwise[0].device) for one in pairwise]).amin(0) if pairwise else None,
        steepest=next((bound.steepest for bound in found if bound.steepest is not None), None),
    )
