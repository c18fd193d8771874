"""Runs of a benchmark, one line each in a file: a run that is there is not repeated."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed

Spec = dict[str, Any]
Record = dict[str, Any]


def read(path: Path) -> list[Record]:
    """The records that are there; each has the `spec` of its run."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append(path: Path, record: Record) -> None:
    """Add a record: one line, appended whole, also beside another process."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def missing(path: Path, specs: Iterable[Spec]) -> list[Spec]:
    """The specs without a record; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done = [record["spec"] for record in read(path)]
    return [spec for spec in specs if spec not in done]


def carry_out(path: Path, specs: Iterable[Spec], run: Callable[[Spec], Record], jobs: int = 1) -> None:
    """Run what is missing, `jobs` at once, and print what was measured."""
    Parallel(n_jobs=jobs)(delayed(_one)(path, spec, run) for spec in missing(path, specs))


def _one(path: Path, spec: Spec, run: Callable[[Spec], Record]) -> None:
    record = run(spec)
    print({name: value for name, value in record.items() if name != "provenance"}, flush=True)
    append(path, record)
