"""The main job on embedded data: the three methods on digits at one target, three seeds each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import InputError
from ..run_folder import Run, find_runs
from ..runs.configure import configure_run
from ..runs.execute import execute_run

SEEDS = 3
SETTINGS: dict[str, Any] = {"target": 0.97, "epochs": 60, "batch_size": 32, "lr": 0.05}


def run_demo(out: Path, *, progress: bool = False) -> list[Run]:
    """Train and evaluate Standard, Weight Reg. and CLIP on digits, one run folder each, below `out`.

    Raises:
        InputError: `out` cannot be written or holds an earlier demo.
    """
    runs = out / "runs"
    if runs.exists():
        raise InputError("an output folder without an earlier demo", out, "Choose another --out, or remove that one.")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks this small only wait for a second thread, on a busy machine for long
    try:
        for method in ("standard", "weight", "clip"):
            for seed in range(SEEDS):
                job = configure_run({"data": "digits", "method": method, "seed": seed, **SETTINGS})
                execute_run(job, runs / f"{method}-{seed}", progress=progress)
    finally:
        torch.set_num_threads(threads)
    return find_runs([runs])
