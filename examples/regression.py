"""Regression with gaps in the data: the penalty keeps the network from steep bends where nothing holds it."""

import torch

import cheaplip
from cheaplip.models import mlp


def truth(x):
    return (x.abs() - 3).clamp(min=0) / 2  # Lip = 0.5


torch.manual_seed(0)
x = torch.cat([torch.rand(30, 1) * 2 - 5, torch.rand(10, 1) - 0.5, torch.rand(30, 1) * 2 + 3])  # gaps around -2 and 2
y = truth(x) + 0.1 * torch.randn(x.shape)

for weight in (0.0, 0.01, 0.1):
    torch.manual_seed(0)
    trained = cheaplip.fit(
        mlp((1,), 1, hidden=(100, 100), activation="tanh"),
        (x, y),
        method="clip",
        weight=weight,
        pairs=cheaplip.uniform_pairs(torch.tensor([-5.0]), torch.tensor([5.0]), n=100, noise=0.1),
        redraw=True,  # fresh pairs every epoch
        optimizer="Adam",
        optimizer_options={},
        lr=0.01,
        batch_size=32,
        epochs=500,
    )
    grid = torch.linspace(-5, 5, 400)[:, None]
    with torch.no_grad():
        error = (trained.model(grid) - truth(grid)).square().mean()
    bracket = cheaplip.lipschitz_bracket(trained.model, grid)
    print(
        f"weight {weight}: training loss {trained.result['train_loss']:.4f}, error on [-5, 5], gaps included, {error:.4f}, "
        f"{bracket.lower:.2f} <= Lip(f) <= {bracket.upper:.2f}"
    )
