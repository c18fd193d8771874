"""The preset `paper`, and the pieces that it alone needs."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import mse_loss

from .. import processes
from ..inference import evaluating
from ..regularization.term import PenaltyTerm
from ..robustness.accuracy import accuracy
from ..robustness.attacks import signed_pgd
from .config import TrainConfig

PAPER = TrainConfig(
    tolerance=None,
    target=0.95,
    epochs=100,
    lr=0.1,
    schedule="constant",
    keep="best-pgd",
    active=500,
    interval=1,
    pool=6000,
    renewal=0.0,
    explore=0.0,
    reduction="max",
    power=1,
    ascent="accepted",
    step_size=10.0,
    rule="additive",
    initial_weight=0.0,
    warmup=5,
    update="minibatch",
)
"""The preset `paper`. As printed: the largest quotient to the power 1 as penalty, the additive rule in the loop over the
minibatches, the checkpoint with the best PGD accuracy (on validation images, not on those that are tested), 6,000 held-out
images and noisy copies as pairs. Where the paper is silent, the authors' code: SGD 0.1 with momentum 0.9 and a constant
learning rate, batches of 128, 100 epochs, 5 epochs of warm-up, noise uniform on [0, 0.1], 500 pairs a step, tau = 10 with
one ascent step, accepted only where the quotient rises. Once an epoch instead of once a minibatch: see docs/notes."""

MODEL: dict[str, dict[str, Any]] = {"mlp": {"activation": "sigmoid"}}
"""Options of the paper's networks that differ from ours."""


def steer_by_minibatch(term: PenaltyTerm, outputs: Tensor, y: Tensor) -> None:
    """Algorithm 2 as printed: the weight moves after each minibatch, by that minibatch's own accuracy or loss."""
    outputs = outputs.detach()
    value = (term.loss or mse_loss)(outputs, y) if y.is_floating_point() else (outputs.argmax(1) == y).float().mean()
    mean = processes.mean(float(value))
    if math.isfinite(mean):
        term.update_weight(mean)


def pgd_accuracy(model: nn.Module, x: Tensor, y: Tensor, *, eps: float) -> float:
    """Accuracy under equation (14), by which the paper chooses the checkpoint; each process attacks its share."""
    x, y = x[processes.rank() :: processes.count()], y[processes.rank() :: processes.count()]
    right = 0.0
    if len(y):
        with evaluating(model):
            attacked = signed_pgd(model, x, y, eps=eps, step=eps / 8)
        right = round(accuracy(model, attacked, y) * len(y))
    right, n = processes.total([right, len(y)])
    return right / n
