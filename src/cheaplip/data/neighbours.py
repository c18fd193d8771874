"""What the nearest neighbours tell of the noise in the data, before anything is trained."""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from ..arguments import checked
from ..errors import InputError

QUERIES = 1000
"""Samples whose neighbours are looked for, at most."""
ENTRIES = 2**23
"""Numbers in the samples that are searched, at most: some seconds."""
FINE = 0.005
"""The least share of the variance that is told from none: half a point of R^2."""


@checked
def attainable_value(x: Tensor, y: Tensor) -> float:
    """The loss, or the accuracy, that a network which has resolved these data should reach.

    With j(i) the nearest other sample of i: the mean of (y_i - y_j(i))^2 / 2 for real values, which is the variance of
    the noise and what the function changes between neighbours, but 0.5 % of the variance of y at least; for classes the share
    of samples with y_i = y_j(i). Repeated samples count once. In many dimensions neighbours are far, and the value is modest.

    Args:
        x: inputs `(n, *input)`, n >= 2, scaled so that distances mean something.
        y: classes `(n,)` of an integer type, or real values `(n, *output)`.

    Raises:
        InputError: fewer than two different samples, or another number of values.

    Source: the 1-nearest-neighbour estimator of the residual variance; for classes the leave-one-out accuracy of the
    1-nearest-neighbour rule, whose error is asymptotically at most twice the least possible one (Cover and Hart, 1967).
    """
    if len(x) != len(y):
        raise InputError("as many inputs as values", f"{len(x)} and {len(y)}", "Correct the data.")
    inputs, values = x.detach().flatten(1).cpu().numpy(), y.detach().reshape(len(y), -1).double().cpu().numpy()
    most = max(2, min(len(inputs), ENTRIES // max(inputs.shape[1], 1)))
    chosen = np.random.default_rng(0).permutation(len(inputs))[:most]
    inputs, values = inputs[chosen], values[chosen]
    different = np.unique(np.concatenate([inputs, values], axis=1), axis=0, return_index=True)[1]
    if len(different) < 2:
        raise InputError("two different samples", "one", "Give more data.")
    inputs, values = inputs[np.sort(different)], values[np.sort(different)]
    search = NearestNeighbors(n_neighbors=2).fit(inputs)
    queries = np.arange(min(len(inputs), QUERIES))
    found = search.kneighbors(inputs[queries], return_distance=False)
    nearest = np.where(found[:, 0] == queries, found[:, 1], found[:, 0])  # a sample is a neighbour of itself
    other = values[nearest]
    if y.is_floating_point():
        return float(max(((values[queries] - other) ** 2).mean() / 2, FINE * values.var(axis=0).mean()))
    return float((values[queries] == other).mean())
