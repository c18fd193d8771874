"""What `fit` trains on: batches, validation samples, inputs for pairs, and the loss that goes with the labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

from .. import processes
from ..data.arrays import Dataset
from ..errors import InputError, one_line
from ..inference import check_classifier, forward, forward_checked
from ..norms import all_finite
from ..pairs.sets import PairSet
from ..regularization.margin_loss import margin_cross_entropy
from ..regularization.term import Loss, weighed
from .batches import LoaderBatches, TensorBatches, split
from .config import TrainConfig
from .own import require_loss

Data = Dataset | tuple[Tensor, Tensor] | DataLoader[Any]


@dataclass(frozen=True)
class Task:
    """What is trained on: fitting batches, validation samples, inputs for pairs, and the loss that goes with the labels."""

    batches: TensorBatches | LoaderBatches
    validation: tuple[Tensor, ...] | None  # (x, y), or (x, y, weights)
    pair_inputs: Tensor | None  # (n, *input)
    domain: tuple[float, float] | None
    classification: bool
    example: Tensor  # (1, *input), an input of the network
    margin: float = 0.0
    saturation: float = 0.0
    trivial: float | None = None  # accuracy or loss of the best constant answer on the fitting part; None: not known
    accumulated: int = 1  # batches whose gradients make one step
    own_loss: Loss | None = None  # the caller's

    @property
    def steps(self) -> int:
        """Of the optimizer, in an epoch."""
        return -(-len(self.batches) // self.accumulated)

    def epoch(self, epoch: int) -> Iterator[list[tuple[Tensor, ...]]]:
        """The batches of each step of an epoch; the last step may have fewer."""
        batches = iter(self.batches.epoch(epoch))
        while step := list(islice(batches, self.accumulated)):
            yield step

    def loss(self, outputs: Tensor, y: Tensor, weights: Tensor | None = None, *, ramp: float = 0.0) -> Tensor:
        """Mean cross-entropy for class labels, with `ramp` times margin and saturation; mean squared error for real values.

        Or the caller's loss. With weights `(n,)`, whose mean over all samples is 1, that of each sample times its weight.
        """
        if self.own_loss is not None:
            return self.own_loss(outputs, y)
        if self.classification:
            margins = {"margin": ramp * self.margin, "saturation": ramp * self.saturation}
            return margin_cross_entropy(outputs, y, **margins, weights=weights)
        if weights is None:
            return mse_loss(outputs, y)
        return ((outputs - y).square().flatten(1).mean(1) * weights).mean()

    @torch.no_grad()
    def value(self, model: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> tuple[float, int]:
        """The accuracy on some batches in evaluation mode (for regression, the loss), and the number of samples.

        Of several processes each has batches of its own, and the value is that of all.
        """
        total, mass, n = 0.0, 0.0, 0
        for x, y, *weights in batches:
            outputs = forward(model, x)
            if self.classification:
                weighted, of_all = weighed(outputs.argmax(1) == y, *weights)
            elif self.own_loss is not None:
                weighted, of_all = self.own_loss(outputs, y) * len(y), len(y)
            else:
                weighted, of_all = weighed((outputs - y).square().flatten(1).mean(1), *weights)
            total, mass, n = total + float(weighted), mass + float(of_all), n + len(y)
        total, mass, samples = processes.total([total, mass, n])
        return total / mass, round(samples)

    def validated(self, model: nn.Module) -> float:
        """The value on the validation part."""
        if self.validation is None:
            return math.nan
        mine = (tensor[processes.rank() :: processes.count()].split(1000) for tensor in self.validation)
        return self.value(model, zip(*mine, strict=True))[0]

    def measure(self, model: nn.Module) -> tuple[float, int]:
        """A(f; T), the value on the fitting part, and its n."""
        return self.value(model, self.batches.all())


def make_task(
    data: Data,
    model: nn.Module,
    config: TrainConfig,
    accelerator: Accelerator,
    *,
    pairs: PairSet | None = None,
    validation: tuple[Tensor, Tensor] | None = None,
    sample_weight: Tensor | None = None,
    loss: Loss | None = None,
) -> Task:
    """The task that the data make, on the accelerator's device; nothing is held out for what is given.

    Raises:
        InputError: data and model do not fit, or there is nothing to choose the checkpoint on where that is asked for, or
            weights that are negative, not finite, all 0, or given with a DataLoader or a loss; a loss that is none.
    """
    device = accelerator.device
    if loss is not None and (sample_weight is not None or config.margin or config.saturation):
        do = "Have them in your loss."
        raise InputError("neither sample_weight, margin nor saturation beside a loss of your own", "one of them", do)
    if isinstance(data, DataLoader):
        task = _loader_task(data, model, config, accelerator, loss)
    else:
        shares = {
            "pair_share": 0.0 if pairs is not None else config.pair_share,
            "validation_share": 0.0 if validation is not None else config.validation_share,
        }
        task = _tensor_task(data, model, config, accelerator, shares, sample_weight, loss)
    if sample_weight is not None and isinstance(data, DataLoader):
        raise InputError("tensors (x, y) for weights of the samples", "a DataLoader", "Give a loader that draws by them.")
    if validation is not None:
        x, y = validation[0].to(device), validation[1].to(device)
        task = replace(task, validation=(x, y))
        if _fits(model, x, y, loss) != task.classification:
            raise InputError("validation labels like the training's", validation[1].dtype, "Give both the same type.")
    if config.keep == "best-pgd" and not (task.classification and task.validation):
        do = "Give validation samples, or keep the last epoch."
        raise InputError("classification with a validation part for keep='best-pgd'", "neither or one", do)
    if config.steer_by == "validation" and task.validation is None:
        raise InputError("validation samples for steer_by='validation'", "none", "Give them, or steer by 'training'.")
    if not task.classification and (config.margin or config.saturation):
        raise InputError("classes for a margin or a saturation", "real values", "Leave both at 0.")
    accumulated = accelerator.gradient_accumulation_steps
    return replace(task, margin=config.margin, saturation=config.saturation, accumulated=accumulated)


def _tensor_task(
    data: Dataset | tuple[Tensor, Tensor],
    model: nn.Module,
    config: TrainConfig,
    accelerator: Accelerator,
    shares: Mapping[str, float],
    sample_weight: Tensor | None,
    loss: Loss | None,
) -> Task:
    device = accelerator.device
    x, y = (data.train_x, data.train_y) if isinstance(data, Dataset) else data
    x, y = x.to(device), y.to(device)
    classification = _fits(model, x, y, loss)
    domain = None
    if isinstance(data, Dataset):
        domain = data.domain
        _fits(model, data.test_x.to(device), data.test_y.to(device), loss)  # now, not when it is evaluated after an hour
    parts = split(len(x), **shares, seed=config.seed)
    fitted = parts.fit.to(device)
    tensors = (x, y) if sample_weight is None else (x, y, _weights(sample_weight.to(device), x, fitted))
    batches = TensorBatches(
        *tensors,
        indices=fitted,
        batch_size=config.batch_size,
        seed=config.seed,
        rank=accelerator.process_index,
        processes=accelerator.num_processes,
    )
    validation = tuple(tensor[parts.validation] for tensor in tensors) if len(parts.validation) else None
    known = classification or loss is None
    trivial = _trivial(y[fitted], *(weights[fitted] for weights in tensors[2:])) if known else None
    pair_inputs = x[parts.pairs] if len(parts.pairs) else None
    return Task(batches, validation, pair_inputs, domain, classification, x[:1], trivial=trivial, own_loss=loss)


def _weights(sample_weight: Tensor, x: Tensor, fitted: Tensor) -> Tensor:
    """The weights, with mean 1 over the fitting part."""
    usable = sample_weight.shape == (len(x),) and all_finite(sample_weight) and bool((sample_weight >= 0).all())
    if not usable or not float(sample_weight[fitted].sum()) > 0:
        got = f"shape {tuple(sample_weight.shape)}, or negative, not finite, or all 0"
        raise InputError(f"weights of shape ({len(x)},), finite and >= 0", got, "Give one for each sample.")
    weights = sample_weight.float()
    return weights / weights[fitted].mean()


def _trivial(y: Tensor, weights: Tensor | None = None) -> float:
    """The accuracy of the best constant answer, or its mean squared error."""
    weights = torch.ones(len(y), device=y.device) if weights is None else weights
    if not y.is_floating_point():
        return float(y.bincount(weights.double()).max() / weights.sum())
    values = y.flatten(1).double()
    of_each = (weights / weights.sum()).double()[:, None]
    mean = (values * of_each).sum(0)
    return float(((values - mean).square() * of_each).sum(0).mean())


def _loader_task(
    data: DataLoader[Any], model: nn.Module, config: TrainConfig, accelerator: Accelerator, loss: Loss | None
) -> Task:
    try:
        len(data)
        batch = next(iter(data))
    except (TypeError, ValueError, StopIteration) as error:
        do = "Give a DataLoader over a dataset of known length that yields pairs of tensors."
        raise InputError("a DataLoader of batches (x, y)", one_line(error), do) from None
    if not (isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)):
        parts = list(batch) if isinstance(batch, Mapping) else [type(part).__name__ for part in batch]
        got = f"a {type(batch).__name__} of {', '.join(map(str, parts))}"
        do = "Give a collate_fn that makes pairs of tensors, or train in a loop of your own, with a PenaltyTerm."
        raise InputError("a DataLoader of batches (x, y)", got, do)
    x, y = (part.to(accelerator.device) for part in batch)
    classification = _fits(model, x, y, loss)
    batches = LoaderBatches(data, seed=config.seed, accelerator=accelerator)
    return Task(batches, None, None, None, classification, x[:1], own_loss=loss)


def _fits(model: nn.Module, x: Tensor, y: Tensor, loss: Loss | None) -> bool:
    """Whether this is classification; `InputError` unless data, model and loss fit."""
    if loss is not None and len(x) == len(y) > 0 and all_finite(x):
        require_loss(loss, model, x[:2], y[:2])
    if not y.is_floating_point():
        check_classifier(model, x, y)
        return True
    if x.dim() == 0 or y.dim() == 0 or len(x) != len(y) or not (all_finite(x) and all_finite(y)):
        got = f"x {tuple(x.shape)} and y {tuple(y.shape)}, or nan or inf among them"
        raise InputError("as many finite inputs as finite values", got, "Correct the data.")
    with torch.no_grad():
        outputs = forward_checked(model, x[:1])
    if loss is None and outputs.shape != y[:1].shape:
        do = "Reshape the values to (n, *output)."
        raise InputError(f"values of shape {('n', *outputs.shape[1:])}", f"{tuple(y.shape)}", do)
    return False
