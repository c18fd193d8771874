"""From plain settings or a run folder to a `RunConfig`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ..errors import InputError, require_known
from ..models.config import ModelConfig
from ..records import refusal, validated
from ..run_folder import CONFIG, read_json
from ..training import paper
from ..training.config import TrainConfig, altered
from ..training.presets import PRESETS
from .config import EVALUATIONS, EvaluationConfig, RunConfig

RECORDS = (ModelConfig, TrainConfig, EvaluationConfig)
SETTINGS = {"data", "preset", "model", *(name for record in RECORDS for name in record.model_fields)} - {"name"}
"""The names that `configure_run` takes."""


def configure_run(options: Mapping[str, Any]) -> RunConfig:
    """What decides the run that plain settings describe.

    They are `data`, `preset`, `model`, and the fields of `RECORDS` by their names. `eps` is the radius of the evaluation's
    attacks, its curve in proportion, and of the training's best-pgd.

    Raises:
        InputError: an unknown setting, a value outside its range, or no data.
    """
    for name in options:
        require_known("a setting", name, SETTINGS)
    if "data" not in options:
        raise InputError("data", "none", "Give digits, mnist, fashion-mnist or a file.npz.")
    preset = options.get("preset", "default")
    require_known("preset", preset, PRESETS)
    data = validated(RunConfig, {"data": options["data"]}).data
    evaluation = EVALUATIONS.get(data, EvaluationConfig())
    training = altered(PRESETS[preset], {"eps": evaluation.eps})
    model = ModelConfig(**(paper.MODEL.get(options.get("model", "mlp"), {}) if preset == "paper" else {}))
    return _altered(RunConfig(data=data, model=model, training=training, evaluation=evaluation), options)


def resumed_config(folder: Path, options: Mapping[str, Any]) -> RunConfig:
    """What decides the run in `folder`; `InputError` if `options` contradict it."""
    config = read_config(folder)
    asked = configure_run({"data": config.data, **options}) if "preset" in options else _altered(config, options)
    if asked != config:
        before, after = _flat(config), _flat(asked)
        changed = ", ".join(sorted(name for name in before if before[name] != after[name]))
        do = "Leave them away: a run is resumed with the settings it was started with."
        raise InputError("the settings of the interrupted run", f"others for {changed}", do)
    return config


def _altered(config: RunConfig, options: Mapping[str, Any]) -> RunConfig:
    def of(kind: type[BaseModel]) -> dict[str, Any]:
        return {name: value for name, value in options.items() if name in kind.model_fields}

    spec = of(ModelConfig) | ({"name": options["model"]} if "model" in options else {})
    parts = {
        "data": options.get("data", config.data),
        "model": validated(ModelConfig, {**config.model.model_dump(), **spec}),
        "training": altered(config.training, of(TrainConfig)),
        "evaluation": config.evaluation.altered(of(EvaluationConfig)),
    }
    return validated(RunConfig, parts)


def _flat(config: RunConfig) -> dict[str, Any]:
    parts = {name: part.model_dump() for name, part in config if isinstance(part, BaseModel)}
    return {
        "data": config.data,
        **{f"{part}.{name}": value for part, fields in parts.items() for name, value in fields.items()},
    }


def read_config(folder: Path) -> RunConfig:
    """What decides the run in a folder; `InputError` if its config.json is missing or damaged."""
    content = read_json(folder / CONFIG)
    content.pop("schema", None)
    try:
        return RunConfig.model_validate_json(json.dumps(content))  # as JSON, in which a list may stand for a tuple
    except ValidationError as error:
        do = "Start the run again with this version."
        raise InputError(f"a valid {folder / CONFIG}", refusal(error), do) from None
