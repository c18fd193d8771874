"""What neighbours tell of the noise: closed forms, a plain loop as the oracle, and the cases at the edge."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cheaplip.data import attainable_value
from cheaplip.data.neighbours import FINE
from cheaplip.errors import InputError


def plain_loop(x, y):
    """Half the mean squared difference to the nearest other sample, or the share of nearest samples of the same class."""
    values = []
    for i in range(len(x)):
        distances = [float((x[i] - x[j]).norm()) if j != i else torch.inf for j in range(len(x))]
        nearest = y[distances.index(min(distances))]
        values.append(((y[i] - nearest) ** 2).mean() / 2 if y.is_floating_point() else (y[i] == nearest).double())
    return float(torch.stack(values).mean())


@given(st.integers(2, 30), st.integers(1, 4), st.booleans(), st.integers(0, 2**31))
def test_is_the_plain_loop(n, features, real, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, features, generator=generator)
    y = torch.randn(n, 2, generator=generator) if real else torch.randint(3, (n,), generator=generator)
    expected = plain_loop(x, y)
    if real:
        expected = max(expected, FINE * float(y.var(dim=0, unbiased=False).mean()))
    assert attainable_value(x, y) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_is_the_variance_of_the_noise_where_samples_are_dense(noise):
    x = torch.rand(4000, 1)
    y = torch.tanh(20 * (x - 0.5)) + noise * torch.randn(4000, 1)
    assert attainable_value(x, y) == pytest.approx(max(noise**2, FINE * float(y.var())), rel=0.15)


def test_repeated_samples_are_not_their_own_evidence():
    x, y = torch.randn(50, 2), torch.randn(50, 1)
    assert attainable_value(x.repeat(3, 1), y.repeat(3, 1)) == pytest.approx(attainable_value(x, y), rel=1e-5)


def test_of_many_samples_some_are_searched(monkeypatch):
    monkeypatch.setattr("cheaplip.data.neighbours.ENTRIES", 2000)
    x = torch.rand(20_000, 2)
    assert attainable_value(x, (x[:, 0] > 0.5).long()) == pytest.approx(0.98, abs=0.02)


def test_refuses_what_has_no_neighbour():
    with pytest.raises(InputError, match="two different samples"):
        attainable_value(torch.ones(4, 2), torch.ones(4, 1))
    with pytest.raises(InputError, match="4 and 3"):
        attainable_value(torch.ones(4, 2), torch.ones(3, 1))
