"""What is measured: quotients of pairs, the pair set X_Lip, and the ascent that keeps it steep (Algorithm 1)."""

from .sets import PairSet, gaussian_pairs, matched_pairs, perturbed_pairs, uniform_pairs

__all__ = ["PairSet", "gaussian_pairs", "matched_pairs", "perturbed_pairs", "uniform_pairs"]
