"""A job: one training with its evaluation, described by plain data, carried out into a run folder."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import safetensors.torch
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from safetensors import SafetensorError
from torch import Tensor, nn

from ..data.arrays import Dataset, load
from ..errors import InputError, one_line, require_known
from ..models.spec import ModelSpec
from ..progress import activity_shown
from ..records import refusal, validated
from ..run_folder import (
    CHECKPOINT,
    CONFIG,
    PAIRS,
    RADII,
    RESULT,
    SCHEMA,
    WEIGHTS,
    Json,
    prepare_run_folder,
    read_json,
    write_atomic,
    write_json,
)
from ..training import paper
from ..training.batches import this_process
from ..training.config import TrainConfig, altered
from ..training.loop import fit
from ..training.presets import PRESETS
from .evaluation import PROTOCOLS, Protocol, assess, certify, example_pairs, write_pairs


class Job(BaseModel):
    """All that decides a run; `config.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    data: str
    model: ModelSpec = ModelSpec()
    training: TrainConfig = TrainConfig()
    evaluation: Protocol = Protocol()

    @field_validator("data")
    @classmethod
    def _found_from_anywhere(cls, data: str) -> str:
        return str(Path(data).resolve()) if data.lower().endswith(".npz") else data


SETTINGS = {"data", "preset", "model", *ModelSpec.model_fields, *TrainConfig.model_fields, *Protocol.model_fields} - {"name"}
"""The names that `make_job` takes."""


def make_job(options: Mapping[str, Any]) -> Job:
    """The job that plain settings describe: `data`, `preset`, `model`, and fields of the three records by their names.

    `eps` is the radius of the evaluation's attacks, its curve in proportion, and of the training's best-pgd.

    Raises:
        InputError: an unknown setting, a value outside its range, or no data.
    """
    for name in options:
        require_known("a setting", name, SETTINGS)
    if "data" not in options:
        raise InputError("data", "none", "Give digits, mnist, fashion-mnist or a file.npz.")
    preset = options.get("preset", "default")
    require_known("preset", preset, PRESETS)
    data = validated(Job, {"data": options["data"]}).data
    evaluation = PROTOCOLS.get(data, Protocol())
    training = altered(PRESETS[preset], {"eps": evaluation.eps})
    model = ModelSpec(**(paper.MODEL.get(options.get("model", "mlp"), {}) if preset == "paper" else {}))
    return _altered(Job(data=data, model=model, training=training, evaluation=evaluation), options)


def resumed_job(folder: Path, options: Mapping[str, Any]) -> Job:
    """The job of the run in `folder`; `InputError` if `options` contradict it."""
    job = read_job(folder)
    asked = make_job({"data": job.data, **options}) if "preset" in options else _altered(job, options)
    if asked != job:
        before, after = _flat(job), _flat(asked)
        changed = ", ".join(sorted(name for name in before if before[name] != after[name]))
        do = "Leave them away: a run is resumed with the settings it was started with."
        raise InputError("the settings of the interrupted run", f"others for {changed}", do)
    return job


def _altered(job: Job, options: Mapping[str, Any]) -> Job:
    def of(kind: type[BaseModel]) -> dict[str, Any]:
        return {name: value for name, value in options.items() if name in kind.model_fields}

    spec = of(ModelSpec) | ({"name": options["model"]} if "model" in options else {})
    parts = {
        "data": options.get("data", job.data),
        "model": validated(ModelSpec, {**job.model.model_dump(), **spec}),
        "training": altered(job.training, of(TrainConfig)),
        "evaluation": job.evaluation.altered(of(Protocol)),
    }
    return validated(Job, parts)


def _flat(job: Job) -> dict[str, Any]:
    parts = {name: part.model_dump() for name, part in job if isinstance(part, BaseModel)}
    return {"data": job.data, **{f"{part}.{name}": value for part, fields in parts.items() for name, value in fields.items()}}


def read_job(folder: Path) -> Job:
    """The job of a run folder; `InputError` if its config.json is missing or damaged."""
    content = read_json(folder / CONFIG)
    content.pop("schema", None)
    try:
        return Job.model_validate_json(json.dumps(content))  # as JSON, in which a list may stand for a tuple
    except ValidationError as error:
        do = "Start the run again with this version."
        raise InputError(f"a valid {folder / CONFIG}", refusal(error), do) from None


def run_job(job: Job, out: Path, *, data_dir: Path | None = None, resume: bool = False, progress: bool = False) -> Json:
    """Train, evaluate, and leave a complete run folder; returns the content of `result.json`.

    Raises:
        InputError: what `fit`, `load`, `ModelSpec.build` and `prepare_run_folder` refuse; the folder can then be used again.
        DivergenceError: see `fit`; the checkpoint of the last good epoch stays in the folder.
    """
    data = load(job.data, data_dir)
    model = job.model.build(data, job.training.seed)
    main = this_process().is_main_process
    if main:
        prepare_run_folder(out, resume=resume)
        if not resume:
            write_json(out / CONFIG, {"schema": SCHEMA, **job.model_dump()})
    begun = (out / CHECKPOINT).exists()
    shown = {1, job.training.epochs // 4, job.training.epochs // 2} if job.training.method == "clip" and data.classes else ()

    def show_pairs(epoch: int, model: nn.Module) -> None:
        if epoch in shown:
            write_pairs(out / f"pairs-{epoch}.npz", example_pairs(model, data))

    try:
        trained = fit(
            model,
            data,
            out=out,
            resume=resume and begun,
            progress=progress,
            after_epoch=show_pairs,
            **job.training.model_dump(),
        )
    except Exception:
        if main and not (out / CHECKPOINT).exists():
            (out / CONFIG).unlink()  # nothing to resume: the folder is free again
        raise
    if not main:
        return trained.result
    about = {"data": data.name, "data_checksum": data.checksum, "class_names": data.class_names}
    result = {**trained.result, **about, "model": job.model.describe(model)}
    with activity_shown(f"{job.training.method}, seed {job.training.seed}: evaluation") if progress else nullcontext():
        measured, radii = assess(model, data, job.evaluation, seed=job.training.seed, pairs=trained.pairs)
        result = _merge(result, measured)
        if data.classes is not None:
            write_pairs(out / PAIRS, example_pairs(model, data))
    _write_radii(out / RADII, data, radii)
    write_json(out / RESULT, result)
    return result


def evaluate_run(folder: Path, options: Mapping[str, Any], *, data_dir: Path | None = None, progress: bool = False) -> Json:
    """Measure a finished run again, with some fields of its `Protocol` changed, and write its `result.json` anew.

    Raises:
        InputError: a value outside its range, a folder that holds no finished run, weights that do not fit the model.
    """
    job = read_job(folder)
    protocol = job.evaluation.altered(options)
    result, data, model = _finished(folder, job, data_dir)
    with activity_shown(f"{folder}: evaluation") if progress else nullcontext():
        measured, radii = assess(model, data, protocol, seed=job.training.seed)
    result = _merge(result, measured)
    _write_radii(folder / RADII, data, radii)
    write_json(folder / RESULT, result)
    return result


def bound_run(
    folder: Path,
    *,
    eps: Sequence[float] = (0.3, 0.5, 1.0, 1.58),
    budget: float | None = None,
    data_dir: Path | None = None,
    progress: bool = False,
) -> Json:
    """Bracket the network of a finished run and certify its test part.

    Its `result.json` is written anew, and for a classifier `radii.csv`: index, label and certified radius of each test
    sample, 0 where it is not classified right.

    Raises:
        InputError: a folder that holds no finished run, an eps or a budget <= 0.
        UnsupportedModuleError: no upper bound is known; the lower one is written all the same, and told.
    """
    if not all(0 < e < math.inf for e in eps):
        raise InputError("radii eps > 0", eps, "Give numbers in units of the inputs.")
    job = read_job(folder)
    result, data, model = _finished(folder, job, data_dir)
    with activity_shown(f"{folder}: bracket and certificate") if progress else nullcontext():
        measured, radii = certify(model, data, job.evaluation, eps, budget=budget)
    result = _merge(result, measured)
    write_json(folder / RESULT, result)
    _write_radii(folder / RADII, data, radii)
    if result["lipschitz"]["upper"] is None:
        do = f"The lower bound {result['lipschitz']['lower']:.6g} is written to {folder / RESULT}."
        raise InputError("a network with a provable upper bound", result["lipschitz"]["reason"], do)
    return result


def _write_radii(path: Path, data: Dataset, radii: Tensor | None) -> None:
    if radii is None:
        return
    lines = [f"{i},{y},{r:.9g}" for i, (y, r) in enumerate(zip(data.test_y.tolist(), radii.tolist(), strict=True))]
    write_atomic(path, lambda temporary: temporary.write_text("\n".join(["index,label,radius", *lines, ""])))


def _finished(folder: Path, job: Job, data_dir: Path | None) -> tuple[Json, Dataset, nn.Module]:
    """The result, the data and the trained network of a run."""
    if not (folder / RESULT).exists():
        raise InputError(f"a finished run in {folder}", "one without result.json", "Finish it with `cheaplip train --resume`.")
    result, data = read_json(folder / RESULT), load(job.data, data_dir)
    model = job.model.build(data, job.training.seed)
    try:
        model.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"the run's weights in {folder / WEIGHTS}", one_line(error), "Train the run again.") from None
    return result, data, model.to(this_process().device)


def _merge(result: Json, measured: Json) -> Json:
    return {**result, **measured, "samples": {**result.get("samples", {}), **measured["samples"]}}
