"""scikit-learn estimators around `fit`: `CLIPClassifier` and `CLIPRegressor`, for pipelines and searches over arrays."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from .errors import InputError
from .inference import forward
from .models.architectures import mlp
from .training.config import WISHES
from .training.loop import fit
from .training.presets import configure

Module = Callable[[tuple[int, ...], int], nn.Module]
"""Makes an untrained network from the shape of one input and the number of outputs."""

REGRESSION = {"optimizer": "Adam", "optimizer_options": {}, "lr": 0.01}
"""The regressor's optimizer: the gradient of a squared error grows with the error, which SGD at 0.1 does not survive."""

SMALLEST = 6
"""Samples to train on: two to fit, two for X_Lip, two for validation."""

CHUNK = 1000
"""Samples in one forward pass of a prediction."""


class _CLIPEstimator(BaseEstimator):  # type: ignore[misc]
    """What classifier and regressor share: training on checked arrays, and the outputs of the trained network."""

    tolerance: float
    target: float | None
    lipschitz: float | None
    weight: float | None
    epochs: int
    hidden: Sequence[int]
    activation: str
    module: Module | None
    random_state: Any
    options: Mapping[str, Any] | None

    def _train(self, x: NDArray[np.float32], y: Tensor, outputs: int, **settings: Any) -> None:
        options = dict(self.options or {})
        if taken := {*WISHES, "epochs", "seed"} & options.keys():
            do = "Set the estimator's parameter of that name (random_state for seed)."
            raise InputError("options beyond the estimator's parameters", ", ".join(sorted(taken)), do)
        seed = self._seed()
        small = {"batch_size": min(128, max(8, len(x) // 20))}  # some twenty steps an epoch, on few samples, too
        wishes = {name: getattr(self, name) for name in WISHES if name != "tolerance" and getattr(self, name) is not None}
        wish = wishes or {"tolerance": self.tolerance}
        config = configure(**{**small, **settings, **wish, "epochs": self.epochs, "seed": seed, **options})
        # and two samples in every part
        parts = {name: max(getattr(config, name), 2 / len(x)) for name in ("pair_share", "validation_share")}
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            model = self._untrained(x.shape[1:], outputs)
        trained = fit(model, (torch.tensor(x), y), **{**config.model_dump(), **parts})
        self.model_ = trained.model.cpu()
        self.history_ = trained.history
        self.result_ = trained.result
        self.weight_ = trained.result["weight"]

    def _untrained(self, shape: tuple[int, ...], outputs: int) -> nn.Module:
        if self.module is None:
            return mlp(shape, outputs, hidden=self.hidden, activation=self.activation)
        model = self.module(shape, outputs)
        if not isinstance(model, nn.Module):
            raise InputError("module(input_shape, outputs) to return an nn.Module", type(model).__name__, "Correct it.")
        return model

    def _seed(self) -> int:
        if isinstance(self.random_state, numbers.Integral):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31))

    @torch.no_grad()
    def _outputs(self, X: ArrayLike) -> Tensor:
        check_is_fitted(self)
        x = torch.from_numpy(np.array(validate_data(self, X, dtype=np.float32, reset=False)))
        return torch.cat([forward(self.model_, part) for part in x.split(CHUNK)])


class CLIPClassifier(ClassifierMixin, _CLIPEstimator):  # type: ignore[misc]
    """A classifier whose Lipschitz constant is pressed as far as the accuracy that may be given up allows.

    The pairs' noise, the radii of attacks and Lipschitz constants are in units of the inputs: scale the features first,
    for example by a `StandardScaler` in a pipeline. A tenth of the samples is held out for X_Lip and a twentieth for
    validation, two at least each.

    Args:
        tolerance: training accuracy that may be given up against plain training, which is the first half of the epochs:
            0.01 is one point.
        target: training accuracy that the weight is steered to, in (0, 1), instead of the tolerance.
        lipschitz: a Lipschitz constant that the weight is steered to, instead of the tolerance.
        weight: a constant weight instead of the tolerance; 0 for plain training.
        epochs: passes over the samples.
        hidden: widths of the hidden layers.
        activation: `softplus`, `relu`, `sigmoid`, `tanh`, `elu` or `abs`.
        module: makes a network of your own, `module(input_shape, outputs) -> nn.Module`, from `(n, features)` float32 to
            logits `(n, outputs)`; then `hidden` and `activation` are not used.
        random_state: an int is the seed of `fit`; None for a new one each time.
        options: further fields of `TrainConfig`, such as `{"lr": 0.05}`. By default, batches are as in `fit`, but smaller
            for fewer than 2,560 samples.

    Attributes:
        classes_: the labels, sorted; column i of `predict_proba` belongs to `classes_[i]`.
        model_: the trained `nn.Module`, on the CPU, for `evaluate_robustness` and `lipschitz_bracket`; its labels are
            positions in `classes_`.
        history_: one record an epoch.
        weight_: the weight of the penalty at the end.
        result_: what `fit` says of the run.
        n_features_in_: number of features.

    Raises:
        InputError: (a ValueError; from `fit`) an unknown or impossible setting, two wishes at once, a single class.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> x, y = load_iris(return_X_y=True)
        >>> pipeline = make_pipeline(StandardScaler(), CLIPClassifier()).fit(x, y)
        >>> bool(pipeline.score(x, y) > 0.85)
        True
    """

    def __init__(
        self,
        *,
        tolerance: float = 0.01,
        target: float | None = None,
        lipschitz: float | None = None,
        weight: float | None = None,
        epochs: int = 30,
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
        self.hidden = hidden
        self.activation = activation
        self.module = module
        self.random_state = random_state
        self.options = options

    def fit(self, X: ArrayLike, y: ArrayLike) -> CLIPClassifier:
        """Train on inputs `(n, features)`, n >= 6, and labels `(n,)` of any type that sorts."""
        x, labels = validate_data(self, X, y, dtype=np.float32, ensure_min_samples=SMALLEST)
        check_classification_targets(labels)
        self.classes_, positions = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError("at least two classes in y", "1 class", "Give samples of another class, too.")
        self._train(x, torch.from_numpy(positions), len(self.classes_))
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The label of the largest logit for each input."""
        logits = self._outputs(X)
        labels: NDArray[Any] = self.classes_[logits.argmax(1).numpy()]
        return labels

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Softmax of the logits, `(n, classes)`. A small Lipschitz constant makes it cautious; it is not calibrated."""
        probabilities: NDArray[np.float64] = self._outputs(X).double().softmax(1).numpy()
        return probabilities


class CLIPRegressor(RegressorMixin, _CLIPEstimator):  # type: ignore[misc]
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
        hidden: widths of the hidden layers.
        activation: of the hidden layers.
        module: makes a network of your own, from `(n, features)` float32 to values `(n, outputs)`.
        random_state: an int is the seed of `fit`; None for a new one each time.
        options: further fields of `TrainConfig`; by default, the optimizer is Adam with a learning rate of 0.01.

    Attributes:
        model_: the trained `nn.Module`, on the CPU, to values `(n, outputs)`.
        history_: one record an epoch.
        weight_: the weight of the penalty at the end.
        result_: what `fit` says of the run.
        n_features_in_: number of features.

    Raises:
        InputError: (a ValueError; from `fit`) an unknown or impossible setting.
        DivergenceError: (from `fit`) the loss stopped being finite.

    Example:
        >>> import numpy as np
        >>> x = np.linspace(-1, 1, 200)[:, None]
        >>> regressor = CLIPRegressor(weight=0.001).fit(x, np.sin(3 * x[:, 0]))
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
        self.hidden = hidden
        self.activation = activation
        self.module = module
        self.random_state = random_state
        self.options = options

    def fit(self, X: ArrayLike, y: ArrayLike) -> CLIPRegressor:
        """Train on inputs `(n, features)`, n >= 6, and real values `(n,)` or `(n, outputs)`."""
        x, values = validate_data(self, X, y, dtype=np.float32, ensure_min_samples=SMALLEST, y_numeric=True, multi_output=True)
        self._shape = values.shape[1:]
        column = torch.from_numpy(values.astype(np.float32)).reshape(len(values), -1)
        self._train(x, column, column.shape[1], **REGRESSION)
        return self

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """f(x) for each input, of the shape of the y that was trained on."""
        outputs = self._outputs(X).double()
        values: NDArray[np.float64] = outputs.reshape(len(outputs), *self._shape).numpy()
        return values

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
