"""The caller's own loss, optimizer and schedule in `fit`."""

import pytest
import torch
from torch.nn.functional import cross_entropy, huber_loss, mse_loss
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from torch.utils.data import DataLoader

from cheaplip import fit
from cheaplip.errors import InputError
from cheaplip.runs.configure import configure_run
from cheaplip.training.presets import configure
from cheaplip.training.schedule import make_lr_schedule
from support.interruptions import ctrl_c
from support.networks import OPTIONS, curve, dense, digits, same_weights, without

pytestmark = pytest.mark.usefixtures("quick_bounds")


def sgd(parameters):
    return SGD(parameters, lr=0.1, momentum=0.9)


def cosine(optimizer, steps):
    return LambdaLR(optimizer, make_lr_schedule(configure(**OPTIONS), steps // OPTIONS["epochs"]))


def one_cycle(optimizer, steps):
    return OneCycleLR(optimizer, 0.2, total_steps=steps)


def warmed_up(optimizer, steps):
    parts = [LinearLR(optimizer, 0.1, total_iters=5), CosineAnnealingLR(optimizer, steps)]
    return SequentialLR(optimizer, parts, milestones=[5])


def huber(outputs, y):
    return huber_loss(outputs, y, delta=0.3)


def slope():
    return dense(inputs=1, outputs=1)


@pytest.mark.parametrize("brought", ["optimizer", "built", "schedule"])
def test_what_is_as_the_settings_gives_the_same_run(brought):
    model = dense()
    own = {"optimizer": sgd, "built": sgd(model.parameters()), "schedule": cosine}[brought]
    mine = fit(model, digits(), **{"schedule" if brought == "schedule" else "optimizer": own}, **OPTIONS)
    theirs = fit(dense(), digits(), **OPTIONS)
    assert mine.history[-1]["weight"] > 0
    assert same_weights(mine.model, theirs.model)
    assert [without(row) for row in mine.history] == [without(row) for row in theirs.history]


@pytest.mark.parametrize(
    ("make", "data", "loss", "target"), [(dense, digits, cross_entropy, 0.3), (slope, curve, mse_loss, 0.3)]
)
def test_the_usual_loss_gives_the_usual_run(make, data, loss, target):
    options = {**OPTIONS, "target": target, "rule": "additive"}  # which has no cap
    mine, theirs = (fit(make(), data(), **own, **options) for own in ({"loss": loss}, {}))
    assert mine.history[-1]["weight"] > 0
    assert same_weights(mine.model, theirs.model)
    assert without(mine.result, "own") == without(theirs.result)
    assert mine.result["own"] == {"loss": loss.__name__}


@pytest.mark.parametrize("wish", [{"target": 0.05}, {"target": None, "tolerance": 0.5}])
def test_a_regression_is_steered_by_its_own_loss(wish):
    x, y = curve()
    options = {**OPTIONS, "epochs": 30, "warmup": None, **wish}
    done = fit(slope(), (x, y), loss=huber, steer_by="validation", validation=(x, y), **options)
    assert any(row["weight"] > 0 for row in done.history)
    assert done.history[-1]["target_value"] == pytest.approx(huber(done.model(x), y).item(), rel=1e-5)
    # of other samples than `train_loss`, of the same loss: a squared error would be near twice as much
    assert done.result["train_loss"] == pytest.approx(huber(done.model(x), y).item(), rel=0.2)


def test_a_loss_of_two_outputs_for_each_value():
    def quantiles(outputs, y):
        above = y - outputs
        return torch.maximum(above * torch.tensor([0.1, 0.9]), above * torch.tensor([-0.9, -0.1])).mean()

    x, y = curve()
    done = fit(dense(inputs=1, outputs=2), (x, y), loss=quantiles, **{**OPTIONS, "epochs": 30, "target": 0.1})
    low, high = done.model(x).T
    assert (low < high).float().mean() > 0.9
    assert done.history[-1]["weight"] > 0


@pytest.mark.parametrize("schedule", [one_cycle, warmed_up, lambda o, steps: StepLR(o, 9), lambda o, _: MultiStepLR(o, [3, 9])])
def test_resumed_is_uninterrupted(tmp_path, schedule):
    own = {"loss": lambda outputs, y: cross_entropy(outputs, y, label_smoothing=0.1), "optimizer": sgd, "schedule": schedule}
    whole = fit(dense(), digits(), **own, **OPTIONS)
    with ctrl_c(16):
        fit(dense(), digits(), out=tmp_path, **own, **OPTIONS)
    resumed = fit(dense(), digits(), out=tmp_path, resume=True, **own, **OPTIONS)
    assert same_weights(resumed.model, whole.model)
    assert [without(row) for row in resumed.history] == [without(row) for row in whole.history]
    for name in own:
        with pytest.raises(InputError, match=f"other values of {name}"):
            fit(dense(), digits(), out=tmp_path, resume=True, **{**own, name: None}, **OPTIONS)


@pytest.mark.parametrize(
    ("own", "match"),
    [
        ({"loss": "huber"}, "loss to be .*; got 'huber'"),
        ({"loss": lambda outputs: outputs.mean()}, "a loss of outputs and y; got TypeError"),
        (
            {"loss": lambda outputs, y: cross_entropy(outputs, y, reduction="none")},
            "one finite number with a gradient",
        ),
        ({"loss": lambda outputs, y: outputs.mean().item()}, "one finite number with a gradient; got float"),
        ({"loss": lambda outputs, y: outputs.mean() * torch.nan}, "one finite number"),
        ({"loss": lambda outputs, y: outputs.argmax(1).float().mean()}, "with a gradient"),
        ({"loss": cross_entropy, "margin": 4.0}, "neither sample_weight, margin nor saturation"),
        ({"loss": cross_entropy, "sample_weight": torch.ones(300)}, "neither sample_weight"),
        ({"optimizer": 3}, "optimizer to be"),
        ({"optimizer": lambda parameters: None}, "a function that returns a torch.optim.Optimizer; got NoneType"),
        ({"optimizer": sgd(dense().parameters())}, "parameters of this model"),
        ({"optimizer": torch.optim.LBFGS}, "dense gradients; got LBFGS"),
        ({"optimizer": torch.optim.SparseAdam}, "dense gradients; got SparseAdam"),
        ({"optimizer": lambda: sgd}, "a function of the parameters; got TypeError"),
        ({"schedule": lambda optimizer: None}, "the optimizer and the number of its steps; got TypeError"),
        ({"optimizer": sgd, "lr": 0.3}, "or its settings; got lr beside it"),
        ({"schedule": lambda optimizer, steps: None}, "returns an LRScheduler of that optimizer"),
        ({"schedule": lambda optimizer, steps: ReduceLROnPlateau(optimizer)}, "needs no value; got ReduceLROnPlateau"),
        ({"schedule": "linear"}, "cosine"),
    ],
)
def test_what_is_refused(own, match):
    with pytest.raises(InputError, match=match):
        fit(dense(), digits(), **own, **OPTIONS)


@pytest.mark.parametrize("options", [{"loss": "huber"}, {"optimizer": sgd}, {"schedule": "linear"}])
def test_a_run_folder_holds_names_alone(options):
    with pytest.raises(InputError, match=next(iter(options))):
        configure_run({"data": "digits", **options})


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        ({"input_ids": torch.zeros(2, 3), "labels": torch.zeros(2)}, "a dict of input_ids, labels"),
        ((torch.zeros(2, 3), torch.zeros(2), torch.zeros(2)), "a list of Tensor, Tensor, Tensor"),
        (("text", "label"), "a list of .*str|a tuple of str"),
    ],
)
def test_batches_of_another_kind_are_told(batch, got):
    batches = [batch, batch]
    loader = DataLoader(batches, batch_size=None)
    with pytest.raises(InputError, match=rf"batches \(x, y\); got .*({got}).*a PenaltyTerm"):
        fit(dense(), loader, method="standard")
