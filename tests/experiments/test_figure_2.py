"""Figure 2: the data, the threshold of the constant, a small run, its curves and its figures."""

import json
import math

import numpy as np
import pytest
import torch

from cheaplip.experiments.figure_2 import Figure2Config, constant_threshold, measure, reproduce_regression, sample, train, truth
from cheaplip.models import mlp
from cheaplip.regularization.scheduler import ConstantWeight
from cheaplip.report.figure_2 import FIGURES, fits_of
from cheaplip.report.style import new_figure
from support.searches import short_ascents, short_searches

SMALL = Figure2Config(hidden=(20,), chain_steps=15, path_steps=10, path=(1.0, 0.01), grid=41, fine_grid=401)


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    out = tmp_path_factory.mktemp("regression")
    with short_searches(), short_ascents():
        text, failures = reproduce_regression(out, seeds=1, settings=SMALL)
    assert failures == []
    return out, text


def test_the_data_lie_where_the_paper_has_them():
    x, y = sample(3, Figure2Config(noise=0.0))
    assert 15 <= len(x) <= 50
    inside = (x.abs() >= 3) | (x.abs() <= 0.3)
    assert inside.all()
    assert torch.equal(y, truth(x))
    assert truth(torch.tensor([-4.0, -3.0, 0.0, 3.5])).tolist() == [0.5, 0.0, 0.0, 0.25]
    noise = torch.cat([y - truth(x) for x, y in (sample(seed, Figure2Config()) for seed in range(60))])
    assert float(noise.std()) == pytest.approx(0.067, rel=0.1)


def test_the_threshold_of_the_constant_is_the_steepest_fall_of_the_risk():
    """Against brute force: the best direction is piecewise linear with slopes +-1 between the data."""
    x, y = torch.tensor([[0.3], [-1.0], [1.0], [0.0]]), torch.tensor([[1.0], [0.0], [-0.5], [2.0]])
    order = np.argsort(x.numpy()[:, 0])
    xs, residual = x.numpy()[order, 0], (y - y.mean()).numpy()[order, 0]
    signs = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T
    directions = np.concatenate([np.zeros((8, 1)), (signs * np.diff(xs)).cumsum(1)], axis=1)
    assert constant_threshold(x, y) == pytest.approx(float((2 * directions @ residual / 4).max()), rel=1e-6)


def test_above_the_threshold_training_ends_at_the_mean_and_below_it_does_not():
    data = sample(0, SMALL)
    threshold = constant_threshold(*data)
    grid = torch.linspace(-4, 4, 50)[:, None]
    heights = {}
    for factor in (2.0, 0.05):
        torch.manual_seed(0)
        model = mlp((1,), 1, hidden=(20,), activation="tanh")
        train(model, data, ConstantWeight(factor * threshold), 400, Figure2Config(lr=0.02), 0)
        heights[factor] = model(grid).detach()
    assert float((heights[2.0] - data[1].mean()).abs().max()) < 0.01
    assert float(heights[0.05].max() - heights[0.05].min()) > 0.1


def test_what_is_measured_of_a_known_function():
    model = torch.nn.Linear(1, 1)
    torch.nn.utils.vector_to_parameters(torch.tensor([0.25, 0.5]), model.parameters())
    x = torch.tensor([[0.0], [2.0]])
    metrics = measure(model, (x, model(x).detach() + 1), SMALL)
    assert metrics["train_loss"] == pytest.approx(1)
    assert metrics["lipschitz"] == pytest.approx(0.25)
    assert metrics["lipschitz_lower"] <= 0.25 + 1e-9 <= metrics["lipschitz_upper"] + 2e-9
    assert metrics["pairs_share"] == pytest.approx(1)
    assert metrics["gap_variation"] == pytest.approx(2 * 2.7 * 0.25, rel=0.03)
    assert metrics["gap_error"] == pytest.approx(0.5 + 0.25 * 3, abs=0.01)


def test_table_and_curves(reproduced):
    out, text = reproduced
    table = json.loads((out / "table.json").read_text())
    assert table["schema"] == 1
    labels = [(row["fit"], row["lambda"]) for row in table["rows"]]
    weights = ["0", "10", "1", "1e-10", "0 after 1"]
    assert labels == [
        *[(kind, weight) for kind in ("sigmoid", "squared", "linear") for weight in weights],
        ("discrepancy", "found"),
        ("constant", "from"),
        *[("path", weight) for weight in ("1", "0.01")],
    ]
    for row in table["rows"]:
        assert row["n"] == 1
        assert all(set(metric) == {"mean", "ci95"} and metric["ci95"] is None for metric in row["metrics"].values())
    assert table["provenance"]["seeds"] == [0]
    assert text == (out / "table.md").read_text()
    assert (out / "table.csv").read_text().startswith("fit,lambda,n,train_loss,train_loss_ci95,")
    curves = json.loads((out / "curves.json").read_text())
    assert {len(fit["fit"]) for fit in curves["fits"]} == {len(curves["x"])} == {len(curves["truth"])} == {41}
    assert [fit["lambda"] for fit in fits_of(curves, "path", 0)] == [1.0, 0.01]
    assert len(curves["data"][0]["x"]) == len(curves["data"][0]["y"])
    risks = {(row["fit"], row["lambda"]): row["metrics"].get("train_loss", {}).get("mean") for row in table["rows"]}
    for fit in fits_of(curves, "path"):
        assert fit["risk"] == risks["path", f"{fit['lambda']:g}"]


def test_a_weight_of_1e_10_is_none(reproduced):
    """The control of the third panel: its fit is that of lambda = 0 from the same start."""
    rows = json.loads((reproduced[0] / "table.json").read_text())["rows"]
    distances = [row["metrics"]["distance_to_1e-10"]["mean"] for row in rows if "distance_to_1e-10" in row["metrics"]]
    assert len(distances) == 3
    assert max(distances) < 1e-4


def test_figures_say_what_they_show(reproduced):
    out, _ = reproduced
    panels = (out / "panels.svg").read_text()
    for text in ("λ = 10", "λ = 1", "λ = 1e-10", "λ = 0", "sigmoid output", "linear output", "truth", "data", "fit"):
        assert f">{text}<" in panels
    assert panels.count("Lip ") == 12
    assert "by discrepancy" in (out / "l-curve.svg").read_text()
    assert (out / "discrepancy.svg").exists()
    curves = json.loads((out / "curves.json").read_text())
    for spec in FIGURES.values():
        with new_figure(*spec.size) as figure:
            spec.draw(figure, curves)
            assert all(math.isfinite(value) for axes in figure.axes for value in (*axes.get_xlim(), *axes.get_ylim()))
