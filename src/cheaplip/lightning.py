"""`LipschitzMixin`: cheap Lipschitz training in a LightningModule. Nothing here imports lightning."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .errors import InputError
from .inference import Model
from .pairs.sets import PairSet
from .regularization.certificate import with_certificate
from .regularization.options import CONSTRAINT
from .regularization.penalty import Penalty
from .regularization.regularizer import LipschitzRegularizer
from .regularization.scheduler import WeightScheduler
from .regularization.term import PenaltyTerm


class LipschitzMixin:
    """Adds a `PenaltyTerm` to a LightningModule; stands before it in the bases.

    Two calls: `configure_lipschitz` in `__init__`, and `lipschitz_penalty` as a term of the loss that `training_step`
    returns. Hooks do the rest: the ascent after every step of the optimizer, the update of the weight after the last of an
    epoch, the state in the checkpoint, and `lipschitz_weight` and `lipschitz_lower_bound` in the log. A module that overrides
    `optimizer_step`, `on_before_optimizer_step`, `on_train_batch_end`, `on_save_checkpoint` or `on_load_checkpoint` calls
    `super()`'s.

    The penalty belongs into the loss, not into a callback that adds gradients after the backward pass: under DDP such a
    callback makes the processes diverge. Made for one device and for DDP, where every process has the same pairs and the
    scheduler sees the accuracy of all; not for strategies that shard the parameters.

    Attributes:
        lipschitz_term: holds the penalty and the scheduler.

    Example:
        A complete module::

            import lightning
            import torch
            from torch.nn.functional import cross_entropy

            import cheaplip
            from cheaplip.lightning import LipschitzMixin

            class Classifier(LipschitzMixin, lightning.LightningModule):
                def __init__(self, held_out_inputs):
                    super().__init__()
                    self.network = cheaplip.models.mlp((64,), 10)
                    pairs = cheaplip.perturbed_pairs(held_out_inputs)
                    self.configure_lipschitz(self.network, pairs, cheaplip.DiscrepancyPrinciple(0.95))

                def training_step(self, batch, batch_idx):
                    x, y = batch
                    logits = self.network(x)
                    return cross_entropy(logits, y) + self.lipschitz_penalty(logits, y)

                def configure_optimizers(self):
                    return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
    """

    trainer: Any  # these are LightningModule's
    log_dict: Any
    automatic_optimization: bool

    def configure_lipschitz(
        self,
        model: Model,
        pairs: PairSet | Penalty,
        scheduler: WeightScheduler,
        *,
        certify: float = 0.0,
        **regularizer_options: Any,
    ) -> None:
        """Say what is regularised; once, in `__init__`, after `super().__init__()`.

        Args:
            model: f, the network: a submodule, or `self` if `forward` is f.
            pairs: X_Lip, or a penalty on the same network in its place, such as a `LocalRegularizer`.
            scheduler: a `DiscrepancyPrinciple` with a target accuracy for class labels, with `quantity="loss"` and a mean
                squared error for real values, with `quantity="lipschitz"` and a constant to keep, or a `ConstantWeight`.
            certify: share of the certified upper bound's square in the penalty.
            **regularizer_options: of `LipschitzRegularizer`, such as `active=64`.

        Raises:
            InputError: what `LipschitzRegularizer` and `with_certificate` refuse.
        """
        if isinstance(pairs, PairSet):
            limit = {"allowed": scheduler.target, **CONSTRAINT} if scheduler.quantity == "lipschitz" else {}
            options = {"hold": not certify, **limit} | regularizer_options
            pairs = with_certificate(LipschitzRegularizer(model, pairs, **options), certify)
        elif certify or regularizer_options:
            got = f"{type(pairs).__name__} and certify {certify}, {regularizer_options}"
            raise InputError("pairs for these options", got, "Give them to the penalty, or add penalties with PenaltySum.")
        self.lipschitz_term = PenaltyTerm(pairs, scheduler)
        self._lipschitz_batch: tuple[int, int] | None = None  # the one whose penalty was given and whose end is to come
        self._lipschitz_known: dict[str, float] = {}  # of an epoch, to be logged

    def lipschitz_penalty(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The term to add to the loss, weight * penalty, once in every `training_step`; 0 while the weight is 0.

        Args:
            outputs: f(x) on the batch, `(n, classes)` logits or `(n, *output)` values; what the scheduler looks at.
            y: `(n,)` integer labels, or `(n, *output)` floating values.

        Raises:
            InputError: `configure_lipschitz` was not called, the scheduler's quantity does not fit y, or the hook at the
                end of a batch did not run.
        """
        if not hasattr(self, "lipschitz_term"):
            raise InputError("configure_lipschitz before training", "no such call", "Call it in __init__.")
        self._note_lipschitz_batch()
        return self.lipschitz_term(outputs, y)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Limit the gradients where the penalty has a certificate."""
        super().on_before_optimizer_step(optimizer)  # type: ignore[misc]
        self.lipschitz_term.clip_gradients()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """After the optimizer: raise the quotients of the pairs that are next; at the end of an epoch, move the weight.

        This is before any callback sees the end of the batch: a checkpoint of `every_n_train_steps` has the state after it.
        """
        super().optimizer_step(*args, **kwargs)  # type: ignore[misc]
        self._lipschitz_step()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """With manual optimization, the step of the penalty; and the log of an epoch."""
        super().on_train_batch_end(outputs, batch, batch_idx)  # type: ignore[misc]
        self._lipschitz_batch = None
        if not self.automatic_optimization:
            self._lipschitz_step()
        if self._lipschitz_known:
            self.log_dict(self._lipschitz_known, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
            self._lipschitz_known = {}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The state of the term, as `lipschitz`."""
        super().on_save_checkpoint(checkpoint)  # type: ignore[misc]
        checkpoint["lipschitz"] = self.lipschitz_term.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue from a checkpoint; one that was made without this mixin starts the penalty from the beginning."""
        super().on_load_checkpoint(checkpoint)  # type: ignore[misc]
        if "lipschitz" in checkpoint:
            self.lipschitz_term.load_state_dict(checkpoint["lipschitz"])

    def _lipschitz_step(self) -> None:
        self.lipschitz_term.step()
        if self.trainer.is_last_batch:  # not on_train_epoch_end: a checkpoint after validation comes before that
            metrics = self.lipschitz_term.metrics()
            known = {name: metrics[name] for name in ("weight", "lower_bound")}
            self._lipschitz_known = {f"lipschitz_{name}": value for name, value in known.items() if value is not None}
            self.lipschitz_term.update_weight()

    def _note_lipschitz_batch(self) -> None:
        now = self.trainer.current_epoch, self.trainer.fit_loop.batch_idx
        if self._lipschitz_batch not in (None, now):  # the same one again: an optimizer with a closure, or two of them
            do = "Name LipschitzMixin before LightningModule, and call super().on_train_batch_end(outputs, batch, batch_idx)."
            raise InputError("LipschitzMixin.on_train_batch_end to run after every batch", "it did not", do)
        self._lipschitz_batch = now
