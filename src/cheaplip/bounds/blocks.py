"""An operation as a matrix and errors in blocks, and the multipliers of these in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SHARE = 0.6
"""Of the largest multipliers that are feasible, at most."""
TINY = 1e-150
STILL = 1e-9
"""Share of the largest gain or weight, which none counts below."""


@dataclass(frozen=True)
class Linearised:
    """An operation: M, C, the block of each entry of C dx, -1 for none, and what the errors are."""

    matrix: Tensor  # M, (out, entries)
    before: Tensor | None = None  # C, (entries, arguments); None: the identity
    block: Tensor | None = None  # (entries,); None: no errors
    errors: tuple[tuple[Tensor, Tensor], ...] = ()  # for each entry of the result a block and a size, (out,) each

    @property
    def acting(self) -> bool:
        """Whether there are errors."""
        return any(bool(size.any()) for _, size in self.errors)

    def roots(self, gram: Tensor, gain: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        """Square roots of multipliers in closed form, `(entries,)`; 0 where there is no error.

        With a gain those that minimise the trace of B Sigma' B^T, to first order the one without errors plus the sum of
        t_b gain_b + noise_b / t_b, all scaled down where they come too near to T < Sigma^{-1}. Without one, for large errors,
        s_b / (g d_b): the share of the error in what the block does, and the largest eigenvalue of the Gram matrix after a
        scaling d of the blocks, as in `multipliers.start`.

        Args:
            gram: that of C dx.
            gain: `(entries,)`, squared lengths of the columns of B M Sigma, with kept values.
            weight: `(out,)`, squared lengths of the columns of B for the result.
        """
        assert self.block is not None
        own, largest = self.block.clamp(min=0), self._largest
        moving = (self.block >= 0) & (largest > 0)[own]
        share = torch.ones_like(largest)
        if gain is None or weight is None:
            steep, spread = (
                torch.zeros_like(largest).scatter_reduce(0, own, part * moving, "amax")
                for part in (torch.linalg.vector_norm(self.matrix, dim=0), gram.diagonal())
            )
            share = (largest / (steep + largest).clamp(min=TINY)).clamp(STILL, 1 - 1e-3)
            t = (spread / spread.max().clamp(min=TINY)).clamp(min=STILL).rsqrt()
        else:
            # what matters to nobody must stay finite, too
            noise = self._of_blocks(weight.clamp(min=STILL * weight.max() + TINY))
            gains = torch.zeros_like(noise).scatter_add(0, own, torch.where(moving, gain, 0.0))
            t = (noise / gains.clamp(min=STILL * gains.max() + TINY)).sqrt()
        root = torch.where(moving, t[own], 0.0).sqrt()
        g = torch.linalg.eigvalsh(root[:, None] * gram * root)[-1]
        scaled: Tensor = root * ((share[own] / g.clamp(min=TINY)) if gain is None else SHARE / g.clamp(min=SHARE)).sqrt()
        return scaled

    @property
    def _largest(self) -> Tensor:
        """Size of each block."""
        assert self.block is not None
        sizes = torch.zeros(int(self.block.max()) + 1, dtype=torch.float64)
        for block, size in self.errors:
            sizes = sizes.scatter_reduce(0, block, size, "amax")
        return sizes

    def caused(self, weight: Tensor, gain: Tensor, spread: Tensor) -> Tensor:
        """How much entries of C dx matter by what errors make of them, squares, `(entries,)`.

        That is noise, and what a larger region of theirs adds to sqrt(noise gain).

        Args:
            weight: `(out,)`, as in `roots`.
            gain: `(entries,)`, as in `roots`.
            spread: `(entries,)`, the diagonal of the Gram matrix of C dx.
        """
        if self.block is None:
            return torch.zeros(self.matrix.shape[1], dtype=torch.float64)
        own, moving = self.block.clamp(min=0), self.block >= 0
        noise = self._of_blocks(weight)
        gains, spreads = (
            torch.zeros_like(noise).scatter_add(0, own, torch.where(moving, part, 0.0)) for part in (gain, spread)
        )
        caused = noise + (noise * gains).sqrt() / spreads.clamp(min=STILL * spreads.max() + TINY)
        return torch.where(moving, caused[own], 0.0)

    def _of_blocks(self, weight: Tensor) -> Tensor:
        assert self.block is not None
        noise = torch.zeros(int(self.block.max()) + 1, dtype=torch.float64)
        for block, size in self.errors:
            noise = noise.scatter_add(0, block, size.square() * weight)
        return noise

    def noise(self, root: Tensor) -> Tensor:
        """The diagonal of N T^{-1} N^T, `(out,)`."""
        assert self.block is not None
        t = torch.zeros_like(self._largest).scatter_reduce(0, self.block.clamp(min=0), root.square(), "amax")
        result = torch.zeros(len(self.matrix), dtype=torch.float64)
        for block, size in self.errors:
            result += torch.where(size > 0, size.square() / t[block].clamp(min=TINY), 0.0)
        return result
