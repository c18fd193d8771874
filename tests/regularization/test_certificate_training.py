"""Training with a certificate closes the bracket, and goes on after an interruption."""

import pytest
import torch
from torch import nn

from cheaplip import fit, lipschitz_bracket
from cheaplip.bounds.upper import upper_bound
from cheaplip.data import load
from cheaplip.models import cnn, mlp
from support.searches import short_ascents, short_searches


class Block(nn.Module):
    """As in a ResNet."""

    def __init__(self, channels):
        super().__init__()
        layers = [part for _ in range(2) for part in (nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))]
        self.inner = nn.Sequential(*layers[:2], nn.ReLU(), *layers[2:])

    def forward(self, x):
        return torch.relu(x + self.inner(x))


@pytest.mark.slow
def test_training_with_a_certificate_keeps_a_network_with_normalisations():
    """Once it was right about 95 % of the samples in training mode and 20 % in evaluation."""
    uppers = []
    for w in (0.0, 0.01):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), Block(8))
        model.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)])
        done = fit(model, load("digits"), certify=w, target=0.9, epochs=30, batch_size=64, lr=0.05)
        uppers.append(upper_bound(model, (1, 8, 8)).value)
    assert done.result["train_accuracy"] > 0.85
    assert uppers[1] < 0.3 * uppers[0]


DIGITS = {"weight": 0.01, "epochs": 10, "interval": 2, "batch_size": 32}


def trained(out=None, **options):
    torch.manual_seed(0)
    with short_ascents():
        return fit(mlp((1, 8, 8), 10, hidden=(32, 32)), load("digits"), out=out, **(DIGITS | options))


@pytest.mark.slow
def test_training_closes_the_bracket_of_a_convolutional_network():
    uppers = []
    for w in (0.0, 0.01):
        torch.manual_seed(0)
        model = cnn((1, 8, 8), 10, hidden=(3, 6, 16))
        with short_ascents(), short_searches(40):
            done = fit(model, load("digits"), certify=w, target=0.9, epochs=14, batch_size=64)
            uppers.append(upper_bound(model, (1, 8, 8)).value)
    assert done.result["train_accuracy"] > 0.85
    assert uppers[1] <= 1.01 * done.history[-1]["upper_bound"]  # of a search that need not end at the very best
    assert uppers[1] < 0.7 * uppers[0]


@pytest.mark.slow  # the convolutional one is shorter
def test_training_closes_the_bracket():
    x = load("digits").test_x[:100]
    with short_searches(40):
        without, certified = (lipschitz_bracket(trained(certify=w, batch_size=64, lr=0.2).model, x) for w in (0.0, 1.0))
    assert certified.ratio - 1 < 0.3 * (without.ratio - 1)
    assert certified.upper < 0.5 * without.upper


@pytest.mark.parametrize("seed", [0, 3, 4])
def test_multipliers_at_the_edge_do_not_blow_up_the_weights(seed):
    """These seeds once diverged: close to infeasible multipliers the bound's gradient has no limit."""
    model = trained(certify=0.1, epochs=4, seed=seed).model
    assert upper_bound(model, (1, 8, 8)).value < 20


def test_what_is_proved_after_each_epoch_is_in_the_history_and_the_final_search_goes_on_from_there():
    done = trained(certify=0.1, epochs=3, keep="best-pgd", eps=0.5)
    for row in done.history:
        assert row["lower_bound"] <= row["upper_bound"]
    kept = done.history[done.result["kept_epoch"] - 1]
    out_of_time = upper_bound(done.model, (1, 8, 8), multipliers=done.multipliers, deadline=0.0).value
    assert upper_bound(done.model, (1, 8, 8)).value * (1 - 1e-6) <= out_of_time <= kept["upper_bound"]


def test_an_interrupted_run_goes_on_with_its_multipliers(tmp_path):
    options = {"certify": 0.1, "epochs": 4}
    whole = trained(**options)

    def stop(row, model):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(out=tmp_path / "run", after_epoch=stop, **options)
    resumed = trained(out=tmp_path / "run", resume=True, **options)
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert all(torch.equal(*logs) for logs in zip(whole.multipliers, resumed.multipliers, strict=True))
