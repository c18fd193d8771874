"""Everything that decides a training run, in one record; unknown names and values are refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, FiniteFloat, model_validator

from ..errors import InputError
from ..records import validated
from ..regularization.options import CONSTRAINT, LocalOptions, PairOptions

WISHES = ("tolerance", "target", "lipschitz", "weight")
"""What a user may wish for, one of them."""
WARMUP = 3
"""Epochs (in short runs: updates) without a weight, where a target is given."""


class TrainConfig(PairOptions, LocalOptions):
    """The settings of `fit`; the values here are the preset `default`."""

    method: Literal["standard", "weight", "clip", "local"] = "clip"
    """What is added to the loss: standard: nothing; weight: |theta|, equation (6); clip: Lip(f, X_Lip), equation (2); local:
    the worst rise of the loss in a ball round each sample, against attacks (see `LocalRegularizer`); it needs tensors."""
    tolerance: FiniteFloat | None = Field(0.01, gt=0, lt=1)
    """What may be given up against plain training: 0.01 is one point of accuracy, or one per cent of the loss. The first
    half of the run is plain training, which shows what there is to give up."""
    target: FiniteFloat | None = Field(None, gt=0)
    """Accuracy in (0, 1), or loss for regression, that the weight is steered to, instead of a tolerance."""
    lipschitz: FiniteFloat | None = Field(None, gt=0)
    """A Lipschitz constant to keep, Lip(f) <= this, instead of a tolerance; for clip. The weight is steered by the constant
    on the pairs, and with certify by the proved upper bound."""
    weight: FiniteFloat | None = Field(None, ge=0)
    """A constant weight (lambda, mu), instead of a tolerance."""
    steer_by: Literal["training", "validation"] = "training"
    """Samples whose accuracy or loss steers the weight: training (the running value, free) or validation (held out)."""
    epochs: int = Field(30, ge=1)
    """Passes over the fitting part."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Of the split, the initialisation, the batches, noise and attacks."""
    batch_size: int = Field(128, ge=1)
    """Samples in a step, of all processes together."""
    optimizer: str = "SGD"
    """Any class of torch.optim, or `StiefelMuon`."""
    optimizer_options: dict[str, Any] = Field({"momentum": 0.9})
    """Further options of the optimizer, by name."""
    lr: FiniteFloat = Field(0.1, gt=0)
    """Learning rate."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Of the learning rate: cosine (from lr down to 2 % of it, step by step) or constant."""

    pair_share: FiniteFloat = Field(0.1, gt=0, lt=0.5)
    """Share of the training set held out for X_Lip: 6,000 of MNIST's 60,000."""
    pair_noise: FiniteFloat = Field(0.1, gt=0)
    """Noise of the pairs: they are held-out inputs and copies with noise uniform on [0, this]."""
    input_noise: FiniteFloat = Field(0.0, ge=0)
    """Largest standard deviation of noise on inputs that the network is to bear, far beyond the pairs, such as 1 for images in
    [0, 1]; for clip, without a constant to keep. 0: none (see `NoiseRegularizer`). It takes half the passes of the pairs."""
    redraw: bool = False
    """Draw the pairs afresh before every epoch, as the paper's regression does."""
    validation_share: FiniteFloat = Field(0.05, gt=0, lt=0.5)
    """Share held out for choosing the checkpoint."""
    keep: Literal["last", "best-pgd"] = "last"
    """Checkpoint to keep: last, or best-pgd (the best accuracy under eq. (14) on the validation part, after the warm-up)."""
    eps: FiniteFloat = Field(2.0, gt=0)
    """Radius of eq. (14) for best-pgd."""

    certify: FiniteFloat = Field(0.0, ge=0)
    """Share of the certified upper bound's square in the penalty, for method clip; 1 certifies the most samples on MNIST."""
    margin: FiniteFloat = Field(0.0, ge=0)
    """Margin between logits that the loss asks for, such as 4 (see `margin_cross_entropy`). It ramps up with the weight, or
    from the first epoch on in a run without one."""
    saturation: FiniteFloat = Field(0.0, ge=0, lt=1)
    """In [0, 1): bounds the loss of misclassified samples, such as 0.3 (see `margin_cross_entropy`). It ramps up likewise."""

    rule: Literal["multiplicative", "additive"] = "multiplicative"
    """How the weight moves: multiplicative, or additive (the paper's); see `DiscrepancyPrinciple`."""
    initial_weight: FiniteFloat | None = Field(None, ge=0)
    """The weight after the warm-up; by default 0.1, for local 0.3, for weight 0.01; of the additive rule one increment."""
    increment: FiniteFloat | None = Field(None, gt=0)
    """Step of the additive rule; by default 0.01 for clip, 1e-4 for weight, of which the paper's values are multiples."""
    warmup: int | None = Field(None, ge=0)
    """Epochs without a weight; in runs of fewer than 30 epochs, updates of the weight (some 30 in a run). By default 3; with
    a tolerance half of the run."""
    update: Literal["epoch", "minibatch"] = "epoch"
    """When the rule moves the weight: by the running accuracy of an epoch (oftener in runs of fewer than 30), or by each
    minibatch's own (the paper's print)."""
    squared: bool = False
    """For the method weight: |theta|^2 instead of |theta|."""

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        wishes = {name: getattr(self, name) for name in WISHES}
        if self.method != "standard" and sum(value is not None for value in wishes.values()) != 1:
            got = ", ".join(f"{name} {value}" for name, value in wishes.items())
            do = "Set the others to None."
            raise InputError("a tolerance, a target, a Lipschitz constant or a constant weight, one of them", got, do)
        if self.lipschitz is not None and self.method != "clip":
            raise InputError("method='clip' for a Lipschitz constant", repr(self.method), "Only clip measures it.")
        if self.input_noise and self.method != "clip":
            raise InputError("method='clip' for a noise to bear", repr(self.method), "Use clip, or input_noise=0.")
        if self.input_noise and self.lipschitz is not None:
            do = "Slopes far from data count beside those that are kept: use a target or a tolerance, or input_noise=0."
            raise InputError("no Lipschitz constant to keep beside a noise to bear", f"lipschitz {self.lipschitz}", do)
        if self.update == "minibatch" and self.rule != "additive":
            do = "Its small steps average over the minibatches; the multiplicative rule is made for one update an epoch."
            raise InputError("rule='additive' for update='minibatch'", repr(self.rule), do)
        if self.update == "minibatch" and self.steer_by != "training":
            do = "There the weight follows each minibatch's own value."
            raise InputError("steer_by='training' for update='minibatch'", repr(self.steer_by), do)
        if self.keep == "best-pgd" and self.epochs <= self.choose_after:
            got = f"{self.epochs} epochs with {self.choose_after} of warm-up"
            raise InputError("an epoch after the warm-up for keep='best-pgd'", got, "Train longer or keep the last epoch.")
        return self

    @property
    def choose_after(self) -> int:
        """Epochs that best-pgd passes over: those before the method acts."""
        if self.method == "standard" or self.weight is not None:
            return 0
        if self.warmup is not None:
            return self.warmup
        return self.epochs // 2 if self.compares else WARMUP

    @property
    def compares(self) -> bool:
        """Whether the run begins with plain training, which shows what there is to give up."""
        return self.method != "standard" and self.tolerance is not None


def altered(config: TrainConfig, options: Mapping[str, Any]) -> TrainConfig:
    """`config` with some settings changed; a wish among them takes the place of the one before."""
    values = {**config.model_dump(), **options}
    if any(options.get(wish) is not None for wish in WISHES):
        values |= {wish: None for wish in WISHES if wish not in options}
    if options.get("lipschitz") is not None:
        values |= {**CONSTRAINT, "allowed": options["lipschitz"], **options}
    return validated(TrainConfig, values)
