"""Rows of runs: the interval's arithmetic, which runs share a row, and values that are no numbers."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cheaplip.errors import InputError
from cheaplip.report import json_table, markdown_table, summary_table
from cheaplip.report.aggregate import mean_interval, provenance
from cheaplip.report.run_values import number, points
from cheaplip.run_folder import Run, find_runs
from support.run_folders import write_run


def fake(seed: int, accuracy: float, method: str = "clip") -> Run:
    result = {"method": method, "seed": seed, "data": "d", "model": "m", "provenance": {}, "test_accuracy": accuracy}
    return Run(Path(str(seed)), {}, result, [])


def test_interval_in_closed_form() -> None:
    # For two values t(0.975, 1) = tan(0.475 pi), and s / sqrt(2) is half their distance.
    mean, ci95 = mean_interval([1.0, 3.0])
    assert mean == 2
    assert ci95 == pytest.approx(math.tan(0.475 * math.pi))
    # For three, t(p, 2) = (2p - 1) sqrt(2 / (1 - (2p - 1)^2)) and s = 1.
    _, ci95 = mean_interval([1.0, 2.0, 3.0])
    assert ci95 == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)) / math.sqrt(3))


def test_one_seed_has_no_interval_and_equal_seeds_a_zero_one() -> None:
    assert mean_interval([0.3]) == (0.3, None)
    assert mean_interval([0.1] * 3) == (0.1, 0.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_mean_lies_within_and_order_does_not_matter(values: list[float], shuffler: random.Random) -> None:
    runs = [fake(seed, value, method) for seed, value in enumerate(values) for method in ("clip", "standard", "x")]
    rows = summary_table(runs)
    assert [row.method for row in rows] == ["standard", "clip", "x"]
    for row in rows:
        estimate = row.metrics["test_accuracy"]
        assert row.n == estimate.n == len(values)
        assert min(values) - 1e-12 <= estimate.mean <= max(values) + 1e-12
        assert (estimate.ci95 is None) == (len(values) == 1)
    shuffler.shuffle(runs)
    assert json_table(summary_table(runs)) == json_table(rows)


def test_rows_are_sorted_by_method_and_falling_target(tmp_path: Path) -> None:
    for i, (method, target) in enumerate([("mine", 0.9), ("clip", 0.85), ("clip", 0.95), ("weight", 0.9), ("standard", None)]):
        write_run(tmp_path / str(i), method=method, target=target)
    rows = summary_table(find_runs([tmp_path]))
    assert [row.label for row in rows] == ["Standard", "Weight Reg. 90 %", "CLIP 95 %", "CLIP 85 %", "mine 90 %"]


def test_runs_with_different_settings_are_not_averaged(tmp_path: Path) -> None:
    write_run(tmp_path / "a", seed=0, evaluation={"eps": 1.0})
    write_run(tmp_path / "b", seed=1, evaluation={"eps": 2.0})
    rows = summary_table(find_runs([tmp_path]))
    assert [row.name for row in rows] == ["CLIP (evaluation eps=1.0)", "CLIP (evaluation eps=2.0)"]
    assert [row.n for row in rows] == [1, 1]


def test_settings_of_zero_go_without_saying_where_rows_stay_apart(tmp_path: Path) -> None:
    for i, eps in enumerate((0.0, 2.0)):
        write_run(tmp_path / "apart" / str(i), evaluation={"eps": eps})
    assert [row.name for row in summary_table(find_runs([tmp_path / "apart"]))] == ["CLIP", "CLIP (evaluation eps=2.0)"]
    for i, eps in enumerate((0.0, None)):
        write_run(tmp_path / "alike" / str(i), evaluation={"eps": eps})
    names = [row.name for row in summary_table(find_runs([tmp_path / "alike"]))]
    assert names == ["CLIP (evaluation eps=0.0)", "CLIP (evaluation eps=None)"]


def test_same_seed_twice_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    with pytest.raises(InputError, match=r"every seed of a row once.*seed 0"):
        summary_table(find_runs([tmp_path]))


def test_a_metric_that_one_seed_lacks_says_so(tmp_path: Path) -> None:
    write_run(tmp_path / "a", seed=0, pgd_accuracy=0.5)
    write_run(tmp_path / "b", seed=1, pgd_accuracy=None)
    rows = summary_table(find_runs([tmp_path]))
    assert rows[0].metrics["pgd_accuracy"].n == 1
    assert "50.0 (n=1)" in markdown_table(rows)


def test_of_many_dates_the_first_and_the_last_are_told(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / f"run-{seed}", seed=seed)
    merged = provenance(find_runs([tmp_path]))
    assert merged["date"] == ["2026-01-01T10:00:00+00:00", "2026-01-03T10:00:00+00:00"]
    assert merged["seeds"] == [0, 1, 2]


@pytest.mark.parametrize("value", [True, "1", None, [1], {"a": 1}, math.nan, -math.inf, 10**400])
def test_what_is_no_finite_number_is_absent(value: Any) -> None:
    assert number(value) is None
    assert points([{"eps": 1, "accuracy": value}, {"eps": 2, "accuracy": 0.5}, value], "eps", "accuracy") == {2: 0.5}
    assert points(value, "eps", "accuracy") == {}


def test_seeds_of_one_tolerance_are_one_row_whatever_their_targets(tmp_path: Path) -> None:
    for seed, made in enumerate((0.93, 0.95)):
        write_run(tmp_path / str(seed), method="clip", seed=seed, target=None, tolerance=0.01, steered_to=made)
    (row,) = summary_table(find_runs([tmp_path]))
    assert (row.n, row.target_text) == (2, "-1 %")
    assert row.steered_to == pytest.approx(0.94)
