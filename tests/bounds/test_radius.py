"""Certified radii, brackets on a domain, and the command `bound`."""

import csv
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner

from cheaplip import Ball, certified_radius, lipschitz_bracket
from cheaplip.bounds import subdivision
from cheaplip.bounds.radius import certified_accuracy
from cheaplip.bounds.upper import upper_bound
from cheaplip.cli import app
from cheaplip.data import load
from cheaplip.errors import InputError
from cheaplip.robustness.attacks import normalized_pgd
from cheaplip.runs.configure import configure_run
from cheaplip.runs.execute import bound_run, execute_run
from support.networks import QUICK
from support.searches import short_ascents, short_searches


def test_the_radius_of_a_linear_classifier_is_the_distance_to_its_boundary():
    layer = nn.Linear(3, 2)
    x = torch.randn(20, 3)
    normal = (layer.weight[0] - layer.weight[1]).detach().double()
    margin = (x.double() @ normal + (layer.bias[0] - layer.bias[1]).detach().double()).abs()
    radius = certified_radius(layer, x)
    torch.testing.assert_close(radius, margin / normal.norm(), rtol=1e-6, atol=1e-7)
    labels = layer(x).argmax(1)
    labels[:5] = 1 - labels[:5]
    right = certified_radius(layer, x, labels=labels)
    assert right[:5].tolist() == [0] * 5
    assert right[5:].equal(radius[5:])
    assert certified_accuracy(torch.tensor([0.0, 1.0, 2.0]), [1.0])[0] == {"eps": 1.0, "certified_accuracy": 1 / 3, "n": 3}


@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_no_attack_fools_within_the_radius(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    x = torch.randn(15, 4).double()
    y = model(x).argmax(1)
    with short_searches(), short_ascents():
        bracket = lipschitz_bracket(model, x, steps=1)
    radius = certified_radius(model, x, bracket)
    for i in range(len(x)):
        eps = float(radius[i]) * (1 - 1e-6)
        _, fooled = normalized_pgd(model, x[i : i + 1], y[i : i + 1], eps=eps, step=eps / 4, iterations=8)
        assert not fooled.any()


def test_refuses_a_bracket_of_another_network():
    bracket = lipschitz_bracket(nn.Linear(3, 2), torch.randn(1, 3), steps=1)
    with pytest.raises(InputError, match="3 outputs"):
        certified_radius(nn.Linear(3, 3), torch.randn(2, 3), bracket)
    with pytest.raises(InputError, match="budget > 0"):
        lipschitz_bracket(nn.Linear(3, 2), torch.randn(1, 3), budget=0.0)


@settings(max_examples=4)
@given(
    seed=st.integers(0, 1000),
    radius=st.sampled_from([0.01, 0.1, 1.0]),
    act=st.sampled_from([nn.ReLU, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.Hardswish, nn.Softplus]),
)
def test_slopes_in_a_ball_or_box_stay_below_the_bound_there(seed, radius, act):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 5), act(), nn.Dropout(), nn.Linear(5, 2)).double()  # in training mode
    centre = torch.randn(3).double()
    with short_searches():
        everywhere = upper_bound(model, (3,))
    for domain in (Ball(centre, radius), (centre - radius, centre + radius)):
        with short_searches(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(subdivision, "CELLS", 0)
            upper = upper_bound(model, (3,), domain=domain)
        assert upper.value <= everywhere.value
        with short_searches(), short_ascents(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(subdivision, "CELLS", 500)
            bracket = lipschitz_bracket(model, centre[None], domain=domain, steps=5)
        assert bracket.upper <= upper.value * (1 + subdivision.TOLERANCE)
        assert bracket.lower <= upper.value * (1 + 1e-9)
        assert all(((point - centre).norm() if isinstance(domain, Ball) else (point - centre).abs().max()) <= radius + 1e-5
                   for point in bracket.witness)  # fmt: skip


@pytest.mark.parametrize("inputs", [3, 20])  # by subdivision, by multipliers
def test_a_small_ball_knows_the_slopes(inputs):
    model = nn.Sequential(nn.Linear(inputs, 20), nn.ReLU(), nn.Linear(20, 12), nn.ReLU(), nn.Linear(12, 2)).double()
    centre = torch.randn(inputs).double()
    jacobian = torch.func.jacrev(model)(centre)
    found = upper_bound(model, (inputs,), domain=Ball(centre, 1e-5))
    assert found.value == pytest.approx(torch.linalg.matrix_norm(jacobian, 2).item(), rel=1e-3)
    assert "1e-05 of a point" in found.scope


@pytest.mark.slow
def test_the_larger_the_ball_the_more_slopes_there_are():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2))
    centre = torch.randn(10)
    bounds = [upper_bound(model, (10,), domain=Ball(centre, radius)).value for radius in (0.01, 0.3, 1.0)]
    assert bounds == sorted(bounds)
    assert bounds[-1] < upper_bound(model, (10,)).value
    assert bounds[0] < 0.8 * bounds[-1]


def test_refuses_domains_that_are_none():
    model, centre = nn.Linear(3, 2), torch.zeros(3)
    for domain in (Ball(centre, -1.0), Ball(centre, math.inf), (1.0, 0.0), (0.0, math.nan), Ball(torch.zeros(2), 1.0)):
        with pytest.raises(InputError):
            upper_bound(model, (3,), domain=domain)


@pytest.mark.usefixtures("quick_bounds")
def test_the_command_bound_writes_bracket_and_certified_accuracy(run_copy):
    done = CliRunner().invoke(app, ["bound", str(run_copy), "--eps", "0.01,100", "--budget", "0.6"])
    assert done.exit_code == 0, done.output
    result = json.loads((run_copy / "result.json").read_text())
    assert result["lipschitz"]["ratio"] == result["lipschitz"]["upper"] / result["lipschitz"]["lower"]
    assert [point["eps"] for point in result["certified"]] == [0.01, 100]
    assert 0 < result["certified"][0]["certified_accuracy"] <= result["test_accuracy"]
    assert result["certified"][1]["certified_accuracy"] == 0
    assert result["samples"]["certified"] == result["certified"][0]["n"]
    with (run_copy / "radii.csv").open() as file:
        samples = list(csv.DictReader(file))
    assert [int(sample["label"]) for sample in samples] == load("digits").test_y.tolist()
    beyond = sum(float(sample["radius"]) > 0.01 for sample in samples)
    assert beyond == round(result["certified"][0]["certified_accuracy"] * len(samples))
    larger = [float(sample["local_radius"]) for sample in samples if sample["local_radius"]]
    assert len(larger) == result["samples"]["certified_locally"] == result["certified_locally"][0]["n"]
    assert all(larger[i] >= float(samples[i]["radius"]) - 1e-8 for i in range(len(larger)))
    assert result["certified_locally"][0]["certified_accuracy"] == sum(r > 0.01 for r in larger) / len(larger)
    assert json.loads(done.stdout)["certified_locally"] == result["certified_locally"]
    assert json.loads(done.stdout)["certified"] == result["certified"]
    assert isinstance(CliRunner().invoke(app, ["bound", str(run_copy), "--eps", "-1"]).exception, InputError)
    assert CliRunner().invoke(app, ["bound", str(run_copy), "--eps", "x"]).exit_code == 2


def unbounded(shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), outputs), nn.Hardshrink())


@pytest.mark.usefixtures("quick_bounds")
def test_the_command_bound_of_what_has_no_upper_bound_offers_the_lower_one(tmp_path):
    execute_run(configure_run({**QUICK, "epochs": 2, "hidden": None, "model": f"{__name__}:unbounded"}), tmp_path / "run")
    with pytest.raises(InputError, match=r"hardshrink.*lower bound [\d.]+ is written"):
        bound_run(tmp_path / "run", trust_model=True)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["lipschitz"]["upper"] is None
    assert result["lipschitz"]["lower"] > 0
