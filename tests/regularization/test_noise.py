"""The penalty of noise of all sizes."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from cheaplip import ConstantWeight, LipschitzRegularizer, NoiseRegularizer, PenaltySum, PenaltyTerm, fit, perturbed_pairs
from cheaplip.errors import InputError
from support.networks import dense, digits, network, regularised, seeded, some_samples
from support.penalties import goes_on


def noisy(model, x, **options):
    return NoiseRegularizer(model, x, interval=1, **options)


def test_of_a_linear_map_it_is_the_squared_frobenius_norm_at_any_noise():
    layer = seeded(lambda: nn.Linear(5, 3))
    for noise in (1e-3, 1.0, 100.0):
        penalty = noisy(layer.double(), torch.randn(4000, 5, dtype=torch.float64), noise=noise, active=4000)
        assert float(penalty().detach()) == pytest.approx(float(layer.weight.detach().square().sum()), rel=0.05)


def test_its_gradient_is_that_of_a_plain_loop_over_the_same_noise():
    model, x = seeded(network), some_samples(6)[0]
    seen = []

    def watched(points):
        seen.append(points.detach())
        return model(points)

    penalty = NoiseRegularizer(watched, x, noise=0.7, active=6, interval=1)
    seen.clear()
    value = penalty()
    moved, still = seen[0].split(6)
    expected = torch.zeros(())
    generator = torch.Generator().manual_seed(0)
    for there, here, size in zip(moved, still, 0.7 * torch.rand(6, generator=generator), strict=True):
        expected = expected + (model(there[None]) - model(here[None])).square().sum() / size**2 / 6
    torch.testing.assert_close(value, expected)
    mine = torch.autograd.grad(value, list(model.parameters()))
    for one, other in zip(mine, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_it_leaves_no_trace_in_the_network_nor_in_the_users_randomness():
    model, x = regularised().train(), digits()[0]
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    penalty = noisy(model, x)
    for _ in range(3):
        penalty()
        penalty.step()
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_it_continues_from_a_checkpoint():
    model, x = seeded(network), some_samples(12)[0]
    penalty = goes_on(*(NoiseRegularizer(model, x, active=5, interval=2) for _ in range(2)))
    with pytest.raises(InputError, match="samples"):
        NoiseRegularizer(model, x[:3]).load_state_dict(penalty.state_dict())


@pytest.mark.parametrize(
    ("inputs", "options"),
    [
        (torch.ones(3, 4), {"noise": 0}),
        (torch.ones(3, 4), {"active": 0}),
        (torch.ones(3, 4, dtype=torch.int64), {}),
        (torch.full((3, 4), torch.nan), {}),
        (torch.ones(0, 4), {}),
        (torch.ones(3, 5), {}),
    ],
)
def test_what_it_cannot_take_is_refused(inputs, options):
    with pytest.raises(InputError):
        NoiseRegularizer(seeded(network), inputs, **options)


def test_fit_adds_a_tenth_of_it_to_the_pairs_and_slopes_far_out_fall():
    x, y = digits(600)

    def slope_far_out(**options):
        model = seeded(dense)
        fit(model, (x, y), weight=0.5, epochs=6, batch_size=32, lr=0.05, **options)
        return float(noisy(model, x, active=600, noise=3.0)().detach())

    assert slope_far_out(input_noise=3.0) < 0.75 * slope_far_out()
    with pytest.raises(InputError, match="clip"):
        fit(dense(), (x, y), method="local", input_noise=1.0)


def test_it_adds_up_with_the_pairs_in_a_loop_of_ones_own():
    model, (x, y) = seeded(network), some_samples()
    parts = [(1.0, LipschitzRegularizer(model, perturbed_pairs(x))), (0.1, NoiseRegularizer(model, x))]
    term = PenaltyTerm(PenaltySum(parts), ConstantWeight(0.1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(4):
        outputs = model(x)
        optimizer.zero_grad()
        (cross_entropy(outputs, y) + term(outputs, y)).backward()
        optimizer.step()
        term.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert term.metrics()["penalty"] > 0
