"""What stops being finite ends a training with its last good epoch."""

import pytest
import torch

from cheaplip import fit
from cheaplip.errors import DivergenceError
from cheaplip.training import loop
from cheaplip.training.checkpoint import checkpoints
from support.networks import OPTIONS, curve, dense, digits, regularised, same_weights

pytestmark = pytest.mark.usefixtures("quick_bounds")


@pytest.mark.parametrize("options", [{}, {"rule": "additive", "update": "minibatch"}])
def test_a_diverging_regression_is_told_as_such(options):
    with pytest.raises(DivergenceError, match="training loss"):
        fit(dense(inputs=1, outputs=1), curve(), lr=1e30, **options, **OPTIONS)


def poison(monkeypatch, epoch, change):
    train_epoch = loop._train_epoch

    def poisoned(network, task, state, *rest):
        row = train_epoch(network, task, state, *rest)
        if row["epoch"] == epoch:
            change(state.model, row)
        return row

    monkeypatch.setattr(loop, "_train_epoch", poisoned)


@torch.no_grad()
def break_parameter(model, row):
    model[5].weight[3, 2] = torch.nan


@torch.no_grad()
def break_buffer(model, row):
    model[2].running_var[0] = torch.inf


def break_loss(model, row):
    row["train_loss"] = float("nan")


def break_bound(model, row):
    row["lower_bound"] = float("inf")


@pytest.mark.parametrize(
    ("change", "quantity"),
    [
        (break_parameter, "5.weight"),
        (break_buffer, "2.running_var"),
        (break_loss, "the training loss"),
        (break_bound, "the lower bound of Lip"),
    ],
)
def test_divergence_keeps_the_last_good_epoch(tmp_path, monkeypatch, change, quantity):
    whole = fit(regularised(), digits(), **OPTIONS)
    model = regularised()
    with monkeypatch.context() as patch:
        poison(patch, 3, change)
        with pytest.raises(DivergenceError, match=f"diverged in epoch 3: {quantity}.* is not finite.*learning rate"):
            fit(model, digits(), out=tmp_path, **OPTIONS)
    state = torch.load(checkpoints(tmp_path)[0], weights_only=True)
    assert [row["epoch"] for row in state["history"]] == [1, 2]
    assert all(torch.equal(value, state["model"][name]) for name, value in model.state_dict().items())
    assert same_weights(fit(regularised(), digits(), out=tmp_path, resume=True, **OPTIONS).model, whole.model)


def test_divergence_in_the_first_epoch_leaves_the_initial_weights(tmp_path):
    model = regularised()
    with pytest.raises(DivergenceError, match="diverged in epoch 1: the training loss is not finite"):
        fit(model, digits(), out=tmp_path, lr=1e30, **OPTIONS)
    assert same_weights(model, regularised())
    assert list(tmp_path.iterdir()) == []
