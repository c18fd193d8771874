"""Plausible finished runs, written without any training, for the tests of the report."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

EVIL = "<script>alert(1)</script>"

# train, test, noise, clamped noise, eq. (14), strong, weight, lower, upper
_PROFILES: dict[str, tuple[float, ...]] = {
    "standard": (1.0, 0.979, 0.522, 0.611, 0.061, 0.026, 0.0, 34.1, 82.6),
    "weight": (0.951, 0.949, 0.601, 0.68, 0.214, 0.118, 0.0031, 9.8, 17.2),
    "clip": (0.953, 0.955, 0.83, 0.86, 0.732, 0.52, 0.031, 0.93, 7.2),
}


def write_run(folder: Path, **changes: Any) -> Path:
    """Write a run folder; `changes` go into `result.json`, a metric of None is absent."""
    result: dict[str, Any] = {"method": "clip", "seed": 0} | changes
    method, seed = result["method"], result["seed"]
    rng = np.random.default_rng([seed, len(method)])
    profile = _PROFILES.get(method, _PROFILES["clip"])
    names = ["train_accuracy", "test_accuracy", "noise_accuracy", "noise_accuracy_clamped"]
    names += ["pgd_accuracy", "strong_accuracy"]
    wobble = [float(v) for v in rng.normal(0, 0.006, len(names))]
    epochs = 30
    full = {
        "schema": 1,
        "target": None if method == "standard" else 0.95,
        "data": "digits",
        "model": "mlp 64-64-64-10 relu",
        "epochs": epochs,
        **{name: min(1.0, v + w) for name, v, w in zip(names, profile, wobble, strict=False)},
        "samples": dict.fromkeys(names, 360) | {"train_accuracy": 1200},
        "evaluation": {"eps": 1.0, "noise": 1.0, "iterations": 100, "step": 0.25, "restarts": 1, "seed": seed},
        "curve": [
            {"eps": eps, "strong_accuracy": profile[1] / (1 + (eps / (0.4 + 1.2 * profile[5])) ** 3), "n": 360}
            for eps in (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
        ],
        "weight": profile[6],
        "lipschitz": {
            "lower": profile[7] * (1 + 0.1 * float(rng.random())),
            "upper": profile[8] * (1 + 0.1 * float(rng.random())),
            "method": {"lower": "largest quotient found", "upper": "product of the layers' norms"},
            "scope": "all inputs",
        },
        "seconds": 12.3 + seed,
        "provenance": {
            "version": "0.1.0", "git": "0123abc", "torch": "2.13.0+cpu", "python": "3.11.7", "device": "cpu",
            "threads": 1, "date": f"2026-01-0{seed + 1}T10:00:00+00:00", "command": f"cheaplip demo --seed {seed}",
        },
    }  # fmt: skip
    history = []
    for epoch in range(1, epochs + 1):
        warm = 1 - math.exp(-epoch / 4)
        settle = 0.01 * math.cos(epoch / 2) * math.exp(-epoch / 12)
        history.append({
            "epoch": epoch,
            "train_loss": 2.3 * math.exp(-epoch / (3 if method == "standard" else 6)) + 0.02 * rng.random() + 0.05,
            "train_accuracy": min(1.0, profile[0] * warm + settle + 0.003 * rng.random()),
            "penalty": None if method == "standard" else 0.4,
            "weight": 0.0 if epoch <= 3 else profile[6] * math.exp(-2 * math.exp(-epoch / 6)) * (1 + 20 * settle),
            "lower_bound": None if method == "standard" else profile[7] * 0.9,
            "upper_bound": profile[8] * warm if "certified" in result and epoch > 3 else None,
            "learning_rate": 0.05,
            "validation_accuracy": None,
            "validation_pgd_accuracy": None,
            "skipped_steps": 0,
            "seconds": 0.4 * epoch,
        })  # fmt: skip
    if result.get("train_accuracy", 1) is None:
        history = [record | {"train_accuracy": None} for record in history]
    folder.mkdir(parents=True)
    config = {"schema": 1, "data": full["data"], "model": {}, "training": {"epochs": epochs, "seed": seed}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "result.json").write_text(json.dumps(full | result))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    return folder


def write_pairs(folder: Path, shape: tuple[int, ...] = (1, 8, 8), k: int = 3, file: str = "pairs.npz") -> None:
    """Write a file of pairs into a run folder: blobs that move together."""
    rng = np.random.default_rng(0)
    u, v = rng.random((2, k, *shape)).astype(np.float32)
    if len(shape) >= 2:
        y, x = np.mgrid[0:1:8j, 0:1:8j]
        u = u * 0.15 + np.exp(-((x - 0.35) ** 2 + (y - 0.5) ** 2) / 0.06).astype(np.float32)
        v = v * 0.15 + np.exp(-((x - 0.7) ** 2 + (y - 0.4) ** 2) / 0.03).astype(np.float32)
    arrays = {"u_before": u, "v_before": v, "u_after": 0.6 * u + 0.4 * v, "v_after": 0.4 * u + 0.6 * v}
    for name in ("u_before", "v_before", "u_after", "v_after"):
        arrays[f"label_{name}"] = rng.integers(0, 10, k)
        arrays[f"confidence_{name}"] = rng.random(k)
    arrays |= {"quotient_before": np.full(k, 0.42), "quotient_after": np.full(k, 1.31)}
    np.savez(folder / file, **arrays)


def three_methods(folder: Path, seeds: int = 2) -> Path:
    """Three methods times `seeds` seeds, the CLIP runs with pairs."""
    for method in _PROFILES:
        for seed in range(seeds):
            target = None if method == "standard" else 0.95
            run = write_run(folder / f"{method}-{seed}", method=method, seed=seed, target=target)
            if method == "clip":
                write_pairs(run)
    return folder
