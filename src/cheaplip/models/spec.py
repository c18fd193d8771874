"""From a `ModelConfig` to the network it names, and back to a description."""

from __future__ import annotations

import importlib
import inspect
import math
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.arrays import Dataset
from ..errors import InputError, one_line, require_known
from .architectures import MODELS
from .config import ModelConfig


def build_network(config: ModelConfig, data: Dataset, seed: int) -> nn.Module:
    """The network for this data set, freshly initialised.

    Raises:
        InputError: unknown names, or a function that cannot be imported, fails, or returns no module.
    """
    shape = tuple(data.train_x.shape[1:])
    outputs = data.classes or math.prod(data.train_y.shape[1:])
    options = {key: value for key, value in config.model_dump(exclude={"name"}).items() if value is not None}
    if ":" in config.name:
        if options:
            do = "Set widths and activations in your own function."
            raise InputError(f"no {', '.join(options)} for a model of your own", options, do)
        make = _import(config.name)
    else:
        require_known("model (or package.module:function)", config.name, MODELS)
        make = MODELS[config.name]
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        try:
            model = make(shape, outputs, **options)
        except InputError:
            raise
        except Exception as error:  # anything may go wrong in the user's function
            got = f"{type(error).__name__}: {one_line(error)}"
            raise InputError(f"{config.name}({shape}, {outputs}) to build a network", got, "Correct it.") from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{config.name} to return an nn.Module", type(model).__name__, "Return the network.")
    return model


def require_trusted(config: ModelConfig, folder: Path, trust: bool) -> None:
    """Raise `InputError`, naming what would be run, if the network that a run folder names is code and nobody trusts it."""
    if ":" in config.name and not trust:
        do = "Look at that code; then say --trust-model (trust_model=True) to import and run it."
        raise InputError(f"in {folder} a network of cheaplip's own", f"{config.name}, which is code", do)


def describe_network(config: ModelConfig, model: nn.Module) -> str:
    """What `build_network` built, such as `mlp 784-64-64-10 relu`."""
    if ":" in config.name:
        return config.name
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    widths = [layers[0].weight.shape[1], *(layer.weight.shape[0] for layer in layers)]
    default = inspect.signature(MODELS[config.name]).parameters["activation"].default
    activation = (config.activation or default) + (f", output {config.output_activation}" if config.output_activation else "")
    return f"{config.name} {'-'.join(map(str, widths))} {activation}"


def _import(path: str) -> Any:
    module, _, name = path.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a script beside the user, as `python -m` would find it
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # importing runs the user's code
        got = f"{type(error).__name__}: {one_line(error)}"
        raise InputError(f"a function at {path}", got, "Give package.module:function, importable from this folder.") from error
