"""`fit`: Algorithm 2 of the CLIP paper, ready made, on Accelerate. Plain and weight-regularised training are its baselines."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..errors import DivergenceError, InputError
from ..inference import evaluating
from ..pairs.sets import PairSet
from ..progress import epochs_shown
from ..provenance import provenance
from ..regularization.regularizer import LipschitzRegularizer
from ..robustness.accuracy import accuracy
from ..robustness.attacks import signed_pgd
from ..run_folder import SCHEMA, write_atomic, write_metrics
from . import checkpoint
from .checkpoint import State
from .config import TrainConfig, configure
from .gradient_clip import GradientClip
from .methods import METHODS, make_optimizer, make_principle, make_schedule
from .task import Data, Task, epoch_seed, make_task, this_process


@dataclass(frozen=True)
class TrainResult:
    """What `fit` returns."""

    model: nn.Module  # trained, in evaluation mode, on the device it was trained on
    history: list[dict[str, Any]]  # one record an epoch, as in metrics.jsonl
    result: dict[str, Any]  # what result.json has of the training
    pairs: PairSet | None  # X_Lip as the ascent left it, for the method clip


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
    after_epoch: Callable[[int, nn.Module], None] | None = None,
    **options: Any,
) -> TrainResult:
    """Train a network by Algorithm 2: minimise loss + weight * penalty, the weight steered so that a target is met.

    Args:
        model: any `nn.Module` from `(n, *input)` to logits `(n, classes)`, or to `(n, *output)` for regression;
            trained in place, left in evaluation mode.
        data: a `Dataset`, tensors (x, y), or a DataLoader of (x, y). Integer y of shape (n,) are classes (cross-entropy,
            the target is an accuracy), floating y are real values (mean squared error, the target is a loss). Tensors
            are split into a part to fit, one for X_Lip and one for validation, kept on the device and batched by index.
            Of a DataLoader, the first batch shows which of the two it is.
        preset: `default` or `paper`; see `config`.
        pairs: X_Lip, instead of one made from a held-out part; needed for clip with a DataLoader.
        validation: samples (x, y) to choose the checkpoint on, instead of a held-out part.
        out: folder for metrics.jsonl, checkpoint/ (after every epoch) and model.safetensors.
        resume: continue from the checkpoint in `out`, bit for bit on a CPU.
        progress: show a progress bar.
        after_epoch: called with the epoch's number and the model after each epoch, on the main process.
        **options: any field of `TrainConfig`, such as method="clip", target=0.95, epochs=30, seed=0.

    Raises:
        InputError: an unknown or impossible setting, data that do not fit the model, a folder that holds another run.
        DivergenceError: the loss, a parameter or a buffer stopped being finite; the model and the checkpoint are
            those of the last good epoch.

    Source: Algorithm 2 and equation (2) of the CLIP paper (arXiv:2103.12531); equation (6) for the method weight.
    """
    config = configure(preset, **options)
    if resume and out is None:
        raise InputError("out, the folder of the run to resume", "none", "Give it.")
    accelerator = this_process()
    device, main = accelerator.device, accelerator.is_main_process
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        model.to(device)
        task = make_task(data, model, config, accelerator, pairs=pairs, validation=validation)
        optimizer = make_optimizer(model, config)
        schedule = make_schedule(config, config.epochs * len(task.batches))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        penalty = METHODS[config.method](model, task, config, pairs)
        principle = make_principle(config, task)
        # a shell: what accelerate wraps and patches is not the user's module, which the penalty evaluates
        network = accelerator.prepare(nn.Sequential(model))
        if accelerator.scaler is not None:  # accelerate's optimizer is slow (it looks for a package on disk at every step)
            optimizer = accelerator.prepare(optimizer)
        clip = GradientClip(len(task.batches) // config.interval)
        state = State(model, optimizer, scheduler, principle, penalty, clip)
        if out is not None:
            checkpoint.claim(out, state, config, resume=resume)
        shown = epochs_shown(f"{config.method}, seed {config.seed}", config.epochs, state.epoch)
        with shown if progress and main else nullcontext() as show:
            while state.epoch < config.epochs:
                good = copy.deepcopy(model.state_dict())
                row = _train_epoch(network, task, state, config, accelerator)
                if broken := _not_finite(row, model):
                    model.load_state_dict(good)
                    do = "Lower the learning rate or the weight; the last good epoch is kept."
                    raise DivergenceError(broken, row["epoch"], do)
                state.finish_epoch(row)
                if out is not None and main:
                    checkpoint.save(out, state, config)
                if after_epoch is not None and main:
                    after_epoch(state.epoch, model)
                if show is not None:
                    show(row)
        if state.best is not None:
            model.load_state_dict(state.best["model"])
        model.eval()
        lower = penalty.refine()
        if out is not None and main:
            _save_weights(out / "model.safetensors", model)
            write_metrics(out / "metrics.jsonl", state.history)
        return _result(state, task, config, accelerator, lower)


def _train_epoch(network: nn.Module, task: Task, state: State, config: TrainConfig, accelerator: Accelerator) -> dict[str, Any]:
    """One pass over the fitting part, then the discrepancy principle; returns the epoch's record."""
    epoch, started = state.epoch + 1, time.perf_counter()
    weight, lr = state.principle.weight, state.scheduler.get_last_lr()[0]
    share = margin_share(state.history, config.epochs) if weight > 0 else 0.0
    # sums stay on the device: reading a number every step would make a GPU wait
    loss_sum, right, penalty_sum = torch.zeros(3, device=accelerator.device).unbind()
    seen = penalised = 0
    torch.manual_seed(epoch_seed(config.seed, epoch))
    network.train()
    if config.redraw:
        state.penalty.redraw()
    for x, y in task.batches.epoch(epoch):
        outputs = network(x)
        loss = task.loss(outputs, y, share)
        objective, weight = loss, state.principle.weight
        if weight > 0:
            penalty = state.penalty()
            weight = state.principle.limit(state.penalty.ceiling(task.chance(outputs, y)))
            objective = loss + weight * penalty
            penalty_sum += penalty.detach()
            penalised += 1
        network.zero_grad()
        accelerator.backward(objective)
        if config.certify and weight > 0 and penalty.requires_grad:
            state.clip(state.model.parameters(), accelerator)
        state.optimizer.step()
        state.scheduler.step()
        if weight > 0:
            state.penalty.step()
        fitted = (outputs.detach().argmax(1) == y).sum() if task.classification else loss.detach() * len(y)
        if config.update == "minibatch" and math.isfinite(value := accelerator.reduce(fitted / len(y), "mean").item()):
            state.principle.step(value)
        loss_sum += loss.detach() * len(y)
        seen += len(y)
        if task.classification:
            right += fitted
    totals = torch.stack([loss_sum, right, torch.full_like(right, seen)])
    loss_all, right_all, seen_all = accelerator.reduce(totals).tolist()
    train_loss, train_accuracy = loss_all / seen_all, right_all / seen_all
    if config.update == "epoch" and math.isfinite(train_loss):
        state.principle.step(train_accuracy if task.classification else train_loss)
    return {
        "epoch": epoch,
        "train_loss": train_loss,
        "train_accuracy": train_accuracy if task.classification else None,
        "penalty": float(penalty_sum) / penalised if penalised else None,
        "weight": weight,
        "lower_bound": state.penalty.lower_bound(),
        "upper_bound": state.penalty.upper_bound(),
        "learning_rate": lr,
        **_validate(state.model, task, config, epoch),
        "skipped_steps": state.penalty.skipped,
        "seconds": time.perf_counter() - started,
    }


def margin_share(history: list[dict[str, Any]], epochs: int) -> float:
    """How much of margin and saturation is in the loss: from 0 to 1 over as many epochs with a weight as a fifth of all.

    Before, the network would not reach the target: with a margin that it is far from, the loss saturates.
    """
    weighted = sum(bool(row["weight"] > 0) for row in history)
    return min(5 * weighted / epochs, 1.0)


def _validate(model: nn.Module, task: Task, config: TrainConfig, epoch: int) -> dict[str, float | None]:
    """Accuracy on the validation part; under eq. (14) too where the checkpoint is chosen by it, after the warm-up."""
    row: dict[str, float | None] = {"validation_accuracy": None, "validation_pgd_accuracy": None}
    if task.validation is None or not task.classification:
        return row
    x, y = task.validation
    row["validation_accuracy"] = accuracy(model, x, y)
    if config.keep == "best-pgd" and epoch > config.choose_after:
        with evaluating(model):
            attacked = signed_pgd(model, x, y, eps=config.eps, step=config.eps / 8)
        row["validation_pgd_accuracy"] = accuracy(model, attacked, y)
    return row


def _not_finite(row: dict[str, Any], model: nn.Module) -> str | None:
    """What diverged, if anything."""
    if not math.isfinite(row["train_loss"]):
        return "the training loss"
    if row["lower_bound"] is not None and not math.isfinite(row["lower_bound"]):
        return "the lower bound of Lip(f)"
    return next((name for name, value in model.state_dict().items() if not value.isfinite().all()), None)


def _save_weights(path: Path, model: nn.Module) -> None:
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_atomic(path, lambda temporary: safetensors.torch.save_file(weights, temporary))


def _result(state: State, task: Task, config: TrainConfig, accelerator: Accelerator, lower: float | None) -> TrainResult:
    name = "train_accuracy" if task.classification else "train_loss"
    measured, n = task.measure(state.model, accelerator)
    result: dict[str, Any] = {
        "schema": SCHEMA,
        "method": config.method,
        "target": None if config.method == "standard" else config.target,
        "seed": config.seed,
        "epochs": config.epochs,
        "kept_epoch": state.kept["epoch"],
        "weight": state.kept["weight"],
        "skipped_steps": state.penalty.skipped,
        "pair_lower_bound": lower,
        "seconds": sum(row["seconds"] for row in state.history),
        name: measured,
        "samples": {name: n},
        "provenance": {**provenance(accelerator.device), "mixed_precision": accelerator.mixed_precision},
    }
    penalty = state.penalty
    pairs = penalty.pairs if isinstance(penalty, LipschitzRegularizer) else None
    return TrainResult(state.model, state.history, result, pairs)
