"""How a model is called: in evaluation mode and full precision, wherever it is hidden, and as it was afterwards."""

from functools import partial

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from cheaplip import ConstantWeight, LipschitzRegularizer, PenaltyTerm, perturbed_pairs
from cheaplip.inference import forward, modules_of
from support.networks import seeded

X = torch.rand(32, 4, generator=torch.Generator().manual_seed(0))


def make():
    return seeded(lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 3)))


GLOBAL = make()


def of_global(x):
    return GLOBAL(x)


def hidden():
    model = make()
    yield "closure", model, lambda x: model(x)
    yield "default", model, lambda x, network=model: network(x)
    yield "partial", model, partial(lambda network, x: network(x), model)
    yield "method", model, model.forward
    yield "global", GLOBAL, of_global


@pytest.mark.parametrize(("model", "function"), [pytest.param(*case, id=name) for name, *case in hidden()])
def test_a_network_in_a_function_is_in_evaluation_mode(model, function):
    assert modules_of(function) == [model]
    torch.testing.assert_close(forward(function, X), forward(model, X))
    assert model.training


@pytest.fixture
def bf16():
    AcceleratorState._reset_state()
    yield Accelerator(cpu=True, mixed_precision="bf16")
    AcceleratorState._reset_state()


def test_the_penalty_of_a_prepared_network_is_in_float32(bf16):
    model, pairs = make(), perturbed_pairs(X, noise=1e-3)
    before = LipschitzRegularizer(model, pairs)()
    prepared = bf16.prepare(model)
    types = []
    model[0].register_forward_hook(lambda module, given, output: types.append(output.dtype))
    term = PenaltyTerm(LipschitzRegularizer(prepared, pairs), ConstantWeight(1.0))
    loss = prepared(X)
    assert types.pop() == torch.bfloat16
    term(loss, torch.zeros(32, dtype=torch.int64))
    term.step()
    assert set(types) == {torch.float32}
    torch.testing.assert_close(LipschitzRegularizer(prepared, pairs)(), before)
    assert prepared(X).dtype == torch.float32  # accelerate's forward is back
    assert types[-1] == torch.bfloat16


def test_a_loop_under_mixed_precision_lowers_the_constant(bf16):
    model, y = make(), (X[:, 0] > 0.5).long()
    regularizer = LipschitzRegularizer(model, perturbed_pairs(X, noise=0.1))
    term = PenaltyTerm(regularizer, ConstantWeight(1.0))
    model, optimizer = bf16.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    start = regularizer.refine()
    for _ in range(20):
        outputs = model(X)
        optimizer.zero_grad()
        bf16.backward(nn.functional.cross_entropy(outputs, y) + term(outputs, y))
        optimizer.step()
        term.step()
    assert regularizer.refine() < 0.9 * start
