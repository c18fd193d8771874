"""Norms against numpy, Hoelder's inequality, safety at 0."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cheaplip.errors import InputError
from cheaplip.norms import check_exponent, dual_exponent, per_sample, sample_norm, sample_unit
from support import oracles

EXPONENTS = st.sampled_from([1, 1.5, 2, 3, 20, math.inf])
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, max_side=4)
ENTRIES = st.floats(-1e3, 1e3, allow_subnormal=False).map(lambda value: value if abs(value) > 1e-3 else 0.0)
BATCHES = SHAPES.flatmap(lambda shape: hnp.arrays(np.float64, shape, elements=ENTRIES))


@given(batch=BATCHES, p=EXPONENTS)
def test_each_sample_has_numpys_norm(batch, p):
    expected = [np.linalg.norm(np.ravel(sample), p) for sample in batch]
    np.testing.assert_allclose(sample_norm(torch.from_numpy(batch), p), expected, rtol=1e-12)
    np.testing.assert_allclose([oracles.norm(sample, p) for sample in batch], expected, rtol=1e-12)


@given(batch=BATCHES, p=EXPONENTS, scale=st.sampled_from([1e-30, 1e-6, 1e6, 1e30]))
def test_scales_also_where_powers_leave_the_range_of_floats(batch, p, scale):
    x = torch.from_numpy(batch)
    torch.testing.assert_close(sample_norm(scale * x, p), scale * sample_norm(x, p))


def test_small_entries_of_single_precision_keep_a_norm():
    assert sample_norm(torch.full((1, 1), 1e-3), 20).item() == pytest.approx(1e-3)


@given(pair=SHAPES.flatmap(lambda s: st.tuples(*[hnp.arrays(np.float64, s, elements=ENTRIES)] * 2)), p=EXPONENTS)
def test_hoelder(pair, p):
    x, y = map(torch.from_numpy, pair)
    inner = (x * y).reshape(len(x), -1).sum(1).abs()
    assert bool((inner <= sample_norm(x, p) * sample_norm(y, dual_exponent(p)) * (1 + 1e-9)).all())


@pytest.mark.parametrize("p", [1, 1.5, 2, 3, 20, math.inf])
def test_gradient_is_the_numerical_one_and_0_at_0(p):
    x = torch.tensor([[1.0, -2.0, 0.5], [3.0, 0.25, -0.125]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: sample_norm(x, p), x)
    zero = torch.zeros(2, 3, requires_grad=True)
    sample_norm(zero, p).sum().backward()
    assert zero.grad.tolist() == [[0.0] * 3] * 2


@given(p=st.floats(1, 1e6) | st.just(math.inf))
def test_dual_exponents_come_in_pairs(p):
    q = dual_exponent(p)
    assert 1 / p + 1 / q == pytest.approx(1)
    assert dual_exponent(q) == pytest.approx(p, rel=1e-6)


def test_no_samples_have_no_norms():
    assert sample_norm(torch.zeros(0, 3, 2)).shape == (0,)


@pytest.mark.parametrize("p", [0, 0.5, -1, -math.inf, math.nan])
def test_refuses_what_is_no_norm(p):
    with pytest.raises(InputError, match="1 <= p <= inf"):
        check_exponent(p)
    with pytest.raises(InputError):
        sample_norm(torch.ones(1, 2), p)
    with pytest.raises(InputError):
        dual_exponent(p)


@pytest.mark.parametrize("scale", [1e-38, 1e-25, 1.0, 1e25])
def test_unit_samples(scale):
    x = scale * torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    torch.testing.assert_close(sample_unit(x), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_per_sample_broadcasts_over_each_sample():
    x = torch.ones(2, 3, 4)
    assert (per_sample(torch.tensor([1.0, 2.0]), x) * x)[:, 0, 0].tolist() == [1.0, 2.0]
    assert per_sample(torch.tensor([1.0, 2.0]), torch.ones(2)).tolist() == [1.0, 2.0]
