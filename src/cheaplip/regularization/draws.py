"""Which samples a penalty is of: fresh ones at every evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..errors import InputError


class Draws:
    """Draws some of n samples at a time, each of them once in a round through all.

    Args:
        n: how many samples there are.
        size: how many are drawn at a time; all if there are fewer.
        seed: of the order.
    """

    def __init__(self, n: int, size: int, seed: int) -> None:
        self._n, self._size = n, min(size, n)
        self._generator = torch.Generator().manual_seed(seed)
        self._waiting = torch.empty(0, dtype=torch.int64)  # not yet drawn in this round
        self.turn()

    def turn(self) -> None:
        """Draw the next samples."""
        if len(self._waiting) < self._size:
            self._waiting = torch.randperm(self._n, generator=self._generator)
        self.drawn, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
        """Their indices, `(size,)`."""

    def state_dict(self) -> dict[str, Any]:
        """What changes during training."""
        return {"drawn": self.drawn, "waiting": self._waiting, "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; `InputError` if it belongs to more samples."""
        drawn, waiting = state["drawn"].cpu(), state["waiting"].cpu()
        if int(torch.cat([drawn, waiting]).max()) >= self._n:
            raise InputError(f"a state of {self._n} samples", "one of more", "Make it with the same samples.")
        self.drawn, self._waiting = drawn, waiting
        self._generator.set_state(state["generator"].cpu())
