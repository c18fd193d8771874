"""`fit`: Algorithm 2 of the CLIP paper, ready made, on Accelerate. Plain and weight-regularised training are its baselines."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import processes
from ..arguments import checked
from ..errors import DivergenceError, InputError, require_in
from ..models.weights import require_savable, save_multipliers, save_weights
from ..pairs.sets import PairSet
from ..progress import epochs_shown
from ..regularization.term import Loss, PenaltyTerm, RunningValue
from ..run_folder import METRICS, MULTIPLIERS, WEIGHTS, claimed, write_metrics
from . import checkpoint, paper, target
from .batches import epoch_seed
from .checkpoint import State
from .config import TrainConfig
from .followers import AfterEpoch, Logger, ends_after, logging_to, require_loggers
from .methods import METHODS, make_weight_scheduler
from .optimizer import make_optimization
from .outcome import TrainResult, not_finite, result_of
from .own import MakeOptimizer, MakeSchedule, Own
from .parallel import average, running_statistics, this_process, wrapped
from .presets import configure
from .schedule import margin_ramp, update_period
from .task import Data, Task, make_task
from .threads import suited_threads


@checked
def fit(
    model: nn.Module,
    data: Data,
    *,
    preset: str = "default",
    pairs: PairSet | None = None,
    validation: tuple[Tensor, Tensor] | None = None,
    sample_weight: Tensor | None = None,
    loss: Loss | None = None,
    optimizer: str | Optimizer | MakeOptimizer | None = None,
    schedule: str | MakeSchedule | None = None,
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
        loss: yours, from outputs and y to the mean over the batch, instead of the two above. A tolerance and a target are
            still of the accuracy where y are classes, and else of this loss, which must be >= 0.
        optimizer: any class of torch.optim by its name, as an option; or yours, built for the model's parameters, or a function
            from parameters to one. It has its learning rate.
        schedule: cosine or constant, as an option; or a function from the optimizer and the number of its steps in the run to
            an `LRScheduler`, which goes on at every step.
        out: folder for metrics.jsonl, checkpoint/ (those of the last two epochs), model.safetensors and, of a certificate,
            multipliers.safetensors; nobody else may write there until the end.
        resume: continue from the checkpoint in `out`, bit for bit on a CPU. Of what is yours it knows the names: give the same.
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
    own = Own(loss, optimizer, schedule)
    config = configure(preset, **own.options(options))
    settings = {**config.model_dump(), **own.names}
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
        given: dict[str, Any] = {"pairs": pairs, "validation": validation, "sample_weight": sample_weight, "loss": loss}
        task = make_task(data, model, config, accelerator, **given)
        penalty, regularizer = METHODS[config.method](model, task, config, pairs)
        term = PenaltyTerm(penalty, make_weight_scheduler(config, task), loss=loss)
        stepping, lr_schedule = make_optimization(model, config, own, task.steps)
        network = wrapped(model, task.example, accelerator, penalises_all=config.method == "weight")
        if accelerator.scaler is not None:  # accelerate's optimizer is slow (it looks for a package on disk at every step)
            stepping = accelerator.prepare(stepping)
        state = State(model, stepping, lr_schedule, term, task.steps)
        if out is not None:
            require_savable(model)
            checkpoint.restore_or_refuse(out, state, settings, resume=resume)
        reporting = epochs_shown(f"{config.method}, seed {config.seed}", config.epochs, state.epoch)
        threads = suited_threads(model, task.example, config.batch_size, told=progress and main)
        logging = logging_to(loggers, settings, out)
        with logging as log, threads, reporting if progress and main else nullcontext() as report_epoch:
            # the interruption may have fallen between checkpoint and this
            ended = resume and ends_after(after_epoch, state.history[-1], model)
            while state.epoch < config.epochs and not ended:
                last_good = copy.deepcopy(model.state_dict())
                if config.redraw and regularizer is not None:
                    regularizer.redraw()
                row = _train_epoch(network, task, state, config, accelerator)
                if broken := not_finite(row, model):
                    model.load_state_dict(last_good)
                    do = "Lower the learning rate or the weight; the last good epoch is kept."
                    raise DivergenceError(broken, row["epoch"], do)
                state.finish_epoch(row)
                log(row)  # before the checkpoint, after which the epoch is not trained again
                if config.epochs > state.epoch >= config.epochs / target.EARLY > state.epoch - 1:
                    target.warn(target.shortfall(term, state.history, config.epochs))
                if out is not None and main:
                    checkpoint.save(out, state, settings)
                ended = ends_after(after_epoch, row, model)
                if report_epoch is not None:
                    report_epoch(row)
        if state.best is not None:
            model.load_state_dict(state.best["model"])
        model.eval()
        if out is not None and main:
            save_weights(out / WEIGHTS, model)
            if state.multipliers:
                save_multipliers(out / MULTIPLIERS, state.multipliers)
            write_metrics(out / METRICS, state.history)
        lower = None if regularizer is None else regularizer.refine()
        note = target.useless_target(term, config.target) or target.shortfall(term, state.history, config.epochs)
        beyond = target.exceeded(config.lipschitz, lower)
        note = note or beyond
        target.warn(note)
        result = {**result_of(state, task, config, accelerator, lower), "target_note": note}
        result |= {"target_met": False} if beyond else {}
        result |= {"own": own.names} if own.names else {}
        return TrainResult(model, state.history, result, None if regularizer is None else regularizer.pairs, state.multipliers)


def _train_epoch(network: nn.Module, task: Task, state: State, config: TrainConfig, accelerator: Accelerator) -> dict[str, Any]:
    """Algorithm 2: one pass over the fitting part, then the discrepancy principle. Returns the epoch's record."""
    epoch, started = state.epoch + 1, time.perf_counter()
    term, lr = state.term, state.lr_schedule.get_last_lr()[0]
    ramp = margin_ramp(state.history, config, term.scheduler.weight)
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
            if task.classification:
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
