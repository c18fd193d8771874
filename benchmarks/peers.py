"""What CLIP is compared with: PGD adversarial training and a Jacobian penalty, as losses and as complete trainings.

Both trainings see the same samples in the same order as `cheaplip.fit`, with its optimizer and schedule.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cheaplip import DiscrepancyPrinciple
from cheaplip.data import Dataset
from cheaplip.models import mlp
from cheaplip.norms import per_sample, sample_norm, sample_unit
from cheaplip.regularization.margin_loss import margin_cross_entropy
from cheaplip.robustness.accuracy import accuracy
from cheaplip.training.batches import TensorBatches, split
from cheaplip.training.config import TrainConfig
from cheaplip.training.loop import margin_ramp
from cheaplip.training.methods import make_optimizer
from cheaplip.training.schedule import make_lr_schedule

STEPS = 7


def pgd_examples(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """From a random start, `STEPS` normalised-gradient steps of 2.5 eps / STEPS up the loss, in the L2 ball and in [0, 1]."""
    radius = eps * torch.rand(len(x), *[1] * (x.dim() - 1)).to(x)
    adversarial = (x + radius * sample_unit(torch.randn_like(x))).clamp(0, 1)
    for _ in range(STEPS):
        adversarial = adversarial.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(model(adversarial), y, reduction="sum"), adversarial)
        offset = adversarial.detach() + 2.5 * eps / STEPS * sample_unit(gradient) - x
        length = per_sample(sample_norm(offset).clamp(min=1e-12), offset)
        adversarial = (x + offset * (eps / length).clamp(max=1)).clamp(0, 1)
    return adversarial.detach()


def jacobian_penalty(outputs: Tensor, x: Tensor) -> Tensor:
    """Mean of |J^T r|^2, r one random direction of the outputs a sample: an unbiased estimate of |J|_F^2."""
    (row,) = torch.autograd.grad((outputs * torch.randn_like(outputs)).sum(), x, create_graph=True)
    return row.square().sum() / len(x)


def train(kind: str, data: Dataset, config: TrainConfig, activation: str) -> tuple[nn.Module, float]:
    """Train an MLP by `adversarial` or `jacobian`; eps or the weight is steered to the target of the clean accuracy.

    Returns:
        The network and where eps or the weight ended.
    """
    torch.manual_seed(config.seed)
    model = mlp(data.train_x.shape[1:], data.classes, activation=activation)
    parts = split(len(data.train_x), pair_share=config.pair_share, validation_share=config.validation_share, seed=config.seed)
    batches = TensorBatches(data.train_x, data.train_y, parts.fit, batch_size=config.batch_size, seed=config.seed)
    optimizer = make_optimizer(model, config)
    lr_schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, make_lr_schedule(config, len(batches)))
    if config.weight is not None:
        scheduler = None
    elif kind == "adversarial":
        scheduler = DiscrepancyPrinciple(config.target, initial=1.0, warmup=1, gain=5, damping=0, largest_step=0.3)
    else:
        scheduler = DiscrepancyPrinciple(config.target, initial=config.initial_weight)
    history: list[dict[str, float]] = []
    for epoch in range(1, config.epochs + 1):
        weight = config.weight if scheduler is None else scheduler.weight
        ramp = margin_ramp(history, config.epochs) if weight else 0.0
        loss_of = partial(margin_cross_entropy, margin=ramp * config.margin, saturation=ramp * config.saturation)
        history.append({"weight": weight})
        for x, y in batches.epoch(epoch):
            if kind == "adversarial":
                loss = loss_of(model(pgd_examples(model, x, y, weight) if weight else x), y)
            elif weight:
                outputs = model(x.requires_grad_())
                loss = loss_of(outputs, y) + weight * jacobian_penalty(outputs, x)
            else:
                loss = loss_of(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            lr_schedule.step()
        if scheduler is not None:
            scheduler.step(accuracy(model, data.train_x[parts.fit], data.train_y[parts.fit]))
    return model.eval(), weight
