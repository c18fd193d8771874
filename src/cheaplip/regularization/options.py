"""The options of the penalties: one text and one range each, for the regularizers, `fit` and the command line."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, FiniteFloat

from ..records import Record

STEP_SIZE = {"normalized": 0.3, "printed": 1.0, "accepted": 1.0}
"""The default step size of each ascent."""


class PairOptions(Record):
    """How pairs are chosen, raised and reduced to a penalty."""

    active: int = Field(32, ge=1)
    """Pairs in one penalty (m in the paper); all pairs if there are fewer."""
    cost: FiniteFloat | None = Field(None, gt=0)
    """What the penalty may add to a step, in passes of a sample as a share of the batch's, such as 0.125: as many pairs are
    active as that allows, instead of `active`. A pair takes four passes (two points, ascent and penalty) each interval."""
    interval: int = Field(8, ge=1)
    """Steps from one evaluation of the penalty to the next; its gradient is held in between."""
    hold: bool = True
    """Hold the gradient between two evaluations. Else the penalty comes every interval-th step, interval times as large;
    `fit` does so with `certify`, whatever this says."""
    pool: int = Field(1000, ge=1)
    """Pairs in the working pool, which is small enough to be visited often; all pairs if there are fewer."""
    renewal: FiniteFloat = Field(0.25, ge=0, le=1)
    """Share of the pool that is replaced after each round: the pairs of smallest quotient leave."""
    explore: FiniteFloat | None = Field(None, ge=0, le=1)
    """With a stated domain: share of further pairs that start at random corners of the box, where there are no data. By default
    0.5; 0 for networks with batch normalisation, whose running statistics are of data, unless a constant is `allowed`."""
    reduction: Literal["mean", "max"] = "mean"
    """How the active pairs' quotients become one number; the paper's is max, equation (5)."""
    power: Literal[1, 2] = 2
    """Power of the quotients; the paper's is 1."""
    allowed: FiniteFloat = Field(0.0, ge=0)
    """Quotients up to this cost nothing: the penalty is of what exceeds it. To keep Lip(f) <= allowed, with
    interval and power 1."""
    ascent: Literal["normalized", "printed", "accepted"] = "normalized"
    """The step that raises quotients: normalized (its length is step_size * |u - v|, adapted for each pair), printed
    (Algorithm 1, tau = step_size) or accepted (the same, only where the quotient rises)."""
    step_size: FiniteFloat | None = Field(None, gt=0)
    """Step size of the ascent; by default 0.3 for normalized, else 1."""


CONSTRAINT = {"interval": 1, "power": 1}
"""How the pairs' penalty keeps a constant: at every step, and linear in what exceeds it."""


class LocalOptions(Record):
    """How the local penalty is searched for."""

    radius: FiniteFloat = Field(2.0, gt=0)
    """Radius of the ball round each sample in which the local penalty looks for the worst input, in units of the inputs."""
    norm: Literal[2, "inf"] = 2
    """Norm of that ball: 2 or inf."""
    attacked: int = Field(64, ge=1)
    """Samples in one local penalty; all samples if there are fewer."""
    attack_interval: int = Field(4, ge=1)
    """Steps from one local penalty to the next; it is as many times as large."""
    attack_steps: int = Field(2, ge=1)
    """Steps of the search for the worst input."""
    attack_hold: bool = False
    """Hold the gradient of the local penalty in between instead, for clipped gradients and for optimizers such as Adam."""
