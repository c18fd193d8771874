"""Section 3 on small cases with answers in closed form; and the parts that both experiments are made of."""

import contextlib
import itertools
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from cheaplip.errors import InputError
from cheaplip.experiments import section_3 as analysis
from cheaplip.experiments.measurements import run_measurements
from cheaplip.experiments.section_3 import (
    MEASUREMENTS,
    Section3Config,
    absolute_value,
    absolute_value_network,
    minimal_constant,
    monotonicity,
    reproduce_analysis,
    scattered,
)
from cheaplip.experiments.sqp import solve_path
from cheaplip.pairs.sets import PairSet
from support.networks import without

SMALL = Section3Config(points=4, points_a_side=2, starts=2, weights=5, hidden=2, features=8, grid=3, iterations=20, steps=300)


def line(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.5, 3.0])
def test_the_solver_meets_a_solution_in_closed_form(weight):
    """f(x) = a x, data (1, 1) and (-1, -1): risk (a - 1)^2 + weight |a|, so a = max(1 - weight / 2, 0)."""
    model = nn.Linear(1, 1, bias=False).double()
    (found,) = solve_path(model, (line(1, -1), line(1, -1)), PairSet(line(1), line(0)), [weight])
    slope = max(1 - weight / 2, 0)
    assert found.lipschitz == pytest.approx(slope, abs=1e-6)
    assert found.risk == pytest.approx((slope - 1) ** 2, abs=1e-6)
    assert found.objective == pytest.approx((slope - 1) ** 2 + weight * slope, abs=1e-8)
    assert float(model.weight.detach()) == pytest.approx(slope, abs=1e-6)  # the model is left at the solution
    assert found.converged


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0, 4.0, 6.0])
def test_of_several_outputs_the_solver_bounds_the_length(weight, seed):
    """f(x) = a x, data (1, b) and (-1, -b): risk |a - b|^2 / 2 + weight |a|, so a = max(1 - weight / |b|, 0) b."""
    torch.manual_seed(seed)
    b = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    model = nn.Linear(1, 2, bias=False).double()
    (found,) = solve_path(model, (line(1, -1), torch.cat([b, -b])), PairSet(line(1), line(0)), [weight])
    share = max(1 - weight / 5, 0)
    assert found.lipschitz == pytest.approx(5 * share, abs=1e-4)
    assert found.risk == pytest.approx((1 - share) ** 2 * 25 / 2, abs=1e-3)
    torch.testing.assert_close(model.weight.detach(), share * b.T, atol=1e-4, rtol=0)


def test_risk_and_constant_are_monotone_where_the_problem_is_convex():
    (convex, free) = monotonicity(0, SMALL)["rows"]
    assert convex["metrics"]["risk_falls_by"] < 1e-8
    assert convex["metrics"]["constant_rises_by"] < 1e-8
    assert convex["metrics"]["spread_of_starts"] < 1e-8
    assert free["case"] == "all layers"


def test_violations_are_seen():
    solutions = [
        analysis.Solution(w, line(0), risk, constant, True) for w, risk, constant in ((2, 1, 0), (1, 3, 2), (0.5, 2, 1))
    ]
    metrics = analysis._violations([solutions])
    assert metrics["risk_falls_by"] == pytest.approx(1.0)  # from 1 to 3 as lambda falls, of a range of 2
    assert metrics["constant_rises_by"] == pytest.approx(0.5)


def test_the_interpolant_of_two_values_in_the_plane_comes_near_kirszbraun():
    settings = replace(SMALL, features=20, iterations=60)
    last = minimal_constant(0, settings)["rows"][-1]
    assert last["case"] == "2-D, two values, last layer"
    assert last["metrics"]["ratio"] == pytest.approx(1, abs=0.1)
    assert last["metrics"]["risk"] < 1e-6


@pytest.mark.parametrize("seed", [0, 1])
def test_the_interpolant_in_the_limit_has_the_largest_slope_between_neighbours(seed):
    rows = [row for row in minimal_constant(seed, SMALL)["rows"] if row["case"].startswith("1-D")]
    x, y = scattered(seed, SMALL.points, 1)
    least = float((y.diff(dim=0) / x.diff(dim=0)).abs().max())
    ratios = [row["metrics"]["lipschitz"] / least for row in rows]
    assert all(before < after + 1e-5 for before, after in itertools.pairwise(ratios))  # 1e-5: of the solver
    assert ratios[0] < 0.999
    assert ratios[-1] == pytest.approx(1, abs=1e-4)
    assert rows[-1]["metrics"]["risk"] < 1e-8


def test_the_constant_limit_of_every_loss():
    rows = {row["case"]: row["metrics"] for row in analysis.constant_limit(0, SMALL)["rows"]}
    above, below = (metrics for case, metrics in rows.items() if case.startswith("threshold"))
    assert above["lipschitz"] < 1e-8 < 1e-4 < below["lipschitz"]
    trained = [metrics for case, metrics in rows.items() if not case.startswith("threshold")]
    assert len(trained) == 3
    assert max(metrics["distance"] for metrics in trained) < 0.02


@pytest.mark.usefixtures("quick_bounds")
def test_example_1():
    x = torch.linspace(-2, 2, 9)[:, None]
    assert torch.equal(absolute_value_network()(x), x.abs())
    metrics = absolute_value(0, SMALL)["rows"][0]["metrics"]
    assert metrics["lipschitz_lower"] == pytest.approx(1, abs=1e-9)
    assert metrics["product"] == pytest.approx(2, abs=1e-9)
    assert 1 <= metrics["lipschitz_upper"] <= 2 + 1e-9


@pytest.mark.usefixtures("quick_bounds")
def test_the_table_has_every_claim(tmp_path):
    text, failures = reproduce_analysis(tmp_path, seeds=2, settings=replace(SMALL, weights=3, steps=30))
    assert failures == []
    table = json.loads((tmp_path / "table.json").read_text())
    assert {row["claim"] for row in table["rows"]} == {"Prop. 2", "Prop. 3", "Prop. 4", "Example (1)"}
    assert {row["n"] for row in table["rows"]} == {2}
    assert table["settings"]["points"] == 4
    assert text.count("\n\n") == 3  # a table for each claim
    assert "| Example (1) | " in text


# The parts of an experiment

QUICK = {"absolute-value": MEASUREMENTS["absolute-value"], "minimal-constant": MEASUREMENTS["minimal-constant"]}


def contents(runs):
    return {run.folder.name: without(run.result) for run in runs}


@pytest.mark.slow
def test_the_numbers_do_not_depend_on_the_number_of_jobs(tmp_path):
    settings = replace(SMALL, points=3, starts=1, weights=2, features=4, iterations=3)
    one, _ = run_measurements(QUICK, settings, tmp_path / "one", seeds=2)
    two, _ = run_measurements(QUICK, settings, tmp_path / "two", seeds=2, workers=2)
    assert contents(one) == contents(two)
    assert len(contents(one)) == 4
    assert contents(one)["minimal-constant-0.json"] != contents(one)["minimal-constant-1.json"]
    assert all(run.result["provenance"]["threads"] == 1 for run in two)


def interrupted(seed, settings):
    if seed == 1:
        raise KeyboardInterrupt
    return absolute_value(seed, settings)


def failing(seed, settings):
    raise ZeroDivisionError("by zero")


@pytest.mark.usefixtures("quick_bounds")
def test_an_interrupted_experiment_continues(tmp_path):
    with contextlib.suppress(KeyboardInterrupt):
        run_measurements({"part": interrupted}, SMALL, tmp_path, seeds=2)
    (first,) = tmp_path.iterdir()
    stamp = first.stat().st_mtime_ns
    runs, failures = run_measurements({"part": absolute_value}, SMALL, tmp_path, seeds=2)
    assert (len(runs), failures) == (2, [])
    assert first.stat().st_mtime_ns == stamp


@pytest.mark.usefixtures("quick_bounds")
def test_a_part_that_fails_is_named_and_takes_no_other_along(tmp_path):
    runs, (failure,) = run_measurements({"wrong": failing, "right": absolute_value}, SMALL, tmp_path, seeds=1)
    assert (failure.name, failure.reason) == ("wrong-0", "ZeroDivisionError: by zero")
    assert [run.folder.name for run in runs] == ["right-0.json"]


@pytest.mark.usefixtures("quick_bounds")
def test_refusals(tmp_path):
    run_measurements({"part": absolute_value}, SMALL, tmp_path, seeds=1)
    with pytest.raises(InputError, match="of the same settings; got other settings"):
        run_measurements({"part": absolute_value}, Section3Config(), tmp_path, seeds=1)
    with pytest.raises(InputError, match="at least one seed; got 0"):
        run_measurements({"part": absolute_value}, SMALL, tmp_path, seeds=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="an output folder that can be written"):
        run_measurements({"part": absolute_value}, SMALL, tmp_path / "file/parts", seeds=1)
