"""What classifier and regressor share: training on checked arrays, the outputs of the network, its constant."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor, nn

from ..bounds.bracket import LipschitzBracket, lipschitz_bracket
from ..errors import InputError, ScaleWarning
from ..inference import forward, in_float64
from ..models.architectures import mlp
from ..training.config import WISHES
from ..training.loop import fit
from ..training.presets import configure

Module = Callable[[tuple[int, ...], int], nn.Module]
"""Makes an untrained network from the shape of one input and the number of outputs."""

SMALLEST = 6
"""Samples to train on: two to fit, two for X_Lip, two for validation."""
CHUNK = 1000
"""Samples in one forward pass of a prediction."""
STARTS = 200
"""Training inputs that are kept, as start points of the search for the constant."""
LARGE, UNEQUAL = 10.0, 30.0
"""Standard deviations of features, themselves and over their median, from which on they should be scaled."""
OPTIONS = "options__"
"""What names a setting of `options` in a search."""


class Estimator(BaseEstimator):  # type: ignore[misc]
    """A network made, trained by `fit` and asked questions, behind scikit-learn's interface."""

    tolerance: float
    target: float | None
    lipschitz: float | None
    weight: float | None
    epochs: int
    lr: float | None
    batch_size: int | None
    hidden: Sequence[int]
    activation: str
    module: Module | None
    random_state: Any
    options: Mapping[str, Any] | None

    model_: nn.Module
    result_: dict[str, Any]

    def set_params(self, **params: Any) -> Self:
        """As of any estimator; `options__step_size` is a setting of `options`, for searches."""
        settings = {name.removeprefix(OPTIONS): params.pop(name) for name in list(params) if name.startswith(OPTIONS)}
        super().set_params(**params)
        if settings:
            self.options = {**(self.options or {}), **settings}
        return self

    def _train(
        self, x: NDArray[np.float32], y: Tensor, outputs: int, weights: NDArray[np.float64] | None, **settings: Any
    ) -> None:
        options = dict(self.options or {})
        if taken := {*WISHES, "epochs", "lr", "batch_size", "seed"} & options.keys():
            do = "Set the estimator's parameter of that name (random_state for seed)."
            raise InputError("options beyond the estimator's parameters", ", ".join(sorted(taken)), do)
        _warn_of_scales(x)
        seed = self._seed()
        settings = {"batch_size": min(128, max(8, len(x) // 20)), **settings}  # some twenty steps an epoch, on few samples, too
        given = {name: getattr(self, name) for name in ("lr", "batch_size") if getattr(self, name) is not None}
        wishes = {name: getattr(self, name) for name in WISHES if name != "tolerance" and getattr(self, name) is not None}
        wish = wishes or {"tolerance": self.tolerance}
        config = configure(**{**settings, **given, **wish, "epochs": self.epochs, "seed": seed, **options})
        # and two samples in every part
        parts = {name: max(getattr(config, name), 2 / len(x)) for name in ("pair_share", "validation_share")}
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            model = self._untrained(x.shape[1:], outputs)
        self._config = config.model_copy(update=parts)
        counted = None if weights is None else torch.from_numpy(weights)
        trained = fit(model, (torch.tensor(x), y), sample_weight=counted, **self._config.model_dump())
        self.model_ = trained.model.cpu()
        self.history_ = trained.history
        self.result_ = trained.result
        self.weight_ = trained.result["weight"]
        self._starts, self._multipliers = torch.tensor(x[:STARTS]), trained.multipliers
        self._bracket: LipschitzBracket | None = None

    def _weights(self, sample_weight: ArrayLike | None, x: NDArray[np.float32]) -> NDArray[np.float64] | None:
        if sample_weight is None:
            return None
        weights: NDArray[np.float64] = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
        return None if np.all(weights == weights[0]) and weights[0] > 0 else weights

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

    @property
    def lipschitz_bracket_(self) -> LipschitzBracket:
        """The bracket lower <= Lip(f) <= upper of `model_` on all inputs; computed when first asked for, in up to a minute."""
        check_is_fitted(self)
        if self._bracket is None:
            self._bracket = lipschitz_bracket(self.model_, self._starts, multipliers=self._multipliers)
        return self._bracket

    def _inputs(self, X: ArrayLike) -> Tensor:
        check_is_fitted(self)
        return torch.from_numpy(np.array(validate_data(self, X, dtype=np.float32, reset=False)))

    @torch.no_grad()
    def _outputs(self, x: Tensor) -> Tensor:
        """f(x) in float64 where the network is ours: rounding then hardly depends on which inputs go together."""
        if self.module is not None:
            return torch.cat([forward(self.model_, part) for part in x.split(CHUNK)]).double()
        model = in_float64(self.model_)
        return torch.cat([forward(model, part.double()) for part in x.split(CHUNK)])


def _warn_of_scales(x: NDArray[np.float32]) -> None:
    """`ScaleWarning` where features are too large to train on, or one so large that distances are differences in it alone."""
    deviations = x.astype(np.float64).std(axis=0)
    largest, usual = deviations.max(), float(np.median(deviations))
    if largest > LARGE or largest > UNEQUAL * usual > 0:
        warnings.warn(
            f"A feature has a standard deviation of {largest:.3g}, the median of all is {usual:.3g}. Distances between inputs, "
            "and with them pairs, radii and the constant, are in these units, and training expects values about 1. Scale the "
            "features first, for example with make_pipeline(StandardScaler(), ...).",
            ScaleWarning,
            stacklevel=4,
        )
