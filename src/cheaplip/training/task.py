"""What `fit` trains on: three disjoint parts of the training set, batches by index from tensors on the device, the loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

from ..data.arrays import Dataset
from ..errors import InputError, one_line
from ..inference import check_classifier, forward, forward_checked
from ..norms import all_finite
from ..pairs.sets import PairSet
from ..regularization.margin_loss import margin_cross_entropy
from .config import TrainConfig

Data = Dataset | tuple[Tensor, Tensor] | DataLoader[Any]


@dataclass(frozen=True)
class Parts:
    """Disjoint parts of one training set, as indices into it."""

    fit: Tensor  # what the loss sees
    pairs: Tensor  # what X_Lip is made from
    validation: Tensor  # what the checkpoint is chosen on


def split(n: int, *, pair_share: float, validation_share: float, seed: int) -> Parts:
    """Split n samples at random; `InputError` if a part would have less than two, unless its share is 0."""
    pairs, validation = round(n * pair_share), round(n * validation_share)
    sizes = ((n - pairs - validation, 1.0), (pairs, pair_share), (validation, validation_share))
    if any(size < 2 for size, share in sizes if share > 0):
        got = f"{n} samples: {n - pairs - validation} to fit, {pairs} for pairs, {validation} for validation"
        raise InputError("two samples at least in every part of the training set", got, "Give more data or larger shares.")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return Parts(order[pairs + validation :], order[:pairs], order[pairs : pairs + validation])


def this_process() -> Accelerator:
    """The device to train on and the processes beside this one; without accelerators, those of torchrun on the CPU."""
    return Accelerator(cpu=not torch.accelerator.is_available())


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
        """Every sample once, in order; on several processes, every sample of this one's share."""
        for index in self.indices[self._rank :: self._processes].split(1000):
            yield self._x[index], self._y[index]


class LoaderBatches:
    """The batches of a DataLoader, shuffled in an order that depends on the seed and the epoch alone, too."""

    def __init__(self, loader: DataLoader[Any], *, seed: int, accelerator: Accelerator) -> None:
        self._prepared = accelerator.prepare(loader)
        # None: the sampler uses torch's global generator, which `fit` seeds for every epoch
        self._generator: torch.Generator | None = getattr(loader.sampler, "generator", None)
        self._seed = seed

    def __len__(self) -> int:
        return len(self._prepared)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch."""
        if self._generator is not None:
            self._generator.manual_seed(epoch_seed(self._seed, epoch))
        return iter(self._prepared)

    def all(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Every sample once; on several processes, every sample of this one's share."""
        return iter(self._prepared)


def epoch_seed(seed: int, epoch: int) -> int:
    """One seed for each epoch of each run, so that an epoch can be repeated without the ones before it."""
    return seed * 1_000_003 + epoch


@dataclass(frozen=True)
class Task:
    """What is trained on: fitting batches, validation samples, inputs for pairs, and the loss that goes with the labels."""

    batches: TensorBatches | LoaderBatches
    validation: tuple[Tensor, Tensor] | None
    pair_inputs: Tensor | None  # (n, *input)
    domain: tuple[float, float] | None
    classification: bool
    margin: float = 0.0
    saturation: float = 0.0

    def loss(self, outputs: Tensor, y: Tensor, share: float = 0.0) -> Tensor:
        """Mean cross-entropy for class labels, with a share of margin and saturation; mean squared error for real ones."""
        if not self.classification:
            return mse_loss(outputs, y)
        return margin_cross_entropy(outputs, y, margin=share * self.margin, saturation=share * self.saturation)

    def chance(self, outputs: Tensor, y: Tensor) -> float:
        """What a constant network would lose on a batch: log(number of classes), or the variance of y."""
        return math.log(outputs.shape[1]) if self.classification else float(y.var(0, correction=0).mean())

    @torch.no_grad()
    def measure(self, model: nn.Module, accelerator: Accelerator) -> tuple[float, int]:
        """A(f; T), the accuracy on the fitting part in evaluation mode (for regression, the loss), and its n."""
        total, n = 0.0, 0
        for x, y in self.batches.all():
            outputs = forward(model, x)
            total += float((outputs.argmax(1) == y).sum() if self.classification else self.loss(outputs, y) * len(y))
            n += len(y)
        total, n = accelerator.reduce(torch.tensor([total, n], device=accelerator.device)).tolist()
        return total / n, round(n)


def make_task(
    data: Data,
    model: nn.Module,
    config: TrainConfig,
    accelerator: Accelerator,
    *,
    pairs: PairSet | None = None,
    validation: tuple[Tensor, Tensor] | None = None,
) -> Task:
    """The task that the data make, on the accelerator's device; nothing is held out for what is given.

    Raises:
        InputError: data and model do not fit, or there is nothing to choose the checkpoint on where that is asked for.
    """
    device = accelerator.device
    if isinstance(data, DataLoader):
        task = _loader_task(data, model, config, accelerator)
    else:
        shares = {
            "pair_share": 0.0 if pairs is not None else config.pair_share,
            "validation_share": 0.0 if validation is not None else config.validation_share,
        }
        task = _tensor_task(data, model, config, accelerator, shares)
    if validation is not None:
        x, y = validation[0].to(device), validation[1].to(device)
        task = replace(task, validation=(x, y))
        if _fits(model, x, y) != task.classification:
            raise InputError("validation labels like the training's", validation[1].dtype, "Give both the same type.")
    if config.keep == "best-pgd" and not (task.classification and task.validation):
        do = "Give validation samples, or keep the last epoch."
        raise InputError("classification with a validation part for keep='best-pgd'", "neither or one", do)
    if not task.classification and (config.margin or config.saturation):
        raise InputError("classes for a margin or a saturation", "real values", "Leave both at 0.")
    return replace(task, margin=config.margin, saturation=config.saturation)


def _tensor_task(
    data: Dataset | tuple[Tensor, Tensor],
    model: nn.Module,
    config: TrainConfig,
    accelerator: Accelerator,
    shares: Mapping[str, float],
) -> Task:
    device = accelerator.device
    x, y = (data.train_x, data.train_y) if isinstance(data, Dataset) else data
    x, y = x.to(device), y.to(device)
    classification = _fits(model, x, y)
    domain = None
    if isinstance(data, Dataset):
        domain = data.domain
        _fits(model, data.test_x.to(device), data.test_y.to(device))  # now, not when it is evaluated after an hour
    parts = split(len(x), **shares, seed=config.seed)
    batches = TensorBatches(
        x,
        y,
        parts.fit.to(device),
        batch_size=config.batch_size,
        seed=config.seed,
        rank=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    validation = (x[parts.validation], y[parts.validation]) if len(parts.validation) else None
    return Task(batches, validation, x[parts.pairs] if len(parts.pairs) else None, domain, classification)


def _loader_task(data: DataLoader[Any], model: nn.Module, config: TrainConfig, accelerator: Accelerator) -> Task:
    try:
        len(data)
        x, y = next(iter(data))
    except (TypeError, ValueError, StopIteration) as error:
        do = "Give a DataLoader over a dataset of known length that yields pairs of tensors."
        raise InputError("a DataLoader of batches (x, y)", one_line(error), do) from None
    classification = _fits(model, x.to(accelerator.device), y.to(accelerator.device))
    return Task(LoaderBatches(data, seed=config.seed, accelerator=accelerator), None, None, None, classification)


def _fits(model: nn.Module, x: Tensor, y: Tensor) -> bool:
    """Whether this is classification; `InputError` unless data and model fit."""
    if not y.is_floating_point():
        check_classifier(model, x, y)
        return True
    if len(x) != len(y) or not (all_finite(x) and all_finite(y)):
        got = f"{len(x)} inputs and {len(y)} values, or nan or inf among them"
        raise InputError("as many finite inputs as finite values", got, "Correct the data.")
    with torch.no_grad():
        outputs = forward_checked(model, x[:1])
    if outputs.shape != y[:1].shape:
        do = "Reshape the values to (n, *output)."
        raise InputError(f"values of shape {('n', *outputs.shape[1:])}", f"{tuple(y.shape)}", do)
    return False
