"""The regularizer in a loop: training, the lower bound, what is not finite, restarts, redrawing, refusals."""

import copy
import math

import pytest
import torch
from torch import nn

from cheaplip import PairSet, difference_quotient, matched_pairs, uniform_pairs
from cheaplip.errors import InputError
from support.networks import make_regularizer, network, some_pairs


class LastState(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv1d(3, 4, 3, padding=1)
        self.recurrent = nn.GRU(4, 8, batch_first=True)

    def forward(self, x):
        return self.recurrent(self.convolution(x.mT).mT)[0][:, -1]


NETWORKS = {
    "vector": ((4,), lambda: nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))),
    "image": (
        (2, 6, 6),
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)),
    ),
    "sequence": ((7, 3), LastState),
    "dropout": ((4,), lambda: nn.Sequential(nn.Linear(4, 16), nn.Dropout(), nn.ReLU(), nn.Linear(16, 3))),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_three_lines_in_a_training_loop_lower_the_quotients(kind):
    shape, make = NETWORKS[kind]
    x, y = torch.randn(64, *shape), torch.randint(3, (64,))
    judges = torch.randn(50, *shape), torch.randn(50, *shape)

    def trained(weight):
        torch.manual_seed(0)
        model = make()
        regularizer = make_regularizer(model, matched_pairs(x[:32]), active=8)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(60):
            loss = nn.functional.cross_entropy(model(x), y) + weight * regularizer()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            regularizer.step()
        assert regularizer.skipped == 0
        assert all(module.training for module in model.modules())
        with torch.no_grad():
            return difference_quotient(model, *judges)

    assert trained(1.0).max() < 0.6 * trained(0.0).max()


def test_the_lower_bound_of_a_linear_map_rises_to_its_norm_and_no_higher():
    layer = nn.Linear(6, 4)
    norm = torch.linalg.matrix_norm(layer.weight.detach().double(), 2).item()
    regularizer = make_regularizer(layer, some_pairs(8, (6,)), active=4)
    first = regularizer.lower_bound()
    for _ in range(100):
        regularizer()
        regularizer.step()
    last = regularizer.lower_bound()
    assert first < last <= norm * (1 + 1e-5)
    assert last == pytest.approx(norm, rel=0.02)


def test_the_lower_bound_looks_at_pairs_not_visited_yet():
    u = torch.zeros(20, 1)
    pairs = PairSet(u, u + 0.1 * torch.arange(1, 21.0)[:, None])
    regularizer = make_regularizer(lambda x: x.square(), pairs, active=2)
    regularizer()
    assert regularizer.lower_bound(pairs=18) >= 1.8 - 1e-5


def test_the_lower_bound_is_at_least_the_steepest_quotient_just_seen():
    model, pairs = network(), some_pairs(400)
    regularizer = make_regularizer(model, pairs, active=8, pool=16, reduction="max", power=1)
    for _ in range(20):
        regularizer()
        regularizer.step()
    assert regularizer.lower_bound(pairs=16) >= regularizer().item() * (1 - 1e-5)


def test_redrawn_pairs_are_seen_when_the_penalty_is_due():
    regularizer = make_regularizer(network(), uniform_pairs(-torch.ones(4), torch.ones(4), 10, 0.1), interval=5)
    seen = []
    for _ in range(20):
        seen.append(regularizer().item())
        regularizer.step()
        regularizer.redraw()
    assert [seen.index(value) for value in seen] == [5 * (i // 5) for i in range(20)]


def test_penalties_that_are_not_finite_are_left_out_and_counted():
    model = network()
    regularizer = make_regularizer(model, some_pairs())
    healthy = regularizer().item()
    before = regularizer.state.points.clone()
    weight = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight.fill_(math.nan)
    regularizer.step()
    penalty = regularizer()
    assert penalty.item() == 0
    assert not penalty.requires_grad
    assert regularizer.skipped == 1
    assert torch.equal(regularizer.state.points, before)
    assert regularizer.state.quotient.isfinite().any()
    with torch.no_grad():
        model[0].weight.copy_(weight)
    regularizer.step()
    assert regularizer().item() >= healthy


@pytest.mark.parametrize("interval", [1, 3])
@pytest.mark.parametrize("rule", ["normalized", "accepted"])
def test_a_saved_state_continues_identically(rule, interval):
    def make(seed):
        pairs = uniform_pairs(-torch.ones(4), torch.ones(4), 10, 0.1, seed=0)
        return make_regularizer(model, pairs, active=3, pool=6, interval=interval, ascent=rule, seed=seed)

    def go_on(regularizer):
        penalties = []
        for i in range(12):
            penalties.append(regularizer().item())
            regularizer.step()
            if i == 7:
                regularizer.redraw()
        return penalties, regularizer.state.points.clone(), regularizer.lower_bound()

    model = network()
    one, other = make(0), make(1)
    for _ in range(5):
        one()
        one.step()
    saved = copy.deepcopy(one.state_dict())
    expected = go_on(one)
    other.load_state_dict(saved)
    actual = go_on(other)
    assert actual[0] == expected[0]
    assert torch.equal(actual[1], expected[1])
    assert actual[2] == expected[2]
    other.load_state_dict(saved)  # what was loaded was copied: it can be loaded again
    assert go_on(other)[0] == expected[0]


def test_redrawing_replaces_all_pairs_by_others_of_the_recipe():
    regularizer = make_regularizer(network(), uniform_pairs(-torch.ones(4), torch.ones(4), 10, 0.1), active=3)
    regularizer()
    before = regularizer.state.points.clone()
    regularizer.redraw()
    assert not (regularizer.state.points == before).all(2).any()
    assert regularizer.state.points[:, 0].abs().max() <= 1
    assert regularizer().item() > 0


def test_given_pairs_cannot_be_redrawn():
    regularizer = make_regularizer(network(), PairSet(torch.zeros(2, 4), torch.ones(2, 4)))
    with pytest.raises(InputError, match="recipe"):
        regularizer.redraw()


@pytest.mark.parametrize("rule", ["normalized", "printed", "accepted"])
def test_double_precision_works(rule):
    pairs = matched_pairs(torch.randn(8, 4, dtype=torch.float64))
    regularizer = make_regularizer(network().double(), pairs, active=4, ascent=rule, step_size=0.1)
    for _ in range(3):
        assert regularizer().dtype == torch.float64
        regularizer.step()
    assert regularizer.state.points.dtype == torch.float64


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"reduction": "sum"}, "'mean' or 'max'"),
        ({"reduction": "median"}, "'mean' or 'max'"),
        ({"ascent": "normalised"}, "'normalized', 'printed' or 'accepted'"),
        ({"power": 3}, "1 or 2"),
        ({"active": 0}, "valid active"),
        ({"interval": 0}, "valid interval"),
        ({"pool": 0}, "valid pool"),
        ({"renewal": 1.5}, "valid renewal"),
        ({"step_size": 0.0}, "valid step_size"),
        ({"step_size": math.nan}, "valid step_size"),
        ({"domain": (1, 0)}, "low <= high"),
        ({"domain": (1, 1)}, "low < high"),
    ],
)
def test_refusals(options, match):
    with pytest.raises(InputError, match=match):
        make_regularizer(network(), some_pairs(), **options)


def test_refuses_the_state_of_other_pairs_and_models_that_do_not_fit():
    regularizer = make_regularizer(network(), some_pairs(12))
    with pytest.raises(InputError, match="same pairs"):
        regularizer.load_state_dict(make_regularizer(network(), some_pairs(11)).state_dict())
    with pytest.raises(InputError, match="one tensor"):
        make_regularizer(lambda x: (x, x), some_pairs())()
