"""`LipschitzRegularizer`: holds the pair set, returns the penalty, ascends. The memory around the functions of `pairs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .. import processes
from ..arguments import checked
from ..domains import Box, box_of
from ..errors import InputError, require_in
from ..inference import Model, device_of, forward_checked, like_parameters
from ..norms import sample_norm
from ..pairs import ascent
from ..pairs.quotient import pair_quotient
from ..pairs.sets import PairSet, corner_points
from ..records import validated
from .held import HeldGradient, evaluate
from .lazy import LazyPenalty
from .options import STEP_SIZE, PairOptions
from .pool import PairState, fresh_state, rotate
from .statistics import has_running_statistics

PASSES = 4
"""Of a sample, that a pair takes: two points, for the ascent and for the penalty."""
ROUNDS = 4
"""Rounds of a pool after which pairs start again from data, where slopes far from data have nothing to do with them."""
SEPARATION = 0.01
"""Pairs are kept at least this far apart, in units of their initial median distance."""


def reduce_quotients(quotient: Tensor, reduction: str, power: int, allowed: float = 0.0) -> Tensor:
    """The penalty of some quotients: their largest or their mean, to the power 1 or 2; the paper's is `max` and 1, (5).

    Of quotients above `allowed` what exceeds it counts, of the others nothing.
    """
    quotient = (quotient - allowed).relu() if allowed else quotient
    powered = quotient if power == 1 else quotient.square()
    return powered.max() if reduction == "max" else powered.mean()


class LipschitzRegularizer(LazyPenalty):
    r"""The penalty Lip(f, X_Lip)^power on active pairs that an adversarial update keeps steep. Source: (5), Algorithm 1.

    The penalty is lazy (see `LazyPenalty`): every `interval`-th `step` turns to the next m active pairs, raises their
    quotients and evaluates their penalty.

    Pairs are visited in rounds through a working pool. The network changes while a pair waits, and the pair's quotient
    falls. So the pool is small enough to be visited often. After each round its least steep pairs make room for others of
    the set, and the steepest pairs stay. Those of a network with batch normalisation start again from the data after four
    rounds (unless a constant is `allowed`): an ascent that goes on leads to where its slopes have nothing to do with data.

    Of several processes (see `processes`), which train one network, all hold all pairs, and each evaluates and raises its
    share of the active ones. What they find is exchanged, so that all have the same penalty, pairs and state.

    Args:
        model: f, any `nn.Module` from `(n, *input)` to one tensor `(n, *output)`. It is evaluated in evaluation mode; its
            modes, running statistics and the parameters' `.grad` are left as they were.
        pairs: X_Lip. It follows the model's device.
        domain: box (low, high) that the points must not leave, numbers or tensors `(*input)`; by default the box that the
            pairs span. Without a box the ascent would move pairs away from all data.
        seed: of the order of visits and of redrawn pairs.
        active, cost, interval, hold, pool, renewal, explore, reduction, power, allowed, ascent, step_size: see `PairOptions`.

    Raises:
        InputError: an argument outside its range, or (when called) a model that does not fit the pairs.

    Example:
        >>> from cheaplip.pairs.sets import PairSet
        >>> pairs = PairSet(torch.tensor([[1.0]]), torch.tensor([[0.0]]))
        >>> float(LipschitzRegularizer(lambda x: 3 * x, pairs, interval=1)())
        9.0
    """

    vanishes_on_constants = True

    @checked
    def __init__(
        self,
        model: Model,
        pairs: PairSet,
        *,
        domain: Box | None = None,
        seed: int = 0,
        active: int = PairOptions().active,
        cost: float | None = PairOptions().cost,
        interval: int = PairOptions().interval,
        hold: bool = PairOptions().hold,
        pool: int = PairOptions().pool,
        renewal: float = PairOptions().renewal,
        explore: float | None = PairOptions().explore,
        reduction: str = PairOptions().reduction,
        power: int = PairOptions().power,
        allowed: float = PairOptions().allowed,
        ascent: str = PairOptions().ascent,
        step_size: float | None = None,
    ) -> None:
        given: dict[str, Any] = {"active": active, "cost": cost, "interval": interval, "hold": hold, "pool": pool}
        given |= {"renewal": renewal, "explore": explore, "reduction": reduction, "power": power, "allowed": allowed}
        given |= {"ascent": ascent, "step_size": step_size}
        self.options = validated(PairOptions, given)
        if domain is not None:
            _check_box(domain, pairs)
        super().__init__(model, interval=interval, hold=hold)
        # far from data such networks have slopes that drown those near them
        near = has_running_statistics(model) and not allowed
        explore = (0.0 if near else 0.5) if explore is None else explore
        self._rounds = 1 if pairs.moves else ROUNDS if near and pairs.draw is not None else 0
        self._explorers = 0 if domain is None else round(explore * len(pairs))
        self.pool = min(pool, len(pairs) + self._explorers)
        self._spans = domain is None
        self.domain = pairs.span if domain is None else domain
        self.separation = SEPARATION * float(sample_norm(pairs.u - pairs.v).median())
        self._pairs = pairs
        require_in("seed", seed, f"[{-(2**63)}, {2**63 - 1}]")
        self._generator = torch.Generator().manual_seed(seed)
        self.state = self._fresh_state(pairs)

    @property
    def active(self) -> int:
        """Pairs in one penalty."""
        return len(self.state.before)

    def _compare(self) -> None:
        forward_checked(self.model, like_parameters(self.state.points[0], self.model))
        super()._compare()
        do = "Make the pairs of the same inputs, with the same seed, on every process."
        processes.require_same([self.state.points, self.state.order], "the same pairs", do)

    def _turn(self) -> None:
        """Turn to the next active pairs and raise their quotients (Algorithm 1)."""
        self._follow_the_model()
        rotate(self.state, self.options.renewal, self._generator)
        if self._rounds and self.state.cursor == 0 and self.state.rounds % self._rounds == 0:
            self.redraw()
            self.domain = self._pairs.span if self._spans else self.domain
        active, state = self.state.active, self.state
        points, sizes = state.points[active], state.step_size[active]
        state.points[active], state.before, state.step_size[active] = self._in_parts(self._raised, points, sizes)

    def _raised(self, points: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Some pairs after a step of the ascent, their quotients before it, and the step sizes."""
        before, gradient = ascent.quotient_and_gradient(self.model, points)
        if self.options.ascent == "accepted":
            valid: dict[str, Any] = {"separation": self.separation, "domain": self.domain}
            points, _, sizes = ascent.accepted_step(self.model, points, gradient, before, sizes, **valid)
            return points, before, sizes
        move = ascent.printed_step if self.options.ascent == "printed" else ascent.normalized_step
        return ascent.keep_valid(move(points, gradient, sizes), points, self.separation, self.domain), before, sizes

    def _evaluate(self) -> HeldGradient:
        """The penalty of the active pairs and its gradient, part by part."""
        self._follow_the_model()
        self._follow_the_budget()
        active, options = self.state.active, self.options
        chosen, quotient = active, None
        if options.reduction == "max" and (len(active) > self._pairs_in_a_pass() or processes.count() > 1):
            quotient = self._quotients(active)
            chosen = active[quotient.argmax()][None]
        mine, counts = processes.share(self.state.points[chosen])
        found = []

        def part(points: Tensor) -> Tensor:
            quotient = pair_quotient(self.model, points)
            found.append(quotient.detach())
            reduced = reduce_quotients(quotient, options.reduction, options.power, options.allowed)
            return reduced * (counts * len(points) / len(chosen))

        held = evaluate(self.model, [partial(part, points) for points in mine.split(self._pairs_in_a_pass())])
        if quotient is None:
            (quotient,) = processes.gathered([torch.cat(found)], len(active))
        if held.value.isfinite():
            self._learn(quotient)
        return held

    @torch.no_grad()
    def _quotients(self, pairs: Tensor) -> Tensor:
        """Of some pairs, by their indices."""
        (quotient,) = self._in_parts(lambda points: (pair_quotient(self.model, points),), self.state.points[pairs])
        return quotient

    def _learn(self, quotient: Tensor) -> None:
        active, state = self.state.active, self.state
        quotient = quotient.to(state.quotient)  # a network in float64 has others
        state.quotient[active] = quotient
        if self.options.ascent == "normalized":
            # the parameters are those of the ascent: this pass shows, at no cost, whether the step raised the quotient
            state.step_size[active] = ascent.adapted(state.step_size[active], state.before, quotient)
            state.before = torch.full_like(state.before, torch.nan)  # once

    def _pairs_in_a_pass(self) -> int:
        return self._rows(len(self.state.points))

    def _in_parts(self, function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
        """A function of pairs, each process with its share, a few pairs at a time."""

        def mine(*tensors: Tensor) -> tuple[Tensor, ...]:
            parts = zip(*(tensor.split(self._pairs_in_a_pass()) for tensor in tensors), strict=True)
            return tuple(torch.cat(results) for results in zip(*(function(*part) for part in parts), strict=True))

        return processes.in_shares(mine, *tensors)

    @property
    def pairs(self) -> PairSet:
        """X_Lip as the ascent has left it."""
        return PairSet(self.state.points[:, 0], self.state.points[:, 1])

    @torch.no_grad()
    def lower_bound(self, pairs: int = 256) -> float:
        """A lower bound of Lip(f) now: the largest quotient among the `pairs` pairs that were steepest when last visited.

        One process of several may ask alone: none is waited for.
        """
        self._follow_the_model()
        points = self.state.points[self.state.steepest(pairs)]
        return max(float(pair_quotient(self.model, part).max()) for part in points.split(self._pairs_in_a_pass()))

    def constant(self) -> float:
        """`lower_bound` on as many pairs as are active: a forward pass, in which each of several processes has its share."""
        self._follow_the_model()
        return float(self._quotients(self.state.steepest(self.active)).max())

    def refine(self) -> float:
        """Raise the quotients of the steepest pairs until little is left to gain; returns the largest. For the end of a run.

        256 pairs take 20 steps, the steepest quarter of them 40 more, of these the steepest quarter 100 more: the work of
        about 9,000 visits of a pair, 6 epochs' worth of the ascent on 50,000 samples. With a stated `domain`, a quarter
        of the 256 are fresh corners of the box. Of several processes each does its share, and all call it.
        """
        self._follow_the_model()
        chosen = self.state.steepest(256)
        if self._explorers:
            weakest = chosen[3 * len(chosen) // 4 :]
            self.state.points[weakest] = corner_points(self.state.points[weakest], self.domain, self._generator)
        for steps in (20, 40, 100):
            rise = partial(ascent.climb, self.model, steps=steps, separation=self.separation, domain=self.domain)
            points, quotient = self._in_parts(rise, self.state.points[chosen])
            self.state.points[chosen], self.state.quotient[chosen] = points, quotient.to(self.state.quotient)
            chosen = chosen[quotient.topk(-(-len(chosen) // 4)).indices]
        return float(quotient.max())

    def redraw(self) -> None:
        """Replace all pairs by fresh ones of the same recipe (the paper's regression does so every epoch)."""
        self._pairs = self._pairs.redrawn(self._generator)
        self.state = self._fresh_state(self._pairs)
        self._evaluated = self.calls % self.interval != 0  # a lazy penalty keeps its beat

    def metrics(self) -> dict[str, float | int | None]:
        """The lower bound of Lip(f) now, and the penalties that were left out."""
        return {"lower_bound": self.lower_bound(), **super().metrics()}

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes during training, for a checkpoint."""
        box = {"domain": self.domain} if self._spans else {}  # that of the pairs as they were last drawn
        return {"pairs": dict(vars(self.state)), "generator": self._generator.get_state(), **box, **super().state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; `InputError` if it belongs to another pair set."""
        got, expected = tuple(state["pairs"]["points"].shape), tuple(self.state.points.shape)
        if got != expected:
            raise InputError(f"a state of pairs {expected}", got, "Make the regularizer with the same pairs.")
        self.state = PairState(**state["pairs"]).copied(device_of(self.model, self.state.points.device))
        self.domain = state.get("domain", self.domain)
        self._generator.set_state(state["generator"].cpu())
        super().load_state_dict(state)

    def _follow_the_budget(self) -> None:
        """As many active pairs as the cost allows, now that the size of a batch is known."""
        if self.options.cost is None or self.batch_size is None:
            return
        (rows,) = processes.total([self.batch_size])
        allowed = round(self.options.cost * self.interval * rows / PASSES)
        active = min(max(allowed, 1), self.pool)
        if active != self.active:
            self.state.before = self.state.before.new_full((active,), torch.nan)
            self.state.cursor = min(self.state.cursor, self.pool - active)

    def _follow_the_model(self) -> None:
        device = device_of(self.model, self.state.points.device)
        if device != self.state.points.device:
            self.state = self.state.copied(device)

    def _fresh_state(self, pairs: PairSet) -> PairState:
        points = torch.stack([pairs.u, pairs.v], dim=1).detach()  # (pairs, 2, *input)
        like = points[:1].expand(self._explorers, *points.shape[1:])
        points = torch.cat([points, corner_points(like, self.domain, self._generator)])
        points = points.to(device_of(self.model, points.device))
        active = min(self.options.active, self.pool)
        step_size = self.options.step_size or STEP_SIZE[self.options.ascent]
        return fresh_state(points, pool=self.pool, active=active, step_size=step_size, generator=self._generator)


def _check_box(domain: Box, pairs: PairSet) -> None:
    low, high = box_of(domain, tuple(pairs.u.shape[1:]))
    if not bool((low < high).all()):
        raise InputError("domain (low, high) with low < high", domain, "Give the box the inputs live in, such as (0, 1).")
