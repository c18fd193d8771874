"""`LipschitzRegularizer`: holds the pair set, gives the penalty, ascends. The memory around the functions of `ascent`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, require_known
from ..inference import Model, device_of
from ..norms import check_exponent, sample_norm
from ..pairs import ascent
from ..pairs.quotient import pair_quotient
from ..pairs.sets import PairSet, corner_points
from .certificate import LearntCertificate
from .pool import PairState, fresh_state, rotate

REDUCTIONS = ("mean", "max", "topk")
ASCENTS = ("normalized", "printed", "accepted")
DEFAULT_STEP_SIZE = {"normalized": 0.3, "printed": 1.0, "accepted": 1.0}


def reduce_quotients(quotient: Tensor, reduction: str, power: int, k: int = 1) -> Tensor:
    """The penalty of some quotients: their largest, their mean, or the mean of the k largest; each to the power 1 or 2.

    The paper's is `max` with power 1, equation (5).
    """
    powered = quotient if power == 1 else quotient.square()
    if reduction == "max":
        return powered.max()
    return powered.mean() if reduction == "mean" else powered.topk(min(k, len(powered))).values.mean()


class LipschitzRegularizer:
    r"""The penalty Lip(f, X_Lip)^power on active pairs that an adversarial update keeps steep. Source: (5), Algorithm 1.

    In a training loop, `loss + weight * regularizer()` before the backward pass, `regularizer.step()` after the
    optimizer's step. The penalty is lazy: every `interval`-th call evaluates m active pairs and returns `interval`
    times their penalty, the calls between return 0. Before a penalty, the step turns to the next m pairs and raises
    their quotients, so that the penalty sees them freshly ascended.

    Pairs are visited in rounds through a working pool. A pair that is not visited for long goes stale: the network has
    moved on, and its quotient is no longer a steep one. So the pool is small enough to come round often, and after each
    round its least steep pairs make room for others of the set; the hardest pairs stay.

    Args:
        model: f, any `nn.Module` from `(n, *input)` to one tensor `(n, *output)`. Evaluated in evaluation mode; its
            modes, running statistics and the parameters' `.grad` are left as they were.
        pairs: X_Lip, moved to the model's device.
        active: m, the pairs used in one penalty; all of them if there are fewer.
        interval: a penalty every so many steps, weighted accordingly.
        pool: pairs in the working pool; all of them if there are fewer.
        renewal: share of the pool that is replaced after a round.
        explore: with a stated `domain`, this share of further pairs starts at random corners of the box, each with a
            step towards a random point of it. Data alone let slopes grow unseen in the rest of the box.
        reduction: `"mean"`, `"max"` (the paper's) or `"topk"` of the active pairs' quotients.
        power: 1 (the paper's) or 2.
        k: how many quotients `"topk"` averages.
        ascent: `"normalized"` (a step of `step_size` |u - v|; each pair's step size adapts), `"printed"` (Algorithm 1,
            tau = `step_size`) or `"accepted"` (the same, only where the quotient rises; step sizes adapt).
        step_size: of the ascent; by default 0.3 for `"normalized"`, else 1.
        ascent_steps: ascent steps a visit.
        domain: box (low, high) that the points must not leave; by default the box that the pairs span. Without one the
            ascent would carry pairs away from all data, and their distances without bound.
        separation: pairs are kept at least this far apart, in units of their initial median distance.
        certify: w > 0 adds w * upper^2 to the penalty, upper the certificate of `bounds.learnt`: it presses on the upper end
            of the bracket too, so that more is proved of the network. On MNIST most is proved with 1; 0.01 proves less and
            takes nothing from the accuracy under attack. A network without branches alone; see `bounds.learnt`.
        input_norm: exponent of the norm on inputs.
        output_norm: exponent of the norm on outputs.
        seed: of the order of visits and of redrawn pairs.

    Raises:
        InputError: an argument outside its range, or (when called) a model that does not fit the pairs.

    Example:
        >>> from cheaplip.pairs import PairSet
        >>> pairs = PairSet(torch.tensor([[1.0]]), torch.tensor([[0.0]]))
        >>> float(LipschitzRegularizer(lambda x: 3 * x, pairs, interval=1)())
        9.0
    """

    def __init__(
        self,
        model: Model,
        pairs: PairSet,
        *,
        active: int = 32,
        interval: int = 8,
        pool: int = 1000,
        renewal: float = 0.25,
        explore: float = 0.5,
        reduction: str = "mean",
        power: int = 2,
        k: int = 4,
        ascent: str = "normalized",
        step_size: float | None = None,
        ascent_steps: int = 1,
        domain: tuple[float, float] | None = None,
        separation: float = 0.01,
        certify: float = 0.0,
        input_norm: float = 2,
        output_norm: float = 2,
        seed: int = 0,
    ) -> None:
        require_known("reduction", reduction, REDUCTIONS)
        require_known("ascent", ascent, ASCENTS)
        if power not in (1, 2):
            raise InputError("power to be 1 or 2", power, "The paper's is 1, the default 2.")
        step_size = DEFAULT_STEP_SIZE[ascent] if step_size is None else step_size
        counts = {"active": active, "interval": interval, "pool": pool, "k": k, "ascent_steps": ascent_steps}
        for name, value in {**counts, "step_size": step_size, "separation": separation}.items():
            if not value > 0:
                raise InputError(f"{name} > 0", value, "Give a positive number.")
        if domain is not None and not domain[0] < domain[1]:
            raise InputError("domain (low, high) with low < high", domain, "Give the box the inputs live in, such as (0, 1).")
        for name, share in {"renewal": renewal, "explore": explore}.items():
            if not 0 <= share <= 1:
                raise InputError(f"{name} in [0, 1]", share, "Give a share, such as 0.25.")
        self.model = model
        self._explorers = 0 if domain is None else round(explore * len(pairs))
        self.pool = min(pool, len(pairs) + self._explorers)
        self.active, self.interval, self.renewal = min(active, self.pool), interval, renewal
        self.reduction, self.power, self.k = reduction, power, k
        self.ascent, self.ascent_steps = ascent, ascent_steps
        self.domain = _span(pairs) if domain is None else domain
        self.input_norm, self.output_norm = check_exponent(input_norm), check_exponent(output_norm)
        self.skipped = 0
        """Penalties that were not finite and therefore left out."""
        self._step_size = step_size
        self._latest = 0.0  # the latest penalty
        if not 0 <= certify < math.inf:
            raise InputError("certify >= 0", certify, "Give a positive share such as 0.1, or 0 for none.")
        self.certify = certify
        self._certificate = _certificate(model, pairs, self.input_norm, self.output_norm) if certify else None
        self._pairs = pairs
        self._generator = torch.Generator().manual_seed(seed)
        self._device = device_of(model, pairs.u.device)
        self.separation = separation * float(sample_norm(pairs.u - pairs.v, self.input_norm).median())
        self.state = self._fresh_state(pairs)

    def __call__(self) -> Tensor:
        """The penalty: a scalar, with a graph to the parameters when it is due, 0 on the steps between."""
        self._latest = 0.0
        if self.state.calls % self.interval:
            return torch.zeros((), device=self._device)
        active = self.state.active
        quotient = self._quotient(self.state.points[active])
        penalty = self.interval * reduce_quotients(quotient, self.reduction, self.power, self.k)
        if self._certificate is not None:
            penalty = penalty + self.interval * self.certify * self._certificate().square().to(penalty)
        self._latest = float(penalty.detach())
        if not math.isfinite(self._latest):
            self.skipped, self._latest = self.skipped + 1, 0.0
            return penalty.new_zeros(())
        self.state.quotient[active] = quotient.detach()
        if self.ascent == "normalized":
            # the parameters are those of the ascent: this pass tells, for free, whether the step paid
            sizes = self.state.step_size[active]
            self.state.step_size[active] = ascent.adapted(sizes, self.state.before, quotient.detach())
        return penalty

    def step(self) -> None:
        """If a penalty is due next, turn to the next active pairs and raise their quotients (Algorithm 1)."""
        if self._certificate is not None:
            self._certificate.step()
        self.state.calls += 1
        if self.state.calls % self.interval:
            return
        rotate(self.state, self.renewal, self._generator)
        active, state = self.state.active, self.state
        points = state.points[active]
        for _ in range(self.ascent_steps):
            state.before, gradient = ascent.quotient_and_gradient(self.model, points, self.input_norm, self.output_norm)
            if self.ascent == "accepted":
                points, _, state.step_size[active] = ascent.accepted_step(
                    self.model,
                    points,
                    gradient,
                    state.before,
                    state.step_size[active],
                    separation=self.separation,
                    domain=self.domain,
                    input_norm=self.input_norm,
                    output_norm=self.output_norm,
                )
            else:
                rule = ascent.printed_step if self.ascent == "printed" else ascent.normalized_step
                proposal = rule(points, gradient, state.step_size[active])
                points = ascent.keep_valid(proposal, points, self.separation, self.domain, self.input_norm)
        state.points[active] = points

    def ceiling(self, chance: float) -> float:
        """The weight at which the latest penalty costs `chance`, the loss of the best constant; inf if none was due.

        For `DiscrepancyPrinciple.limit`, which says why: `principle.limit(regularizer.ceiling(math.log(classes)))`.
        """
        return chance / self._latest if self._latest > 0 else math.inf

    @property
    def pairs(self) -> PairSet:
        """X_Lip as the ascent has left it."""
        return PairSet(self.state.points[:, 0], self.state.points[:, 1])

    @torch.no_grad()
    def lower_bound(self, pairs: int = 256) -> float:
        """A lower bound of Lip(f) now: the largest quotient among the `pairs` pairs that were steepest when last visited."""
        return float(self._quotient(self.state.points[self.state.steepest(pairs)]).max())

    def upper_bound(self) -> float | None:
        """An upper bound of Lip(f) now, proved by the certificate's multipliers; None without `certify` or before a penalty."""
        return None if self._certificate is None else self._certificate.proved()

    def refine(self) -> float:
        """Let the steepest pairs climb until little is left to gain; returns the largest quotient. For the end of a training.

        256 pairs climb 20 steps, the steepest quarter of them 40 more, of these the steepest quarter 100 more: the work of
        about 9,000 visits of a pair, 6 epochs' worth of the ascent on 50,000 samples. With a stated `domain`, a quarter
        of the 256 are fresh corners of the box.
        """
        chosen = self.state.steepest(256)
        if self._explorers:
            weakest = chosen[3 * len(chosen) // 4 :]
            self.state.points[weakest] = corner_points(self.state.points[weakest], self.domain, self._generator)
        norms = {"input_norm": self.input_norm, "output_norm": self.output_norm}
        for steps in (20, 40, 100):
            points = self.state.points[chosen]
            points, quotient = ascent.climb(
                self.model, points, steps=steps, separation=self.separation, domain=self.domain, **norms
            )
            self.state.points[chosen], self.state.quotient[chosen] = points, quotient
            chosen = chosen[quotient.topk(-(-len(chosen) // 4)).indices]
        return float(quotient.max())

    def redraw(self) -> None:
        """Replace all pairs by fresh ones of the same recipe (the paper's regression does so every epoch)."""
        self._pairs = self._pairs.redrawn(self._generator)
        calls = self.state.calls  # a lazy penalty keeps its beat
        self.state = self._fresh_state(self._pairs)
        self.state.calls = calls

    def state_dict(self) -> dict[str, Any]:
        """Everything that changes during training, for a checkpoint."""
        return {**vars(self.state), "generator": self._generator.get_state(), "skipped": self.skipped, **self._learnt()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`; `InputError` if it belongs to another pair set."""
        got, expected = tuple(state["points"].shape), tuple(self.state.points.shape)
        if got != expected:
            raise InputError(f"a state of pairs {expected}", got, "Make the regularizer with the same pairs.")
        fields = {name: state[name] for name in vars(self.state)}
        self.state = PairState(**{name: _moved(value, self._device) for name, value in fields.items()})
        self._generator.set_state(state["generator"].cpu())
        self.skipped = state["skipped"]
        if self._certificate is not None:
            self._certificate.load_state_dict(state["certificate"])

    def _learnt(self) -> dict[str, Any]:
        return {} if self._certificate is None else {"certificate": self._certificate.state_dict()}

    def _quotient(self, points: Tensor) -> Tensor:
        return pair_quotient(self.model, points, self.input_norm, self.output_norm)

    def _fresh_state(self, pairs: PairSet) -> PairState:
        points = torch.stack([pairs.u, pairs.v], dim=1).detach()  # (pairs, 2, *input)
        like = points[:1].expand(self._explorers, *points.shape[1:])
        points = torch.cat([points, corner_points(like, self.domain, self._generator)]).to(self._device)
        return fresh_state(points, pool=self.pool, active=self.active, step_size=self._step_size, generator=self._generator)


def _certificate(model: Model, pairs: PairSet, input_norm: float, output_norm: float) -> LearntCertificate:
    if not isinstance(model, nn.Module) or (input_norm, output_norm) != (2, 2):
        got = f"{type(model).__name__} and norms {input_norm:g}, {output_norm:g}"
        raise InputError("an nn.Module and Euclidean norms for certify", got, "Train without certify.")
    return LearntCertificate(model, tuple(pairs.u.shape[1:]))


def _span(pairs: PairSet) -> tuple[float, float]:
    return float(min(pairs.u.min(), pairs.v.min())), float(max(pairs.u.max(), pairs.v.max()))


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device, copy=True) if isinstance(value, Tensor) else value
