"""`LipschitzMixin`: cheap Lipschitz training in a LightningModule. Nothing here imports lightning."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from .errors import InputError
from .inference import Model
from .pairs.sets import PairSet
from .regularization.discrepancy import ConstantWeight, DiscrepancyPrinciple
from .regularization.regularizer import LipschitzRegularizer


class LipschitzMixin:
    """Adds the penalty, its ascent and the discrepancy principle to a LightningModule; stands before it in the bases.

    Two calls: `configure_lipschitz` in `__init__`, and `lipschitz_penalty` as a term of the loss that `training_step`
    returns. The rest happens in hooks: the ascent after every batch, the update of the weight after the last batch of an
    epoch, the state in the checkpoint, and `lipschitz_weight` and `lipschitz_lower_bound` in the log. A module that
    overrides `on_train_batch_end`, `on_save_checkpoint` or `on_load_checkpoint` calls `super()`'s.

    The penalty belongs into the loss, not into a callback that adds gradients after the backward pass: under DDP that
    would pull the processes apart. Made for one device and for DDP, where every process has the same pairs and the
    principle sees the accuracy of all; not for strategies that shard the parameters.

    Attributes:
        lipschitz_regularizer: holds the pairs.
        lipschitz_principle: holds the weight.

    Example:
        A complete module::

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

    trainer: Any  # these two are LightningModule's
    log_dict: Any

    def configure_lipschitz(
        self, model: Model, pairs: PairSet, principle: DiscrepancyPrinciple | ConstantWeight, **regularizer_options: Any
    ) -> None:
        """Say what is regularised; once, in `__init__`, after `super().__init__()`.

        Args:
            model: f, the network: a submodule, or `self` if `forward` is f.
            pairs: X_Lip.
            principle: with a target accuracy for class labels, with `quantity="loss"` and a mean squared error for real
                values, or a `ConstantWeight`.
            **regularizer_options: of `LipschitzRegularizer`, such as `active=64`.

        Raises:
            InputError: what `LipschitzRegularizer` refuses.
        """
        self._make_lipschitz_regularizer = partial(LipschitzRegularizer, model, pairs, **regularizer_options)
        self.lipschitz_regularizer = self._make_lipschitz_regularizer()
        self.lipschitz_principle = principle
        self._lipschitz_observed = torch.zeros(2)  # of this epoch: right answers or sum of squared errors, samples
        self._lipschitz_batch: tuple[int, int] | None = None  # the one whose penalty was given and whose end is to come

    def lipschitz_penalty(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The term to add to the loss, weight * penalty, once in every `training_step`; 0 while the weight is 0.

        Args:
            outputs: f(x) on the batch, `(n, classes)` logits or `(n, *output)` values; what the principle looks at.
            y: `(n,)` integer labels, or `(n, *output)` floating values.

        Raises:
            InputError: `configure_lipschitz` was not called, the principle's quantity does not fit y, or the hook at the
                end of a batch did not run.
        """
        if not hasattr(self, "lipschitz_principle"):
            raise InputError("configure_lipschitz before training", "no such call", "Call it in __init__.")
        self._note_lipschitz_batch()
        self._observe_lipschitz(outputs.detach(), y)
        if self.lipschitz_principle.weight == 0:
            return outputs.new_zeros(())
        if self.lipschitz_regularizer.state.points.device != outputs.device:  # made in __init__, before the model was moved
            made = self._make_lipschitz_regularizer()
            made.load_state_dict(self.lipschitz_regularizer.state_dict())
            self.lipschitz_regularizer = made
        return self.lipschitz_principle.weight * self.lipschitz_regularizer()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Algorithm 1: raise the quotients of the pairs that are next; at the end of an epoch, move the weight."""
        super().on_train_batch_end(outputs, batch, batch_idx)  # type: ignore[misc]
        self._lipschitz_batch = None
        if self.lipschitz_principle.weight > 0:
            self.lipschitz_regularizer.step()
        if self.trainer.is_last_batch:  # not on_train_epoch_end: a checkpoint after validation comes before that
            self._step_lipschitz_principle()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Pairs, weight and the count of this epoch, as `lipschitz`."""
        super().on_save_checkpoint(checkpoint)  # type: ignore[misc]
        checkpoint["lipschitz"] = {
            "regularizer": self.lipschitz_regularizer.state_dict(),
            "principle": self.lipschitz_principle.state_dict(),
            "observed": self._lipschitz_observed,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue from a checkpoint; one that was made without this mixin starts the penalty from the beginning."""
        super().on_load_checkpoint(checkpoint)  # type: ignore[misc]
        if "lipschitz" in checkpoint:
            state = checkpoint["lipschitz"]
            self.lipschitz_regularizer.load_state_dict(state["regularizer"])
            self.lipschitz_principle.load_state_dict(state["principle"])
            self._lipschitz_observed = state["observed"]

    def _note_lipschitz_batch(self) -> None:
        now = self.trainer.current_epoch, self.trainer.fit_loop.batch_idx
        if self._lipschitz_batch not in (None, now):  # the same one again: an optimizer with a closure, or two of them
            do = "Name LipschitzMixin before LightningModule, and call super().on_train_batch_end(outputs, batch, batch_idx)."
            raise InputError("LipschitzMixin.on_train_batch_end to run after every batch", "it did not", do)
        self._lipschitz_batch = now

    def _observe_lipschitz(self, outputs: Tensor, y: Tensor) -> None:
        quantity = getattr(self.lipschitz_principle, "quantity", None)  # a constant weight looks at nothing
        if quantity not in (None, "loss" if y.is_floating_point() else "accuracy"):
            do = 'Give integer labels, or DiscrepancyPrinciple(target, quantity="loss") for floating values.'
            raise InputError(f"y that fits a target {quantity}", y.dtype, do)
        if y.is_floating_point():
            total = mse_loss(outputs.float(), y.float()) * len(y)
        else:
            total = (outputs.argmax(1) == y).sum().float()
        observed = torch.stack([total, torch.full_like(total, len(y))])
        self._lipschitz_observed = self._lipschitz_observed.to(total.device) + observed

    def _step_lipschitz_principle(self) -> None:
        principle = self.lipschitz_principle
        log = {"lipschitz_weight": principle.weight, "lipschitz_lower_bound": self.lipschitz_regularizer.lower_bound()}
        self.log_dict(log, on_step=False, on_epoch=True, batch_size=1, sync_dist=True)
        total, samples = self.trainer.strategy.reduce(self._lipschitz_observed, reduce_op="sum").tolist()
        principle.step(total / samples)
        self._lipschitz_observed = torch.zeros(2)
