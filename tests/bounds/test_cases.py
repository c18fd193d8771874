"""Published networks with exact constants."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cheaplip import lipschitz_bracket

CASES = Path(__file__).parent / "cases"
EXACT = json.loads((CASES / "exact.json").read_text())
ENDS = {"all inputs, 2-norm": None, "box [0, 0.1]^n, 2-norm": (0.0, 0.1), "box [0, 1.0]^n, 2-norm": (0.0, 1.0)}


class PairSort(nn.Module):
    def forward(self, x):
        return x.view(x.shape[0], -1, 2).sort(2).values.flatten(1)


def network(name):
    weights = np.load(CASES / f"{name}.npz")
    layers = []
    for i, (fan_in, fan_out) in enumerate(zip(EXACT[name]["widths"], EXACT[name]["widths"][1:], strict=False)):
        layer = nn.Linear(fan_in, fan_out).double()
        with torch.no_grad():
            weight = torch.from_numpy(weights[f"w{i}"]).double()
            layer.weight.copy_(weight if weight.shape == layer.weight.shape else weight.T)
            layer.bias.copy_(torch.from_numpy(weights[f"b{i}"]).double().flatten())
        layers += [layer, nn.ReLU() if EXACT[name]["activation"] == "relu" else PairSort()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "sd-relu-box" else name for name in EXACT]
)
def test_the_bracket_of_published_networks_is_close_to_their_exact_constant(name):
    domain, exact = ENDS[EXACT[name]["scope"]], EXACT[name]["exact"]
    inputs = (
        torch.randn(100, EXACT[name]["widths"][0]) if domain is None else domain[1] * torch.rand(100, EXACT[name]["widths"][0])
    )
    bracket = lipschitz_bracket(network(name), inputs, domain=domain, budget=math.inf)
    assert 0.98 * exact <= bracket.lower <= exact * (1 + 1e-6)
    assert exact * (1 - 1e-6) <= bracket.upper <= 1.1 * exact
