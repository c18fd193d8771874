"""The registry of training methods, and what a `TrainConfig` becomes: penalty, weight scheduler, optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ..data.neighbours import attainable_value
from ..errors import InputError
from ..pairs.sets import PairSet, perturbed_pairs
from ..regularization.certificate import with_certificate
from ..regularization.discrepancy import DiscrepancyPrinciple
from ..regularization.local import LocalRegularizer
from ..regularization.noise import NoiseRegularizer
from ..regularization.options import LocalOptions, PairOptions
from ..regularization.penalty import Penalty, PenaltySum
from ..regularization.regularizer import LipschitzRegularizer
from ..regularization.scheduler import ConstantWeight, WeightScheduler
from ..regularization.weight_norm import WeightNorm
from .batches import TensorBatches
from .config import TrainConfig
from .schedule import warmup_updates
from .task import Task

Made = tuple[Penalty, LipschitzRegularizer | None]
"""A penalty, and the pair regularizer in it, if it has one."""


def _weight_norm(model: nn.Module, task: Task, config: TrainConfig, pairs: PairSet | None) -> Made:
    return WeightNorm(model, squared=config.squared), None


def _lipschitz(model: nn.Module, task: Task, config: TrainConfig, pairs: PairSet | None) -> Made:
    if pairs is None:
        if task.pair_inputs is None:
            do = "Make them from held-out inputs, for example with perturbed_pairs."
            raise InputError("pairs for the method clip on a DataLoader", "none", do)
        pairs = perturbed_pairs(task.pair_inputs, noise=config.pair_noise, seed=config.seed)
    options = config.model_dump(include=set(PairOptions.model_fields)) | ({"hold": False} if config.certify else {})
    regularizer = LipschitzRegularizer(model, pairs, domain=task.domain, seed=config.seed, **options)
    penalty = with_certificate(regularizer, config.certify, steps=task.steps // config.interval)
    if config.input_noise:
        inputs = pairs.u if task.pair_inputs is None else task.pair_inputs
        beat: dict[str, Any] = {"active": config.active, "interval": config.interval, "hold": regularizer.hold}
        noise = NoiseRegularizer(model, inputs, noise=config.input_noise, seed=config.seed, **beat)
        penalty = PenaltySum([(1.0, penalty), (SHARE, noise)])
    return penalty, regularizer


def _local(model: nn.Module, task: Task, config: TrainConfig, pairs: PairSet | None) -> Made:
    if not isinstance(task.batches, TensorBatches):
        do = "Give tensors (x, y), or use LocalRegularizer in a loop of your own."
        raise InputError("samples to draw from, for the method local", "a DataLoader", do)
    options = config.model_dump(include=set(LocalOptions.model_fields))
    return LocalRegularizer(model, task.batches.samples(), domain=task.domain, seed=config.seed, **options), None


METHODS: dict[str, Callable[[nn.Module, Task, TrainConfig, PairSet | None], Made]] = {
    "standard": _weight_norm,  # with weight 0: it is never evaluated
    "weight": _weight_norm,
    "clip": _lipschitz,
    "local": _local,
}
"""What each method adds to the loss."""

INCREMENTS = {"weight": 1e-4, "clip": 0.01, "local": 0.01}
"""Of the additive rule: the values printed in Table 1 are multiples of these."""
SHARE = 0.1
"""Of the penalty of noise, beside that of the pairs."""
FEW = 50
"""Fewer samples have no neighbours worth asking."""
INITIAL = {"local": 0.3, "weight": 0.01}
"""Where the weight starts, unless as usual; that of the local penalty ends near 1, that of the weight norm far below."""

GAIN = {"weight": 20.0}
"""Towards a target, unless as usual: the weight norm acts late, and with more gain the weight swings."""


def make_weight_scheduler(config: TrainConfig, task: Task) -> WeightScheduler:
    """The rule that moves the weight, or a constant one."""
    if config.method == "standard":
        return ConstantWeight(0.0)
    if config.weight is not None:
        return ConstantWeight(config.weight)
    return DiscrepancyPrinciple(
        config.target if config.lipschitz is None else config.lipschitz,
        tolerance=config.tolerance,
        attainable=_attainable(task) if config.compares else None,
        trivial=task.trivial,
        rule=config.rule,
        quantity="lipschitz" if config.lipschitz is not None else "accuracy" if task.classification else "loss",
        initial=INITIAL.get(config.method) if config.initial_weight is None else config.initial_weight,
        gain=GAIN.get(config.method) if config.tolerance is None else None,
        increment=config.increment or INCREMENTS[config.method],
        warmup=warmup_updates(config, task.steps),
    )


def _attainable(task: Task) -> float | None:
    """What the neighbours show to be within reach; None of a DataLoader, and of few samples, whose neighbours say little.

    They show an accuracy or a squared error, and nothing of another loss.
    """
    if not isinstance(task.batches, TensorBatches) or not (task.classification or task.own_loss is None):
        return None
    x, y = task.batches.samples()
    return None if len(x) < FEW else attainable_value(x, y) or None  # 0: all values are equal, or all neighbours differ
