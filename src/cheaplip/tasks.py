"""What `fit` trains on: three disjoint parts of the training set, batches by index from tensors on the device, the loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from .config import TrainConfig
from .data import Dataset
from .errors import InputError
from .quotient import forward
from .robustness import check_classifier, forward_checked

Data = Dataset | tuple[Tensor, Tensor] | torch.utils.data.DataLoader[Any]


@dataclass(frozen=True)
class Parts:
    """Disjoint parts of one training set, as indices into it."""

    fit: Tensor  # what the loss sees
    pairs: Tensor  # what X_Lip is made from
    validation: Tensor  # what the checkpoint is chosen on


def split(n: int, *, pair_share: float, validation_share: float, seed: int) -> Parts:
    """Split n samples at random; `InputError` if a part would have less than two."""
    pairs, validation = round(n * pair_share), round(n * validation_share)
    if min(pairs, validation, n - pairs - validation) < 2:
        got = f"{n} samples: {n - pairs - validation} to fit, {pairs} for pairs, {validation} for validation"
        raise InputError("two samples at least in every part of the training set", got, "Give more data or larger shares.")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return Parts(order[pairs + validation :], order[:pairs], order[pairs : pairs + validation])


class TensorBatches:
    """Shuffled full batches (x[i], y[i]) by index; the order depends on the seed and the epoch alone.

    A rest that fills no batch waits for the next epoch's shuffle. Each of several processes takes its own share.
    """

    def __init__(
        self, x: Tensor, y: Tensor, indices: Tensor, *, batch_size: int, seed: int, rank: int = 0, processes: int = 1
    ) -> None:
        self._x, self._y, self.indices = x, y, indices
        self._share = len(indices) // processes
        self._batch_size = min(batch_size, self._share)
        self._seed, self._rank, self._processes = seed, rank, processes

    def __len__(self) -> int:
        return self._share // self._batch_size

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch."""
        generator = torch.Generator().manual_seed(epoch_seed(self._seed, epoch))
        order = self.indices[torch.randperm(len(self.indices), generator=generator).to(self.indices.device)]
        mine = order[self._rank :: self._processes][: len(self) * self._batch_size]
        for index in mine.split(self._batch_size):
            yield self._x[index], self._y[index]

    def all(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every sample once, in order."""
        for index in self.indices.split(1000):
            yield self._x[index], self._y[index]


def epoch_seed(seed: int, epoch: int) -> int:
    """One seed for each epoch of each run, so that an epoch can be repeated without the ones before it."""
    return seed * 1_000_003 + epoch


@dataclass(frozen=True)
class Task:
    """What is trained on: fitting batches, validation samples, inputs for pairs, and the loss that goes with the labels."""

    batches: Any  # TensorBatches, or a DataLoader
    validation: tuple[Tensor, Tensor] | None
    pair_inputs: Tensor | None  # (n, *input)
    domain: tuple[float, float] | None
    classification: bool

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy for class labels, mean squared error for real ones."""
        return cross_entropy(outputs, y) if self.classification else mse_loss(outputs, y)

    def epoch(self, epoch: int) -> Any:
        """The batches of one epoch."""
        return self.batches.epoch(epoch) if isinstance(self.batches, TensorBatches) else self.batches

    @torch.no_grad()
    def measure(self, model: nn.Module) -> float:
        """A(f; T), the accuracy on the fitting part in evaluation mode; for regression, the mean squared error."""
        value = 0.0
        for x, y in self.batches.all():
            outputs = forward(model, x)
            value += float((outputs.argmax(1) == y).sum() if self.classification else self.loss(outputs, y) * len(y))
        return value / len(self.batches.indices)


def make_task(
    data: Data,
    model: nn.Module,
    config: TrainConfig,
    validation: tuple[Tensor, Tensor] | None,
    accelerator: Accelerator,
) -> Task:
    """The task that the data make, on the accelerator's device; `InputError` if data and model do not fit."""
    device = accelerator.device
    if validation is not None:
        validation = validation[0].to(device), validation[1].to(device)
    if isinstance(data, torch.utils.data.DataLoader):
        x, y = next(iter(data))
        classification = _check(model, x.to(device), y.to(device))
        return Task(accelerator.prepare(data), validation, None, None, classification)
    x, y = (data.train_x, data.train_y) if isinstance(data, Dataset) else data
    domain = data.domain if isinstance(data, Dataset) else None
    x, y = x.to(device), y.to(device)
    classification = _check(model, x, y)
    parts = split(len(x), pair_share=config.pair_share, validation_share=config.validation_share, seed=config.seed)
    batches = TensorBatches(
        x,
        y,
        parts.fit.to(device),
        batch_size=config.batch_size,
        seed=config.seed,
        rank=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    held_out = (x[parts.validation], y[parts.validation]) if validation is None else validation
    return Task(batches, held_out, x[parts.pairs], domain, classification)


def _check(model: nn.Module, x: Tensor, y: Tensor) -> bool:
    """Whether this is classification; `InputError` unless data and model fit."""
    if not y.is_floating_point():
        check_classifier(model, x, y)
        return True
    if len(x) != len(y) or not (x.isfinite().all() and y.isfinite().all()):
        got = f"{len(x)} inputs and {len(y)} values, or nan or inf among them"
        raise InputError("as many finite inputs as finite values", got, "Correct the data.")
    with torch.no_grad():
        outputs = forward_checked(model, x[:1])
    if outputs.shape != y[:1].shape:
        do = "Reshape the values to (n, *output)."
        raise InputError(f"values of shape (n, {outputs.shape[1:]})", f"{tuple(y.shape)}", do)
    return False
