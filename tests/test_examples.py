"""The examples run as they stand and say what they promise."""

import re
import runpy
import sys
from pathlib import Path

import pytest

import cheaplip
from cheaplip import evaluate_robustness as evaluate
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


def tabular(printed):
    without, with_certificate = numbers(r"certified at 0.5 standard deviations: ([\d.]+)", printed)
    assert with_certificate > without


def controller(printed):
    contractions = numbers(r"<= ([\d.]+) on", printed)
    assert max(contractions) < 1  # of the upper ends


def critic(printed):
    assert numbers(r": ([\d.]+)%", printed)[0] > 90
    assert numbers(r"<= ([\d.]+)$", printed.splitlines()[0])[0] < 1.02


def gru(printed):
    plain, pressed = (list(map(float, found.split(", "))) for found in re.findall(r"errors (.*)", printed))
    assert pressed[-1] < plain[-1]


def two_processes(printed):
    assert numbers(r"test accuracy ([\d.]+)", printed)[0] > 0.9


def certified_cnn(printed):
    plain, pressed = numbers(r"certified at 0.5: ([\d.]+)", printed)
    assert pressed > plain + 0.3
    assert numbers(r"<= Lip\(f\) <= ([\d.]+)", printed)[1] < 2.1


def lightning_module(printed):
    plain, pressed = numbers(r"with noise ([\d.]+)", printed)
    assert pressed > plain
    assert numbers(r">= ([\d.]+)", printed)[1] < numbers(r">= ([\d.]+)", printed)[0] / 2


def text(printed):
    plain, pressed = numbers(r"([\d.]+) at 20%", printed)
    assert pressed > plain


PROMISES = {"own_loop": own_loop, "fit_and_attack": fit_and_attack, "regression": regression, "tabular": tabular}
PROMISES |= {"controller": controller, "critic": critic, "gru": gru, "two_processes": two_processes}
PROMISES |= {"certified_cnn": certified_cnn, "lightning_module": lightning_module, "text": text}
NEEDS = {"lightning_module": "lightning", "text": "transformers"}
LONG = {"fit_and_attack": 25, "regression": 100}
"""With the epochs after which the fast suite sees it keep its promise."""


def test_every_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(PROMISES)


@pytest.mark.parametrize(
    "name", ["own_loop", *(pytest.param(name, marks=pytest.mark.slow) for name in PROMISES if name != "own_loop")]
)
def test_example(name, capsys, monkeypatch):
    pytest.importorskip(NEEDS.get(name, "torch"))
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text().splitlines()) < 80
    monkeypatch.setattr(sys, "argv", [str(path)])
    runpy.run_path(str(path), run_name="__main__")
    PROMISES[name](capsys.readouterr().out)


@pytest.mark.parametrize("name", ["fit_and_attack", pytest.param("regression", marks=pytest.mark.slow)])
def test_example_with_shorter_searches(name, capsys, monkeypatch):
    weaker = {"iterations": 10, "curve": (0.5,)}
    monkeypatch.setattr(cheaplip, "fit", lambda *given, **options: fit(*given, **options | {"epochs": LONG[name]}))
    monkeypatch.setattr(cheaplip, "evaluate_robustness", lambda *given, **options: evaluate(*given, **options | weaker))
    with short_searches(), short_ascents(20):
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    PROMISES[name](capsys.readouterr().out)
