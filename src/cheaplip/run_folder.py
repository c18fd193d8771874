"""The run folder: `config.json`, `metrics.jsonl` (one object an epoch), `model.safetensors`, `checkpoint/`, `result.json`.

After a training with a certificate `multipliers.safetensors` too.

Every file is written whole or not at all (see `files`), and what is written into a folder is written by one process: the one
that has `claimed` it. This module knows files, not torch, so that the report can read runs without it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InputError, one_line
from .files import LARGEST_TEXT, read_bytes, remove_drafts, write_atomic

SCHEMA = 1
"""Version of `config.json` and `result.json`; a reader refuses any other."""

CONFIG, METRICS, RESULT = "config.json", "metrics.jsonl", "result.json"
WEIGHTS, MULTIPLIERS, CHECKPOINTS = "model.safetensors", "multipliers.safetensors", "checkpoint"
PAIRS, RADII = "pairs.npz", "radii.csv"

PATIENCE = 1.0
"""Seconds to wait for a folder that another process or thread has claimed."""

Json = dict[str, Any]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` as strict JSON (non-finite numbers become null), atomically."""
    text = json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"
    write_text(path, text)


def write_metrics(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write `metrics.jsonl`: one JSON object a line, one line an epoch."""
    text = "".join(json.dumps(_finite(row), allow_nan=False) + "\n" for row in history)
    write_text(path, text)


def write_text(path: Path, text: str) -> str:
    """Write a text file, atomically; returns its sha256."""
    return write_atomic(path, lambda stream: stream.write(text.encode("utf-8")))


def read_json(path: Path) -> Json:
    """Read a JSON object; raise `InputError` if it is missing, damaged or of another schema."""
    try:
        content = json.loads(read_bytes(path, LARGEST_TEXT))
    except FileNotFoundError:
        raise InputError(f"a file {path}", "nothing there", "Give the folder that `cheaplip train --out` wrote.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} to be readable JSON", error, "The file is damaged; run the training again.") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} to hold a JSON object", type(content).__name__, "Give a file that cheaplip wrote.")
    if content.get("schema", SCHEMA) != SCHEMA:
        raise InputError(f"{path} of schema {SCHEMA}", content["schema"], "Use the cheaplip version that wrote it.")
    return content


def finished_json(path: Path) -> Json | None:
    """The content of a file that says that a job is done; None if there is none, or it is empty or damaged."""
    try:
        return read_json(path) or None
    except InputError:
        return None


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
        lines = read_bytes(folder / METRICS, LARGEST_TEXT).decode("utf-8").splitlines()
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


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Make `folder`, and inside nobody but this thread writes into it; what killed processes left half written is removed.

    The lock is that of the operating system, which ends with the process. Claims may be nested.

    Raises:
        InputError: it is not a folder, not writable, or claimed by another process or thread.
    """
    from filelock import FileLock, Timeout  # takes its time to load

    do = "Choose another folder, or wait until it is free."
    try:
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.resolve() / ".lock", timeout=PATIENCE, is_singleton=True)
        nested = lock.is_locked
        lock.acquire()
    except Timeout:
        raise InputError(f"a folder into which no other process writes, {folder}", "one that is in use", do) from None
    except (OSError, ValueError, RuntimeError) as error:
        got = getattr(error, "strerror", None) or one_line(error)
        raise InputError(f"an output folder that can be written, {folder}", got, do) from None
    try:
        if not nested:
            for place in (folder, folder / CHECKPOINTS):
                remove_drafts(place)
        yield
    finally:
        if not nested:
            Path(lock.lock_file).unlink(missing_ok=True)  # while it is ours: who waits for it looks again
            if made:
                with suppress(OSError):
                    folder.rmdir()  # if nothing came of it
        lock.release()


def require_free(folder: Path) -> None:
    """Raise `InputError` if `folder` holds a run."""
    if (folder / CONFIG).exists():
        do = "Choose another --out, or --resume to continue the run there."
        raise InputError("an output folder without a run in it", folder, do)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
