"""The values that the paper and the README of its authors' code print. Accuracies are fractions, as in `result.json`."""

from __future__ import annotations

from collections.abc import Mapping

_KEYS = ("train_accuracy", "test_accuracy", "noise_accuracy", "pgd_accuracy", "weight")

_TABLE_1: dict[str, dict[tuple[str, float | None], tuple[float, ...]]] = {
    "mnist": {
        ("standard", None): (95.6, 89.8, 71.8, 25.3, 0),
        ("weight", 0.95): (93.1, 89.0, 71.4, 25.4, 0.0003),
        ("weight", 0.90): (89.8, 89.7, 71.9, 24.8, 0.0015),
        ("weight", 0.85): (84.8, 87.2, 72.3, 24.9, 0.0031),
        ("clip", 0.95): (95.3, 90.7, 70.3, 24.4, 0.01),
        ("clip", 0.90): (91.8, 91.6, 78.0, 36.2, 3.91),
        ("clip", 0.85): (87.6, 87.2, 74.5, 37.7, 9.82),
    },
    "fashion-mnist": {
        ("standard", None): (98.5, 92.0, 25.7, 1.9, 0),
        ("weight", 0.95): (94.8, 91.2, 26.9, 3.5, 0.0011),
        ("weight", 0.90): (89.8, 89.6, 28.1, 6.0, 0.0023),
        ("weight", 0.85): (85.3, 85.4, 34.2, 10.2, 0.0091),
        ("clip", 0.95): (94.6, 91.9, 19.8, 9.1, 0.18),
        ("clip", 0.90): (90.6, 88.9, 23.3, 13.0, 0.74),
        ("clip", 0.85): (85.9, 83.1, 31.9, 14.9, 4.18),
    },
}
_README: dict[tuple[str, float | None], tuple[float, ...]] = {
    ("standard", None): (97.1, 34.5, 31.2),
    ("clip", 0.97): (97.0, 34.6, 72.4),
    ("clip", 0.95): (96.4, 29.8, 71.4),
}
_README_KEYS = ("test_accuracy", "noise_accuracy_clamped", "pgd_accuracy_clamped")
_NETWORKS = {"mnist": "mlp 784-64-64-10", "fashion-mnist": "cnn"}

NOTE = "In brackets: Table 1 of the paper; for the network 784-200-80-10, the README of its authors' code."


def published(data: str, model: str, method: str, target: float | None) -> Mapping[str, float]:
    """The printed values for a row of the same data, layers, method and target, by column key; empty where there are none.

    Table 1's, and for the network 784-200-80-10 on MNIST those of the README of the authors' code, whose attacks are
    clamped. The activation may be another: the paper's MLP has sigmoids.
    """
    keys: tuple[str, ...]
    if data == "mnist" and model.startswith("mlp 784-200-80-10"):
        keys, row = _README_KEYS, _README.get((method, target))
    elif data in _TABLE_1 and model.startswith(_NETWORKS[data]):
        keys, row = _KEYS, _TABLE_1[data].get((method, target))
    else:
        return {}
    if row is None:
        return {}
    return {key: value if key == "weight" else round(value / 100, 4) for key, value in zip(keys, row, strict=True)}
