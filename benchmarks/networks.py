"""The bracket of deep chains and of ordinary trained networks: is there one, how wide is it, how long does it take?

`depth`: random networks of 4 inputs, ReLU and one output, Gaussian weights scaled to a norm uniform in 0.4 to 1.8; beside the
bound of ECLipsE-Fast (`pip install eclipse-nn`), the best bound in closed form, one pass of multipliers of one number a layer,
and, for small networks, the optimum of the semidefinite programme LipSDP-Neuron by an interior-point solver (`pip install cvxpy
clarabel`, and `tests` on the path). What is not there is left out. `ordinary`: twelve kinds of networks, trained on digits, on
all inputs, on [0, 1] and on a ball of radius 0.1 round a test sample. Seconds are of one thread.

    PYTHONPATH=tests python benchmarks/networks.py --out results/bounds-networks
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional

from cheaplip import Ball, lipschitz_bracket
from cheaplip.bounds.graph import trace
from cheaplip.bounds.multipliers.chain import make_chain
from cheaplip.bounds.multipliers.start import gram_multipliers
from cheaplip.bounds.upper import product_of_norms, upper_bound
from cheaplip.data import Dataset, load
from cheaplip.provenance import provenance

DEPTHS = [(2, 20), (2, 100), (5, 20), (5, 40), (10, 20), (10, 60), (20, 20), (20, 100), (50, 40), (100, 20), (100, 100)]
MOST, WIDEST = 400, 40
"""Neurons of all layers, and of one, of a network that the semidefinite programme is solved for: 5 x 40 takes two minutes."""
SHARES = {0.5: 1.0, 0.6: 0.737, 0.7: 0.515}
"""T = share / lambda_max(G), and the power that makes it of 1/2."""
STEPS, BUDGET = 400, 20.0
"""Of training; seconds for each bracket of an ordinary network."""


def deep(layers: int, width: int) -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    parts: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise((4, *[width] * layers, 1)):
        layer = nn.Linear(fan_in, fan_out)
        weight = torch.randn(fan_out, fan_in, generator=generator, dtype=torch.float64)
        norm = 0.4 + 1.4 * torch.rand((), generator=generator, dtype=torch.float64)
        layer.weight = nn.Parameter((weight * norm / torch.linalg.matrix_norm(weight, 2)).float(), requires_grad=False)
        parts += [layer, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


@torch.no_grad()
def depths() -> Iterator[dict[str, Any]]:
    for layers, width in DEPTHS:
        model = deep(layers, width)
        chain = make_chain(trace(model, (4,)).last_chain.layers)
        assert chain is not None
        row: dict[str, Any] = {"layers": layers, "width": width, "product": product_of_norms(model, (4,))}
        row["ECLipsE-Fast"], row["its seconds"] = eclipse(model)
        row["one pass"] = min(gram_multipliers(chain, power)[1] for power in SHARES.values())
        for budget in (5.0, 60.0):
            begun = time.monotonic()
            row[f"upper in {budget:g}"] = upper = upper_bound(model, (4,), deadline=begun + budget).value
            row[f"seconds of {budget:g}"] = time.monotonic() - begun
        row["LipSDP"], row["seconds of LipSDP"] = (
            lipsdp(model, upper) if layers * width <= MOST and width <= WIDEST else (None, None)
        )
        yield row


def eclipse(model: nn.Sequential) -> tuple[float | None, float | None]:
    try:
        from eclipse_nn.eclipsE_fast import ECLipsE_Fast
    except ImportError:
        return None, None
    weights = [layer.weight.double() for layer in model if isinstance(layer, nn.Linear)]
    begun = time.monotonic()
    value = float(ECLipsE_Fast(weights, [0.0] * (len(weights) - 1), [1.0] * (len(weights) - 1)))
    return value, time.monotonic() - begun


def lipsdp(model: nn.Sequential, usual: float) -> tuple[float | None, float | None]:
    """The optimum; of weights that are scaled so that it is about 1, as the solver's tolerances are absolute."""
    weights = [layer.weight.double() for layer in model if isinstance(layer, nn.Linear)]
    begun = time.monotonic()
    try:
        from support.oracles import lipsdp_neuron

        optimum = lipsdp_neuron([(weight / usual ** (1 / len(weights))).numpy() for weight in weights], 0.0, 1.0)
    except ImportError:
        return None, None
    return usual * optimum, time.monotonic() - begun


class Residual(nn.Module):
    """Two convolutions with BatchNorm, and a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norms[1](self.second(functional.relu(self.norms[0](self.first(x)), inplace=True)))
        return functional.relu(x + inner)


class UNet(nn.Module):
    """Its mean over the image, as a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.up = nn.Conv2d(24, 10, 3, padding=1)
        self.larger = nn.Upsample(scale_factor=2)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.down(x))
        b = torch.relu(self.middle(functional.max_pool2d(a, 2)))
        return self.up(torch.cat([self.larger(b), a], 1)).mean((2, 3))


class ViT(nn.Module):
    """Patches of two by two, a token for the class, one block."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.places = nn.Conv2d(1, 16, 2, 2), nn.Parameter(0.02 * torch.randn(1, 17, 16))
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1) + self.places
        return self.head(self.norm(self.block(tokens)[:, 0]))


class Rows(nn.Module):
    """The image as a sequence of its rows."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.squeeze(1))


class Memory(nn.Module):
    """The last state of an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.memory, self.head = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        _, (h, _) = self.memory(x)
        return self.head(h[-1])


class GroupSort(nn.Module):
    """As deel-torchlip's `GroupSort2`."""

    def forward(self, x: Tensor) -> Tensor:
        pairs = x.view(x.shape[0], -1, 2)
        return torch.cat([pairs.min(2, keepdim=True)[0], pairs.max(2, keepdim=True)[0]], 2).view(x.shape)


def dense(activation: Callable[[], nn.Module], *, norm: bool = False, orthogonal: bool = False) -> nn.Module:
    make: Callable[[nn.Linear], nn.Module] = nn.utils.parametrizations.orthogonal if orthogonal else lambda layer: layer
    parts: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in ((64, 64), (64, 64)):
        parts += [make(nn.Linear(fan_in, fan_out)), *([nn.LayerNorm(fan_out)] if norm else []), activation()]
    return nn.Sequential(*parts, make(nn.Linear(64, 10)))


def convolutional(pool: nn.Module, norm: Callable[[int], nn.Module] = lambda _: nn.Identity()) -> nn.Module:
    first = [nn.Conv2d(1, 8, 3, padding=1), norm(8), nn.ReLU(), pool]
    second = [nn.Conv2d(8, 16, 3, padding=1), norm(16), nn.ReLU()]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(256, 10))


ORDINARY: dict[str, Callable[[], nn.Module]] = {
    "MLP, ReLU": lambda: dense(nn.ReLU),
    "MLP, GELU": lambda: dense(nn.GELU),
    "MLP, tanh": lambda: dense(nn.Tanh),
    "CNN, max-pooling": lambda: convolutional(nn.MaxPool2d(2)),
    "CNN, average pooling": lambda: convolutional(nn.AvgPool2d(2)),
    "ResNet, BatchNorm": lambda: nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), Residual(8), Residual(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    ),
    "U-Net, Upsample": UNet,
    "CNN, GroupNorm": lambda: convolutional(nn.MaxPool2d(2), lambda channels: nn.GroupNorm(4, channels)),
    "MLP, LayerNorm": lambda: dense(nn.ReLU, norm=True),
    "transformer block": lambda: Rows(
        nn.Sequential(
            nn.Linear(8, 16),
            nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True),
            nn.Flatten(),
            nn.Linear(128, 10),
        )
    ),
    "ViT": ViT,
    "LSTM": lambda: Rows(Memory()),
    "GroupSort, orthogonal": lambda: dense(GroupSort, orthogonal=True),
}


def fitted(build: Callable[[], nn.Module], data: Dataset) -> nn.Module:
    """One of them, trained."""
    torch.manual_seed(0)
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(STEPS):
        chosen = torch.randint(len(data.train_x), (64,))
        loss = functional.cross_entropy(model(data.train_x[chosen]), data.train_y[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def ordinary() -> Iterator[dict[str, Any]]:
    data = load("digits")
    for name, build in ORDINARY.items():
        model = fitted(build, data)
        with torch.no_grad():
            right = (model(data.test_x).argmax(1) == data.test_y).double().mean()
        row: dict[str, Any] = {"network": name, "test": float(right)}
        domains = {"all": None, "[0, 1]": (0.0, 1.0), "ball": Ball(data.test_x[0], 0.1)}
        for scope, domain in domains.items():
            bracket = lipschitz_bracket(model, data.test_x[:50], domain=domain, budget=BUDGET)
            row |= {f"lower, {scope}": bracket.lower, f"upper, {scope}": bracket.upper}
            row |= {f"ratio, {scope}": bracket.ratio, f"seconds, {scope}": bracket.seconds}
        yield row


TABLES: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {"depth": depths, "ordinary": ordinary}


def main(
    out: Annotated[Path, typer.Option(help="Folder for table.json and table.md.")] = Path("results/bounds-networks"),
    table: Annotated[list[str] | None, typer.Option(help="Only this table, the others are kept; may be repeated.")] = None,
) -> None:
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    file = out / "table.json"
    record = json.loads(file.read_text()) if file.exists() else {"schema": 1, "tables": {}, "provenance": {}}
    tables = record["tables"]
    for name in table or TABLES:
        tables[name], record["provenance"][name] = [], provenance(torch.device("cpu"))
        for row in TABLES[name]():
            tables[name].append(row)
            file.write_text(json.dumps(record, indent=2) + "\n")
            (out / "table.md").write_text("\n".join(itertools.chain(*map(section, tables, tables.values()))).lstrip() + "\n")


def section(name: str, rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    lines = [f"\n## {name}\n", "| " + " | ".join(rows[0]) + " |", "|---" * len(rows[0]) + "|"]
    return lines + ["| " + " | ".join(map(cell, row.values())) + " |" for row in rows]


def cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)


if __name__ == "__main__":
    typer.run(main)
