from . import data, lightning, models, sklearn, transformers
from .bounds.bracket import LipschitzBracket, lipschitz_bracket
from .bounds.jacobian import LowerBound
from .bounds.lower import lower_bound
from .bounds.radius import certified_radius
from .data.arrays import Dataset
from .domains import Ball
from .pairs.quotient import difference_quotient
from .pairs.sets import PairSet, embedding_pairs, matched_pairs, perturbed_pairs, uniform_pairs
from .regularization.certificate import CertificateRegularizer
from .regularization.discrepancy import DiscrepancyPrinciple
from .regularization.local import LocalRegularizer
from .regularization.margin_loss import margin_cross_entropy
from .regularization.noise import NoiseRegularizer
from .regularization.penalty import PenaltySum
from .regularization.regularizer import LipschitzRegularizer
from .regularization.scheduler import ConstantWeight
from .regularization.term import PenaltyTerm
from .robustness.accuracy import RobustnessReport, evaluate_robustness
from .training.config import TrainConfig
from .training.loop import fit
from .training.outcome import TrainResult
from .training.stiefel_muon import StiefelMuon

__all__ = [
    "Ball",
    "CertificateRegularizer",
    "ConstantWeight",
    "Dataset",
    "DiscrepancyPrinciple",
    "LipschitzBracket",
    "LipschitzRegularizer",
    "LocalRegularizer",
    "LowerBound",
    "NoiseRegularizer",
    "PairSet",
    "PenaltySum",
    "PenaltyTerm",
    "RobustnessReport",
    "StiefelMuon",
    "TrainConfig",
    "TrainResult",
    "certified_radius",
    "data",
    "difference_quotient",
    "embedding_pairs",
    "evaluate_robustness",
    "fit",
    "lightning",
    "lipschitz_bracket",
    "lower_bound",
    "margin_cross_entropy",
    "matched_pairs",
    "models",
    "perturbed_pairs",
    "sklearn",
    "transformers",
    "uniform_pairs",
]
