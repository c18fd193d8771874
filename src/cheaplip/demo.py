"""The main job on embedded data: the three methods on digits at one target, three seeds each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .assessment import PROTOCOLS
from .config import configure
from .jobs import Job, run_job
from .runs import Run, claim_folder, find_runs

SEEDS = 3
SETTINGS: dict[str, Any] = {"target": 0.97, "epochs": 60, "batch_size": 32, "lr": 0.05}


def run_demo(out: Path, *, progress: bool = False) -> list[Run]:
    """Train and evaluate Standard, Weight Reg. and CLIP on digits, one run folder each, below `out`.

    Raises:
        InputError: `out` cannot be written or holds an earlier demo.
    """
    claim_folder(out)
    for method in ("standard", "weight", "clip"):
        for seed in range(SEEDS):
            training = configure(method=method, seed=seed, **SETTINGS)
            job = Job(data="digits", training=training, evaluation=PROTOCOLS["digits"])
            run_job(job, out / "runs" / f"{method}-{seed}", progress=progress)
    return find_runs([out / "runs"])
