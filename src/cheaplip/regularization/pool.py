"""The working pool: which pairs are active now, and which come next.

Pairs are visited in rounds through a pool that is small enough to come round often; after each round its least steep
pairs make room for others of the set, and the hardest stay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor


@dataclass
class PairState:
    """What the regularizer knows of its pairs."""

    points: Tensor  # (pairs, 2, *input): u and v of each
    step_size: Tensor  # (pairs,) of the ascent, adapted pair by pair
    quotient: Tensor  # (pairs,) when last visited; inf before the first visit, so that new pairs count as hard
    order: Tensor  # (pool,) the working pool, in the order in which this round visits it
    before: Tensor  # (active,) quotients of the active pairs before their last ascent; nan where there was none
    cursor: int = 0  # the active pairs are order[cursor : cursor + active]
    rounds: int = 0  # finished

    @property
    def active(self) -> Tensor:
        """Indices of the active pairs."""
        return self.order[self.cursor : self.cursor + len(self.before)]

    def copied(self, device: torch.device) -> PairState:
        """A copy of its own on another device."""
        tensors = {name: value.to(device, copy=True) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)  # type: ignore[arg-type]

    def steepest(self, n: int) -> Tensor:
        """Indices of the n pairs that were steepest when last visited; those never visited are not known to be steep."""
        return self.quotient.nan_to_num(posinf=0.0).topk(min(n, len(self.quotient))).indices


def fresh_state(points: Tensor, *, pool: int, active: int, step_size: float, generator: Generator) -> PairState:
    """The state before the first step: a random pool."""
    of_each = points.new_ones(len(points), dtype=torch.promote_types(points.dtype, torch.float32))
    order = _shuffled(len(points), generator, points.device)[:pool]
    return PairState(points, of_each * step_size, of_each * torch.inf, order, of_each[:active] * torch.nan)


def rotate(state: PairState, renewal: float, generator: Generator) -> None:
    """Turn to the next active pairs; after the last ones, renew a share of the pool and begin another round."""
    active, pool = len(state.before), len(state.order)
    state.cursor += active
    if state.cursor + active <= pool:
        return
    state.cursor, state.rounds = 0, state.rounds + 1
    kept = pool - min(int(renewal * pool), len(state.points) - pool)
    outside = torch.ones(len(state.points), dtype=torch.bool, device=state.order.device)
    outside[state.order] = False
    hardest = state.order[state.quotient[state.order].topk(kept).indices]
    others = outside.nonzero().squeeze(1)
    others = others[_shuffled(len(others), generator, others.device)[: pool - kept]]
    state.order = torch.cat([hardest, others])[_shuffled(pool, generator, others.device)]


def _shuffled(n: int, generator: Generator, device: torch.device) -> Tensor:
    return torch.randperm(n, generator=generator).to(device)
