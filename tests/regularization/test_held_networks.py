"""The held gradient of networks that recompute, change their inputs, or are called by another function."""

import copy
import pickle
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from cheaplip import LipschitzRegularizer, matched_pairs, perturbed_pairs, uniform_pairs
from cheaplip.errors import InputError
from cheaplip.regularization.held import leaves
from support.gradients import assert_same, gradients
from support.networks import network, seeded, some_pairs


class Recomputing(nn.Module):
    """The middle is recomputed in the backward pass; with batch statistics, which a recomputation would change."""

    def __init__(self, reentrant):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.middle = nn.Sequential(nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5))
        self.reentrant = reentrant

    def forward(self, x):
        hidden = self.first(x)
        if self.reentrant is not None:
            return self.last(checkpoint(self.middle, hidden, use_reentrant=self.reentrant))
        return self.last(self.middle(hidden))


@pytest.mark.parametrize("reentrant", [False])
@pytest.mark.parametrize("training", [True, False])
def test_networks_that_recompute_their_activations(reentrant, training):
    plain, recomputing = (Recomputing(kind).train(training) for kind in (None, reentrant))
    recomputing.load_state_dict(plain.state_dict())
    statistics = copy.deepcopy(recomputing.middle[0].state_dict())
    regularizers = [LipschitzRegularizer(model, some_pairs(), interval=1) for model in (plain, recomputing)]
    for _ in range(3):
        one, other = (regularizer() for regularizer in regularizers)
        torch.testing.assert_close(one, other)
        assert_same(gradients(one, plain), gradients(other, recomputing))
        for regularizer in regularizers:
            regularizer.step()
    assert all(torch.equal(value, statistics[name]) for name, value in recomputing.middle[0].state_dict().items())
    assert recomputing.middle.training == training


def test_a_network_that_changes_its_input():
    class Careless(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return self.layer(x.mul_(4.0))

    model = Careless()
    pairs = some_pairs()
    regularizer = LipschitzRegularizer(model, pairs, interval=1)
    rise = 4 * (pairs.u - pairs.v) @ model.layer.weight.T
    expected = (rise.norm(dim=1) / (pairs.u - pairs.v).norm(dim=1)).square().mean()
    torch.testing.assert_close(regularizer(), expected)
    regularizer.step()
    assert regularizer().isfinite()


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))

    def forward(self, x):
        return self.layers(x)

    def double(self, x):
        return 2 * self.layers(x)


def scaled(network, factor, x):
    return factor * network(x)


@pytest.mark.parametrize(
    "wrap",
    [lambda net: lambda x: 2 * net(x), lambda net: net.double, lambda net: partial(scaled, net, 2.0)],
    ids=["lambda", "method", "partial"],
)
def test_functions_of_a_network_in_training_mode_leave_it_as_it_is(wrap):
    net = Noisy()
    before = copy.deepcopy(net.state_dict())
    regularizer, plain = (LipschitzRegularizer(model, some_pairs(), interval=1) for model in (wrap(net), net))
    torch.testing.assert_close(regularizer(), 4 * plain())
    assert_same(gradients(regularizer(), net), [None if g is None else 4 * g for g in gradients(plain(), net)])
    assert net.layers[1].training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_leaves_are_the_parameters_that_need_a_gradient():
    model = seeded(network)
    model[0].bias.requires_grad_(False)
    found = leaves(model(torch.ones(1, 4)).sum())
    assert {id(p) for p in found} == {id(p) for p in (model[0].weight, model[2].weight, model[2].bias)}
    assert leaves(torch.ones(())) == []


def test_no_gradient_is_asked_for_under_no_grad():
    regularizer = LipschitzRegularizer(seeded(network), some_pairs(), interval=1)
    with torch.no_grad():
        penalty = regularizer()
    assert not penalty.requires_grad
    assert regularizer().requires_grad


def test_batch_statistics_alone_are_refused():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 3))
    for given in (model, lambda x: model(x)):
        with pytest.raises(InputError, match="running statistics"):
            LipschitzRegularizer(given, some_pairs())


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (nn.Bilinear(4, 4, 2), r"lambda x: model\(x, other\)"),
        (nn.Sequential(nn.Embedding(10, 4), nn.Flatten()), "behind the embedding"),
    ],
    ids=["two inputs", "token ids"],
)
def test_models_of_other_inputs_are_told_what_to_write(model, match):
    with pytest.raises(InputError, match=match):
        LipschitzRegularizer(model, some_pairs())()


@pytest.mark.parametrize("low", [torch.tensor([0.0, -1.0, 0.0, 0.0]), torch.zeros(())])
def test_a_box_of_tensors_holds_the_points(low):
    high = low + torch.tensor([1.0, 2.0, 0.1, 1.0])
    pairs = perturbed_pairs(low + (high - low) * torch.rand(10, 4) * 0.9, noise=0.01)
    regularizer = LipschitzRegularizer(lambda x: 9 * x.square(), pairs, interval=1, domain=(low, high))
    for _ in range(20):
        regularizer()
        regularizer.step()
    assert len(regularizer.pairs) == 15  # with explorers at its corners
    assert bool((regularizer.state.points >= low).all())
    assert bool((regularizer.state.points <= high).all())


@pytest.mark.parametrize(
    "pairs",
    [perturbed_pairs(torch.rand(5, 3)), matched_pairs(torch.rand(5, 3)), uniform_pairs(torch.zeros(3), torch.ones(3), 5, 0.1)],
    ids=["perturbed", "matched", "uniform"],
)
def test_pairs_can_be_sent_to_another_process(pairs):
    copied = pickle.loads(pickle.dumps(pairs))
    assert torch.equal(copied.u, pairs.u)
    one, other = (each.redrawn(torch.Generator().manual_seed(1)) for each in (pairs, copied))
    assert torch.equal(one.v, other.v)
