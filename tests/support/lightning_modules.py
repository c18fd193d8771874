"""What a user of Lightning writes, and a trainer that says nothing."""

import warnings

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from cheaplip import DiscrepancyPrinciple, perturbed_pairs
from cheaplip.lightning import LipschitzMixin
from support.networks import dense, digits

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of lightning's own dependencies
    lightning = pytest.importorskip("lightning")

quietly = pytest.mark.filterwarnings("ignore:::lightning")
"""Without its deprecated calls, its hints at faster settings."""


class Classifier(LipschitzMixin, lightning.LightningModule):
    """What a user writes."""

    def __init__(self, scheduler, **options):
        super().__init__()
        self.network = dense()
        self.configure_lipschitz(
            self.network, perturbed_pairs(digits(60)[0]), scheduler, **{"active": 8, "interval": 2, **options}
        )

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.network(x)
        return cross_entropy(logits, y) + self.lipschitz_penalty(logits, y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("validation_loss", cross_entropy(self.network(x), y))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def scheduler(**settings):
    return DiscrepancyPrinciple(0.7, **{"warmup": 1, "initial": 0.1, **settings})


def loader(x, y):
    return DataLoader(TensorDataset(x, y), batch_size=32)


def samples():
    return loader(*(part[60:] for part in digits()))


def train(module, epochs, *, data=None, validation=None, ckpt_path=None, **settings):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(**{**quiet, "max_epochs": epochs, "num_sanity_val_steps": 0, **settings})
    trainer.fit(module, samples() if data is None else data, validation, ckpt_path=ckpt_path, weights_only=True)
    return trainer
