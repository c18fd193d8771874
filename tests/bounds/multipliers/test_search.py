"""The search for multipliers: never above its starts, as good as an SDP solver."""

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cheaplip.bounds.multipliers.bound import pair_bounds
from cheaplip.bounds.multipliers.certificate import Chain, proved_bound
from cheaplip.bounds.multipliers.lbfgs import minimise
from cheaplip.bounds.multipliers.search import search_multipliers
from cheaplip.bounds.multipliers.start import STARTS, gram_multipliers
from cheaplip.bounds.upper import MULTIPLIERS, product_of_norms, upper_bound
from cheaplip.models import mlp
from support import oracles
from support.chains import INTERVALS, ROUNDING, narrowed, product, random_chain


@given(seed=st.integers(0, 10**6), widths=st.lists(st.integers(1, 8), min_size=2, max_size=5), interval=INTERVALS)
def test_the_start_is_the_product_of_norms_or_better(seed, widths, interval):
    torch.manual_seed(seed)
    chain = random_chain(widths, *interval)
    value, _ = proved_bound(chain, gram_multipliers(chain)[0], (0.0,))
    assert value <= product(chain) * 1.01


@settings(max_examples=12)
@given(seed=st.integers(0, 10**6), depth=st.integers(1, 12), interval=INTERVALS)
def test_no_search_ends_above_a_start(seed, depth, interval):
    torch.manual_seed(seed)
    chain = random_chain([3, *[5] * depth, 1], *interval)
    found = proved_bound(chain, search_multipliers(chain, iterations=3))[0]
    assert found <= (1 + 1e-6) * min(gram_multipliers(chain, *powers)[1] for powers in STARTS)
    out_of_time = proved_bound(chain, search_multipliers(chain, deadline=0.0))[0]
    assert found <= (1 + 1e-6) * out_of_time < math.inf


def test_half_the_inverse_of_the_gram_matrix_is_the_share_for_relu():
    """ECLipsE-Fast, written out: Sigma = (G^-1 - T)^-1 / 4 + T^-1 / 4 with T = I / (2 lambda_max(G))."""
    chain = random_chain([4, 6, 5, 3])
    sigma = torch.eye(4).double()
    for weight in chain.weights[:-1]:
        gram = weight @ sigma @ weight.T
        t = torch.eye(len(gram)).double() / (2 * torch.linalg.eigvalsh(gram)[-1])
        inverse = gram @ torch.linalg.inv(torch.eye(len(gram)).double() - t @ gram)
        sigma = (inverse + torch.linalg.inv(t)) / 4
    expected = torch.linalg.eigvalsh(chain.weights[-1] @ sigma @ chain.weights[-1].T)[-1].sqrt()
    assert gram_multipliers(chain)[1] == pytest.approx(float(expected), rel=1e-9)


def test_a_deep_chain_is_far_below_any_start():
    """Twenty activations between weights of norm 1."""
    torch.manual_seed(0)
    weights = [weight / torch.linalg.matrix_norm(weight, 2) for weight in random_chain([4, *[10] * 20, 1]).weights]
    chain = Chain(weights, random_chain([4, *[10] * 20, 1]).slopes, [10] * 20)
    found = proved_bound(chain, search_multipliers(chain, iterations=20))[0]
    assert found <= 0.5 * min(gram_multipliers(chain, *powers)[1] for powers in STARTS)
    assert product(chain) == pytest.approx(1)


@pytest.mark.slow
def test_the_search_reaches_the_optimum_of_the_semidefinite_programme():
    pytest.importorskip("cvxpy", reason="pip install cheaplip[certify-check]")
    for seed, widths, interval in [
        (0, [5, 8, 6, 4], (0.0, 1.0)),
        (1, [3, 10, 2], (0.1, 1.0)),
        (2, [6, 12, 12, 8, 3], (0.0, 0.25)),
        (3, [20, 10, 10], (-0.13, 1.13)),
        (4, [4, 6, 6, 3], (-1.0, 1.0)),
    ]:
        torch.manual_seed(seed)
        chain = random_chain(widths, *interval)
        found, _ = proved_bound(chain, search_multipliers(chain), (0.0,))
        optimum = oracles.lipsdp_neuron([weight.numpy() for weight in chain.weights], *interval)
        assert 0.999 * optimum <= found <= 1.01 * optimum


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_with_slopes_of_its_own_for_each_neuron_too(seed):
    pytest.importorskip("cvxpy", reason="pip install cheaplip[certify-check]")
    torch.manual_seed(seed)
    chain = narrowed(random_chain([5, 9, 6, 4]), least=0.1)  # with 0 the best multipliers are infinite
    found, _ = proved_bound(chain, search_multipliers(chain), (0.0,))
    low, high = zip(*((low.numpy(), high.numpy()) for low, high in chain.slopes), strict=True)
    optimum = oracles.lipsdp_neuron([weight.numpy() for weight in chain.weights], low, high)
    assert 0.999 * optimum <= found <= 1.01 * optimum


@settings(max_examples=6)
@given(seed=st.integers(0, 10**6), widths=st.lists(st.integers(3, 7), min_size=3, max_size=5), interval=INTERVALS)
def test_narrower_slopes_never_prove_less(seed, widths, interval):
    torch.manual_seed(seed)
    wide = random_chain(widths, *interval)
    narrow = narrowed(wide)
    bounds = [proved_bound(chain, search_multipliers(chain), (0.0,))[0] for chain in (wide, narrow)]
    assert bounds[1] <= 1.01 * bounds[0]
    for _ in range(20):
        jacobian = wide.weights[0]
        for weight, (low, high) in zip(wide.weights[1:], narrow.slopes, strict=True):
            jacobian = weight @ ((low + (high - low) * torch.rand(len(low)).double().round())[:, None] * jacobian)
        assert float(torch.linalg.matrix_norm(jacobian, 2)) <= bounds[1]


@pytest.mark.slow
def test_a_wide_network_is_not_left_with_the_product():
    torch.manual_seed(0)
    model = mlp((784,), 10, hidden=(1024, 1024), activation="relu")
    found = upper_bound(model, (784,), deadline=time.monotonic() + 20)
    assert found.method == MULTIPLIERS
    assert found.value < 0.7 * product_of_norms(model, (784,))


def test_one_multiplier_a_layer_is_a_bound_too():
    chain = random_chain([5, 8, 6, 4])
    scalar = Chain(chain.weights, chain.slopes, [1, 1])
    values = [proved_bound(each, search_multipliers(each), (0.0,))[0] for each in (chain, scalar)]
    assert values[0] <= values[1] <= product(chain)


def test_per_pair_bounds_hold_and_a_search_of_their_own_improves_them():
    model = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3))
    shared, own = (upper_bound(model, (4,), pairwise=pairwise) for pairwise in (False, True))
    assert (own.pairwise <= shared.pairwise).all()
    assert own.pairwise[0, 1] < shared.pairwise[0, 1]
    assert (shared.pairwise <= math.sqrt(2) * shared.value * ROUNDING).all()
    x, y = 3 * torch.randn(2, 5000, 4)
    with torch.no_grad():
        rise = model(x) - model(y)
    quotient = (rise[:, :, None] - rise[:, None]).abs() / (x - y).norm(dim=1)[:, None, None]
    assert (quotient.amax(0) <= own.pairwise).all()
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(pair_bounds(eye), math.sqrt(2) * (1 - eye))


def test_l_bfgs_finds_the_minimum_of_rosenbrock_and_steps_back_from_infinity():
    def rosenbrock(x):
        x = x.detach().requires_grad_()
        value = (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        (gradient,) = torch.autograd.grad(value, x)
        return (math.inf if x[0] > 1.5 else float(value.detach())), gradient

    start = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    found = minimise(rosenbrock, start, iterations=300, tolerance=1e-14)
    assert found.tolist() == pytest.approx([1, 1], abs=1e-4)
    assert np.isfinite(rosenbrock(found)[0])
    assert minimise(rosenbrock, start, iterations=300, deadline=0.0).equal(start)
