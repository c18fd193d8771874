"""A critic whose Wasserstein distance is proved: of two samples, with the exact distance beside it."""

import sys

import matplotlib.pyplot as plt
import torch
from scipy.optimize import linear_sum_assignment

import cheaplip

STEPS = 800

torch.manual_seed(0)
angles = torch.arange(256) * torch.pi / 4
ring = 2 * torch.stack([angles.cos(), angles.sin()], dim=1) + 0.1 * torch.randn(256, 2)
middle = 0.3 * torch.randn(256, 2)
cost = torch.cdist(ring, middle)
exact = float(cost[linear_sum_assignment(cost)].mean())

critic = cheaplip.models.mlp((2,), 1, activation="abs")
pairs = cheaplip.perturbed_pairs(torch.cat([ring, middle]))
regularizer = cheaplip.LipschitzRegularizer(critic, pairs, allowed=1.0, interval=1, power=1, hold=False)
certificate = cheaplip.CertificateRegularizer(critic, (2,), allowed=1.0, interval=1, power=1)
penalty = cheaplip.PenaltySum([(1.0, regularizer), (1.0, certificate)])
term = cheaplip.PenaltyTerm(penalty, cheaplip.DiscrepancyPrinciple(1.0, quantity="lipschitz"))
optimizer = torch.optim.Adam(critic.parameters(), lr=0.003, betas=(0.5, 0.9))
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)

for _ in range(STEPS):
    distance = critic(ring).mean() - critic(middle).mean()
    optimizer.zero_grad()
    (term() - distance).backward()
    term.clip_gradients()
    optimizer.step()
    schedule.step()
    term.step()

bracket = cheaplip.lipschitz_bracket(critic, torch.cat([ring, middle])[::8], budget=20)
proved = float(distance.detach()) / bracket.upper
print(f"{bracket.lower:.3f} <= Lip(critic) <= {bracket.upper:.3f}")
print(f"proved {proved:.3f} <= distance {exact:.3f}: {proved / exact:.1%}")

grid = torch.cartesian_prod(torch.linspace(-3, 3, 80), torch.linspace(-3, 3, 80))
figure, axes = plt.subplots(figsize=(4, 3.4), layout="constrained")
with torch.no_grad():
    filled = axes.contourf(*grid.T.reshape(2, 80, 80), critic(grid).reshape(80, 80), levels=15)
axes.scatter(*ring.T, s=4, c="black")
axes.scatter(*middle.T, s=4, c="white")
axes.set(title=f"proved {proved:.2f} of {exact:.2f}", aspect="equal")
figure.colorbar(filled)
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=90)
