"""The run folder: `config.json`, `metrics.jsonl` (one object an epoch), `model.safetensors`, `checkpoint/`, `result.json`.

Everything is written to a temporary name first and renamed, so a reader never sees half a file and an interrupted
run never loses the previous state. This module knows files, not torch, so that the report can read runs without it.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InputError

SCHEMA = 1
"""Version of `config.json` and `result.json`; a reader refuses any other."""

CONFIG, METRICS, RESULT = "config.json", "metrics.jsonl", "result.json"
WEIGHTS, CHECKPOINT = "model.safetensors", "checkpoint/state.pt"
PAIRS, RADII = "pairs.npz", "radii.csv"

Json = dict[str, Any]


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then move it there in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as strict JSON (non-finite numbers become null), atomically."""
    text = json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_metrics(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write `metrics.jsonl`: one JSON object a line, one line an epoch."""
    text = "".join(json.dumps(_finite(row), allow_nan=False) + "\n" for row in history)
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Json:
    """Read a JSON object; raise `InputError` if it is missing, damaged or of another schema."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"a file {path}", "nothing there", "Give the folder that `cheaplip train --out` wrote.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} to be readable JSON", error, "The file is damaged; run the training again.") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} to hold a JSON object", type(content).__name__, "Give a file that cheaplip wrote.")
    if content.get("schema", SCHEMA) != SCHEMA:
        raise InputError(f"{path} of schema {SCHEMA}", content["schema"], "Use the cheaplip version that wrote it.")
    return content


@dataclass(frozen=True)
class Run:
    """A finished run as the report needs it."""

    folder: Path
    config: Json  # what was asked for
    result: Json  # what came out, with provenance
    history: list[Json]  # one record an epoch


def read_run(folder: Path) -> Run:
    """Read a finished run; raise `InputError` naming the file that is missing or damaged."""
    result = read_json(folder / RESULT)
    missing = {"method", "seed", "data", "model", "provenance"} - result.keys()
    if missing:
        raise InputError(f"{folder / RESULT} to have {', '.join(sorted(missing))}", "none", "Evaluate the run again.")
    try:
        lines = (folder / METRICS).read_text(encoding="utf-8").splitlines()
        history = [json.loads(line) for line in lines]
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder / 'metrics.jsonl'} with one JSON object a line", error, "Train again.") from None
    return Run(folder, read_json(folder / CONFIG), result, history)


def find_runs(paths: Sequence[Path]) -> list[Run]:
    """Every finished run in `paths`, once: a run folder itself, or any folder below which there are some.

    Raises:
        InputError: a path holds no finished run.
    """
    runs: dict[Path, Run] = {}
    for path in paths:
        folders = sorted(file.parent for file in path.rglob(RESULT)) if path.is_dir() else []
        if not folders:
            raise InputError("a run folder (one with result.json) or a folder of them", path, "Train one first.")
        runs |= {folder.resolve(): read_run(folder) for folder in folders}
    return list(runs.values())


def prepare_run_folder(folder: Path, *, resume: bool = False) -> None:
    """Make `folder` ours to write a run into; refuse one that holds a run unless it is being resumed.

    Raises:
        InputError: it is not a folder, not writable, or holds another run.
    """
    do = "Choose another --out, or --resume to continue the run there."
    try:
        if not resume and (folder / CONFIG).exists():
            raise InputError("an output folder without a run in it", folder, do)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass  # it can be written
    except OSError as error:
        raise InputError(f"an output folder that can be written, {folder}", error.strerror or error, do) from None


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
