"""`fit`: Algorithm 2 of the CLIP paper, ready made, on Accelerate. Plain and weight-regularised training are its baselines."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .. import processes
from ..arguments import checked
from ..errors import DivergenceError, InputError, require_in
from ..models.weights import require_savable, save_weights
from ..pairs.sets import PairSet
from ..progress import epochs_shown
from ..provenance import provenance
from ..regularization.term import PenaltyTerm, RunningValue
from ..run_folder import METRICS, SCHEMA, WEIGHTS, claimed, write_metrics
from . import checkpoint, paper, target
from .batches import epoch_seed
from .checkpoint import State
from .config import TrainConfig
from .followers import AfterEpoch, Logger, followed, require_loggers
from .methods import METHODS, make_weight_scheduler
from .optimizer import make_optimizer
from .parallel import average, running_statistics, this_process, wrapped
from .presets import configure
from .schedule import make_lr_schedule, update_period
from .task import Data, Task, make_task
from .threads import suited_threads


@dataclass(frozen=True)
class TrainResult:
    """What `fit` returns."""

    model: nn.Module  # trained, in evaluation mode, on the device it was trained on
    history: list[dict[str, Any]]  # one record an epoch, as in metrics.jsonl
    result: dict[str, Any]  # what result.json has of the training
    pairs: PairSet | None  # X_Lip as the ascent left it, for the method clip


@checked
def fit(
    model: nn.Module,
    data: Data,
    *,
    preset: str = "default",
    pairs: PairSet | None = None,
    validation: tuple[Tensor, Tensor] | None = None,
    sample_weight: Tensor | None = None,
    out: Path | str | None = None,
    resume: bool = False,
    progress: bool = False,
    after_epoch: AfterEpoch | None = None,
    loggers: Sequence[Logger] = (),
    **options: Any,
) -> TrainResult:
    """Train a network by Algorithm 2: minimise loss + weight * penalty, the weight steered so that a target is met.

    Args:
        model: any `nn.Module` from `(n, *input)` to logits `(n, classes)`, or to `(n, *output)` for regression;
            trained in place, left in evaluation mode.
        data: a `Dataset`, tensors or arrays (x, y), or a DataLoader of (x, y). Integer y of shape (n,) are classes
            (cross-entropy, the target is an accuracy), floating y are real values (mean squared error, the target is a
            loss). Tensors are split into a part to fit, one for X_Lip and one for validation, kept on the device and
            batched by index. Of a DataLoader, the first batch shows which of the two it is.
        preset: `default` or `paper`; see `config`.
        pairs: X_Lip, instead of one made from a held-out part; needed for clip with a DataLoader.
        validation: samples (x, y) to choose the checkpoint on, instead of a held-out part.
        sample_weight: `(n,)` >= 0, what each sample of tensors counts in the loss, and in the accuracy or loss that the
            weight follows. Weights of one over the size of the class make that the balanced accuracy.
        out: folder for metrics.jsonl, checkpoint/ (those of the last two epochs) and model.safetensors; nobody else may
            write there until the end.
        resume: continue from the checkpoint in `out`, bit for bit on a CPU.
        progress: show a progress bar.
        after_epoch: called with the epoch's record (see `TrainResult.history`) and the model after each epoch, on the main
            process; on resume, for the epoch of the checkpoint again. If it returns True, the training ends there, with its
            result.
        loggers: tensorboard, wandb, mlflow, or an Accelerate `GeneralTracker`, that get each epoch's record. TensorBoard
            writes into `out`.
        **options: any field of `TrainConfig`, such as method="clip", epochs=30, seed=0, and what is wished for: tolerance,
            target, lipschitz or weight. By default at most a point of accuracy, or 1 % of the loss, is given up.

    Raises:
        InputError: an unknown or impossible setting, data that do not fit the model, a folder that holds another run.
        DivergenceError: the loss, a parameter or a buffer stopped being finite; the model and the checkpoint are
            those of the last good epoch.

    Warns:
        TargetWarning: the target was not met, the weight never left 0, or one constant answer meets the target; the
            result has it as `target_note`, and `target_met`.

    Source: Algorithm 2 and equation (2) of the CLIP paper (arXiv:2103.12531); equation (6) for the method weight.
    """
    config = configure(preset, **options)
    out = None if out is None else Path(out)
    require_in("epochs", config.epochs, "[1, 1000000]")
    if resume and out is None:
        raise InputError("out, the folder of the run to resume", "none", "Give it.")
    require_loggers(loggers, out)
    accelerator = this_process()
    device, main = accelerator.device, accelerator.is_main_process
    ours = claimed(out) if out is not None and main else nullcontext()
    with torch.random.fork_rng([device] if device.type == "cuda" else []), ours:
        torch.manual_seed(config.seed)
        model.to(device)
        task = make_task(data, model, config, accelerator, pairs=pairs, validation=validation, sample_weight=sample_weight)
        penalty, regularizer = METHODS[config.method](model, task, config, pairs)
        term = PenaltyTerm(penalty, make_weight_scheduler(config, task))
        optimizer = make_optimizer(model, config)
        factor = make_lr_schedule(config, task.steps)
        lr_schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        network = wrapped(model, task.example, accelerator, penalises_all=config.method == "weight")
        if accelerator.scaler is not None:  # accelerate's optimizer is slow (it looks for a package on disk at every step)
            optimizer = accelerator.prepare(optimizer)
        state = State(model, optimizer, lr_schedule, term, task.steps)
        if out is not None:
            require_savable(model)
            checkpoint.restore_or_refuse(out, state, config, resume=resume)
        reporting = epochs_shown(f"{config.method}, seed {config.seed}", config.epochs, state.epoch)
        threads = suited_threads(model, task.example, config.batch_size, told=progress and main)
        following = followed(after_epoch, loggers, model, config, out)
        with following as ends_after, threads, reporting if progress and main else nullcontext() as report_epoch:
            ended = resume and ends_after(state.history[-1])  # the interruption may have fallen between checkpoint and this
            while state.epoch < config.epochs and not ended:
                last_good = copy.deepcopy(model.state_dict())
                if config.redraw and regularizer is not None:
                    regularizer.redraw()
                row = _train_epoch(network, task, state, config, accelerator)
                if broken := _not_finite(row, model):
                    model.load_state_dict(last_good)
                    do = "Lower the learning rate or the weight; the last good epoch is kept."
                    raise DivergenceError(broken, row["epoch"], do)
                state.finish_epoch(row)
                if config.epochs > state.epoch >= config.epochs / target.EARLY > state.epoch - 1:
                    target.warn(target.shortfall(term, state.history, config.epochs))
                if out is not None and main:
                    checkpoint.save(out, state, config)
                ended = ends_after(row)
                if report_epoch is not None:
                    report_epoch(row)
        if state.best is not None:
            model.load_state_dict(state.best["model"])
        model.eval()
        if out is not None and main:
            save_weights(out / WEIGHTS, model)
            write_metrics(out / METRICS, state.history)
        lower = None if regularizer is None else regularizer.refine()
        note = target.useless_target(term, config.target) or target.shortfall(term, state.history, config.epochs)
        beyond = target.exceeded(config.lipschitz, lower)
        note = note or beyond
        target.warn(note)
        result = {**_result(state, task, config, accelerator, lower), "target_note": note}
        result |= {"target_met": False} if beyond else {}
        return TrainResult(model, state.history, result, None if regularizer is None else regularizer.pairs)


def _train_epoch(network: nn.Module, task: Task, state: State, config: TrainConfig, accelerator: Accelerator) -> dict[str, Any]:
    """Algorithm 2: one pass over the fitting part, then the discrepancy principle. Returns the epoch's record."""
    epoch, started = state.epoch + 1, time.perf_counter()
    term, lr = state.term, state.lr_schedule.get_last_lr()[0]
    ramp = margin_ramp(state.history, config.epochs) if term.scheduler.weight > 0 else 0.0
    loss_sum, seen = torch.zeros((), device=accelerator.device), 0  # the sum stays on the device: no step waits for it
    running, period = RunningValue(), update_period(config, task.steps)
    torch.manual_seed(epoch_seed(config.seed, epoch))
    network.train()
    statistics = running_statistics(state.model)
    for step, batches in enumerate(task.epoch(epoch), start=state.epoch * task.steps + 1):
        network.zero_grad()
        for i, (x, y, *weights) in enumerate(batches, start=1):
            with nullcontext() if i == len(batches) else accelerator.no_sync(network):
                outputs = network(x)
                loss = task.loss(outputs, y, *weights, ramp=ramp)
                penalty = term(outputs, y, *weights)  # lambda * Lip(f, X_Lip)
                total = loss + penalty  # equation (2)
                accelerator.backward(total if len(batches) == task.accumulated else total * (task.accumulated / len(batches)))
            running.update(outputs.detach(), y, *weights)
            loss_sum += loss.detach() * len(y)
            seen += len(y)
        term.clip_gradients(accelerator.clip_grad_norm_)
        state.optimizer.step()
        state.lr_schedule.step()
        average(statistics)
        term.step()  # Algorithm 1
        if config.update == "minibatch":
            paper.steer_by_minibatch(term, outputs, y)
        elif step % period == 0 and math.isfinite(processes.mean(loss.item())):
            term.update_weight(_validated(state.model, task, config))  # the discrepancy principle
    loss_of_all, samples = processes.total([float(loss_sum), seen])
    term.running.collect()
    metrics = term.metrics()
    return {
        "epoch": epoch,
        "train_loss": loss_of_all / samples,
        "train_accuracy": running.value() if task.classification else None,
        **metrics,
        **target.record(term.scheduler),
        "learning_rate": lr,
        **_validate(state.model, task, config, epoch),
        "seconds": time.perf_counter() - started,
    }


def margin_ramp(history: Sequence[dict[str, Any]], epochs: int) -> float:
    """Ramp for margin and saturation: rises linearly from 0 to 1 during the first epochs/5 epochs after the warm-up.

    Without it, a network whose margins are far from the one asked for saturates the loss and never reaches the target.
    """
    weighted = sum(bool(row["weight"] > 0) for row in history)
    return min(5 * weighted / epochs, 1.0)


def _validated(model: nn.Module, task: Task, config: TrainConfig) -> float | None:
    """The value on the validation part, if the weight follows that; else None, and the term has its own."""
    if config.steer_by == "training" or task.validation is None:
        return None
    return task.validated(model)


def _validate(model: nn.Module, task: Task, config: TrainConfig, epoch: int) -> dict[str, float | None]:
    """Accuracy on the validation part; under eq. (14) too where the checkpoint is chosen by it, after the warm-up."""
    row: dict[str, float | None] = {"validation_accuracy": None, "validation_pgd_accuracy": None}
    if task.validation is None or not task.classification:
        return row
    row["validation_accuracy"] = task.validated(model)
    if config.keep == "best-pgd" and epoch > config.choose_after:
        row["validation_pgd_accuracy"] = paper.pgd_accuracy(model, *task.validation[:2], eps=config.eps)
    return row


def _not_finite(row: dict[str, Any], model: nn.Module) -> str | None:
    """What diverged, if anything."""
    if not math.isfinite(row["train_loss"]):
        return "the training loss"
    if row["lower_bound"] is not None and not math.isfinite(row["lower_bound"]):
        return "the lower bound of Lip(f)"
    return next((name for name, value in model.state_dict().items() if not value.isfinite().all()), None)


def _result(state: State, task: Task, config: TrainConfig, accelerator: Accelerator, lower: float | None) -> dict[str, Any]:
    name = "train_accuracy" if task.classification else "train_loss"
    measured, n = task.measure(state.model)
    return {
        "schema": SCHEMA,
        "method": config.method,
        "target": None if config.method == "standard" else config.target,
        "tolerance": None if config.method == "standard" else config.tolerance,
        "seed": config.seed,
        "lipschitz_target": config.lipschitz,
        "steered_to": state.kept["target"],
        "target_met": state.kept["target_met"],
        "epochs": state.epoch,
        "kept_epoch": state.kept["epoch"],
        "weight": state.kept["weight"],
        "skipped_steps": state.history[-1]["skipped_steps"],
        "pair_lower_bound": lower,
        "seconds": sum(row["seconds"] for row in state.history),
        name: measured,
        "samples": {name: n},
        "provenance": {**provenance(accelerator.device), "mixed_precision": accelerator.mixed_precision},
    }
