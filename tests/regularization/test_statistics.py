"""Running statistics are functions of the parameters: a penalty cannot gain by outrunning them."""

import pytest
import torch
from torch import nn

from cheaplip import LipschitzRegularizer, fit, perturbed_pairs
from cheaplip.data import load
from cheaplip.regularization.statistics import following_statistics
from cheaplip.robustness.accuracy import accuracy

KINDS = {
    "dense": lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)),
    "images": lambda: nn.Sequential(nn.Conv2d(2, 5, 3), nn.BatchNorm2d(5), nn.ELU(), nn.Flatten(), nn.LazyLinear(3)),
    "without scale": lambda: nn.Sequential(
        nn.Conv1d(2, 5, 1), nn.BatchNorm1d(5, affine=False), nn.ELU(), nn.Flatten(), nn.LazyLinear(3)
    ),
    "instances": lambda: nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.InstanceNorm2d(5, track_running_stats=True), nn.ELU(), nn.Flatten(), nn.LazyLinear(3)
    ),
}
SHAPES = {"dense": (6,), "images": (2, 5, 5), "without scale": (2, 6), "instances": (2, 5, 5)}


def network(kind):
    model = KINDS[kind]()
    for _ in range(20):
        model(2 * torch.randn(16, *SHAPES[kind]) + 1)
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_the_function_is_the_same(kind):
    model, x = network(kind), torch.randn(8, *SHAPES[kind])
    expected = model(x)
    with following_statistics(model):
        assert torch.allclose(model(x), expected, atol=1e-5)
    assert torch.equal(model(x), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_statistics_undo_has_no_gradient(kind):
    """A shift before the normalisation, and a scale."""
    model = network(kind)
    pairs = perturbed_pairs(torch.randn(20, *SHAPES[kind]), noise=0.5)
    regularizer = LipschitzRegularizer(model, pairs, interval=1)
    weight, bias = model[0].weight, model[0].bias
    gradients = torch.autograd.grad(regularizer(), [weight, bias])
    size = float(gradients[0].norm())
    assert size > 1e-4
    assert abs(float((gradients[0] * weight).detach().sum())) < 1e-3 * size
    assert float(gradients[1].norm()) < 1e-3 * size


def test_other_gradients_are_those_of_the_settled_statistics():
    """The slow way: let the running statistics follow each change of a weight, and take differences."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=None), nn.Tanh(), nn.Linear(4, 2)).double()
    points = torch.randn(40, 3, dtype=torch.double)
    pairs = torch.stack([points[:20], points[20:]], 1)

    def settled():
        model[1].reset_running_stats()
        model.train()
        with torch.no_grad():
            model(points)
            model[1].running_var.mul_(39 / 40)  # the variance that the batch is divided by
        model.eval()

    def penalty():
        outputs = model(pairs.flatten(0, 1)).unflatten(0, (-1, 2))
        return ((outputs[:, 0] - outputs[:, 1]).norm(dim=1) / (pairs[:, 0] - pairs[:, 1]).norm(dim=1)).square().mean()

    settled()
    with following_statistics(model):
        (gradient,) = torch.autograd.grad(penalty(), model[0].weight)
    (naive,) = torch.autograd.grad(penalty(), model[0].weight)
    slow, step = torch.zeros_like(gradient), 1e-5
    for index in range(gradient.numel()):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                model[0].weight.view(-1)[index] += sign * step
            settled()
            values.append(penalty().item())
            with torch.no_grad():
                model[0].weight.view(-1)[index] -= sign * step
        slow.view(-1)[index] = (values[0] - values[1]) / (2 * step)
    assert torch.allclose(gradient, slow, atol=1e-4)  # the layer adds eps to the variance
    assert not torch.allclose(naive, slow, atol=1e-3)


def test_nothing_is_left_behind_even_by_an_error():
    model = network("dense")
    with pytest.raises(ZeroDivisionError), following_statistics(model):
        raise ZeroDivisionError
    assert not model[1]._forward_pre_hooks


def test_a_channel_that_is_constant_has_a_finite_gradient():
    model = network("dense")
    with torch.no_grad():
        model[0].weight[0] = 0
    pairs = perturbed_pairs(torch.randn(20, 6), noise=0.5)
    (gradient,) = torch.autograd.grad(LipschitzRegularizer(model, pairs, interval=1)(), [model[0].weight])
    assert gradient.isfinite().all()


def test_the_network_that_is_evaluated_is_the_one_that_was_trained():
    """With constant statistics in the penalty the accuracy in evaluation mode is half of that in training mode."""
    data = load("digits")
    torch.manual_seed(0)
    blocks = [layer for _ in range(2) for layer in (nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())]
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), *blocks, nn.Flatten(), nn.Linear(8 * 64, 10))
    done = fit(model, data, target=0.97, epochs=8, batch_size=32, lr=0.05)
    assert done.result["weight"] > 0
    assert done.history[-1]["train_accuracy"] > 0.9
    assert accuracy(model, data.train_x, data.train_y) > done.history[-1]["train_accuracy"] - 0.03
