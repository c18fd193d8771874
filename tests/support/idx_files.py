"""Tiny stand-ins for the published IDX data sets, so that no test needs the real files or the network."""

import dataclasses
import gzip
import hashlib
from pathlib import Path

import numpy as np

from cheaplip.data import idx

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = idx.SIZES


def idx_bytes(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def small_published(tmp_path, monkeypatch) -> dict[str, bytes]:
    """Let both data sets have six tiny images; no folder of this machine is looked at and no host but a dead port.

    Returns the payloads.
    """
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (6, 28, 28), dtype=np.uint8), np.arange(6, dtype=np.uint8)
    arrays = {TRAIN_IMAGES: images[:4], TRAIN_LABELS: labels[:4], TEST_IMAGES: images[4:], TEST_LABELS: labels[4:]}
    payloads = {file: idx_bytes(array) for file, array in arrays.items()}
    sums = {file: hashlib.sha256(payload).hexdigest() for file, payload in payloads.items()}
    for name in ("mnist", "fashion-mnist"):
        mirrors = ("http://127.0.0.1:9/first", "http://127.0.0.1:9/second")
        monkeypatch.setitem(idx.PUBLISHED, name, dataclasses.replace(idx.PUBLISHED[name], sha256=sums, mirrors=mirrors))
    for file, payload in payloads.items():
        monkeypatch.setitem(idx.SIZES, file, len(payload))
    monkeypatch.setattr(idx, "DEBIAN", {"fashion-mnist": tmp_path / "debian"})
    monkeypatch.setattr(idx, "user_cache_path", lambda name, appauthor: tmp_path / "cache")
    monkeypatch.delenv("CHEAPLIP_DATA", raising=False)
    return payloads


def write(folder: Path, payloads: dict[str, bytes], zipped: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, payload in payloads.items():
        (folder / (file + ".gz" * zipped)).write_bytes(gzip.compress(payload) if zipped else payload)
    return folder
