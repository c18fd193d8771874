"""The examples run as they stand and say what they promise."""

import re
import runpy
from pathlib import Path

import pytest

import cheaplip
from cheaplip import fit
from support.searches import short_ascents, short_searches

EXAMPLES = Path(__file__).parents[1] / "examples"


def numbers(pattern, text):
    return [float(value) for value in re.findall(pattern, text)]


def own_loop(printed):
    (accuracy,) = numbers(r"test accuracy ([\d.]+)", printed)
    bounds = numbers(r"Lip\(f\) >= ([\d.]+)", printed)
    assert accuracy > 0.9
    assert bounds[-1] < bounds[1] / 2
    assert numbers(r"weight ([\d.]+)", printed)[-1] > 0


def fit_and_attack(printed):
    plain, pressed = numbers(r"length 0.75: ([\d.]+)", printed)
    assert pressed > plain + 0.1
    assert numbers(r"([\d.]+) <= Lip", printed)[1] < numbers(r"([\d.]+) <= Lip", printed)[0] / 2


def regression(printed):
    errors = numbers(r"included, ([\d.]+),", printed)
    bounds = numbers(r"([\d.]+) <= Lip", printed)
    assert min(errors[1:]) < errors[0]
    assert bounds == sorted(bounds, reverse=True)


PROMISES = {"own_loop": own_loop, "fit_and_attack": fit_and_attack, "regression": regression}


def test_every_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(PROMISES)


@pytest.mark.parametrize("name", ["own_loop", "fit_and_attack", pytest.param("regression", marks=pytest.mark.slow)])
def test_example(name, capsys):
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text().splitlines()) < 60
    runpy.run_path(str(path), run_name="__main__")
    PROMISES[name](capsys.readouterr().out)


def test_the_example_of_a_regression_with_fewer_epochs(capsys, monkeypatch):
    monkeypatch.setattr(cheaplip, "fit", lambda *given, **options: fit(*given, **options | {"epochs": 100}))
    with short_searches(), short_ascents(20):
        runpy.run_path(str(EXAMPLES / "regression.py"), run_name="__main__")
    regression(capsys.readouterr().out)
