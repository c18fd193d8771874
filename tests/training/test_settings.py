"""Which settings and data `fit` takes, and which it refuses before it trains."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cheaplip import fit
from cheaplip.data import from_arrays
from cheaplip.errors import InputError
from support.networks import OPTIONS, dense, digits, same_weights

pytestmark = pytest.mark.usefixtures("quick_bounds")


X, Y = digits(100)


BAD = {
    "accuracy of 1.5": ({"target": 1.5}, "a target accuracy in .0, 1.; got 1.5"),
    "optimizer": ({"optimizer": "SDG"}, "optimizer to be one of .*Did you mean 'SGD'"),
    "its options": (
        {"optimizer_options": {"momentun": 0.9}},
        "SGD to take a step.*; got .*momentun",
    ),
    "its values": (
        {"optimizer_options": {"momentum": -1}},
        "SGD to take a step.*; got Invalid momentum",
    ),
    "multiplying nothing": ({"initial_weight": 0.0}, "cannot leave 0"),
}


def never(row, model):
    raise AssertionError("an epoch was trained")


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_refused_before_training(case, tmp_path):
    options, match = BAD[case]
    with pytest.raises(InputError, match=match):
        fit(dense(), (X, Y), out=tmp_path / "run", after_epoch=never, **options)
    assert not (tmp_path / "run").exists()


def test_clip_on_a_loader_needs_pairs():
    with pytest.raises(InputError, match="pairs for the method clip on a DataLoader; got none"):
        fit(dense(), DataLoader(TensorDataset(X, Y), 20), method="clip")


def test_a_test_part_that_does_not_fit_is_refused_before_training():
    x, y = X.flatten(1), Y % 3
    data = replace(from_arrays(x, y), test_y=torch.arange(20) % 3 + 1)
    with pytest.raises(InputError, match="labels 1 to 3"):
        fit(dense(outputs=3), data, after_epoch=never)


def test_a_model_without_parameters_is_refused():
    with pytest.raises(InputError, match="got optimizer got an empty parameter list"):
        fit(nn.Flatten(), (X, Y), method="standard")


@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop", "Adagrad", "Rprop"])
def test_an_optimizer_by_its_name_alone(name):
    assert fit(dense(), digits(100), method="standard", optimizer=name, lr=0.001, epochs=1).history


@pytest.mark.parametrize("name", ["LBFGS", "SparseAdam"])
def test_an_optimizer_that_cannot_take_such_steps_is_refused(name):
    with pytest.raises(InputError, match=f"{name} to take a step.*(closure|dense)"):
        fit(dense(), digits(100), method="standard", optimizer=name, optimizer_options={})


@pytest.mark.parametrize("options", [{"lr": 1e39}, {"optimizer_options": {"weight_decay": 1e300}}, {"epochs": 10**23}])
def test_settings_that_no_number_of_torch_holds_are_refused(options):
    with pytest.raises(InputError):
        fit(dense(), digits(100), method="standard", **options)


def test_arrays_are_tensors():
    x, y = digits(100)
    arrays = fit(dense(), [x.numpy(), y.numpy()], method="standard", epochs=np.int64(2))
    assert same_weights(arrays.model, fit(dense(), (x, y), method="standard", epochs=2).model)
    with pytest.raises(InputError, match="data without a mask"):
        fit(dense(), (np.ma.masked_array(x.numpy()), y.numpy()))


def test_a_folder_may_be_a_string(tmp_path):
    fit(dense(), digits(), **OPTIONS, out=str(tmp_path / "run"))
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_run_with_another_number_of_steps_does_not_resume(tmp_path, monkeypatch):
    fit(dense(), digits(), method="clip", out=tmp_path, **OPTIONS | {"epochs": 1})
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    with pytest.raises(InputError, match=r"7 steps in an epoch, as in the interrupted run; got 4\. Resume with"):
        fit(dense(), digits(), method="clip", out=tmp_path, resume=True, **OPTIONS | {"epochs": 1})
