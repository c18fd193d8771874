"""cheaplip: cheap Lipschitz training of PyTorch networks (CLIP, SSVM 2021, arXiv:2103.12531).

The names below are loaded on first use: `import cheaplip` does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bounds.bracket import LipschitzBracket, lipschitz_bracket
    from .bounds.radius import certified_radius
    from .data.arrays import Dataset
    from .domains import Ball
    from .pairs.quotient import difference_quotient
    from .pairs.sets import PairSet, matched_pairs, perturbed_pairs, uniform_pairs
    from .regularization.certificate import CertificateRegularizer
    from .regularization.discrepancy import ConstantWeight, DiscrepancyPrinciple
    from .regularization.margin_loss import margin_cross_entropy
    from .regularization.penalty import PenaltySum
    from .regularization.regularizer import LipschitzRegularizer
    from .regularization.term import PenaltyTerm
    from .robustness.accuracy import RobustnessReport, evaluate_robustness
    from .training.config import TrainConfig
    from .training.loop import TrainResult, fit

__all__ = [
    "Ball",
    "CertificateRegularizer",
    "ConstantWeight",
    "Dataset",
    "DiscrepancyPrinciple",
    "LipschitzBracket",
    "LipschitzRegularizer",
    "PairSet",
    "PenaltySum",
    "PenaltyTerm",
    "RobustnessReport",
    "TrainConfig",
    "TrainResult",
    "certified_radius",
    "difference_quotient",
    "evaluate_robustness",
    "fit",
    "lipschitz_bracket",
    "margin_cross_entropy",
    "matched_pairs",
    "perturbed_pairs",
    "uniform_pairs",
]

_HOMES = {
    "bounds.bracket": ("LipschitzBracket", "lipschitz_bracket"),
    "bounds.radius": ("certified_radius",),
    "domains": ("Ball",),
    "training.config": ("TrainConfig",),
    "data": ("Dataset",),
    "regularization.discrepancy": ("ConstantWeight", "DiscrepancyPrinciple"),
    "regularization.margin_loss": ("margin_cross_entropy",),
    "pairs": ("PairSet", "matched_pairs", "perturbed_pairs", "uniform_pairs"),
    "pairs.quotient": ("difference_quotient",),
    "regularization.certificate": ("CertificateRegularizer",),
    "regularization.penalty": ("PenaltySum",),
    "regularization.regularizer": ("LipschitzRegularizer",),
    "regularization.term": ("PenaltyTerm",),
    "robustness": ("RobustnessReport", "evaluate_robustness"),
    "training.loop": ("TrainResult", "fit"),
}


def __getattr__(name: str) -> Any:
    if name in ("lightning", "sklearn"):  # the integrations are used as modules
        return import_module(f".{name}", __name__)
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f".{home}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
