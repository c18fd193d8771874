"""A convolutional network of one's own with the certificate in its penalty: for each image, how far it may move."""

import sys

import matplotlib.pyplot as plt
import torch
from torch import nn

import cheaplip

EPOCHS = 40


class Network(nn.Module):
    """Two convolutions, two dense layers."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.hidden, self.last = nn.Linear(16 * 2 * 2, 32), nn.Linear(32, 10)

    def forward(self, x):  # noqa: D102
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.last(torch.relu(self.hidden(x.flatten(1))))


data = cheaplip.data.load("digits")
radii = torch.linspace(0, 2, 81)
figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
methods = {"plain": {"method": "standard"}, "clip": {"lipschitz": 2, "certify": 1, "margin": 2, "saturation": 0.3}}
for name, settings in methods.items():
    torch.manual_seed(0)
    model = cheaplip.fit(Network(), data, epochs=EPOCHS, lr=0.1, batch_size=64, **settings).model
    bracket = cheaplip.lipschitz_bracket(model, data.test_x[:50], budget=20)
    radius = cheaplip.certified_radius(model, data.test_x, bracket, labels=data.test_y)
    right = (model(data.test_x).argmax(1) == data.test_y).double().mean()
    certified = (radius[:, None] > radii).double().mean(0)
    print(f"{name}: test accuracy {right:.3f}, {bracket.lower:.2f} <= Lip(f) <= {bracket.upper:.2f}")
    print(f"{name}: certified at 0.5: {certified[20]:.3f}")
    axes.plot(radii, certified, label=f"{name}, accuracy {right:.1%}")
axes.set(xlabel="radius, pixels in [0, 1]", ylabel="certified accuracy", ylim=(0, 1))
axes.legend()
if len(sys.argv) > 1:
    figure.savefig(sys.argv[1], dpi=100)
