"""The quotient: against plain loops, exact on linear maps, and leaving no trace in the network."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cheaplip import difference_quotient
from cheaplip.errors import InputError
from cheaplip.inference import evaluating, forward
from cheaplip.pairs.quotient import quotient_of
from support import oracles

EXPONENTS = st.sampled_from([1, 1.5, 2, 3, math.inf])
SEEDS = st.integers(0, 10_000)


class LastState(nn.Module):
    """A recurrent network's last state, for sequences (n, time, 3)."""

    def __init__(self):
        super().__init__()
        self.recurrent = nn.GRU(3, 5, num_layers=2, dropout=0.5, batch_first=True)

    def forward(self, x):
        return self.recurrent(x)[0][:, -1]


MODELS = {
    "vector": ((3,), lambda: nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2))),
    "single": ((1,), lambda: nn.Sequential(nn.Linear(1, 6), nn.ReLU(), nn.Linear(6, 1))),
    "image": ((2, 5, 4), lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ELU(), nn.MaxPool2d(2))),
    "channels": ((3, 7), lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.Dropout(), nn.Sigmoid(), nn.Flatten())),
    "sequence": ((6, 3), LastState),
}


def pairs(shape, seed, n=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *shape, generator=generator), torch.randn(n, *shape, generator=generator)


@pytest.mark.parametrize("kind", MODELS)
@given(seed=SEEDS, p=EXPONENTS, q=EXPONENTS)
def test_equals_the_loop_over_pairs(kind, seed, p, q):
    shape, make = MODELS[kind]
    model = make()
    u, v = pairs(shape, seed)
    actual = difference_quotient(model, u, v, p, q)
    np.testing.assert_allclose(actual.detach(), oracles.quotients(model.eval(), u, v, p, q), rtol=1e-4, atol=1e-6)


@given(seed=SEEDS, p=EXPONENTS, q=EXPONENTS, c=st.floats(-100, 100))
def test_is_symmetric_and_scales_with_the_function(seed, p, q, c):
    shape, make = MODELS["vector"]
    model = make()
    u, v = pairs(shape, seed)
    value = difference_quotient(model, u, v, p, q)
    torch.testing.assert_close(difference_quotient(model, v, u, p, q), value)
    torch.testing.assert_close(difference_quotient(lambda x: c * model(x), u, v, p, q), abs(c) * value)


@given(seed=SEEDS)
def test_of_a_linear_map_is_below_its_spectral_norm_and_meets_it_along_the_singular_vector(seed):
    u, v = (x.double() for x in pairs((5,), seed))
    layer = nn.Linear(5, 3).double()
    norm = np.linalg.norm(layer.weight.detach().numpy(), 2)
    assert difference_quotient(layer, u, v).max().item() <= norm * (1 + 1e-12)
    steepest = torch.linalg.svd(layer.weight).Vh[:1]
    assert difference_quotient(layer, u[:1] + steepest, u[:1]).item() == pytest.approx(norm)


def test_a_coincident_pair_gives_0_and_no_nan_gradient():
    model = nn.Linear(2, 2)
    u = torch.tensor([[1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    value = difference_quotient(model, u, torch.tensor([[1.0, 2.0], [1.0, 0.0]]))
    assert value[0].item() == 0
    assert value[1].item() > 0
    value.sum().backward()
    assert u.grad.isfinite().all()
    assert u.grad[0].tolist() == [0, 0]
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_is_differentiable_in_points_and_parameters():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    u, v = (x.double().requires_grad_() for x in pairs((2,), 0, 2))

    def value(u, v, weight):
        return difference_quotient(lambda x: torch.func.functional_call(model, {"0.weight": weight}, x), u, v)

    assert torch.autograd.gradcheck(value, (u, v, model[0].weight))


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("training", [True, False])
def test_leaves_modes_statistics_dropout_and_gradients_as_they_were(kind, training):
    shape, make = MODELS[kind]
    model = make().train(training)
    next(iter(model.children())).train(not training)  # a module with a mode of its own
    modes = [module.training for module in model.modules()]
    dropout = [getattr(module, "dropout", None) for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    u, v = pairs(shape, 0)
    first, second = difference_quotient(model, u, v), difference_quotient(model, u, v)
    assert torch.equal(first, second)
    assert [module.training for module in model.modules()] == modes
    assert [getattr(module, "dropout", None) for module in model.modules()] == dropout
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_mode_comes_back_after_an_error():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    with pytest.raises(RuntimeError), evaluating(model):
        model(torch.zeros(2, 3))
    with evaluating(model):
        assert not model[1].training
    assert all(module.training for module in model.modules())


def test_recurrent_layers_are_differentiable_and_the_same_function_as_in_evaluation_mode():
    """cuDNN refuses their backward pass in evaluation mode, so they stay in training mode without dropout."""
    model = LastState()
    x = torch.randn(2, 6, 3)
    with evaluating(model):
        assert model.recurrent.training
        assert model.recurrent.dropout == 0
    assert torch.equal(forward(model, x), model.eval()(x))
    assert model.recurrent.dropout == 0.5


def test_half_precision_is_compared_in_single_precision():
    one = torch.ones(1, 1).half()
    value = difference_quotient(lambda x: 2.0**15 * x, one, -one)  # the rise, 65536, has no place in float16
    assert value.dtype == torch.float32
    assert value.item() == 2.0**15
    assert difference_quotient(nn.Identity(), 2048 * one, -one).item() == 1  # nor has the distance, 2049


def test_autocast_outside_does_not_round_the_outputs():
    layer = nn.Linear(8, 8)
    u = torch.randn(3, 8)
    v = u + 1e-3 * torch.randn(3, 8)
    exact = difference_quotient(layer, u, v)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(difference_quotient(layer, u, v), exact)


def test_of_given_differences():
    rise, gap = torch.tensor([[3.0, 4.0], [1.0, 1.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert quotient_of(rise, gap, input_norm=1, output_norm=2).tolist() == [2.5, 0]


@pytest.mark.parametrize(
    ("model", "got"),
    [
        (lambda x: (x, x), "tuple"),
        (lambda x: x.sum(), r"shape \(\)"),
        (lambda x: x[:1], r"shape \(1, 2\)"),
        (lambda x: None, "NoneType"),
    ],
)
def test_refuses_models_without_a_row_for_each_input(model, got):
    with pytest.raises(InputError, match=got):
        difference_quotient(model, torch.zeros(2, 2), torch.ones(2, 2))


@pytest.mark.parametrize(
    ("u", "v", "match"),
    [
        (torch.zeros(2, 2), torch.zeros(1, 2), "one shape"),
        (torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 2, dtype=torch.int64), r"\.float\(\)"),
        (torch.tensor(1.0), torch.tensor(0.0), "pairs"),
    ],
)
def test_refuses_points_that_are_no_pairs(u, v, match):
    with pytest.raises(InputError, match=match):
        difference_quotient(nn.Identity(), u, v)
