"""Small networks are trained by one thread, unless the user has said otherwise."""

import pytest
import torch
from torch import nn

from cheaplip import fit
from cheaplip.models import cnn
from cheaplip.training import threads
from support.networks import dense, digits

SHORT = {"method": "standard", "epochs": 1}


@pytest.fixture(autouse=True)
def two_threads(monkeypatch):
    monkeypatch.setattr(threads, "USUAL", 2)
    for name in threads.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


class Seen(nn.Module):
    """Notes with how many threads it is trained."""

    def __init__(self, network):
        super().__init__()
        self.network, self.threads = network, set()

    def forward(self, x):
        if self.training:
            self.threads.add(torch.get_num_threads())
        return self.network(x)


def trained(network, **options):
    model = Seen(network)
    fit(model, digits(100), **SHORT, **options)
    assert torch.get_num_threads() == 2  # the caller's number is back
    return model.threads


def test_a_small_network_takes_one(capsys):
    assert trained(dense(), progress=True) == {1}
    assert "One thread, because the network is small" in capsys.readouterr().err


@pytest.mark.parametrize("name", threads.SETTINGS)
def test_what_the_environment_says_wins(monkeypatch, name):
    monkeypatch.setenv(name, "2")
    assert trained(dense()) == {2}


def test_another_number_set_in_torch_wins(monkeypatch):
    monkeypatch.setattr(threads, "USUAL", 4)
    assert trained(dense()) == {2}


def test_a_large_network_takes_all():
    assert trained(cnn((1, 8, 8), 10, hidden=(64, 128, 512))) == {2}


def test_where_torch_has_no_formula_nothing_changes():
    with threads.suited_threads(nn.Identity(), torch.zeros(1, 3), 8, told=False):
        assert torch.get_num_threads() == 2
