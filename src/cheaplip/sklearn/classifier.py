"""`CLIPClassifier`: a classifier whose Lipschitz constant is pressed as far as its accuracy allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

from ..bounds.radius import certified_radius
from ..errors import InputError
from ..training.batches import split
from .calibration import temperature_of
from .estimator import SMALLEST, Estimator, Module


class CLIPClassifier(ClassifierMixin, Estimator):  # type: ignore[misc]
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
        lr: learning rate; by default as in `fit`.
        batch_size: samples in a batch; by default 128, or a twentieth of the samples, 8 at least, where that is less.
        hidden: widths of the hidden layers.
        activation: `softplus`, `relu`, `sigmoid`, `tanh`, `elu` or `abs`.
        class_weight: `balanced`, or a weight for each label, by which its samples count in the loss and in the accuracy that is
            steered. With `balanced` that is the balanced accuracy: where 3 % of the samples are positive, a target of 95 % is
            otherwise met by an answer that is always no.
        module: makes a network of your own, `module(input_shape, outputs) -> nn.Module`, from `(n, features)` float32 to
            logits `(n, outputs)`; then `hidden` and `activation` are not used.
        random_state: an int is the seed of `fit`; None for a new one each time.
        options: further fields of `TrainConfig`, such as `{"method": "local"}`; in a search `options__method`.

    Attributes:
        classes_: the labels, sorted; column i of `predict_proba` belongs to `classes_[i]`.
        model_: the trained `nn.Module`, on the CPU, for `evaluate_robustness` and `lipschitz_bracket`; its labels are
            positions in `classes_`.
        history_: one record an epoch.
        temperature_: of the softmax in `predict_proba`, from the samples that were held out.
        lipschitz_bracket_: lower <= Lip(f) <= upper on all inputs, computed when first asked for.
        weight_: the weight of the penalty at the end.
        result_: what `fit` says of the run.
        n_features_in_: number of features.

    Raises:
        InputError: (a ValueError; from `fit`) an unknown or impossible setting, two wishes at once, a single class.

    Warns:
        ScaleWarning: the features are of very different size.

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
        lr: float | None = None,
        batch_size: int | None = None,
        hidden: Sequence[int] = (64, 64),
        activation: str = "softplus",
        class_weight: Mapping[Any, float] | str | None = None,
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
        self.class_weight = class_weight
        self.module = module
        self.random_state = random_state
        self.options = options

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> CLIPClassifier:
        """Train on inputs `(n, features)`, n >= 6, and labels `(n,)` of any type that sorts; samples count by their weights."""
        x, labels = validate_data(self, X, y, dtype=np.float32, ensure_min_samples=SMALLEST)
        check_classification_targets(labels)
        self.classes_, positions = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError("at least two classes in y", "1 class", "Give samples of another class, too.")
        y_tensor = torch.from_numpy(positions)
        weights = self._weights(sample_weight, x)
        if self.class_weight is not None:
            of_classes = compute_sample_weight(self.class_weight, labels)
            weights = of_classes if weights is None else weights * of_classes
        self._train(x, y_tensor, len(self.classes_), weights)
        shares = {"pair_share": self._config.pair_share, "validation_share": self._config.validation_share}
        parts = split(len(x), **shares, seed=self._config.seed)
        held_out = torch.cat([parts.pairs, parts.validation])
        self.temperature_ = temperature_of(self._outputs(torch.tensor(x)[held_out]), y_tensor[held_out])
        return self

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The label of the largest logit for each input."""
        logits = self._outputs(self._inputs(X))
        labels: NDArray[Any] = self.classes_[logits.argmax(1).numpy()]
        return labels

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """softmax(logits / temperature_), `(n, classes)`: calibrated on the samples that were held out."""
        logits = self._outputs(self._inputs(X))
        probabilities: NDArray[np.float64] = (logits / self.temperature_).softmax(1).numpy()
        return probabilities

    def certified_radius(self, X: ArrayLike) -> NDArray[np.float64]:
        """The distance, `(n,)`, below which no change of an input changes its predicted label, in units of the inputs.

        See `cheaplip.certified_radius`; the bound is `lipschitz_bracket_`. In a pipeline, the units are those after scaling.
        """
        radius: NDArray[np.float64] = certified_radius(self.model_, self._inputs(X), self.lipschitz_bracket_).numpy()
        return radius
