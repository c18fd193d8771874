"""What CLIP and the local penalty are compared with: adversarial training, free, TRADES, and a Jacobian penalty.

As losses and as complete trainings. All trainings see the same samples in the same order as `cheaplip.fit`, with its optimizer
and schedule.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from cheaplip import DiscrepancyPrinciple, fit
from cheaplip.data import Dataset
from cheaplip.inference import evaluating
from cheaplip.norms import per_sample, sample_norm, sample_unit
from cheaplip.regularization.local import random_points, worst_in_ball
from cheaplip.regularization.margin_loss import margin_cross_entropy
from cheaplip.robustness.accuracy import accuracy
from cheaplip.robustness.attacks import log_odds
from cheaplip.training.batches import TensorBatches, split
from cheaplip.training.config import TrainConfig
from cheaplip.training.optimizer import make_optimizer
from cheaplip.training.presets import configure
from cheaplip.training.schedule import make_lr_schedule, margin_ramp

PEERS = ("adversarial", "free", "trades", "jacobian")
STEPS = 7
INITIAL = {"trades": 0.3, "jacobian": 0.01}
"""Where the weight starts."""
RADIUS = 2.0
"""Of TRADES; the others' radius is what is steered."""
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Of all trainings, ours and theirs."""
Rise = Callable[[Tensor, Tensor], Tensor]


def summed_loss(logits: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(logits, y, reduction="sum")


def pgd_examples(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, steps: int = STEPS, rise: Rise = summed_loss) -> Tensor:
    """From a random start, normalised-gradient steps of 2.5 eps / steps up the loss, in the L2 ball and in [0, 1]."""
    radius = eps * torch.rand(len(x), *[1] * (x.dim() - 1)).to(x)
    adversarial = (x + radius * sample_unit(torch.randn_like(x))).clamp(0, 1)
    for _ in range(steps):
        adversarial = adversarial.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(rise(model(adversarial), y), adversarial)
        offset = adversarial.detach() + 2.5 * eps / steps * sample_unit(gradient) - x
        adversarial = (x + in_ball(offset, eps)).clamp(0, 1)
    return adversarial.detach()


def long_step_examples(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, steps: int) -> Tensor:
    """The search of the local penalty, for adversarial training."""
    start = random_points(x, eps, 2.0, (0.0, 1.0), torch.Generator().manual_seed(int(torch.randint(2**31, ()))))
    rise = partial(log_odds, y=y)
    return worst_in_ball(model, x, start, rise, radius=eps, norm=2.0, steps=steps, domain=(0.0, 1.0)).detach()


def in_ball(offset: Tensor, eps: float) -> Tensor:
    length = per_sample(sample_norm(offset).clamp(min=1e-12), offset)
    return offset * (eps / length).clamp(max=1)


def divergence(logits: Tensor, clean: Tensor) -> Tensor:
    """KL(softmax(clean) | softmax(logits)), summed."""
    return kl_div(logits.log_softmax(1), clean.log_softmax(1), reduction="sum", log_target=True)


def trades_loss(model: nn.Module, x: Tensor, y: Tensor, weight: float, *, steps: int = STEPS) -> Tensor:
    """Zhang et al. 2019: the clean loss plus weight times the worst divergence in the ball of `RADIUS`."""
    outputs = model(x)
    adversarial = pgd_examples(model, x, outputs.detach(), RADIUS, steps=steps, rise=divergence)
    return cross_entropy(outputs, y) + weight * divergence(model(adversarial), outputs) / len(x)


def jacobian_penalty(outputs: Tensor, x: Tensor) -> Tensor:
    """Mean of |J^T r|^2, r one random direction of the outputs a sample: an unbiased estimate of |J|_F^2."""
    (row,) = torch.autograd.grad((outputs * torch.randn_like(outputs)).sum(), x, create_graph=True)
    return row.square().sum() / len(x)


def placed(data: Dataset) -> Dataset:
    """The data on `DEVICE`."""
    parts = ("train_x", "train_y", "test_x", "test_y")
    return replace(data, **{name: getattr(data, name).to(DEVICE) for name in parts})


def trained(
    kind: str, model: nn.Module, data: Dataset, options: dict[str, Any], peer: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Train by `cheaplip.fit` or, with the options `peer`, by a peer; where the weight ended, and the time in seconds."""
    began = time.perf_counter()
    model.to(DEVICE)
    if kind not in PEERS:
        result = fit(model, data, method=kind, **options).result
        return {name: result[name] for name in ("weight", "seconds", "pair_lower_bound")}
    weight = train(kind, model, data, configure(**options), **(peer or {}))
    return {"weight": weight, "seconds": time.perf_counter() - began}


def train(
    kind: str,
    model: nn.Module,
    data: Dataset,
    config: TrainConfig,
    *,
    steps: int = STEPS,
    share: float = 1.0,
    replays: int = 1,
    long_steps: bool = False,
) -> float:
    """Train a network in place by a peer; eps or the weight is steered to the target of the clean accuracy.

    Args:
        kind: `adversarial` and `free`, whose eps is steered, or `trades` and `jacobian`, whose weight is.
        model: the network, as it starts.
        data: images in [0, 1].
        config: optimizer, schedule, target and seed of the split and the batches.
        steps: of the attack.
        share: of each batch that is trained on; the rest is left out.
        long_steps: attack by the local penalty's search, for `adversarial`.
        replays: steps on the same batch, for `free` (Shafahi et al. 2019), each with one backward pass for the parameters and
            the attack; an epoch has as many steps, of so many fewer batches.

    Returns:
        Where eps or the weight ended.
    """
    parts = split(len(data.train_x), pair_share=config.pair_share, validation_share=config.validation_share, seed=config.seed)
    batches = TensorBatches(
        data.train_x, data.train_y, indices=parts.fit.to(DEVICE), batch_size=config.batch_size, seed=config.seed
    )
    optimizer = make_optimizer(model, config)
    lr_schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, make_lr_schedule(config, len(batches)))
    if config.weight is not None:
        scheduler = None
    elif kind in ("adversarial", "free"):
        scheduler = DiscrepancyPrinciple(config.target, initial=1.0, warmup=1, gain=5, damping=0, largest_step=0.3)
    else:
        scheduler = DiscrepancyPrinciple(config.target, initial=INITIAL[kind])
    attack = long_step_examples if long_steps else pgd_examples
    kept = round(share * config.batch_size)
    history: list[dict[str, float]] = []
    for epoch in range(1, config.epochs + 1):
        weight = config.weight if scheduler is None else scheduler.weight
        ramp = margin_ramp(history, config.epochs) if weight else 0.0
        loss_of = partial(margin_cross_entropy, margin=ramp * config.margin, saturation=ramp * config.saturation)
        history.append({"weight": weight})
        for x, y in islice(batches.epoch(epoch), len(batches) // replays):
            x, y, offset = x[:kept], y[:kept], torch.zeros_like(x[:kept])
            for _ in range(replays):
                points = x
                if not weight:
                    loss = loss_of(model(x), y)
                elif kind == "adversarial":
                    with evaluating(model):
                        attacked = attack(model, x, y, weight, steps=steps)
                    loss = loss_of(model(attacked), y)
                elif kind == "free":
                    points = (x + offset).clamp(0, 1).requires_grad_()
                    loss = loss_of(model(points), y)
                elif kind == "trades":
                    loss = trades_loss(model, x, y, weight, steps=steps)
                else:
                    outputs = model(x.requires_grad_())
                    loss = loss_of(outputs, y) + weight * jacobian_penalty(outputs, x)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                lr_schedule.step()
                if points.grad is not None and kind == "free":
                    offset = in_ball(offset + weight * sample_unit(points.grad), weight)
        if scheduler is not None:
            scheduler.step(accuracy(model, data.train_x[parts.fit], data.train_y[parts.fit]))
    model.eval()
    return weight
