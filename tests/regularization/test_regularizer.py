"""The regularizer: its penalty and gradient against loops, the order of visits, the pool, the ascent."""

import copy
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cheaplip import PairSet, perturbed_pairs
from cheaplip.norms import sample_norm
from cheaplip.regularization.regularizer import ROUNDS, LipschitzRegularizer, reduce_quotients
from support import oracles
from support.networks import make_regularizer, network, some_pairs

REDUCTIONS = pytest.mark.parametrize("reduction", ["max", "mean"])
POWERS = pytest.mark.parametrize("power", [1, 2])


@REDUCTIONS
@POWERS
@given(values=st.lists(st.floats(0, 100, width=32), min_size=1, max_size=8))
def test_reductions(reduction, power, values):
    actual = reduce_quotients(torch.tensor(values), reduction, power)
    assert actual.item() == pytest.approx(oracles.reduced(values, reduction, power), rel=1e-5, abs=1e-30)


@REDUCTIONS
@POWERS
def test_penalty_and_its_gradient_are_those_of_the_loop_over_pairs(reduction, power):
    model, pairs = network(), some_pairs(6)
    make_regularizer(model, pairs, active=6, reduction=reduction, power=power)().backward()
    actual = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    quotients = [oracles.differentiable_quotient(model, a, b) for a, b in zip(pairs.u, pairs.v, strict=True)]
    expected = oracles.reduced(quotients, reduction, power)
    expected.backward()
    for gradient, parameter in zip(actual, model.parameters(), strict=True):
        oracle = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(gradient, oracle, rtol=1e-4, atol=1e-6)
    penalty = make_regularizer(model, pairs, active=6, reduction=reduction, power=power)()
    torch.testing.assert_close(penalty, expected)


def visits(n, active, rounds):
    """The numbers of the pairs that each of the calls of some rounds evaluates."""
    seen = []

    def model(x):
        seen.append(x[::2, 0].round().int().tolist())
        return x

    u = torch.stack([torch.arange(float(n)), torch.zeros(n)], dim=1)
    pairs = PairSet(u, u + torch.tensor([0.0, 1.0]))
    regularizer = make_regularizer(model, pairs, active=active, step_size=1e-3)
    calls = []
    for _ in range(rounds * (n // active)):
        regularizer()
        calls.append(seen[-1])
        regularizer.step()
    return calls


@given(active=st.integers(1, 5), groups=st.integers(1, 5))
def test_a_round_visits_each_pair_once(active, groups):
    n = active * groups
    calls = visits(n, active, rounds=3)
    assert all(len(call) == active for call in calls)
    for start in range(0, 3 * groups, groups):
        assert sorted(itertools.chain(*calls[start : start + groups])) == list(range(n))


def test_rounds_come_in_different_orders_and_reach_a_remainder_too():
    calls = visits(11, 4, rounds=20)
    assert all(len(set(call)) == 4 for call in calls)
    assert set(itertools.chain(*calls)) == set(range(11))
    assert len({tuple(call) for call in calls}) > 20


@pytest.mark.parametrize("interval", [2, 5])
def test_a_lazy_penalty_visits_the_pairs_of_an_eager_one_more_slowly(interval):
    model, pairs = network(), some_pairs(12)
    lazy, eager = make_regularizer(model, pairs, active=3, interval=interval), make_regularizer(model, pairs, active=3)
    for step in range(20):
        torch.testing.assert_close(lazy(), eager())
        lazy.step()
        if step % interval == interval - 1:
            eager.step()
    assert torch.equal(lazy.state.points, eager.state.points)


def test_the_pool_keeps_its_hardest_pairs_and_reaches_all():
    u = torch.arange(1.0, 21)[:, None] * torch.tensor([[1.0, 0.0]])
    pairs = PairSet(u, u + torch.tensor([0.0, 0.01]))  # the quotient of pair i is i, with no slope to ascend
    regularizer = make_regularizer(lambda x: x[:, :1].round() * x[:, 1:], pairs, active=4, pool=8, renewal=0.25)
    seen = set(regularizer.state.order.tolist())
    for _ in range(60):
        before = regularizer.state.order.tolist()
        for _ in range(2):
            regularizer()
            regularizer.step()
        after = regularizer.state.order.tolist()
        seen |= set(after)
        assert len(set(after)) == 8
        gone = set(before) - set(after)
        assert len(gone) == 2
        assert max(gone) < min(set(before) & set(after))
    assert seen == set(range(20))
    assert set(range(14, 20)) <= set(regularizer.state.order.tolist())


def test_a_penalty_sees_pairs_freshly_raised():
    model, pairs = network(), some_pairs(4)
    options = {"active": 4, "reduction": "mean", "power": 1}
    before = oracles.quotients(model, pairs.u, pairs.v).mean()
    for rule, step_size in (("normalized", 0.1), ("printed", 0.1), ("accepted", 0.1)):
        regularizer = make_regularizer(model, pairs, ascent=rule, step_size=step_size, **options)
        assert regularizer().item() == pytest.approx(before, rel=1e-5)
        regularizer.step()
        assert regularizer().item() > before


def test_printed_ascent_is_algorithm_1():
    model, pairs = network(), some_pairs(4)
    regularizer = make_regularizer(model, pairs, active=4, ascent="printed", step_size=0.05)
    regularizer.step()
    expected = oracles.algorithm_1(model, pairs.u, pairs.v, 0.05)
    torch.testing.assert_close(regularizer.state.points.unbind(1), expected, rtol=1e-4, atol=1e-5)


def test_accepted_ascent_stores_a_step_size_for_each_pair():
    regularizer = make_regularizer(network(), some_pairs(4), active=4, ascent="accepted", step_size=1e-3)
    for _ in range(3):
        regularizer.step()
    torch.testing.assert_close(regularizer.state.step_size, torch.full((4,), 1e-3 * 1.3**3))


@pytest.mark.parametrize("rule", ["normalized", "printed", "accepted"])
def test_pairs_stay_in_the_domain_and_apart(rule):
    pairs = perturbed_pairs(torch.rand(8, 4) * 0.8, noise=0.1)
    regularizer = make_regularizer(lambda x: 50 * x.square(), pairs, active=8, ascent=rule, step_size=5.0, domain=(0, 1))
    for _ in range(30):
        regularizer.step()
    state = regularizer.state
    assert state.points.min() >= 0
    assert state.points.max() <= 1
    assert sample_norm(state.points[:, 0] - state.points[:, 1]).min() >= 0.01 * sample_norm(pairs.u - pairs.v).median() * 0.99
    assert not torch.equal(state.points[:, 0], pairs.u)


def test_the_given_pairs_the_modes_and_the_gradients_stay_as_they_were():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout())
    model[1].eval()
    before = copy.deepcopy(model.state_dict())
    pairs = some_pairs()
    u, v = pairs.u.clone(), pairs.v.clone()
    regularizer = make_regularizer(model, pairs, active=12)
    regularizer()
    regularizer.step()
    regularizer.lower_bound()
    assert torch.equal(pairs.u, u)
    assert torch.equal(pairs.v, v)
    assert [module.training for module in model] == [True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def steep_corner(x):
    """Flat where the data are, slope 3 in one corner of the unit square."""
    return 3 * torch.relu(x.sum(1, keepdim=True) - 1.8) + 0.1 * x[:, :1]


def test_exploring_finds_slopes_where_there_are_no_data():
    pairs = perturbed_pairs(0.5 * torch.rand(40, 2, generator=torch.Generator().manual_seed(0)))
    found = []
    for explore in (0.0, 0.5):
        regularizer = make_regularizer(steep_corner, pairs, domain=(0, 1), explore=explore)
        assert len(regularizer.pairs) == 40 * (1 + explore)
        for _ in range(40):
            regularizer()
            regularizer.step()
        found.append(regularizer.lower_bound())
    assert found[0] < 0.2
    assert found[1] > 3.5


def test_networks_with_running_statistics_explore_only_for_a_constant():
    normalised = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).eval()
    pairs = perturbed_pairs(torch.rand(40, 2, generator=torch.Generator().manual_seed(0)))
    sizes = {"default": {}, "constant": {"allowed": 1.0}, "told": {"explore": 0.5}}
    found = {name: len(make_regularizer(normalised, pairs, domain=(0, 1), **told).pairs) for name, told in sizes.items()}
    assert found == {"default": 40, "constant": 60, "told": 60}
    assert len(make_regularizer(nn.Linear(2, 1), pairs, domain=(0, 1)).pairs) == 60


def test_without_a_domain_nothing_is_explored():
    assert len(make_regularizer(network(), some_pairs(8), explore=1.0).pairs) == 8


def test_refining_converges_and_belongs_to_the_pair_set():
    torch.manual_seed(0)
    layer = nn.Linear(4, 3)
    regularizer = make_regularizer(layer, some_pairs(30), active=4)
    before = regularizer.pairs
    for _ in range(3):
        regularizer()
        regularizer.step()
    norm = torch.linalg.matrix_norm(layer.weight, 2).item()
    assert regularizer.lower_bound() < 0.999 * norm
    assert regularizer.refine() == pytest.approx(norm, rel=1e-4)
    assert regularizer.lower_bound() == pytest.approx(norm, rel=1e-4)
    assert len(regularizer.pairs) == len(before)


def test_what_is_allowed_costs_nothing_and_of_the_rest_the_excess():
    quotients = torch.tensor([0.5, 1.0, 1.5, 3.0])
    assert float(reduce_quotients(quotients, "mean", 1, 1.0)) == pytest.approx((0.5 + 2) / 4)
    assert float(reduce_quotients(quotients, "mean", 2, 1.0)) == pytest.approx((0.25 + 4) / 4)
    assert float(reduce_quotients(quotients, "max", 1, 1.0)) == pytest.approx(2)
    assert float(reduce_quotients(quotients, "max", 1, 5.0)) == 0


@pytest.mark.parametrize(
    ("cost", "batch", "interval", "active"), [(0.125, 128, 8, 32), (0.125, 8, 8, 2), (0.5, 8, 8, 8), (0.125, 8, 1, 1)]
)
def test_as_many_pairs_are_active_as_the_cost_allows(cost, batch, interval, active):
    """Counted: samples that pass through the network in a round of steps, forward."""
    seen = []

    def counted(x):
        seen.append(len(x))
        return 3 * x

    regularizer = LipschitzRegularizer(counted, some_pairs(100), cost=cost, interval=interval)
    regularizer.batch_size = batch
    regularizer()
    assert regularizer.active == active
    seen.clear()
    for _ in range(interval):
        regularizer.step()
        regularizer()
    assert sum(seen) == 4 * active
    assert regularizer.state.active.shape == (active,)


def test_a_last_smaller_batch_changes_the_pairs_for_a_step_alone():
    regularizer = LipschitzRegularizer(lambda x: 3 * x, some_pairs(20), cost=1.0, interval=1)
    seen = []
    for batch in (16, 16, 6, 16, 80, 80, 16):
        regularizer.batch_size = batch
        assert float(regularizer()) == pytest.approx(9)
        regularizer.step()
        seen.append(regularizer.active)
    assert seen == [4, 4, 2, 4, 20, 20, 4]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_pairs_follow_the_type_of_the_network(dtype):
    model = nn.Linear(4, 3).to(dtype)
    regularizer = LipschitzRegularizer(model, some_pairs(), interval=1)
    regularizer().backward()
    assert model.weight.grad.dtype == dtype
    assert float(regularizer.lower_bound()) <= float(torch.linalg.matrix_norm(model.weight.detach().double(), 2)) * 1.05
    regularizer.step()
    assert regularizer.refine() > 0


@pytest.mark.parametrize("normalised", [False, True])
def test_with_batch_normalisation_pairs_come_back_to_the_data_now_and_then(normalised):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8) if normalised else nn.Identity(), nn.Tanh(), nn.Linear(8, 1))
    inputs = torch.randn(20, 4)
    regularizer = LipschitzRegularizer(model, perturbed_pairs(inputs), domain=(-50, 50), active=10, interval=1, explore=0.0)

    def away():
        points = regularizer.pairs
        return float((points.u[:, None] - inputs).norm(dim=2).amin(1).max())

    steps = 2 * ROUNDS  # two visits make a round
    travelled = []
    for _ in range(3 * steps):
        regularizer.step()
        travelled.append(away())
    assert travelled[steps - 2] > 0
    assert (min(travelled[steps - 1 :: steps]) < 0.5 * travelled[steps - 2]) == normalised
