"""A trained network as one file that runs without this library, and without its own code: `.pt2` or `.onnx`."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..arguments import checked
from ..errors import InputError, one_line
from ..files import write_atomic
from ..inference import evaluating

SUFFIXES = (".pt2", ".onnx")
KEY = "cheaplip"
"""Under which the file has what is known of the network; of a .pt2 the name of an extra file, with `.json`."""


@checked
def export_model(model: nn.Module, x: Tensor, path: Path, *, about: Mapping[str, Any] | None = None) -> None:
    """Write f, in evaluation mode and for any number of samples, as `torch.export` or ONNX has it.

    `torch.export.load(path).module()` or onnxruntime runs the file; the outputs are those of the network up to rounding.

    Args:
        model: f, any `nn.Module` that `torch.export` can trace.
        x: some inputs, two at least, `(n, *input)`. Only their shape and type count.
        path: ends in .pt2, or in .onnx, which needs the extra `onnx`.
        about: travels with the file as JSON, such as `{"upper": bracket.upper}`: `extra_files` of a .pt2 has it as
            `cheaplip.json`, an ONNX file as its metadata property `cheaplip`.

    Raises:
        InputError: another suffix, no such folder, fewer than two samples, a network that cannot be traced, or no package
            for ONNX.
    """
    require_exportable(path)
    if len(x) < 2:
        raise InputError("two samples at least", len(x), "Give some inputs: with one, torch takes the number for a constant.")
    known = json.dumps(dict(about or {}))
    with evaluating(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about its own code
        try:
            program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("samples")},))
            write = _onnx(program, known) if path.suffix == ".onnx" else _pt2(program, known)
        except Exception as error:  # whatever the tracer meets in the user's code
            do = "Export a network of tensor operations alone, without a choice that depends on values."
            raise InputError("a network that torch.export can trace", one_line(error), do) from error
    write_atomic(path, lambda stream: stream.write(write))


def require_exportable(path: Path) -> None:
    """`InputError` unless `export_model` can write such a file here."""
    if path.suffix not in SUFFIXES:
        raise InputError("a file that ends in .pt2 or .onnx", path.name, "Choose by the suffix what is written.")
    if path.suffix == ".onnx" and find_spec("onnxscript") is None:
        raise InputError("the package onnxscript, to write ONNX", "none", "pip install 'cheaplip[onnx]'.")
    if not path.parent.is_dir():
        raise InputError("a file in a folder that there is", path, "Make the folder, or choose another.")


def _pt2(program: torch.export.ExportedProgram, known: str) -> bytes:
    stream = io.BytesIO()
    torch.export.save(program, stream, extra_files={f"{KEY}.json": known})
    return stream.getvalue()


def _onnx(program: torch.export.ExportedProgram, known: str) -> bytes:
    found: Any = torch.onnx.export(program, dynamo=True, verbose=False)
    proto = found.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = KEY, known
    content: bytes = proto.SerializeToString()
    return content
