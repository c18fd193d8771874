"""The multiplier certificate: the recursion of its text, sound for any multipliers, against exact constants."""

import math
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cheaplip.bounds.lower import lower_bound
from cheaplip.bounds.multipliers.certificate import RIGOROUS, output_gram, proved_bound
from cheaplip.bounds.multipliers.start import gram_multipliers
from cheaplip.bounds.upper import product_of_norms, upper_bound
from support import oracles
from support.chains import INTERVALS, ROUNDING, by_matrices, random_chain
from support.searches import short_searches


@given(seed=st.integers(0, 10**6), widths=st.lists(st.integers(1, 6), min_size=2, max_size=5), interval=INTERVALS)
def test_the_recursion_is_that_of_the_text(seed, widths, interval):
    torch.manual_seed(seed)
    chain = random_chain(widths, *interval)
    logs = [log - 0.5 for log in gram_multipliers(chain)[0]]
    expected = oracles.output_gram(chain.weights, [log.exp() for log in logs], chain.slopes)
    plain, rigorous = output_gram(chain, logs), output_gram(chain, logs, RIGOROUS)
    torch.testing.assert_close(plain, expected, rtol=1e-8, atol=1e-10)
    excess = torch.linalg.eigvalsh(rigorous - plain)
    assert bool((excess >= 0).all())
    assert float(excess.amax()) <= 1e-6 * float(torch.linalg.matrix_norm(plain, 2))


@settings(max_examples=100)
@given(seed=st.integers(0, 10**6), widths=st.lists(st.integers(1, 6), min_size=2, max_size=5), interval=INTERVALS)
def test_any_multipliers_that_pass_prove_a_bound(seed, widths, interval):
    """Against the norms of W_l D W_{l-1} ... D W_1 with random slopes D in [a, b]: all Jacobians of such networks."""
    torch.manual_seed(seed)
    chain = random_chain(widths, *interval)
    logs = [log + 0.3 * torch.randn(len(log)).double() - 0.5 for log in gram_multipliers(chain)[0]]
    proved = proved_bound(chain, logs, (0.0,))
    if proved is None:
        assert by_matrices(chain.weights, logs, chain.slopes) == math.inf
        return
    value, gram = proved
    low, high = interval
    for _ in range(20):
        jacobian = chain.weights[0]
        for weight in chain.weights[1:]:
            corners = torch.rand(weight.shape[1], 1).double().round()
            jacobian = weight @ ((low + (high - low) * corners) * jacobian)
        assert float(torch.linalg.matrix_norm(jacobian, 2)) <= value
        assert float(torch.linalg.eigvalsh(gram - jacobian @ jacobian.T)[0]) >= -1e-12 * value**2
    assert value == pytest.approx(float(by_matrices(chain.weights, logs, chain.slopes)), rel=1e-6)


def test_no_multipliers_pass_where_the_matrix_is_not_positive():
    chain = random_chain([3, 4, 2])
    assert proved_bound(chain, [torch.full((4,), 9.0).double()], (0.0,)) is None


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), inputs=st.integers(1, 3), hidden=st.integers(1, 4), outputs=st.integers(1, 3))
def test_exact_constants_of_small_relu_networks_are_below(seed, inputs, hidden, outputs):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
    exact = oracles.lipschitz_by_regions(model)
    with short_searches():
        upper = upper_bound(model, (inputs,))
    assert exact <= upper.value <= product_of_norms(model, (inputs,)) * ROUNDING


@pytest.mark.slow
@settings(max_examples=1000)
@given(seed=st.integers(0, 10**9), inputs=st.integers(1, 3), hidden=st.integers(1, 4), outputs=st.integers(1, 3))
def test_the_bracket_holds_the_exact_constant_in_a_thousand_networks(seed, inputs, hidden, outputs):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
    exact = oracles.lipschitz_by_regions(model)
    lower = lower_bound(model, 3 * torch.randn(4, inputs), steps=2)
    upper = upper_bound(model, (inputs,), deadline=time.monotonic() + 0.01)
    assert lower.value <= exact * ROUNDING
    assert exact <= upper.value
