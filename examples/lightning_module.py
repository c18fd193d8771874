"""Lightning: a mixin, two calls; the Trainer does the rest. Needs the extra `lightning`."""

import logging
import sys
import warnings

import lightning
import matplotlib.pyplot as plt
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import cheaplip
from cheaplip.lightning import LipschitzMixin

EPOCHS = 40
warnings.filterwarnings("ignore", module="lightning")  # advice on the number of workers
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # of devices, and other packages


class Classifier(LipschitzMixin, lightning.LightningModule):
    """An MLP on digits."""

    def __init__(self, held_out, weight):
        super().__init__()
        self.network = cheaplip.models.mlp((1, 8, 8), 10)
        self.configure_lipschitz(self.network, cheaplip.perturbed_pairs(held_out), weight)
        self.accuracies = []

    def training_step(self, batch, batch_idx):  # noqa: D102
        x, y = batch
        logits = self.network(x)
        return cross_entropy(logits, y) + self.lipschitz_penalty(logits, y)

    def validation_step(self, batch, batch_idx):  # noqa: D102
        x, y = batch
        x = x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        self.accuracies.append(float((self.network(x).argmax(1) == y).double().mean()))

    def configure_optimizers(self):  # noqa: D102
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)]


data = cheaplip.data.load("digits")
held_out, x, y = data.train_x[:100], data.train_x[100:], data.train_y[100:]
batches = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)
test = DataLoader(TensorDataset(data.test_x, data.test_y), batch_size=1000)
figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
for name, weight in {"plain": cheaplip.ConstantWeight(0.0), "clip": cheaplip.DiscrepancyPrinciple(tolerance=0.01)}.items():
    lightning.seed_everything(0, verbose=False)
    module = Classifier(held_out, weight)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=EPOCHS, accelerator="cpu", num_sanity_val_steps=0, **quiet)
    trainer.fit(module, batches, test)
    lower = cheaplip.lower_bound(module.network.eval(), data.test_x[:50], budget=5).value
    right = (module.network(data.test_x).argmax(1) == data.test_y).double().mean()
    print(f"{name}: test accuracy {right:.3f}, with noise {module.accuracies[-1]:.3f}, Lip(f) >= {lower:.2f}")
    axes.plot(range(1, EPOCHS + 1), module.accuracies, label=f"{name}, Lip >= {lower:.1f}")
axes.set(xlabel="epoch", ylabel="test accuracy with noise of 0.3")
axes.legend()
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=100)
