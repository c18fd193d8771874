"""A GRU on a time series: one step ahead of noisy sine waves, and what noise on its input does to the forecast."""

import sys

import matplotlib.pyplot as plt
import torch
from torch import nn

import cheaplip

EPOCHS, LENGTH = 60, 20


class Forecast(nn.Module):
    """The next value of a series."""

    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(1, 32, batch_first=True), nn.Linear(32, 1)

    def forward(self, x):  # noqa: D102
        return self.head(self.gru(x)[0][:, -1])


def series(n, seed):
    generator = torch.Generator().manual_seed(seed)
    start, speed = 6.3 * torch.rand(n, 1, generator=generator), 0.2 + 0.3 * torch.rand(n, 1, generator=generator)
    clean = torch.sin(start + speed * torch.arange(LENGTH + 1))[..., None]
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=generator)
    return noisy[:, :-1], noisy[:, -1], clean[:, -1]


x, y, _ = series(500, 0)
x_test, _, truth = series(500, 1)
noises = (0.0, 0.1, 0.2, 0.4)
figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
for method in ("standard", "clip"):
    torch.manual_seed(0)
    settings = {"optimizer": "Adam", "optimizer_options": {}, "lr": 0.01, "batch_size": 32, "epochs": EPOCHS}
    model = cheaplip.fit(Forecast(), (x, y), method=method, **settings).model
    lower = cheaplip.lower_bound(model, x_test[:32], budget=5).value
    torch.manual_seed(1)
    with torch.no_grad():
        errors = [float((model(x_test + s * torch.randn(x_test.shape)) - truth).square().mean().sqrt()) for s in noises]
    print(f"{method}: Lip(f) >= {lower:.2f}, errors {', '.join(f'{error:.3f}' for error in errors)}")
    axes.plot(noises, errors, marker="o", label=method)
axes.set(xlabel="further noise on the input", ylabel="error of the forecast")
axes.legend()
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=100)
