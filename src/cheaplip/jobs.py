"""A job: one training with its evaluation, described by plain data, carried out into a run folder."""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from torch import nn

from .assessment import Protocol, assess, example_pairs, write_pairs
from .config import TrainConfig
from .data import Dataset, load
from .errors import InputError, require_known
from .models import MODELS
from .runs import SCHEMA, Json, claim_folder, read_json, write_json
from .training import fit

CONFIG, RESULT, PAIRS, WEIGHTS = "config.json", "result.json", "pairs.npz", "model.safetensors"


class ModelSpec(BaseModel):
    """Which network: one of `models`, or the user's own by `package.module:function`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "mlp"
    """`mlp`, `cnn`, or package.module:function, called with (input_shape, outputs)."""
    hidden: tuple[int, ...] | None = None
    activation: str | None = None
    output_activation: str | None = None
    """The last three: None for the network's own default; not for the user's own network."""

    def build(self, data: Dataset) -> nn.Module:
        """The network for this data set, freshly initialised from torch's global generator.

        Raises:
            InputError: unknown names, or a function that cannot be imported or returns no module.
        """
        shape = tuple(data.train_x.shape[1:])
        outputs = data.classes or math.prod(data.train_y.shape[1:])
        options = {key: value for key, value in self.model_dump(exclude={"name"}).items() if value is not None}
        if ":" not in self.name:
            require_known("model (or package.module:function)", self.name, MODELS)
            model: nn.Module = MODELS[self.name](shape, outputs, **options)
            return model
        if options:
            do = "Set widths and activations in your own function."
            raise InputError(f"no {', '.join(options)} for a model of your own", options, do)
        model = _import(self.name)(shape, outputs)
        if not isinstance(model, nn.Module):
            raise InputError(f"{self.name} to return an nn.Module", type(model).__name__, "Return the network.")
        return model

    def describe(self, data: Dataset) -> str:
        """Such as `mlp 784-64-64-10 relu`."""
        model = self.build(data)
        if ":" in self.name:
            return self.name
        layers = [layer for layer in model if isinstance(layer, (nn.Linear, nn.Conv2d))]  # type: ignore[attr-defined]
        first = math.prod(data.train_x.shape[1:]) if self.name == "mlp" else data.train_x.shape[1]
        widths = [first, *(getattr(layer, "out_features", getattr(layer, "out_channels", 0)) for layer in layers)]
        default = inspect.signature(MODELS[self.name]).parameters["activation"].default
        activation = (self.activation or default) + (f", output {self.output_activation}" if self.output_activation else "")
        return f"{self.name} {'-'.join(map(str, widths))} {activation}"


class Job(BaseModel):
    """All that decides a run; `config.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    model: ModelSpec = ModelSpec()
    training: TrainConfig = TrainConfig()
    evaluation: Protocol = Protocol()


def read_job(folder: Path) -> Job:
    """The job of a run folder; `InputError` if its config.json is missing or damaged."""
    content = read_json(folder / CONFIG)
    content.pop("schema", None)
    try:
        return Job.model_validate(_tuples(content), strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        got = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise InputError(f"a valid {folder / CONFIG}", got, "Start the run again with this version.") from None


def run_job(job: Job, out: Path, *, data_dir: Path | None = None, resume: bool = False, progress: bool = False) -> Json:
    """Train, evaluate, and leave a complete run folder; returns the content of `result.json`.

    Raises:
        InputError: what `fit`, `load`, `ModelSpec.build` and `claim_folder` refuse.
        DivergenceError: see `fit`; the checkpoint of the last good epoch stays in the folder.
    """
    data = load(job.data, data_dir)
    torch.manual_seed(job.training.seed)
    model = job.model.build(data)
    claim_folder(out, resume=resume)
    if not resume:
        write_json(out / CONFIG, {"schema": SCHEMA, **job.model_dump()})
    begun = (out / "checkpoint" / "state.pt").exists()
    options = job.training.model_dump()
    trained = fit(model, data, out=out, resume=resume and begun, progress=progress, **options)
    result = {
        **trained.result,
        "data": data.name,
        "data_checksum": data.checksum,
        "model": job.model.describe(data),
    }
    result = _merge(result, assess(model, data, job.evaluation, seed=job.training.seed, pairs=trained.pairs))
    if data.classes is not None:
        write_pairs(out / PAIRS, example_pairs(model, data))
    write_json(out / RESULT, result)
    return result


def evaluate_run(folder: Path, protocol: Protocol | None = None, *, data_dir: Path | None = None) -> Json:
    """Measure a finished run again, by another protocol if one is given, and write its `result.json` anew.

    Raises:
        InputError: the folder holds no finished run, or weights that do not fit its model.
    """
    job, result = read_job(folder), read_json(folder / RESULT)
    data = load(job.data, data_dir)
    model = job.model.build(data)
    try:
        model.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        got = str(error).splitlines()[0]
        raise InputError(f"the run's weights in {folder / WEIGHTS}", got, "Train the run again.") from None
    result = _merge(result, assess(model, data, protocol or job.evaluation, seed=job.training.seed))
    write_json(folder / RESULT, result)
    return result


def _merge(result: Json, measured: Json) -> Json:
    return {**result, **measured, "samples": {**result.get("samples", {}), **measured["samples"]}}


def _import(path: str) -> Any:
    module, _, name = path.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a script beside the user, as `python -m` would find it
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        do = "Give package.module:function, importable from this folder."
        raise InputError(f"a function at {path}", error, do) from None


def _tuples(value: Any) -> Any:
    """JSON has no tuples; the records want them where they are not tables."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value
