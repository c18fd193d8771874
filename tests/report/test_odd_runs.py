"""Pages of runs that lack something, or hold something odd."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cheaplip.errors import InputError
from cheaplip.report import summary_table, write_report
from cheaplip.run_folder import find_runs
from support.elements import parse
from support.run_folders import EVIL, write_pairs, write_run

REGRESSION: dict[str, Any] = dict.fromkeys(
    ("train_accuracy", "test_accuracy", "noise_accuracy", "noise_accuracy_clamped", "pgd_accuracy", "strong_accuracy")
)
REGRESSION |= {"target": None, "curve": None, "data": "regression", "train_loss": 0.004, "test_loss": 0.006}


def test_absent_data_leaves_sections_out(tmp_path: Path) -> None:
    write_run(tmp_path / "run", **REGRESSION, lipschitz=None, weight=None)
    text = write_report(find_runs([tmp_path / "run"]), tmp_path / "out").read_text(encoding="utf-8")
    assert ">Training<" in text
    assert "Train loss" in text
    for absent in ("Accuracy against", "How the weight", ">Lipschitz constant", "Pairs before", "Target", "PGD", "±"):
        assert absent not in text


def test_target_of_a_regression_is_a_loss(tmp_path: Path) -> None:
    write_run(tmp_path / "run", **REGRESSION | {"target": 0.0045})
    assert summary_table(find_runs([tmp_path]))[0].label == "CLIP 0.0045"
    text = write_report(find_runs([tmp_path / "run"]), tmp_path / "out").read_text(encoding="utf-8")
    assert ">0.0045</text>" in text
    assert "0.45 %" not in text


def test_missing_upper_bound_gives_its_reason(tmp_path: Path) -> None:
    write_run(tmp_path / "run", lipschitz={"lower": 1.25, "upper": None, "reason": "no rule for Tanh"})
    text = write_report(find_runs([tmp_path / "run"]), tmp_path / "out").read_text(encoding="utf-8")
    assert "CLIP 95 % has no upper bound: no rule for Tanh" in text
    assert "at least 1.25, no upper bound" in text
    assert "1.25 .. ?" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")


def test_names_from_run_folders_are_escaped(tmp_path: Path) -> None:
    evil = {"data": EVIL, "model": f'"{EVIL}', "provenance": {"git": EVIL, EVIL: "x"}}
    lipschitz = {"lower": 1.0, "upper": None, "reason": EVIL, "method": {"lower": EVIL}, "scope": EVIL}
    run = write_run(tmp_path / "run", method=f"$x^{EVIL}", lipschitz=lipschitz, **evil)
    write_pairs(run)
    text = write_report(find_runs([run]), tmp_path / "out").read_text(encoding="utf-8")
    assert EVIL not in text
    assert html.escape(EVIL) in text
    assert parse(text).tags.count("script") == 1


@pytest.mark.parametrize("shape", [(8, 8), (3, 8, 8), (32,), (1,), (2, 5, 8, 8)])
def test_pairs_of_any_shape_are_shown(tmp_path: Path, shape: tuple[int, ...]) -> None:
    run = write_run(tmp_path / "run")
    write_pairs(run, shape, k=6)
    text = write_report(find_runs([run]), tmp_path / "out").read_text(encoding="utf-8")
    pictures = text.count("<img") + text.count("<polyline")
    assert pictures == (0 if shape == (1,) else 16)  # at most 4 pairs
    assert "quotient <b>1.31</b>" in text
    assert "before ascent, predicted class" in text or shape == (1,)


@pytest.mark.parametrize(
    "changes",
    [
        {
            "curve": "x",
            "lipschitz": "x",
            "samples": [1],
            "evaluation": 3,
            "target": "x",
            "weight": [1],
            "provenance": "p",
        },
        {"lipschitz": {"lower": 0.0, "upper": 0.0}, "curve": [{"eps": 1.0, "strong_accuracy": 0.2}]},
        {"lipschitz": {"lower": 1e-9, "upper": 1e38}, "weight": 1e300},
        {"method": "m" * 500, "data": "日本" * 99, "provenance": {"a": {"b": [1, 2]}, "c": None, "d": [1, "x"]}},
    ],
)
@pytest.mark.parametrize("history", ['{"epoch":"x"}\n', "", '{"epoch":1,"train_loss":0,"train_accuracy":0,"weight":0}'])
def test_odd_runs_do_not_break_the_page(tmp_path: Path, changes: dict[str, Any], history: str) -> None:
    run = write_run(tmp_path / "run", **changes)
    (run / "metrics.jsonl").write_text(history)
    assert "</footer>" in write_report(find_runs([run]), tmp_path / "out").read_text(encoding="utf-8")


def test_rows_without_a_lower_end_do_not_break_the_bracket_in_training(tmp_path: Path) -> None:
    points = [{"eps": 0.5, "certified_accuracy": 0.7}]
    for method in ("clip", "standard"):  # of Standard the epochs have no lower bound
        write_run(tmp_path / method, method=method, certified=points)
    text = write_report(find_runs([tmp_path]), tmp_path / "out").read_text(encoding="utf-8")
    assert re.search(r"Upper end\. Standard: .* CLIP 95 %: .* Lower end\. CLIP 95 %: ", text)


def test_damaged_pairs_are_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "pairs.npz").write_bytes(b"not a zip")
    with pytest.raises(InputError, match=r"pairs\.npz"):
        write_report(find_runs([run]), tmp_path / "out")
    np.savez(run / "pairs.npz", u_before=np.zeros((1, 2)))
    with pytest.raises(InputError, match=r"no array .*after"):
        write_report(find_runs([run]), tmp_path / "out")
