"""All that decides a run, as plain data: `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveInt, field_validator

from ..models.config import ModelConfig
from ..records import Record, validated
from ..training.config import TrainConfig

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class EvaluationConfig(Record):
    """How a network is evaluated; see `evaluate_robustness`."""

    eps: Positive = 2.0
    """Radius of the attacks."""
    noise: Positive = 1.0
    """Standard deviation of the Gaussian noise."""
    iterations: PositiveInt = 100
    """Steps of the attacks."""
    restarts: PositiveInt = 1
    """Random starts of the strong attack."""
    attack_samples: PositiveInt = 2000
    """Test samples that are attacked."""
    curve: tuple[Positive, ...] = Field((0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0), strict=False)
    """Radii of the accuracy-versus-eps curve."""
    curve_samples: PositiveInt = 500
    """Test samples of the accuracy-versus-eps curve."""
    lipschitz_samples: PositiveInt = 500
    """Test inputs from which the lower bound of Lip(f) is searched."""
    certified: tuple[Positive, ...] = Field((), strict=False)
    """Radii at which the test samples are certified, with multipliers searched for every pair of classes."""

    def altered(self, options: Mapping[str, Any]) -> EvaluationConfig:
        """The same with other fields, the curve in proportion to eps; `InputError` for a name or a value that is not valid."""
        changed = validated(EvaluationConfig, {**self.model_dump(), **options})
        if changed.eps == self.eps or "curve" in options:
            return changed
        curve = tuple(float(f"{point * changed.eps / self.eps:.4g}") for point in self.curve)
        return changed.model_copy(update={"curve": curve})


EVALUATIONS = {"digits": EvaluationConfig().altered({"eps": 0.75})}
"""Where the images are not 28x28: digits have 8x8 pixels and about a third of MNIST's norm, so eps is 0.75 there."""


class RunConfig(Record):
    """Data, network, training and evaluation of a run."""

    data: str
    """digits, mnist, fashion-mnist, or FILE.npz with arrays X and y."""
    model: ModelConfig = ModelConfig()
    training: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @field_validator("data")
    @classmethod
    def _found_from_anywhere(cls, data: str) -> str:
        return str(Path(data).resolve()) if data.lower().endswith(".npz") else data
