"""The paper's networks: shapes, layers and numbers of parameters."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cheaplip.errors import InputError
from cheaplip.models import ACTIVATIONS, MODELS, cnn, mlp


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_papers_image_network():
    # 784 * 64 + 64 + 64 * 64 + 64 + 64 * 10 + 10
    assert count(mlp((1, 28, 28), 10, hidden=(64, 64), activation="sigmoid")) == 55_050


def test_the_papers_regression_network():
    model = mlp((1,), 1, hidden=(500, 200, 100), activation="sigmoid", output_activation="sigmoid")
    # 2 * 500 + 501 * 200 + 201 * 100 + 101
    assert count(model) == 1_000 + 100_200 + 20_100 + 101
    assert sum(isinstance(layer, nn.Sigmoid) for layer in model) == 4
    assert isinstance(model[-1], nn.Sigmoid)


def test_madrys_network():
    model = cnn((1, 28, 28), 10)
    # 5 * 5 * 32 + 32, 5 * 5 * 32 * 64 + 64, 7 * 7 * 64 * 1024 + 1024, 1024 * 10 + 10
    assert count(model) == 832 + 51_264 + 3_212_288 + 10_250
    kinds = [type(layer).__name__ for layer in model]
    block = ["Conv2d", "ReLU", "MaxPool2d"]
    assert kinds == [*block, *block, "Flatten", "Linear", "ReLU", "Linear"]


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(4, 11), st.integers(4, 11)),
    outputs=st.integers(1, 5),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    last=st.none() | st.sampled_from(sorted(ACTIVATIONS)),
)
def test_take_images_of_any_size(shape, outputs, activation, last):
    x = torch.zeros(2, *shape)
    networks = [
        mlp(shape, outputs, hidden=(3, 4), activation=activation, output_activation=last),
        cnn(x.shape[1:], outputs, hidden=(2, 3, 4), activation=activation, output_activation=last),
    ]
    for model in networks:
        assert model(x).shape == (2, outputs)
        assert isinstance(model[-1], nn.Linear if last is None else type(ACTIVATIONS[last]()))
        assert sum(isinstance(layer, type(ACTIVATIONS[activation]())) for layer in model) >= 2


def test_abs_is_the_absolute_value():
    x = torch.tensor([-2.0, -0.0, 0.5])
    assert torch.equal(ACTIVATIONS["abs"]()(x), x.abs())


def test_without_hidden_layers_it_is_linear():
    model = mlp((2, 3), 4, hidden=())
    assert [type(layer) for layer in model] == [nn.Flatten, nn.Linear]


def test_registry():
    assert {"mlp": mlp, "cnn": cnn} == MODELS


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: mlp((4,), 2, activation="rleu"), "Did you mean 'relu'"),
        (lambda: mlp((4,), 2, output_activation="softmax"), "activation to be one of"),
        (lambda: mlp((4,), 0), "widths >= 1"),
        (lambda: mlp((4,), 2, hidden=(5, 0)), r"\[4, 5, 0, 2\]"),
        (lambda: mlp((0,), 2), "widths >= 1"),
        (lambda: cnn((28, 28), 10), "channels, height, width"),
        (lambda: cnn((1, 3, 8), 10), "4x4"),
        (lambda: cnn((0, 8, 8), 10), "4x4"),
        (lambda: cnn((1, 8, 8), 10, hidden=(3, 4)), "three widths"),
        (lambda: cnn((1, 8, 8), 10, hidden=(3, 0, 4)), "three widths"),
        (lambda: cnn((1, 8, 8), 0), "number of outputs >= 1"),
        (lambda: cnn((1, 8, 8), 10, activation="gelu"), "elu"),
    ],
)
def test_refusals(make, match):
    with pytest.raises(InputError, match=match):
        make()
