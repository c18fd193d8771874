"""`LipschitzTrainerMixin`: cheap Lipschitz training by the Trainer of Hugging Face. Nothing here imports transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .regularization.term import PenaltyTerm
from .training.schedule import SHORTEST, UPDATES

STATE = "lipschitz.pt"
"""The file of the term's state in a checkpoint's folder."""


class LipschitzTrainerMixin:
    """Adds a `PenaltyTerm` to the loss of a `transformers.Trainer`; stands before it in the bases.

    The term is of the model in evaluation mode, and of whatever the penalty's f says: for token ids that is the network
    behind the embedding (see the example). Hooks do the rest: the ascent after every step of the optimizer, some 30 updates
    of the weight in a run (its warm-up is counted in these), the state in the checkpoints, `lipschitz_weight` and
    `lipschitz_lower_bound` in the log.

    Args:
        lipschitz_term: the penalty and its scheduler. Its running accuracy is that of `logits` against `labels`.
        *args, **kwargs: the Trainer's.

    Example:
        A classifier of texts, with pairs of embeddings::

            class StableTrainer(LipschitzTrainerMixin, transformers.Trainer):
                pass

            def network(embedded):
                return model(inputs_embeds=embedded).logits

            pairs = cheaplip.embedding_pairs(model.get_input_embeddings(), held_out_ids)
            penalty = cheaplip.LipschitzRegularizer(network, pairs)
            term = cheaplip.PenaltyTerm(penalty, cheaplip.DiscrepancyPrinciple(tolerance=0.01))
            StableTrainer(model, training_arguments, train_dataset=texts, lipschitz_term=term).train()
    """

    args: Any  # these are the Trainer's
    state: Any
    current_gradient_accumulation_steps: int
    compute_loss_func: Any
    model_accepts_loss_kwargs: bool

    def __init__(self, *args: Any, lipschitz_term: PenaltyTerm, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lipschitz_term = lipschitz_term
        self._hooked: torch.optim.Optimizer | None = None

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The Trainer's loss and, in training, the term."""
        labels = inputs.get("labels")
        loss, outputs = super().compute_loss(  # type: ignore[misc]
            model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
        )
        if model.training:
            # such a loss is a share of the accumulated batch already; of any other the Trainer takes the share later
            is_share = (self.model_accepts_loss_kwargs and num_items_in_batch is not None) or self.compute_loss_func is not None
            share = 1 / self.current_gradient_accumulation_steps if is_share else 1.0
            loss = loss + share * self.lipschitz_term(_logits(outputs), labels)
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The Trainer's optimizer, after each step of which the penalty takes its own."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(*args, **kwargs)  # type: ignore[misc]
        if self._hooked is not optimizer:
            optimizer.register_step_post_hook(lambda *_: self._lipschitz_step())
            self._hooked = optimizer
        return optimizer

    def _lipschitz_step(self) -> None:
        self.lipschitz_term.step()
        period = max(SHORTEST, self.state.max_steps // UPDATES)
        if (self.state.global_step + 1) % period == 0:
            self.lipschitz_term.update_weight()

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The Trainer's log, with the weight and the lower bound of Lip(f) beside the loss."""
        if "loss" in logs:
            metrics = self.lipschitz_term.metrics()
            known = {name: metrics[name] for name in ("weight", "lower_bound")}
            logs = {**logs, **{f"lipschitz_{name}": value for name, value in known.items() if value is not None}}
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The Trainer's files, and the state of the term."""
        super().save_model(output_dir, _internal_call)  # type: ignore[misc]
        if self.args.should_save:
            torch.save(self.lipschitz_term.state_dict(), Path(output_dir or self.args.output_dir) / STATE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
        if checkpoint is not None and (path := Path(checkpoint) / STATE).exists():
            self.lipschitz_term.load_state_dict(torch.load(path, weights_only=True))


def _logits(outputs: Any) -> Tensor:
    logits: Tensor = outputs["logits"] if isinstance(outputs, dict) else outputs[1]
    return logits
