"""The weights of a network in a file: tied ones once, what cannot be written refused before the training."""

import pytest
import safetensors.torch
import torch
from torch import nn

from cheaplip import fit
from cheaplip.errors import InputError
from cheaplip.models.weights import load_weights, require_savable, save_weights
from support.networks import OPTIONS, dense, digits, same_weights


def tied(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    model.append(nn.Linear(16, 10))
    model[5].weight = model[3].weight
    return model


def test_tied_weights_are_written_once_and_stay_tied(tmp_path):
    save_weights(tmp_path / "w", tied())
    assert "5.weight" not in safetensors.torch.load_file(tmp_path / "w")
    other = tied(1)
    load_weights(tmp_path / "w", other)
    assert same_weights(other, tied())
    assert other[5].weight is other[3].weight


def test_tied_weights_are_trained_saved_and_resumed(tmp_path):
    whole = fit(tied(), digits(), out=tmp_path, **OPTIONS)
    saved = tied(1)
    load_weights(tmp_path / "model.safetensors", saved)
    assert same_weights(saved, whole.model)
    assert same_weights(fit(tied(2), digits(), out=tmp_path, resume=True, **OPTIONS).model, whole.model)


def with_view():
    model = dense()
    model.register_buffer("part", model[1].weight.detach()[:3])
    return model


def test_views_of_one_memory_are_written(tmp_path):
    save_weights(tmp_path / "w", with_view())
    other = with_view()
    nn.init.zeros_(other[1].weight)
    load_weights(tmp_path / "w", other)
    assert same_weights(other, with_view())


class Noted(nn.Linear):
    def get_extra_state(self):
        return {"note": 1}

    def set_extra_state(self, state):
        pass


@pytest.mark.parametrize(
    "state",
    [
        lambda: Noted(2, 2),
        lambda: nn.ParameterDict({"a": nn.Parameter(torch.ones(2, dtype=torch.complex128))}),
        lambda: nn.ParameterDict({"a": nn.Parameter(torch.eye(2).to_sparse())}),
    ],
)
def test_a_state_that_cannot_be_written_is_refused_before_training(tmp_path, state):
    with pytest.raises(InputError, match="can be saved"):
        require_savable(state())
    model = dense().append(nn.Identity())
    model[-1].state = state()
    with pytest.raises(InputError, match="can be saved"):
        fit(model, digits(), out=tmp_path / "run", **OPTIONS)
    assert not (tmp_path / "run").exists()


def test_weights_of_another_network_are_refused(tmp_path):
    save_weights(tmp_path / "w", dense())
    with pytest.raises(InputError, match="the run's weights in"):
        load_weights(tmp_path / "w", dense(outputs=12))
    with pytest.raises(InputError, match="Missing key"):
        load_weights(tmp_path / "w", tied())
