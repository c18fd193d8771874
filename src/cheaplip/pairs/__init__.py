"""What is measured: quotients of pairs, the pair set X_Lip, and the ascent that keeps it steep (Algorithm 1)."""

from .sets import PairSet, matched_pairs, perturbed_pairs, uniform_pairs

__all__ = ["PairSet", "matched_pairs", "perturbed_pairs", "uniform_pairs"]
