"""Which samples are in which batch: a split of the training set, and batches whose order a seed and an epoch decide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from ..errors import InputError, one_line


@dataclass(frozen=True)
class Split:
    """Disjoint parts of one training set, as indices into it."""

    fit: Tensor  # what the loss sees
    pairs: Tensor  # what X_Lip is made from
    validation: Tensor  # what the checkpoint is chosen on


def split(n: int, *, pair_share: float, validation_share: float, seed: int) -> Split:
    """Split n samples at random; `InputError` if a part would have less than two, unless its share is 0."""
    pairs, validation = round(n * pair_share), round(n * validation_share)
    sizes = ((n - pairs - validation, 1.0), (pairs, pair_share), (validation, validation_share))
    if any(size < 2 for size, share in sizes if share > 0):
        got = f"{n} samples: {n - pairs - validation} to fit, {pairs} for pairs, {validation} for validation"
        raise InputError("two samples at least in every part of the training set", got, "Give more data or larger shares.")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return Split(order[pairs + validation :], order[:pairs], order[pairs : pairs + validation])


class TensorBatches:
    """Shuffled full batches of some tensors by index, such as (x[i], y[i]); the order depends on the seed and the epoch alone.

    The last, incomplete batch is dropped. Each of several processes takes its share of every batch, so the batches do not
    depend on their number.

    Raises:
        InputError: a batch size that the processes cannot share evenly, or fewer samples than processes.
    """

    def __init__(
        self,
        *tensors: Tensor,
        indices: Tensor,
        batch_size: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        if batch_size % processes or len(indices) < processes:
            got = f"batches of {batch_size}, of {len(indices)} samples"
            raise InputError(f"batches that {processes} processes can share evenly", got, "Change batch_size or the processes.")
        self._tensors, self.indices = tensors, indices
        self._batch_size = min(batch_size, len(indices) // processes * processes)
        self._seed, self._rank, self._processes = seed, rank, processes

    def __len__(self) -> int:
        return len(self.indices) // self._batch_size

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        """The batches of one epoch."""
        generator = torch.Generator().manual_seed(epoch_seed(self._seed, epoch))
        order = self.indices[torch.randperm(len(self.indices), generator=generator).to(self.indices.device)]
        for index in order[: len(self) * self._batch_size].split(self._batch_size):
            mine = index[self._rank :: self._processes]
            yield tuple(tensor[mine] for tensor in self._tensors)

    def samples(self) -> tuple[Tensor, Tensor]:
        """A copy of x and y of all samples, of every process."""
        x, y, *_ = self._tensors
        return x[self.indices], y[self.indices]

    def all(self) -> Iterator[tuple[Tensor, ...]]:
        """Every sample once, in order; on several processes, every sample of this one's share."""
        for index in self.indices[self._rank :: self._processes].split(1000):
            yield tuple(tensor[index] for tensor in self._tensors)


class LoaderBatches:
    """The batches of a DataLoader, shuffled in an order that depends on the seed and the epoch alone, too.

    Each of several processes takes its share of every batch.

    Raises:
        InputError: batches that the processes cannot share evenly.
    """

    def __init__(self, loader: DataLoader[Any], *, seed: int, accelerator: Accelerator) -> None:
        try:
            self._prepared = accelerator.prepare(loader)
        except ValueError as error:
            expected = f"batches that {accelerator.num_processes} processes can share evenly"
            raise InputError(expected, one_line(error), "Change the loader's batch_size or the processes.") from None
        # None: the sampler uses torch's global generator, which `fit` seeds for every epoch
        self._generator: torch.Generator | None = getattr(loader.sampler, "generator", None)
        self._seed = seed

    def __len__(self) -> int:
        return len(self._prepared)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        """The batches of one epoch."""
        if self._generator is not None:
            self._generator.manual_seed(epoch_seed(self._seed, epoch))
        return iter(self._prepared)

    def all(self) -> Iterator[tuple[Tensor, ...]]:
        """Every sample once; on several processes, every sample of this one's share."""
        return iter(self._prepared)


def epoch_seed(seed: int, epoch: int) -> int:
    """One seed for each epoch of each run, so that an epoch can be repeated without the ones before it."""
    return seed * 1_000_003 + epoch
