"""X_Lip: the finite set of pairs on which the Lipschitz constant is approximated, and how it is made.

Four ways: *perturbed* (an input and a noisy copy: local slopes near the data), *gaussian* (copies with noise of many sizes:
slopes on the way to noisy inputs), *matched* (two different inputs: slopes across the data), *uniform* (points of a box and
noisy copies: slopes where there is no data).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Generator, Tensor

from ..arguments import checked
from ..domains import Box
from ..errors import InputError, require_in
from ..norms import all_finite, per_sample, sample_norm

LARGEST = 1e300
"""Noise: what is larger is no number in double precision."""
MOST = 10_000_000
"""Pairs that can be drawn at once."""
Draw = Callable[[Generator], tuple[Tensor, Tensor]]
"""Makes the points u and v of a pair set from a source of randomness."""


@dataclass(frozen=True)
class PairSet:
    """Pairs (u, v), and the recipe to draw them afresh.

    Raises:
        InputError: no pairs, shapes that differ, values that are not finite floats, or a pair with u = v.
    """

    u: Tensor  # (pairs, *input)
    v: Tensor  # (pairs, *input)
    draw: Draw | None = None  # None: the pairs were given, and cannot be drawn again
    moves: bool = False  # with the network, as embeddings do: a regularizer draws them again after each round

    def __post_init__(self) -> None:
        if self.u.shape != self.v.shape or self.u.dim() < 2 or len(self.u) == 0:
            got = f"shapes {tuple(self.u.shape)} and {tuple(self.v.shape)}"
            raise InputError("u and v of one shape (pairs, *input) with at least one pair", got, "Give at least one pair.")
        if not (self.u.is_floating_point() and self.v.is_floating_point()):
            got = f"{self.u.dtype} and {self.v.dtype}"
            raise InputError("pairs of floating-point inputs", got, "Convert the inputs with .float().")
        if not (all_finite(self.u) and all_finite(self.v)):
            raise InputError("finite pairs", "nan or inf", "Remove the samples with missing values.")
        same = int((sample_norm(self.u - self.v) == 0).sum())
        if same:
            do = "The quotient is undefined there: raise the noise or drop duplicate inputs."
            raise InputError("two different points in every pair", f"{same} pairs with u = v", do)

    def __len__(self) -> int:
        return len(self.u)

    @property
    def span(self) -> tuple[float, float]:
        """The least and the largest entry of all points."""
        return float(min(self.u.min(), self.v.min())), float(max(self.u.max(), self.v.max()))

    def redrawn(self, generator: Generator) -> PairSet:
        """A fresh set by the same recipe; `InputError` if the pairs were given as they are."""
        if self.draw is None:
            do = "Use perturbed_pairs, matched_pairs or uniform_pairs."
            raise InputError("a pair set with a recipe to draw it again", "given pairs", do)
        return replace(_drawn(self.draw, generator), moves=self.moves)


@checked
def perturbed_pairs(inputs: Tensor, *, noise: float = 0.1, seed: int = 0) -> PairSet:
    """Pairs (x, x + noise * r), r uniform on [0, 1) in every entry: the paper's X_Lip for images.

    Args:
        inputs: x, `(n, *input)`; use inputs that are not trained on.
        noise: the largest change of an entry, in units of the inputs (the paper leaves it open; the authors' code has
            uniform [0, 0.1]).
        seed: of the first draw.

    Raises:
        InputError: noise <= 0, or what `PairSet` refuses.
    """
    _positive("noise", noise)
    _require_rows(inputs)
    return _drawn(partial(_draw_perturbed, inputs, noise), _seeded(seed))


@checked
def matched_pairs(inputs: Tensor, *, seed: int = 0) -> PairSet:
    """Pairs of two different inputs, (x_i, x_s(i)), s one random cycle through all of them; as many pairs as inputs.

    Raises:
        InputError: fewer than two inputs, inputs that appear twice next to each other in the cycle (u = v).
    """
    _require_rows(inputs)
    if len(inputs) < 2:
        raise InputError("at least two inputs to match", len(inputs), "Give more inputs.")
    return _drawn(partial(_draw_matched, inputs), _seeded(seed))


@checked
def uniform_pairs(low: Tensor | float, high: Tensor | float, n: int, noise: float, *, seed: int = 0) -> PairSet:
    """Pairs (x, x + noise * r), x uniform on the box [low, high], r standard normal: the paper's X_Lip for regression.

    Args:
        low: lower corner of the box, of the shape of one input; a number for inputs of one entry.
        high: upper corner.
        n: number of pairs.
        noise: standard deviation of the step from u to v, in units of the inputs.
        seed: of the first draw.

    Raises:
        InputError: an empty box, n < 1, noise <= 0.
    """
    _positive("noise", noise)
    require_in("a number n of pairs", n, f"[1, {MOST}]", "Give the number of pairs to draw.")
    low, high = torch.as_tensor(low), torch.as_tensor(high)
    if low.shape != high.shape or not bool((low < high).all()):
        raise InputError("corners of one shape with low < high in every entry", f"{low} and {high}", "Swap or widen them.")
    return _drawn(
        partial(_draw_uniform, torch.atleast_1d(low.float()), torch.atleast_1d(high.float()), n, noise), _seeded(seed)
    )


@checked
def embedding_pairs(embedding: Callable[[Tensor], Tensor], ids: Tensor, *, noise: float = 0.1, seed: int = 0) -> PairSet:
    """Pairs (e, e + noise * std * r) round embedded tokens e, r standard normal: for the network behind the embedding.

    Token ids have no neighbours, their embeddings have. The embedding may be trained, too: a `LipschitzRegularizer` draws these
    pairs again after each round through its working pool.

    Args:
        embedding: from ids `(n, ...)` to vectors `(n, ..., width)`, such as an `nn.Embedding`.
        ids: tokens of an integer type, `(n, ...)`; use samples that are not trained on.
        noise: standard deviation of the step in every entry, in units of that of the embedded tokens.
        seed: of the first draw.

    Raises:
        InputError: noise <= 0, ids that are not integers, or what `PairSet` refuses.

    Example:
        >>> table = torch.nn.Embedding(100, 16)
        >>> embedding_pairs(table, torch.randint(100, (50, 12))).u.shape
        torch.Size([50, 12, 16])
    """
    _positive("noise", noise)
    if ids.is_floating_point():
        raise InputError("ids of an integer type", ids.dtype, "Give token ids, or perturbed_pairs of what is embedded already.")
    return replace(_drawn(partial(_draw_embedded, embedding, ids, noise), _seeded(seed)), moves=True)


def _draw_embedded(
    embedding: Callable[[Tensor], Tensor], ids: Tensor, noise: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        u = embedding(ids).detach().clone()
    return _stepped(u, torch.randn(u.shape, generator=generator).to(u), noise * float(u.std()))


def _draw_perturbed(inputs: Tensor, noise: float, generator: Generator) -> tuple[Tensor, Tensor]:
    return _stepped(inputs, _uniform(inputs, generator), noise)


def _draw_matched(inputs: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
    cycle = torch.randperm(len(inputs), generator=generator).to(inputs.device)
    return inputs[cycle], inputs[cycle.roll(1)]


def _draw_uniform(low: Tensor, high: Tensor, n: int, noise: float, generator: Generator) -> tuple[Tensor, Tensor]:
    like = low.expand(n, *low.shape)
    u = low + (high - low) * _uniform(like, generator)
    return _stepped(u, torch.randn(like.shape, generator=generator).to(like), noise)


def corner_points(like: Tensor, domain: Box, generator: Generator) -> Tensor:
    """Pairs at random corners of the box `domain`, of any density, each a tenth of the way to a random point of it.

    Where no data are, slopes are often steepest at the corners: ascent finds them from there in a few dozen steps.

    Args:
        like: what to imitate in shape, type and device, `(n, 2, *input)`.
        domain: the box (low, high), numbers or tensors `(*input)`.
        generator: source of randomness.

    Returns:
        u and v side by side, `(n, 2, *input)`.
    """
    low, high = (torch.as_tensor(end).to(like) for end in domain)
    density, position, other = _uniform(like.flatten(1)[:, 0], generator), *_uniform(like, generator).unbind(1)
    u = torch.where(position < per_sample(density, position), high, low).to(like)
    v = u + 0.1 * (low + (high - low) * other - u)
    return torch.stack([u, v], dim=1)


def _stepped(u: Tensor, direction: Tensor, noise: float | Tensor) -> tuple[Tensor, Tensor]:
    """The pairs (u, u + noise * direction); a step that rounding swallows becomes one of `noise` in every entry.

    In one dimension that meets one pair in about a million: a training that redraws its pairs would stop there.
    """
    if not isinstance(noise, Tensor):
        noise = float(noise)  # a whole number may be larger than torch takes
    v = u + noise * direction
    swallowed = per_sample((v == u).flatten(1).all(1), u) if len(u) else v == u
    return u, torch.where(swallowed, u + noise, v)


def _drawn(draw: Draw, generator: Generator) -> PairSet:
    return PairSet(*draw(generator), draw)


def _seeded(seed: int) -> Generator:
    require_in("seed", seed, f"[{-(2**63)}, {2**63 - 1}]")
    return torch.Generator().manual_seed(seed)


def _require_rows(inputs: Tensor) -> None:
    if inputs.dim() < 2 or inputs.layout != torch.strided:
        got = f"shape {tuple(inputs.shape)}, {inputs.layout}"
        raise InputError("a dense tensor of inputs (n, *input)", got, "Convert or reshape them.")


def _uniform(like: Tensor, generator: Generator) -> Tensor:
    # drawn on the CPU so that a seed means the same pairs on every device
    return torch.rand(like.shape, generator=generator, dtype=torch.float32).to(like)


def _positive(name: str, value: float) -> None:
    if not 0 < value <= LARGEST:
        raise InputError(f"{name} > 0", value, "Give a positive number.")
