"""The registry of training methods, and what a `TrainConfig` becomes: penalty, weight rule, optimizer, schedule."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from ..errors import InputError, require_known
from ..pairs.sets import PairSet, matched_pairs, perturbed_pairs
from ..regularization.discrepancy import ConstantWeight, DiscrepancyPrinciple
from ..regularization.regularizer import LipschitzRegularizer
from ..regularization.weight_norm import NoPenalty, WeightPenalty
from .config import TrainConfig
from .task import Task

Penalty = NoPenalty | LipschitzRegularizer


def _no_penalty(model: nn.Module, task: Task, config: TrainConfig, pairs: PairSet | None) -> Penalty:
    return NoPenalty()


def _weight_penalty(model: nn.Module, task: Task, config: TrainConfig, pairs: PairSet | None) -> Penalty:
    return WeightPenalty(model, squared=config.squared)


def _lipschitz_penalty(model: nn.Module, task: Task, config: TrainConfig, pairs: PairSet | None) -> Penalty:
    if pairs is None:
        if task.pair_inputs is None:
            do = "Make them from held-out inputs, for example with perturbed_pairs."
            raise InputError("pairs for the method clip on a DataLoader", "none", do)
        if config.pair_kind == "matched":
            pairs = matched_pairs(task.pair_inputs, seed=config.seed)
        else:
            pairs = perturbed_pairs(task.pair_inputs, noise=config.pair_noise, seed=config.seed)
    return LipschitzRegularizer(
        model,
        pairs,
        active=config.active,
        interval=config.interval,
        pool=config.pool,
        renewal=config.renewal,
        explore=config.explore,
        reduction=config.reduction,
        power=config.power,
        k=config.k,
        ascent=config.ascent,
        step_size=config.step_size,
        ascent_steps=config.ascent_steps,
        certify=config.certify,
        domain=task.domain,
        seed=config.seed,
    )


METHODS: dict[str, Callable[[nn.Module, Task, TrainConfig, PairSet | None], Penalty]] = {
    "standard": _no_penalty,
    "weight": _weight_penalty,
    "clip": _lipschitz_penalty,
}
"""What each method adds to the loss."""


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer; `InputError` for an unknown one or options it does not take."""
    kinds = [name for name, kind in vars(torch.optim).items() if isinstance(kind, type) and name != "Optimizer"]
    require_known("optimizer", config.optimizer, kinds)
    try:
        optimizer: torch.optim.Optimizer = getattr(torch.optim, config.optimizer)(
            model.parameters(), lr=config.lr, **config.optimizer_options
        )
    except (TypeError, ValueError) as error:
        do = "Set optimizer_options to what the optimizer takes."
        raise InputError(f"options of torch.optim.{config.optimizer}", error, do) from None
    return optimizer


def make_schedule(config: TrainConfig, steps: int) -> Callable[[int], float]:
    """The factor on the learning rate at each of `steps` steps."""
    if config.schedule == "constant":
        return lambda step: 1.0
    return lambda step: 0.51 + 0.49 * math.cos(math.pi * min(step / steps, 1.0))


def make_principle(config: TrainConfig, task: Task) -> DiscrepancyPrinciple | ConstantWeight:
    """The rule that moves the weight, or a constant one."""
    if config.method == "standard":
        return ConstantWeight(0.0)
    if config.weight is not None or config.target is None:
        return ConstantWeight(config.weight or 0.0)
    return DiscrepancyPrinciple(
        config.target,
        rule=config.rule,
        quantity="accuracy" if task.classification else "loss",
        initial=config.initial_weight,
        increment=config.increment or {"weight": 1e-4, "clip": 0.01}[config.method],
        warmup=config.warmup * (len(task.batches) if config.update == "minibatch" else 1),
    )
