"""Measurements that are no single training: each one, for each seed, leaves a file of its own.

A measurement is a function of (seed, settings) that returns a JSON object; it draws all randomness from its seed, so the files
do not depend on how many run at once, and an interrupted experiment continues with those not there yet.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..provenance import provenance
from ..run_folder import SCHEMA, Json, Run, claimed, finished_json, write_json
from ..runs.grid import Failure, in_parallel, require_workers

Measurement = Callable[[int, Any], Json]
"""From a seed and the experiment's settings (a dataclass) to `{rows: [{label: ..., metrics: {...}}], ...}`."""


def run_measurements(
    measurements: Mapping[str, Measurement],
    settings: Any,
    out: Path,
    *,
    seeds: int,
    workers: int = 1,
    backend: str = "local",
    progress: bool = False,
) -> tuple[list[Run], list[Failure]]:
    """Carry out every measurement for the seeds 0, 1, ...; each leaves `out`/NAME-SEED.json.

    Args:
        measurements: name -> measurement.
        settings: of all measurements, a dataclass.
        out: folder of the files.
        seeds: how many.
        workers: measurements at once, one thread each.
        backend: see `run_grid`.
        progress: show finished measurements and the time left.

    Returns:
        What is there, in their order, then by seed; and those that failed.

    Raises:
        InputError: fewer than one seed, what `run_grid` refuses of workers, a file of other settings.
    """
    require_workers(workers, backend)
    if seeds < 1:
        raise InputError("at least one seed", seeds, "Give the number of runs of each row.")
    asked = json.loads(json.dumps(asdict(settings)))  # as a file has it
    files = {f"{name}-{seed}": out / f"{name}-{seed}.json" for name in measurements for seed in range(seeds)}
    for path in files.values():
        if (content := finished_json(path)) is not None and content.get("settings") != asked:
            raise InputError(f"a file {path} of the same settings", "other settings", "Choose another --out, or remove it.")
    calls = {
        f"{name}-{seed}": partial(_measure, measurement, seed, settings, files[f"{name}-{seed}"])
        for name, measurement in measurements.items()
        for seed in range(seeds)
    }
    with claimed(out):
        failures = in_parallel(calls, files, title="parts", workers=workers, backend=backend, progress=progress)
    contents = {path: finished_json(path) for path in files.values()}
    return [Run(path, {}, content, []) for path, content in contents.items() if content is not None], failures


def _measure(measurement: Measurement, seed: int, settings: Any, path: Path) -> None:
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        measured = measurement(seed, settings)
    record = {"seed": seed, "settings": asdict(settings), "seconds": time.perf_counter() - started}
    write_json(path, {"schema": SCHEMA, **record, **measured, "provenance": provenance(torch.device("cpu"))})
