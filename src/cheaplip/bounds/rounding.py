"""Every margin for rounding errors in this folder, with its reason. A bound is a proof only with all of them."""

UNIT = 2.0**-53
"""Unit roundoff of float64."""

TINY = 1e-300
"""Squares are kept above this before a division or a logarithm: no smaller one is told from 0."""

NEXT = 1 + 8 * UNIT
"""Rounds the result of a few operations, such as a square root, upwards."""

ROOTS = 1e-14
"""Relative error of entries and roots of a Gram matrix that were computed from one another by a few operations."""

PRODUCTS = 1e-12
"""Relative error of a product of norms: each singular value is computed to about 1e-15."""

SLOPES = 1e-12
"""Absolute error of an activation's derivative, and relative error of its values: both are computed to about 1e-15."""

INTERVALS = 1e-9
"""Share of the largest end by which the intervals of a layer's outputs are widened: sums of thousands of products."""

LOGITS = 1e-9
"""Share of the largest logit by which margins are reduced: rounding of a float64 forward pass."""

QUOTIENTS = 1e-3
"""Relative rounding error of quotients in networks with large intermediate values; a larger gap is a contradiction."""

EIGENVALUES = (1e-13, 1e-12, 1e-11, 1e-10, 1e-9)
"""Shares by which a largest eigenvalue is enlarged in turn, until Cholesky confirms it: the error grows with the size."""

INWARDS = (0.0, 1e-9, 1e-7, 1e-5, 1e-3, 3e-3, 1e-2, 3e-2)
"""By how much multipliers are moved inwards in turn, until every factorisation holds: wide networks need wide margins."""


def gamma(k: int) -> float:
    """Bound of the relative error of k floating-point operations, complex ones too, with a factor of 8 to spare."""
    return 8 * (k + 64) * UNIT
