"""A run: one training with its evaluation, carried out into a run folder; and a finished one, measured again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..data.arrays import Dataset, load
from ..errors import InputError
from ..files import sha256_of
from ..models.spec import build_network, describe_network, require_trusted
from ..models.weights import load_multipliers, load_weights
from ..progress import activity_shown
from ..run_folder import (
    CONFIG,
    METRICS,
    MULTIPLIERS,
    PAIRS,
    RADII,
    RESULT,
    SCHEMA,
    WEIGHTS,
    Json,
    claimed,
    read_json,
    require_free,
    write_json,
    write_text,
)
from ..training.checkpoint import checkpoints
from ..training.loop import fit
from ..training.parallel import this_process
from .config import RunConfig
from .configure import read_config
from .evaluation import bound_and_certify, evaluate
from .example_pairs import example_pairs, write_pairs


def execute_run(
    config: RunConfig,
    out: Path,
    *,
    data_dir: Path | None = None,
    resume: bool = False,
    progress: bool = False,
    loggers: Sequence[str] = (),
) -> Json:
    """Train, evaluate, and leave a complete run folder; returns the content of `result.json`.

    Raises:
        InputError: what `fit`, `load`, `build_network` and `claimed` refuse, or a folder with a run; the folder stays free.
        DivergenceError: see `fit`; the checkpoint of the last good epoch stays in the folder.
    """
    data = load(config.data, data_dir)
    model = build_network(config.model, data, config.training.seed)
    main = this_process().is_main_process
    with claimed(out) if main else nullcontext():
        if main and not resume:
            require_free(out)
            write_json(out / CONFIG, {"schema": SCHEMA, **config.model_dump()})
        return _train_and_evaluate(config, out, data, model, loggers, main=main, resume=resume, progress=progress)


def _train_and_evaluate(
    config: RunConfig,
    out: Path,
    data: Dataset,
    model: nn.Module,
    loggers: Sequence[str],
    *,
    main: bool,
    resume: bool,
    progress: bool,
) -> Json:
    epochs = config.training.epochs
    milestones = {1, epochs // 4, epochs // 2} if config.training.method == "clip" and data.classes else ()

    def write_example(row: Mapping[str, Any], model: nn.Module) -> None:
        if row["epoch"] in milestones:
            write_pairs(out / f"pairs-{row['epoch']}.npz", example_pairs(model, data))

    begun = resume and ((out / METRICS).exists() or bool(checkpoints(out)))
    settings = config.training.model_dump()
    try:
        following: dict[str, Any] = {"after_epoch": write_example, "loggers": loggers, "progress": progress}
        trained = fit(model, data, out=out, resume=begun, **following, **settings)
    except Exception:
        if main and not checkpoints(out) and not begun:
            for name in (CONFIG, *(f"pairs-{epoch}.npz" for epoch in milestones)):
                (out / name).unlink(missing_ok=True)  # nothing to resume: the folder is free again
        raise
    telling = (
        activity_shown(f"{config.training.method}, seed {config.training.seed}: evaluation") if main and progress else None
    )
    known: dict[str, Any] = {"pairs": trained.pairs, "multipliers": trained.multipliers}
    with telling or nullcontext():
        measured, radii = evaluate(model, data, config.evaluation, seed=config.training.seed, **known)
    if not main:
        return trained.result
    about = {"data": data.name, "data_checksum": data.checksum, "class_names": data.class_names}
    about |= {"model": describe_network(config.model, model), "weights_sha256": sha256_of(out / WEIGHTS)}
    if data.classes is not None:
        write_pairs(out / PAIRS, example_pairs(model, data))
    return _write_result(out, data, _merge({**trained.result, **about}, measured), radii)


def evaluate_run(
    folder: Path,
    options: Mapping[str, Any],
    *,
    data_dir: Path | None = None,
    trust_model: bool = False,
    progress: bool = False,
) -> Json:
    """Measure a finished run again, with some fields of its `EvaluationConfig` changed, and write its `result.json` anew.

    Raises:
        InputError: a value outside its range, a folder that holds no finished run, weights that do not fit the model, a
            network that is code without `trust_model`.
    """
    config = read_config(folder)
    require_trusted(config.model, folder, trust_model)
    protocol = config.evaluation.altered(options)
    with claimed(folder):
        result, data, model = finished(folder, config, data_dir)
        with activity_shown(f"{folder}: evaluation") if progress else nullcontext():
            multipliers = load_multipliers(folder / MULTIPLIERS)
            measured, radii = evaluate(model, data, protocol, seed=config.training.seed, multipliers=multipliers)
        return _write_result(folder, data, _merge(result, measured), radii)


def bound_run(
    folder: Path,
    *,
    eps: Sequence[float] = (0.3, 0.5, 1.0, 1.58),
    budget: float | None = 60.0,
    data_dir: Path | None = None,
    trust_model: bool = False,
    progress: bool = False,
) -> Json:
    """Bracket the network of a finished run and certify its test part.

    Its `result.json` is written anew, and for a classifier `radii.csv`: index, label and certified radius of each test
    sample, 0 where it is not classified right; where `certified_radius` has local ones, also the radius that a ball of its own
    proves, for as many samples as there is time for.

    Raises:
        InputError: a folder that holds no finished run, an eps or a budget <= 0, a network that is code without `trust_model`.
        UnsupportedModuleError: no upper bound is known; the lower one is written all the same, and told.
    """
    if not all(0 < e < math.inf for e in eps):
        raise InputError("radii eps > 0", eps, "Give numbers in units of the inputs.")
    config = read_config(folder)
    require_trusted(config.model, folder, trust_model)
    with claimed(folder):
        result, data, model = finished(folder, config, data_dir)
        title, known = str(folder) if progress else None, load_multipliers(folder / MULTIPLIERS)
        options: dict[str, Any] = {"budget": budget, "multipliers": known, "local": True, "telling": title}
        measured, radii = bound_and_certify(model, data, config.evaluation, eps, **options)
        result = _write_result(folder, data, _merge(result, measured), radii)
    if result["lipschitz"]["upper"] is None:
        do = f"The lower bound {result['lipschitz']['lower']:.6g} is written to {folder / RESULT}."
        raise InputError("a network with a provable upper bound", result["lipschitz"]["reason"], do)
    return result


def _write_result(folder: Path, data: Dataset, result: Json, radii: Tensor | None) -> Json:
    """Write the result and what belongs to it: it names the radii that its certified accuracies count, or there are none."""
    if radii is not None:
        if radii.dim() == 1:
            result.pop("certified_locally", None)
            result["samples"].pop("certified_locally", None)
        columns = "index,label,radius" + ",local_radius" * (radii.dim() - 1)
        rows = zip(data.test_y.tolist(), radii.reshape(len(radii), -1).tolist(), strict=True)
        lines = [f"{i},{y},{','.join('' if r != r else f'{r:.9g}' for r in row)}" for i, (y, row) in enumerate(rows)]
        result["radii_sha256"] = write_text(folder / RADII, "\n".join([columns, *lines, ""]))
    write_json(folder / RESULT, result)
    if "radii_sha256" not in result:
        (folder / RADII).unlink(missing_ok=True)
    return result


def finished(folder: Path, config: RunConfig, data_dir: Path | None) -> tuple[Json, Dataset, nn.Module]:
    """The result, the data and the trained network of a run."""
    if not (folder / RESULT).exists():
        raise InputError(f"a finished run in {folder}", "one without result.json", "Finish it with `cheaplip train --resume`.")
    result, data = read_json(folder / RESULT), load(config.data, data_dir)
    model = build_network(config.model, data, config.training.seed)
    load_weights(folder / WEIGHTS, model)
    if result.get("weights_sha256") != sha256_of(folder / WEIGHTS):
        do = "Put the run's own weights back, or finish it again with `cheaplip train --resume`."
        raise InputError(f"in {folder / WEIGHTS} the weights that {RESULT} was measured with", "others", do)
    return result, data, model.to(this_process().device)


def _merge(result: Json, measured: Json) -> Json:
    return {**result, **measured, "samples": {**result.get("samples", {}), **measured["samples"]}}
