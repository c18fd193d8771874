"""Terms of great size that cancel, in biases, means and merged matrices: compared with the same network in rational numbers."""

import itertools
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cheaplip.bounds import serial
from cheaplip.bounds.centred import dense_network
from cheaplip.bounds.expansion import Expansion
from cheaplip.bounds.graph import trace
from cheaplip.bounds.intervals import IntervalJacobian
from cheaplip.bounds.layers.activations import derivative
from cheaplip.bounds.rounding import gamma
from cheaplip.bounds.serial import Affine, steps_of
from support.exact import Matrix, diagonal, exact, product, sum_of


class Skip(nn.Module):
    """The same beside the input's first entries, which makes it no chain."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner[4](self.inner[:4](x) + self.inner[0](x))


def cancelling(seed: int, size: float) -> nn.Sequential:
    """Dense, BatchNorm and tanh: the first bias and the running mean cancel, and so do the mean and the last bias."""
    torch.manual_seed(seed)
    model = (
        nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3, eps=0.0), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)).double().eval()
    )
    with torch.no_grad():
        far = size * torch.rand(3).double()
        model[0].bias.add_(far / 3)
        model[1].running_mean.copy_(far)
        model[1].running_var.copy_(torch.tensor([4.0, 9.0, 49.0]))
        model[1].weight.copy_(torch.rand(3))
        model[1].bias.copy_((far - far / 3) * model[1].weight * model[1].running_var.rsqrt() + torch.randn(3))
    return model


def exactly(model: nn.Sequential, x: torch.Tensor) -> tuple[list[Fraction], Matrix]:
    """What comes before tanh, and the Jacobian of that, without a rounding error."""
    layer, norm, second = model[0], model[1], model[2]
    deviations = [Fraction(round(float(v) ** 0.5)) for v in norm.running_var]
    scale = diagonal([w / s for w, s in zip(exact_vector(norm.weight), deviations, strict=True)])
    shift = sum_of(column(norm.bias), product(scale, column(norm.running_mean)), -1)
    before = sum_of(product(exact(layer.weight), column(x)), column(layer.bias))
    values = sum_of(product(exact(second.weight), sum_of(product(scale, before), shift)), column(second.bias))
    return [value[0] for value in values], product(exact(second.weight), scale, exact(layer.weight))


def exact_vector(tensor: torch.Tensor) -> list[Fraction]:
    return [Fraction(value) for value in tensor.tolist()]


def column(tensor: torch.Tensor) -> Matrix:
    return [[value] for value in exact_vector(tensor)]


def steepness(model: nn.Sequential, x: torch.Tensor, *, skip: bool) -> float:
    values, before = exactly(model, x)
    slopes = derivative(nn.Tanh())[0](torch.tensor([float(value) for value in values], dtype=torch.float64))
    jacobian = product(exact(model[4].weight), exact(slopes), before)
    if skip:
        jacobian = sum_of(jacobian, product(exact(model[4].weight), exact(model[0].weight)))
    return float(sum((entry**2 for entry in jacobian[0]), Fraction(0))) ** 0.5


def steps(model: nn.Module):
    return steps_of(serial.serial(trace(model, (2,))))


SIZES = st.sampled_from([1.0, 1e6, 1e10, 1e15])


@given(seed=st.integers(0, 10**6), size=SIZES, skip=st.booleans())
def test_no_jacobian_at_a_point_is_above_its_bound(seed, size, skip):
    model = cancelling(seed, size)
    x = torch.randn(1, 2).double()
    true = steepness(model, x[0], skip=skip) * (1 - 1e-12)
    read = steps(Skip(model) if skip else model)
    for bound in (Expansion.of(read), IntervalJacobian(read, 2, 2, 2)):
        assert bound(x, torch.zeros_like(x))[0].item() >= true
    if size < 1e11:
        assert IntervalJacobian(read, 2, 2, 2)(x, torch.zeros_like(x))[0].item() <= 1.1 * true


@given(seed=st.integers(0, 10**6), size=SIZES)
def test_values_before_an_activation_are_within_their_error_and_their_region(seed, size):
    model = cancelling(seed, size)
    x = torch.randn(1, 2).double()
    true, _ = exactly(model, x[0])
    values, wrong = dense_network(steps(model)).values(x)
    region = trace(model, (2,), (x[0], x[0] + 1e-9)).last_chain.layers[3].region
    for i, value in enumerate(true):
        assert abs(Fraction(values[0][0, i].item()) - value) <= Fraction(wrong[0].item())
        assert Fraction(region.low[0, i].item()) <= value <= Fraction(region.high[0, i].item())


@given(seed=st.integers(0, 10**6), decades=st.sampled_from([0.0, 4.0, 12.0]))
def test_no_entry_of_merged_matrices_is_further_off_than_its_terms_say(seed, decades):
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for rows, columns in itertools.pairwise((3, 4, 3, 2)):
        sizes = 10 ** (decades * torch.rand(columns, rows, generator=generator).double())
        weight, bias = (
            sizes * torch.randn(columns, rows, generator=generator),
            torch.randn(columns, generator=generator).double(),
        )
        maps.append(Affine(weight, bias, weight.abs(), bias.abs(), 0))
    merged = maps[2].after(maps[1].after(maps[0]))
    true = product(*(exact(one.weight) for one in reversed(maps)))
    offset = column(maps[0].bias)
    for one in maps[1:]:
        offset = sum_of(product(exact(one.weight), offset), column(one.bias))
    far = Fraction(gamma(merged.terms))
    for i, j in itertools.product(range(2), range(3)):
        assert abs(Fraction(merged.weight[i, j].item()) - true[i][j]) <= far * Fraction(merged.sizes[i, j].item())
        assert abs(Fraction(merged.bias[i].item()) - offset[i][0]) <= far * Fraction(merged.size[i].item())


@pytest.mark.parametrize("terms", [0, 1])
def test_without_the_sizes_some_are(monkeypatch, terms):
    """So the first test would see a margin that is missing."""
    monkeypatch.setattr(serial.Affine, "after", after_without_sizes)
    found = []
    for seed in range(5):
        model = cancelling(seed, 1e15)
        x = torch.zeros(1, 2).double()
        bound = Expansion.of(steps(model)) if terms else IntervalJacobian(steps(Skip(model)), 2, 2, 2)
        found.append(bound(x, 0 * x)[0].item() >= steepness(model, x[0], skip=not terms))
    assert not all(found)


def after_without_sizes(self, first):
    weight, bias = self.weight @ first.weight, self.weight @ first.bias + self.bias
    return Affine(weight, bias, weight.abs(), bias.abs(), 0)
