"""`LipschitzRegularizer`: holds the pair set, returns the penalty, ascends. The memory around the functions of `pairs`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..inference import Model, device_of
from ..norms import sample_norm
from ..pairs import ascent
from ..pairs.quotient import pair_quotient
from ..pairs.sets import PairSet, corner_points
from ..records import validated
from .options import STEP_SIZE, PairOptions
from .penalty import Penalty
from .pool import PairState, fresh_state, rotate

SEPARATION = 0.01
"""Pairs are kept at least this far apart, in units of their initial median distance."""


def reduce_quotients(quotient: Tensor, reduction: str, power: int) -> Tensor:
    """The penalty of some quotients: their largest or their mean, to the power 1 or 2; the paper's is `max` and 1, (5)."""
    powered = quotient if power == 1 else quotient.square()
    return powered.max() if reduction == "max" else powered.mean()


class LipschitzRegularizer(Penalty):
    r"""The penalty Lip(f, X_Lip)^power on active pairs that an adversarial update keeps steep. Source: (5), Algorithm 1.

    The penalty is lazy: every `interval`-th call evaluates m active pairs and returns `interval` times their penalty, the
    calls between return 0. `step` belongs after the optimizer's step. Before a penalty it turns to the next m pairs and
    raises their quotients, so that the penalty sees freshly ascended pairs.

    Pairs are visited in rounds through a working pool. The network changes while a pair waits, and the pair's quotient
    falls. So the pool is small enough to be visited often. After each round its least steep pairs make room for others of
    the set, and the steepest pairs stay.

    Args:
        model: f, any `nn.Module` from `(n, *input)` to one tensor `(n, *output)`. It is evaluated in evaluation mode; its
            modes, running statistics and the parameters' `.grad` are left as they were.
        pairs: X_Lip. It follows the model's device.
        domain: box (low, high) that the points must not leave; by default the box that the pairs span. Without a box the
            ascent would move pairs away from all data.
        seed: of the order of visits and of redrawn pairs.
        active, interval, pool, renewal, explore, reduction, power, ascent, step_size: see `PairOptions`.

    Raises:
        InputError: an argument outside its range, or (when called) a model that does not fit the pairs.

    Example:
        >>> from cheaplip.pairs.sets import PairSet
        >>> pairs = PairSet(torch.tensor([[1.0]]), torch.tensor([[0.0]]))
        >>> float(LipschitzRegularizer(lambda x: 3 * x, pairs, interval=1)())
        9.0
    """

    vanishes_on_constants = True

    def __init__(
        self,
        model: Model,
        pairs: PairSet,
        *,
        domain: tuple[float, float] | None = None,
        seed: int = 0,
        active: int = PairOptions().active,
        interval: int = PairOptions().interval,
        pool: int = PairOptions().pool,
        renewal: float = PairOptions().renewal,
        explore: float = PairOptions().explore,
        reduction: str = PairOptions().reduction,
        power: int = PairOptions().power,
        ascent: str = PairOptions().ascent,
        step_size: float | None = None,
    ) -> None:
        given: dict[str, Any] = {"active": active, "interval": interval, "pool": pool, "renewal": renewal, "explore": explore}
        given |= {"reduction": reduction, "power": power, "ascent": ascent, "step_size": step_size}
        self.options = validated(PairOptions, given)
        if domain is not None and not domain[0] < domain[1]:
            raise InputError("domain (low, high) with low < high", domain, "Give the box the inputs live in, such as (0, 1).")
        self.model, self.interval = model, interval
        self._explorers = 0 if domain is None else round(explore * len(pairs))
        self.pool = min(pool, len(pairs) + self._explorers)
        self.active = min(active, self.pool)
        self.domain = _span(pairs) if domain is None else domain
        self.separation = SEPARATION * float(sample_norm(pairs.u - pairs.v).median())
        self.skipped = 0
        """Penalties that were not finite and therefore left out."""
        self._pairs = pairs
        self._generator = torch.Generator().manual_seed(seed)
        self.state = self._fresh_state(pairs)

    def __call__(self) -> Tensor:
        """The penalty: a scalar, with a graph to the parameters when it is due, 0 on the steps between."""
        self._follow_the_model()
        if self.state.calls % self.interval:
            return torch.zeros((), device=self.state.points.device)
        active = self.state.active
        quotient = pair_quotient(self.model, self.state.points[active])
        penalty = self.interval * reduce_quotients(quotient, self.options.reduction, self.options.power)
        if not math.isfinite(float(penalty.detach())):
            self.skipped += 1
            return penalty.new_zeros(())
        self.state.quotient[active] = quotient.detach()
        if self.options.ascent == "normalized":
            # the parameters are those of the ascent: this pass shows, at no cost, whether the step raised the quotient
            sizes = self.state.step_size[active]
            self.state.step_size[active] = ascent.adapted(sizes, self.state.before, quotient.detach())
        return penalty

    def step(self) -> None:
        """If a penalty is due next, turn to the next active pairs and raise their quotients (Algorithm 1)."""
        self.state.calls += 1
        if self.state.calls % self.interval:
            return
        self._follow_the_model()
        rotate(self.state, self.options.renewal, self._generator)
        active, state = self.state.active, self.state
        points, sizes = state.points[active], state.step_size[active]
        state.before, gradient = ascent.quotient_and_gradient(self.model, points)
        if self.options.ascent == "accepted":
            points, _, sizes = ascent.accepted_step(
                self.model, points, gradient, state.before, sizes, separation=self.separation, domain=self.domain
            )
        else:
            rule = ascent.printed_step if self.options.ascent == "printed" else ascent.normalized_step
            points = ascent.keep_valid(rule(points, gradient, sizes), points, self.separation, self.domain)
        state.points[active], state.step_size[active] = points, sizes

    @property
    def pairs(self) -> PairSet:
        """X_Lip as the ascent has left it."""
        return PairSet(self.state.points[:, 0], self.state.points[:, 1])

    @torch.no_grad()
    def lower_bound(self, pairs: int = 256) -> float:
        """A lower bound of Lip(f) now: the largest quotient among the `pairs` pairs that were steepest when last visited."""
        self._follow_the_model()
        return float(pair_quotient(self.model, self.state.points[self.state.steepest(pairs)]).max())

    def refine(self) -> float:
        """Raise the quotients of the steepest pairs until little is left to gain; returns the largest. For the end of a run.

        256 pairs take 20 steps, the steepest quarter of them 40 more, of these the steepest quarter 100 more: the work of
        about 9,000 visits of a pair, 6 epochs' worth of the ascent on 50,000 samples. With a stated `domain`, a quarter
        of the 256 are fresh corners of the box.
        """
        self._follow_the_model()
        chosen = self.state.steepest(256)
        if self._explorers:
            weakest = chosen[3 * len(chosen) // 4 :]
            self.state.points[weakest] = corner_points(self.state.points[weakest], self.domain, self._generator)
        for steps in (20, 40, 100):
            points = self.state.points[chosen]
            points, quotient = ascent.climb(self.model, points, steps=steps, separation=self.separation, domain=self.domain)
            self.state.points[chosen], self.state.quotient[chosen] = points, quotient
            chosen = chosen[quotient.topk(-(-len(chosen) // 4)).indices]
        return float(quotient.max())

    def redraw(self) -> None:
        """Replace all pairs by fresh ones of the same recipe (the paper's regression does so every epoch)."""
        self._pairs = self._pairs.redrawn(self._generator)
        calls = self.state.calls  # a lazy penalty keeps its beat
        self.state = self._fresh_state(self._pairs)
        self.state.calls = calls

    def metrics(self) -> dict[str, float | int | None]:
        """The lower bound of Lip(f) now, and the penalties that were left out."""
        return {"lower_bound": self.lower_bound(), "skipped_steps": self.skipped}

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes during training, for a checkpoint."""
        return {"pairs": dict(vars(self.state)), "generator": self._generator.get_state(), "skipped": self.skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; `InputError` if it belongs to another pair set."""
        got, expected = tuple(state["pairs"]["points"].shape), tuple(self.state.points.shape)
        if got != expected:
            raise InputError(f"a state of pairs {expected}", got, "Make the regularizer with the same pairs.")
        self.state = PairState(**state["pairs"]).copied(device_of(self.model, self.state.points.device))
        self._generator.set_state(state["generator"].cpu())
        self.skipped = state["skipped"]

    def _follow_the_model(self) -> None:
        device = device_of(self.model, self.state.points.device)
        if device != self.state.points.device:
            self.state = self.state.copied(device)

    def _fresh_state(self, pairs: PairSet) -> PairState:
        points = torch.stack([pairs.u, pairs.v], dim=1).detach()  # (pairs, 2, *input)
        like = points[:1].expand(self._explorers, *points.shape[1:])
        points = torch.cat([points, corner_points(like, self.domain, self._generator)])
        points = points.to(device_of(self.model, points.device))
        step_size = self.options.step_size or STEP_SIZE[self.options.ascent]
        return fresh_state(points, pool=self.pool, active=self.active, step_size=step_size, generator=self._generator)


def _span(pairs: PairSet) -> tuple[float, float]:
    return float(min(pairs.u.min(), pairs.v.min())), float(max(pairs.u.max(), pairs.v.max()))
