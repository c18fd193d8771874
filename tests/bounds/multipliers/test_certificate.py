"""The multiplier certificate: sound against exact constants, as good as an SDP solver, never above the product."""

import math
import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from cheaplip.bounds.graph import trace
from cheaplip.bounds.lower import lower_bound
from cheaplip.bounds.multipliers.bound import pair_bounds
from cheaplip.bounds.multipliers.certificate import RIGOROUS, Chain, output_gram, proved_bound
from cheaplip.bounds.multipliers.chain import make_chain
from cheaplip.bounds.multipliers.gradient import Tracing, bound_with_gradient
from cheaplip.bounds.multipliers.lbfgs import minimise
from cheaplip.bounds.multipliers.search import search_multipliers
from cheaplip.bounds.multipliers.start import STARTS, gram_multipliers
from cheaplip.bounds.upper import MULTIPLIERS, product_of_norms, upper_bound
from cheaplip.models import cnn, mlp
from support import oracles
from support.searches import short_searches

ROUNDING = 1 + 1e-9


def random_chain(widths, low=0.0, high=1.0):
    weights = [torch.randn(o, i, dtype=torch.float64) / i**0.5 for i, o in pairwise(widths)]
    slopes = (torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64))
    return Chain(weights, [slopes] * (len(weights) - 1), list(widths[1:-1]))


def narrowed(chain, least=0.0):
    """Slopes, entry by entry: a third as before, a third narrower, a third of the least width, 0 for one slope alone."""
    slopes = []
    for (low, high), weight in zip(chain.slopes, chain.weights, strict=False):
        ends = low + (high - low) * torch.rand(2, weight.shape[0]).double().sort(0).values
        kind = torch.arange(weight.shape[0]) % 3
        slopes.append(
            (torch.where(kind == 0, low, ends[0]), torch.where(kind == 0, high, ends[1].where(kind == 2, ends[0] + least)))
        )
    return Chain(chain.weights, slopes, chain.groups)


def product(chain):
    norms = math.prod(float(torch.linalg.matrix_norm(weight, 2)) for weight in chain.weights)
    return norms * math.prod(max(abs(float(low)), abs(float(high))) for low, high in chain.slopes)


def by_matrices(weights, logs, slopes):
    """The bound as the module's text has it, from the matrices alone; inf where a factorisation fails."""
    gram = output_gram(Chain(weights, slopes, []), logs)
    return weights[0].new_tensor(math.inf) if gram is None else torch.linalg.eigvalsh(gram).amax().clamp(min=0).sqrt()


INTERVALS = st.sampled_from([(0.0, 1.0), (0.0, 0.25), (0.1, 1.0), (-0.13, 1.13), (-1.0, 1.0), (-1.0, 0.5), (1.0, 1.0)])


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
    found = proved_bound(chain, search_multipliers(chain, iterations=60))[0]
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
def test_a_wide_network_is_not_left_with_the_product():
    torch.manual_seed(0)
    model = mlp((784,), 10, hidden=(1024, 1024), activation="relu")
    found = upper_bound(model, (784,), deadline=time.monotonic() + 20)
    assert found.method == MULTIPLIERS
    assert found.value < 0.7 * product_of_norms(model, (784,))


@settings(max_examples=8)
@given(seed=st.integers(0, 10**6))
def test_gradients_of_the_bound_are_right(seed):
    torch.manual_seed(seed)
    chain = random_chain([3, 4, 3, 2])
    logs = [(log - 1).requires_grad_() for log in gram_multipliers(chain)[0]]
    weights = [weight.requires_grad_() for weight in chain.weights]
    assert torch.autograd.gradcheck(
        lambda *inputs: by_matrices(inputs[:3], inputs[3:], chain.slopes), (*weights, *logs), atol=1e-4
    )


@given(seed=st.integers(0, 10**6), widths=st.lists(st.integers(2, 6), min_size=3, max_size=6), interval=INTERVALS)
def test_the_gradient_by_vectors_is_that_of_the_matrices(seed, widths, interval):
    """(-1, 1) is left to the tests of `CertificateRegularizer`: there the multipliers are scaled, unlike here."""
    assume(sum(interval) != 0)
    torch.manual_seed(seed)
    chain = random_chain(widths, *interval)
    variables = [*chain.weights, *(log - 0.5 for log in gram_multipliers(chain)[0])]
    for variable in variables:
        variable.requires_grad_()
    slow = by_matrices(chain.weights, variables[len(chain.weights) :], chain.slopes)
    fast, used = bound_with_gradient(chain, variables[len(chain.weights) :])
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=0)
    assert [log.tolist() for log in used] == [log.tolist() for log in variables[len(chain.weights) :]]
    if slow.isfinite():
        for by_vectors, slowly in zip(*(torch.autograd.grad(bound, variables) for bound in (fast, slow)), strict=True):
            torch.testing.assert_close(by_vectors, slowly, rtol=1e-6, atol=1e-8)


def test_the_gradient_by_vectors_through_symbols_groups_and_contractions():
    """The matrices' gradient: autograd through `output_gram`, which scales the multipliers of contractions alike."""
    torch.manual_seed(0)
    stack = torch.randn(5, 4, 3, dtype=torch.complex128)
    weights = [stack, *(torch.randn(*shape, dtype=torch.float64) for shape in ((6, 8), (4, 6), (3, 4)))]
    steep = torch.tensor([0.5, 1.0, 2.0, 1.5], dtype=torch.float64)
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    slopes = [(-steep, steep), (zero, one), (-one, one)]
    logs = [torch.randn(4).double(), torch.randn(3).double() - 9, torch.randn(2).double()]
    variables = [variable.requires_grad_() for variable in (*weights, *logs)]
    gram = output_gram(Chain(weights, slopes, [4, 3, 2]), logs, Tracing())
    slow = torch.linalg.eigvalsh(gram).amax().sqrt()
    fast, used = bound_with_gradient(Chain(weights, slopes, [4, 3, 2]), logs)
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=0)
    assert not any(log.requires_grad for log in used)
    for by_vectors, slowly in zip(*(torch.autograd.grad(bound, variables) for bound in (fast, slow)), strict=True):
        torch.testing.assert_close(by_vectors, slowly, rtol=1e-6, atol=1e-9)


def test_weights_that_are_not_finite_prove_nothing():
    chain = random_chain([3, 4, 3, 2], -1.0, 1.0)
    logs = gram_multipliers(chain)[0]
    chain.weights[1][0, 0] = math.nan
    assert bound_with_gradient(chain, logs)[0] == math.inf


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


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"dilation": 2}, {"groups": 2}])
def test_symbols_and_matrices_of_convolutions_agree(options, monkeypatch):
    """Where the padded image is all there is, the symbols give no less than the dense matrix, and nearly the same."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, **options), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.LazyLinear(3)
    )
    model(torch.zeros(1, 2, 6, 6))
    dense = upper_bound(model, (2, 6, 6)).value
    monkeypatch.setattr("cheaplip.bounds.multipliers.chain.DENSE_ROWS", 8)
    symbols = upper_bound(model, (2, 6, 6))
    assert symbols.method == "multipliers, verified by Cholesky"
    assert dense <= symbols.value * 1.001
    assert dense >= lower_bound(model, torch.randn(20, 2, 6, 6), steps=10).value
    assert symbols.value <= product_of_norms(model, (2, 6, 6)) * ROUNDING


def test_chains_of_the_papers_networks():
    layers = trace(mlp((1, 28, 28), 10), (1, 28, 28)).last_chain.layers
    chain = make_chain(layers)
    assert [tuple(weight.shape) for weight in chain.weights] == [(64, 784), (64, 64), (10, 64)]
    assert chain.groups == [64, 64]
    layers = trace(cnn((1, 28, 28), 10, hidden=(8, 16, 256)), (1, 28, 28)).last_chain.layers  # a quarter of its widths
    chain = make_chain(layers)
    assert [tuple(weight.shape[-2:]) for weight in chain.weights] == [(8, 1), (16, 8), (256, 784), (10, 256)]
    assert chain.groups == [8, 16, 256]


def test_what_is_too_large_falls_back_to_the_product_and_says_so(monkeypatch):
    monkeypatch.setattr("cheaplip.bounds.multipliers.chain.ENTRIES", 10)
    model = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 3))
    found = upper_bound(model, (4,))
    assert found.method == "product of layer norms (too large for multipliers)"
    assert found.value == pytest.approx(product_of_norms(model, (4,)), rel=1e-11)
    assert found.value > product_of_norms(model, (4,))


def test_no_multipliers_pass_where_the_matrix_is_not_positive():
    chain = random_chain([3, 4, 2])
    assert proved_bound(chain, [torch.full((4,), 9.0).double()], (0.0,)) is None


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
