"""The penalty in a loop under autocast, and under torch.compile: the same numbers as without."""

import copy
import shutil

import pytest
import torch
from torch import nn

from cheaplip import ConstantWeight, PairSet, PenaltyTerm, perturbed_pairs
from support.networks import make_regularizer

COMPILER = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler, and there is no g++")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Softplus(), nn.Linear(16, 3))


def batches(n=5):
    generator = torch.Generator().manual_seed(1)
    return [(torch.rand(32, 3, 4, generator=generator), torch.randint(3, (32,), generator=generator)) for _ in range(n)]


def regularizer_of(model):
    return make_regularizer(model, perturbed_pairs(torch.rand(40, 3, 4, generator=torch.Generator().manual_seed(2))), active=8)


def train_step(model, regularizer, optimizer, x, y):
    loss = nn.functional.cross_entropy(model(x), y) + 0.1 * regularizer()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    regularizer.step()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_penalty_and_the_ascent_are_those_of_single_precision(dtype):
    model = network()
    plain, under = regularizer_of(model), regularizer_of(model)
    for _ in range(3):
        expected = plain()
        (of_plain,) = torch.autograd.grad(expected, model[1].weight)
        plain.step()
        with torch.autocast("cpu", dtype):
            penalty = under()
            under.step()
        (of_under,) = torch.autograd.grad(penalty, model[1].weight)
        assert penalty.dtype == torch.float32
        assert torch.equal(penalty, expected)
        assert torch.equal(of_under, of_plain)
    assert torch.equal(under.state.points, plain.state.points)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_mixed_precision_loop_follows_the_one_in_single_precision(dtype):
    trained = []
    for enabled in (False, True):
        model = network()
        regularizer, optimizer = regularizer_of(model), torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", enabled=enabled and dtype == torch.float16)
        for x, y in batches(20):
            with torch.autocast("cpu", dtype, enabled=enabled):
                loss = nn.functional.cross_entropy(model(x), y) + 0.1 * regularizer()
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            regularizer.step()
        assert regularizer.skipped == 0
        trained.append(regularizer.lower_bound())
    assert trained[1] == pytest.approx(trained[0], rel=0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_model_with_half_precision_pairs(dtype):
    model = network().to(dtype)
    pairs = perturbed_pairs(torch.rand(40, 3, 4))
    regularizer = make_regularizer(model, PairSet(pairs.u.to(dtype), pairs.v.to(dtype)), active=8)
    before = regularizer.state.points.clone()
    penalty = regularizer()
    regularizer.step()
    assert penalty.dtype == torch.float32
    assert regularizer.state.points.dtype == dtype
    assert not torch.equal(regularizer.state.points, before)
    assert regularizer.state.points.isfinite().all()


def steps_of(prepare, backend):
    """Parameters and pairs after some steps, prepared (compiled) or not."""
    model = network()
    network_used, step = prepare(model, backend)
    regularizer, optimizer = regularizer_of(network_used), torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in batches():
        step(network_used, regularizer, optimizer, x, y)
    return copy.deepcopy(model.state_dict()), regularizer.state.points


PREPARED = {
    "plain": lambda model, backend: (model, train_step),
    "model": lambda model, backend: (torch.compile(model, backend=backend), train_step),
    "step": lambda model, backend: (model, torch.compile(train_step, backend=backend)),
}


@pytest.mark.parametrize(
    "backend",
    ["eager", pytest.param("aot_eager", marks=pytest.mark.slow), pytest.param("inductor", marks=[COMPILER, pytest.mark.slow])],
)
@pytest.mark.parametrize("what", ["model", pytest.param("step", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("default")  # of the compiler about itself
def test_compiled_training_is_the_same_training(what, backend):
    torch._dynamo.reset()
    expected = steps_of(PREPARED["plain"], backend)
    actual = steps_of(PREPARED[what], backend)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("default")
def test_a_compiled_loss_has_no_graph_break_between_evaluations():
    torch._dynamo.reset()
    model = network()
    term = PenaltyTerm(regularizer_of(model), ConstantWeight(0.1))
    x, y = batches(1)[0]

    def loss(x, y):
        outputs = model(x)
        return nn.functional.cross_entropy(outputs, y) + term(outputs, y)

    expected = loss(x, y)  # the first evaluation
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, y), expected)
