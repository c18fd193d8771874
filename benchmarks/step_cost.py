"""Cost of one training step relative to a plain one, measured side by side; time, arithmetic, memory.

In every round each method takes some steps in turn (whole periods of a lazy penalty) and its time a step is divided by
plain training's in the same round; the table has the median over the rounds and the quartiles. Arithmetic is counted with
torch's FLOP formulas over a whole period of the method; memory is what autograd saves for the backward pass (the most in
one step), relative to plain.

    python benchmarks/step_cost.py --out results/step-cost
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import peers
import torch
import typer
from rich.progress import track
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cheaplip import LipschitzRegularizer, LocalRegularizer, NoiseRegularizer, PenaltySum, StiefelMuon, perturbed_pairs
from cheaplip.inference import evaluating
from cheaplip.models import cnn, mlp
from cheaplip.norms import per_sample, sample_unit
from cheaplip.pairs.quotient import difference_quotient
from cheaplip.provenance import provenance
from cheaplip.regularization.certificate import with_certificate
from cheaplip.regularization.margin_loss import margin_cross_entropy
from cheaplip.regularization.options import LocalOptions, PairOptions
from cheaplip.regularization.scheduler import ConstantWeight
from cheaplip.regularization.term import PenaltyTerm
from cheaplip.regularization.weight_norm import weight_norm
from cheaplip.training.config import TrainConfig
from cheaplip.training.presets import configure

CLASSES = 10
WEIGHT = 0.1
Step = Callable[[], None]


class Residual(nn.Module):
    """Two 3x3 convolutions with BatchNorm and a shortcut."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class Encoder(nn.Module):
    """Two transformer layers with dropout over 32 continuous tokens."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


def resnet(channels: int = 3, width: int = 16) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        Residual(width, width, 1),
        Residual(width, 2 * width, 2),
        Residual(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, CLASSES),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp 784-64-64-10": (lambda: mlp((1, 28, 28), CLASSES), (1, 28, 28)),
    "cnn (Fashion-MNIST)": (lambda: cnn((1, 28, 28), CLASSES), (1, 28, 28)),
    "resnet, BatchNorm": (resnet, (3, 32, 32)),
    "transformer, dropout": (Encoder, (32, 64)),
}


@dataclass
class Setting:
    """One network with an optimizer and one batch."""

    model: nn.Module
    x: Tensor
    y: Tensor
    held_out: Tensor
    optimizer: torch.optim.Optimizer

    def descend(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def plain(s: Setting) -> Step:
    return lambda: s.descend(cross_entropy(s.model(s.x), s.y))


def clip(config: TrainConfig) -> Callable[[Setting], Step]:
    loss = partial(margin_cross_entropy, margin=config.margin, saturation=config.saturation)

    def make(s: Setting) -> Step:
        settings = config.model_dump(include=set(PairOptions.model_fields)) | ({"hold": False} if config.certify else {})
        regularizer = LipschitzRegularizer(s.model, perturbed_pairs(s.held_out), domain=(0, 1), **settings)
        penalty = with_certificate(regularizer, config.certify)
        if config.input_noise:
            penalty = PenaltySum([(1.0, penalty), (0.1, NoiseRegularizer(s.model, s.held_out, noise=config.input_noise))])
        term = PenaltyTerm(penalty, ConstantWeight(WEIGHT))

        def step() -> None:
            outputs = s.model(s.x)
            s.descend(loss(outputs, s.y) + term(outputs, s.y))
            term.step()

        return step

    return make


def authors(s: Setting) -> Step:
    """500 pairs; the ascent by a full backward pass, parameters included, and a second forward pass to accept it."""
    pairs = perturbed_pairs(s.held_out)
    state = {"at": 0, "u": pairs.u.to(s.x.device, copy=True), "v": pairs.v.to(s.x.device, copy=True)}

    def step() -> None:
        active = slice(state["at"], state["at"] + 500)
        state["at"] = (state["at"] + 500) % (len(pairs) - 499)
        u, v = state["u"][active].requires_grad_(), state["v"][active].requires_grad_()
        quotient = difference_quotient(s.model, u, v)
        s.optimizer.zero_grad()
        (quotient.square().sum() / 2).backward()
        with torch.no_grad():
            proposal = u + 10 * u.grad, v + 10 * v.grad
            rises = per_sample(difference_quotient(s.model, *proposal) > quotient, u)
            u, v = torch.where(rises, proposal[0], u), torch.where(rises, proposal[1], v)
            state["u"][active], state["v"][active] = u, v
        s.descend(cross_entropy(s.model(s.x), s.y) + WEIGHT * difference_quotient(s.model, u, v).max())

    state["u"], state["v"] = state["u"].detach(), state["v"].detach()
    return step


def local(config: TrainConfig) -> Callable[[Setting], Step]:
    """The local penalty, on samples of its own."""

    def make(s: Setting) -> Step:
        samples = s.held_out, torch.randint(CLASSES, (len(s.held_out),))
        options = config.model_dump(include=set(LocalOptions.model_fields))
        term = PenaltyTerm(LocalRegularizer(s.model, samples, domain=(0, 1), **options), ConstantWeight(WEIGHT))

        def step() -> None:
            outputs = s.model(s.x)
            s.descend(cross_entropy(outputs, s.y) + term(outputs, s.y))
            term.step()

        return step

    return make


def adversarial(steps: int = peers.STEPS, share: float = 1.0, long_steps: bool = False) -> Callable[[Setting], Step]:
    """Adversarial training: some steps of L2 PGD on a share of the batch, then a plain step on the attacked samples."""

    def make(s: Setting) -> Step:
        kept, attack = round(share * len(s.x)), peers.long_step_examples if long_steps else peers.pgd_examples

        def step() -> None:
            with evaluating(s.model):
                attacked = attack(s.model, s.x[:kept], s.y[:kept], 2.0, steps=steps)
            s.descend(cross_entropy(s.model(attacked), s.y[:kept]))

        return step

    return make


def free(s: Setting) -> Step:
    """One replay of free adversarial training: one backward pass for the parameters and the attack."""
    offset = torch.zeros_like(s.x)

    def step() -> None:
        nonlocal offset
        points = (s.x + offset).clamp(0, 1).requires_grad_()
        s.descend(cross_entropy(s.model(points), s.y))
        offset = peers.in_ball(offset + 2.0 * sample_unit(points.grad), 2.0)

    return step


def orthonormal(s: Setting) -> Step:
    """A plain step by `StiefelMuon`."""
    s.optimizer = StiefelMuon(s.model.parameters(), lr=1e-3)
    return plain(s)


def trades(s: Setting) -> Step:
    return lambda: s.descend(peers.trades_loss(s.model, s.x, s.y, WEIGHT))


def weight(s: Setting) -> Step:
    """Equation (6): the norm of all parameters."""
    return lambda: s.descend(cross_entropy(s.model(s.x), s.y) + WEIGHT * weight_norm(s.model))


def jacobian(s: Setting) -> Step:
    """Penalty |J^T r|^2, r one random direction of the outputs a sample: an estimate of the Frobenius norm."""

    def step() -> None:
        x = s.x.detach().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):  # a GPU's fused attention has no second derivative
            outputs = s.model(x)
        s.descend(cross_entropy(outputs, s.y) + WEIGHT * peers.jacobian_penalty(outputs, x))

    return step


METHODS: dict[str, Callable[[Setting], Step]] = {
    "plain": plain,
    "CLIP (default)": clip(configure()),
    "CLIP, noise": clip(configure(input_noise=1.0)),
    "local": local(configure(method="local")),
    "CLIP, every step": clip(configure(interval=1)),
    "CLIP (paper preset)": clip(configure("paper")),
    "authors' arithmetic": authors,
    "Weight Reg.": weight,
    "StiefelMuon": orthonormal,
    "PGD-7 adversarial": adversarial(),
    "PGD-1 adversarial": adversarial(steps=1),
    "PGD-2 adversarial, half batches": adversarial(steps=2, share=0.5),
    "free adversarial, a replay": free,
    "TRADES, 7 steps": trades,
    "Jacobian, 1 projection": jacobian,
}
LAZY = {"CLIP (default)", "CLIP, noise", "local"}
COSTLY = METHODS.keys() - LAZY - {"plain", "Weight Reg.", "StiefelMuon"}
SWEEP = {f"CLIP, m = {m}": clip(configure(active=m)) for m in (4, 8, 16, 32, 64, 128)}


def measure(
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    methods: dict[str, Callable[[Setting], Step]],
    batch: int,
    device: torch.device,
    rounds: int,
    steps: int,
    compiled: bool = False,
) -> dict[str, dict[str, float]]:
    """For each method: ratios of time (median, quartiles), arithmetic and saved memory to those of plain."""
    prepared: dict[str, Step] = {}
    for name, method in methods.items():
        torch.manual_seed(0)
        model = make().to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        x = torch.rand(batch, *shape, device=device)
        y = torch.randint(CLASSES, (batch,), device=device)
        network = torch.compile(model) if compiled else model
        prepared[name] = method(Setting(network, x, y, torch.rand(1000, *shape), optimizer))

    def seconds(name: str) -> float:
        # the costly methods have no period: a step of theirs is as long as many plain ones
        count = steps if name in COSTLY else 8 * steps
        _synchronize(device)
        started = time.perf_counter()
        for _ in range(count):
            prepared[name]()
        _synchronize(device)
        return (time.perf_counter() - started) / count

    for name in prepared:
        seconds(name)  # warm up
    times: dict[str, list[float]] = {name: [] for name in prepared}
    for _ in range(rounds):
        for name in prepared:
            times[name].append(seconds(name))
    flops = {name: _flops(step, _period(name)) for name, step in prepared.items()} if not compiled else {}
    saved = {name: _saved(step, _period(name)) for name, step in prepared.items()} if not compiled else {}
    table = {}
    for name, spent in times.items():
        ratios = [own / base for own, base in zip(spent, times["plain"], strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4)
        table[name] = {"time": median, "time_low": low, "time_high": high, "milliseconds": 1e3 * statistics.median(spent)}
        if not compiled:
            table[name] |= {"arithmetic": flops[name] / flops["plain"], "memory": saved[name] / saved["plain"]}
    return table


class Counter(TorchDispatchMode):
    """Counts with torch's formulas; `FlopCounterMode` also tracks modules, which `autograd.grad` does not survive."""

    total = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


def _period(name: str) -> int:
    return 1 if name in COSTLY else 8


def _flops(step: Step, period: int) -> float:
    with Counter() as counter:
        for _ in range(period):
            step()
    return counter.total / period


def _saved(step: Step, period: int) -> float:
    most = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal held
        held += tensor.numel() * tensor.element_size()
        return tensor

    for _ in range(period):
        held = 0
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            step()
        most = max(most, held)
    return most


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main(
    out: Annotated[Path, typer.Option(help="Folder for table.json and table.md.")] = Path("results/step-cost"),
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    batch: int = 128,
    rounds: int = 15,
    threads: Annotated[int, typer.Option(help="Threads of torch; 1 makes launch overhead count.")] = 1,
) -> None:
    torch.set_num_threads(threads)
    on = torch.device(device)
    tables = {}
    for name, (make, shape) in track(NETWORKS.items(), "networks"):
        steps = 4 if name.startswith("mlp") else 1
        tables[name] = measure(make, shape, METHODS, batch, on, rounds, steps)
    make, shape = NETWORKS["mlp 784-64-64-10"]
    base = {"plain": plain}
    tables["mlp, active pairs"] = measure(make, shape, base | SWEEP, batch, on, rounds, 4)
    pair = base | {"CLIP (default)": clip(configure())}
    for size in (32, 512, 2048):
        tables[f"mlp, batch {size}"] = measure(make, shape, pair | {"StiefelMuon": orthonormal}, size, on, rounds, 4)
    certified = base | {"CLIP (default)": clip(configure()), "CLIP, certify": clip(configure(certify=0.1))}
    tables["mlp, certificate"] = measure(make, shape, certified, batch, on, rounds, 4)
    tables["resnet, certificate"] = measure(*NETWORKS["resnet, BatchNorm"], certified, batch, on, rounds, 1)
    tables["mlp, torch.compile"] = measure(make, shape, pair, batch, on, rounds, 4, compiled=True)
    out.mkdir(parents=True, exist_ok=True)
    record = {"schema": 1, "batch": batch, "rounds": rounds, "tables": tables, "provenance": provenance(on)}
    (out / "table.json").write_text(json.dumps(record, indent=2) + "\n")
    (out / "table.md").write_text(markdown(record))
    print(markdown(record))


def markdown(record: dict) -> str:
    source = ", ".join(f"{key} {value}" for key, value in record["provenance"].items())
    lines = [
        f"Step cost, ratios to a plain step side by side; batch {record['batch']}, {record['rounds']} rounds. {source}.",
        "",
    ]
    for name, table in record["tables"].items():
        lines += [
            f"### {name}",
            "",
            "| method | time | quartiles | arithmetic | saved memory | ms |",
            "|---|---|---|---|---|---|",
        ]
        for method, row in table.items():
            counted = [f"{row[key]:.2f}" if key in row else "" for key in ("arithmetic", "memory")]
            cells = [f"{row['time']:.2f}", f"{row['time_low']:.2f} to {row['time_high']:.2f}", *counted]
            lines.append(f"| {method} | {' | '.join(cells)} | {row['milliseconds']:.2f} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
