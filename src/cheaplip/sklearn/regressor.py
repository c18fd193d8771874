"""`CLIPRegressor`: a regressor with a small Lipschitz constant, fitted by mean squared error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.utils.validation import validate_data

from .estimator import SMALLEST, Estimator, Module

REGRESSION = {"optimizer": "Adam", "optimizer_options": {}, "lr": 0.01}
"""The regressor's optimizer: the gradient of a squared error grows with the error, which SGD at 0.1 does not survive."""


class CLIPRegressor(RegressorMixin, Estimator):  # type: ignore[misc]
    """A regressor with a small Lipschitz constant, fitted by mean squared error.

    Scale the features and the values first: training starts near 0 and may not get to values in the hundreds. For the
    values, put the regressor into a `TransformedTargetRegressor(..., transformer=StandardScaler())`.

    Args:
        tolerance: mean squared error that may be given up on the training samples against plain training, which is the
            first half of the epochs: 0.01 is one per cent of it.
        target: mean squared error on the training samples that the weight is steered to, such as the variance of the noise,
            instead of the tolerance.
        lipschitz: a Lipschitz constant that the weight is steered to, instead of the tolerance.
        weight: a constant weight instead of the tolerance; 0 for plain training.
        epochs: passes over the samples; this and all that follow as for `CLIPClassifier`.
        lr: learning rate of the optimizer, which is Adam; by default 0.01.
        batch_size: samples in a batch.
        hidden: widths of the hidden layers.
        activation: of the hidden layers.
        module: makes a network of your own, from `(n, features)` float32 to values `(n, outputs)`.
        random_state: an int is the seed of `fit`; None for a new one each time.
        options: further fields of `TrainConfig`.

    Attributes:
        model_: the trained `nn.Module`, on the CPU, to values `(n, outputs)`.
        history_: one record an epoch.
        lipschitz_bracket_: lower <= Lip(f) <= upper on all inputs, computed when first asked for.
        weight_: the weight of the penalty at the end.
        result_: what `fit` says of the run.
        n_features_in_: number of features.

    Raises:
        InputError: (a ValueError; from `fit`) an unknown or impossible setting.
        DivergenceError: (from `fit`) the loss stopped being finite.

    Warns:
        ScaleWarning: the features are of very different size.

    Example:
        >>> import numpy as np
        >>> x = np.linspace(-1, 1, 200)[:, None]
        >>> regressor = CLIPRegressor(weight=0.001, epochs=20).fit(x, np.sin(3 * x[:, 0]))
        >>> regressor.predict(x).shape
        (200,)
    """

    def __init__(
        self,
        *,
        tolerance: float = 0.01,
        target: float | None = None,
        lipschitz: float | None = None,
        weight: float | None = None,
        epochs: int = 200,
        lr: float | None = None,
        batch_size: int | None = None,
        hidden: Sequence[int] = (64, 64),
        activation: str = "softplus",
        module: Module | None = None,
        random_state: Any = 0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.tolerance = tolerance
        self.target = target
        self.lipschitz = lipschitz
        self.weight = weight
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.hidden = hidden
        self.activation = activation
        self.module = module
        self.random_state = random_state
        self.options = options

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> CLIPRegressor:
        """Train on inputs `(n, features)`, n >= 6, and real values `(n,)` or `(n, outputs)`; samples count by their weights."""
        x, values = validate_data(self, X, y, dtype=np.float32, ensure_min_samples=SMALLEST, y_numeric=True, multi_output=True)
        self._shape = values.shape[1:]
        column = torch.from_numpy(values.astype(np.float32)).reshape(len(values), -1)
        self._train(x, column, column.shape[1], self._weights(sample_weight, x), **REGRESSION)
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """f(x) for each input, of the shape of the y that was trained on."""
        outputs = self._outputs(self._inputs(X))
        values: NDArray[np.float64] = outputs.reshape(len(outputs), *self._shape).numpy()
        return values

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
