"""scikit-learn estimators around `fit`: `CLIPClassifier` and `CLIPRegressor`, for pipelines and searches over arrays."""

from .classifier import CLIPClassifier
from .regressor import CLIPRegressor

__all__ = ["CLIPClassifier", "CLIPRegressor"]
