"""`fit`: Algorithm 2 of the CLIP paper, ready made, on Accelerate. Plain and weight-regularised training are its baselines."""

from __future__ import annotations

import copy
import math
import pickle
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .attacks import signed_pgd
from .config import TrainConfig, configure
from .discrepancy import ConstantWeight, DiscrepancyPrinciple
from .errors import DivergenceError, InputError
from .methods import METHODS, Penalty, make_optimizer, make_principle, make_schedule
from .pairs import PairSet
from .progress import epochs_shown
from .provenance import provenance
from .quotient import evaluating
from .regularizer import LipschitzRegularizer
from .robustness import accuracy
from .runs import SCHEMA, write_atomic, write_metrics
from .tasks import Data, Task, TensorBatches, epoch_seed, make_task

CHECKPOINT = "checkpoint/state.pt"


@dataclass(frozen=True)
class TrainResult:
    """What `fit` returns."""

    model: nn.Module  # trained, on the device it was trained on
    history: list[dict[str, Any]]  # one record an epoch, as in metrics.jsonl
    result: dict[str, Any]  # what result.json has of the training
    pairs: PairSet | None  # X_Lip as the ascent left it, for the method clip


@dataclass
class State:
    """Everything that changes during a run; saved as one record, so that a resumed run is the same run."""

    model: nn.Module
    optimizer: Any
    scheduler: Any
    principle: DiscrepancyPrinciple | ConstantWeight
    penalty: Penalty
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None  # {score, epoch, model} of the checkpoint to keep, for best-pgd

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    def state_dict(self) -> dict[str, Any]:
        """One record of plain data and tensors."""
        parts = ("model", "optimizer", "scheduler", "principle", "penalty")
        return {name: getattr(self, name).state_dict() for name in parts} | {"history": self.history, "best": self.best}

    def load_state_dict(self, record: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        for name in ("model", "optimizer", "scheduler", "principle", "penalty"):
            getattr(self, name).load_state_dict(record[name])
        self.history, self.best = record["history"], record["best"]

    def finish_epoch(self, row: dict[str, Any]) -> None:
        """Keep the epoch's record, and the weights if it is the best so far under eq. (14)."""
        self.history.append(row)
        score = row["validation_pgd_accuracy"]
        if score is not None and (self.best is None or score > self.best["score"]):
            self.best = {"score": score, "epoch": self.epoch, "model": copy.deepcopy(self.model.state_dict())}


def fit(
    model: nn.Module,
    data: Data,
    *,
    preset: str = "default",
    pairs: PairSet | None = None,
    validation: tuple[Tensor, Tensor] | None = None,
    out: Path | None = None,
    resume: bool = False,
    progress: bool = False,
    **options: Any,
) -> TrainResult:
    """Train a network by Algorithm 2: minimise loss + weight * penalty, the weight steered so that a target is met.

    Args:
        model: any `nn.Module` from `(n, *input)` to logits `(n, classes)`, or to `(n, *output)` for regression;
            trained in place.
        data: a `Dataset`, tensors (x, y), or a DataLoader of (x, y). Integer y of shape (n,) are classes (cross-entropy,
            the target is an accuracy), floating y are real values (mean squared error, the target is a loss). Tensors
            are split into a part to fit, one for X_Lip and one for validation, kept on the device and batched by index.
        preset: `default` or `paper`; see `config`.
        pairs: X_Lip, instead of the one made from the held-out part; needed with a DataLoader.
        validation: samples (x, y) to choose the checkpoint on, instead of the held-out part.
        out: folder for metrics.jsonl, checkpoint/ (after every epoch) and model.safetensors.
        resume: continue from the checkpoint in `out`, bit for bit on a CPU.
        progress: show a progress bar.
        **options: any field of `TrainConfig`, such as method="clip", target=0.95, epochs=30, seed=0.

    Raises:
        InputError: an unknown or impossible setting, data that do not fit the model, a folder that holds another run.
        DivergenceError: loss or parameters stopped being finite; the model is put back to the last good epoch.

    Source: Algorithm 2 and equation (2) of the CLIP paper (arXiv:2103.12531); equation (6) for the method weight.
    """
    config = configure(preset, **options)
    accelerator = Accelerator()
    device = accelerator.device
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model.to(device)
        task = make_task(data, model, config, validation, accelerator)
        optimizer = make_optimizer(model, config)
        schedule = make_schedule(config, config.epochs * len(task.batches))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        penalty = METHODS[config.method](model, task, config, pairs)
        network, optimizer = accelerator.prepare(model, optimizer)
        state = State(model, optimizer, scheduler, make_principle(config, task), penalty)
        writes = out if accelerator.is_main_process else None
        if out is not None:
            _claim(out, resume, state, config, device)
        shown = epochs_shown(f"{config.method}, seed {config.seed}", config.epochs, state.epoch) if progress else None
        with shown or nullcontext() as show:
            while state.epoch < config.epochs:
                good = copy.deepcopy(model.state_dict())
                row = _train_epoch(network, task, state, config, accelerator)
                if not (math.isfinite(row["train_loss"]) and all(p.isfinite().all() for p in model.parameters())):
                    model.load_state_dict(good)
                    do = "Lower the learning rate or the weight; the last good epoch is kept."
                    raise DivergenceError("the loss or a parameter", row["epoch"], do)
                state.finish_epoch(row)
                if writes:
                    _save(writes, state, config)
                if show and accelerator.is_main_process:
                    show(row)
        if state.best is not None:
            model.load_state_dict(state.best["model"])
        if writes:
            weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
            write_atomic(writes / "model.safetensors", lambda path: safetensors.torch.save_file(weights, path))
        return _result(state, task, config, device)


def _train_epoch(network: nn.Module, task: Task, state: State, config: TrainConfig, accelerator: Accelerator) -> dict[str, Any]:
    """One pass over the fitting part, then the discrepancy principle; returns the epoch's record."""
    epoch, started = state.epoch + 1, time.perf_counter()
    weight, lr = state.principle.weight, state.scheduler.get_last_lr()[0]
    # sums stay on the device: reading a number every step would make a GPU wait
    loss_sum, right, penalty_sum = torch.zeros(3, device=accelerator.device).unbind()
    seen = 0
    torch.manual_seed(epoch_seed(config.seed, epoch))
    network.train()
    for x, y in task.epoch(epoch):
        outputs = network(x)
        loss = task.loss(outputs, y)
        if weight > 0:
            penalty = state.penalty()
            penalty_sum += penalty.detach()
        objective = loss + weight * penalty if weight > 0 else loss
        state.optimizer.zero_grad()
        accelerator.backward(objective)
        state.optimizer.step()
        state.scheduler.step()
        if weight > 0:
            state.penalty.step()
        loss_sum += loss.detach() * len(y)
        seen += len(y)
        if task.classification:
            right += (outputs.detach().argmax(1) == y).sum()
    totals = torch.stack([loss_sum, right, torch.full_like(right, seen)])
    loss_all, right_all, seen_all = accelerator.reduce(totals).tolist()
    train_loss, train_accuracy = loss_all / seen_all, right_all / seen_all
    if math.isfinite(train_loss):
        state.principle.step(train_accuracy if task.classification else train_loss)
    return {
        "epoch": epoch,
        "train_loss": train_loss,
        "train_accuracy": train_accuracy if task.classification else None,
        "penalty": float(penalty_sum) / len(task.batches) if weight > 0 else None,
        "weight": weight,
        "lower_bound": state.penalty.lower_bound(),
        "learning_rate": lr,
        **_validate(state.model, task, config, epoch),
        "skipped_steps": state.penalty.skipped,
        "seconds": time.perf_counter() - started,
    }


def _validate(model: nn.Module, task: Task, config: TrainConfig, epoch: int) -> dict[str, float | None]:
    """Accuracy on the validation part; under eq. (14) too where the checkpoint is chosen by it, after the warm-up."""
    row: dict[str, float | None] = {"validation_accuracy": None, "validation_pgd_accuracy": None}
    if task.validation is None or not task.classification:
        return row
    x, y = task.validation
    row["validation_accuracy"] = accuracy(model, x, y)
    if config.keep == "best-pgd" and (config.method == "standard" or epoch > config.warmup):
        with evaluating(model):
            attacked = signed_pgd(model, x, y, eps=config.eps, step=config.eps / 8)
        row["validation_pgd_accuracy"] = accuracy(model, attacked, y)
    return row


def _claim(out: Path, resume: bool, state: State, config: TrainConfig, device: torch.device) -> None:
    """Make `out` this run's folder; on `resume`, load the checkpoint that is there."""
    file = out / CHECKPOINT
    if file.exists() and not resume:
        raise InputError("an output folder without a run in it", out, "Choose another one, or resume the run there.")
    file.parent.mkdir(parents=True, exist_ok=True)
    if not resume:
        return
    try:
        record = torch.load(file, map_location=device, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        got = str(error).splitlines()[0]
        raise InputError(f"a checkpoint {file}", got, "Start the run again, without resume, in another folder.") from None
    mine = config.model_dump()
    changed = [name for name, value in record["config"].items() if value != mine.get(name)]
    if changed:
        do = "Resume with the settings that the run was started with."
        raise InputError("the settings of the interrupted run", f"other values of {', '.join(changed)}", do)
    state.load_state_dict(record)


def _save(out: Path, state: State, config: TrainConfig) -> None:
    record = {"config": config.model_dump(), **state.state_dict()}
    write_atomic(out / CHECKPOINT, lambda path: torch.save(record, path))
    write_metrics(out / "metrics.jsonl", state.history)


def _result(state: State, task: Task, config: TrainConfig, device: torch.device) -> TrainResult:
    kept = state.history[-1 if state.best is None else state.best["epoch"] - 1]
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "method": config.method,
        "target": None if config.method == "standard" else config.target,
        "seed": config.seed,
        "epochs": config.epochs,
        "kept_epoch": kept["epoch"],
        "weight": kept["weight"],
        "skipped_steps": state.penalty.skipped,
        "seconds": sum(row["seconds"] for row in state.history),
        "samples": {},
        "provenance": provenance(device),
    }
    if isinstance(task.batches, TensorBatches):
        name = "train_accuracy" if task.classification else "train_loss"
        result[name], result["samples"][name] = task.measure(state.model), len(task.batches.indices)
    penalty = state.penalty
    pairs = PairSet(penalty.state.u, penalty.state.v) if isinstance(penalty, LipschitzRegularizer) else None
    return TrainResult(state.model, state.history, result, pairs)
