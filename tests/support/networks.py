"""Small data, networks and regularizers, with which a training takes a fraction of a second."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cheaplip import LipschitzRegularizer, LocalRegularizer, PairSet, matched_pairs
from cheaplip.data import load

OPTIONS: dict[str, Any] = {"epochs": 4, "batch_size": 32, "target": 0.3, "warmup": 1, "initial_weight": 0.1, "active": 8}

QUICK: dict[str, Any] = {"data": "digits", "epochs": 3, "warmup": 1, "hidden": (16,), "target": 0.2, "initial_weight": 0.1}
QUICK |= {"iterations": 3, "attack_samples": 40, "curve_samples": 20, "curve": (0.4, 0.8), "lipschitz_samples": 20}
"""Settings of a quick job."""


def digits(n: int = 300) -> tuple[Tensor, Tensor]:
    data = load("digits")
    return data.train_x[:n], data.train_y[:n]


def curve(n: int = 120) -> tuple[Tensor, Tensor]:
    x = torch.linspace(-2, 2, n)[:, None]
    return x, x.sin()


def seeded(make: Any, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def dense(seed: int = 0, inputs: int = 64, outputs: int = 10) -> nn.Module:
    return seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(inputs, 16), nn.ReLU(), nn.Linear(16, outputs)), seed)


def regularised(seed: int = 0) -> nn.Module:
    """With batch statistics and dropout, whose state and randomness a resumed run must meet again."""
    return seeded(
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10)
        ),
        seed,
    )


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def some_pairs(n: int = 12, shape: tuple[int, ...] = (4,)) -> PairSet:
    return matched_pairs(torch.randn(n, *shape, generator=torch.Generator().manual_seed(5)))


def make_regularizer(model: Any, pairs: PairSet, *, interval: int = 1, **options: Any) -> LipschitzRegularizer:
    """With a penalty at every step."""
    return LipschitzRegularizer(model, pairs, interval=interval, **options)


def some_samples(n: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(n, 4, generator=generator), torch.randint(3, (n,), generator=generator)


def make_local(model: Any, samples: tuple[Tensor, Tensor], **options: Any) -> LocalRegularizer:
    """With a penalty at every step."""
    return LocalRegularizer(model, samples, attack_interval=1, **options)


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def without(record: Any, *names: str) -> dict[str, Any]:
    """A record less the fields that measure time."""
    return {key: value for key, value in record.items() if key not in ("seconds", "provenance", *names)}
