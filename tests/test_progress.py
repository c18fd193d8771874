import sys

import pytest

from cheaplip import fit, progress
from cheaplip.progress import activity_shown, bytes_shown, count_shown, describe, epochs_shown
from support.networks import OPTIONS, dense, digits

ROW = {"epoch": 1, "train_loss": 0.5, "train_accuracy": 0.25, "weight": 0.0123456, "lower_bound": 3.14159}


def pretend_terminal(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_what_a_row_says():
    assert describe(ROW) == "loss 0.5000, accuracy 25.0%, weight 0.01235, Lip >= 3.14"
    assert describe(ROW | {"train_accuracy": None, "lower_bound": None}) == "loss 0.5000, weight 0.01235"


@pytest.mark.parametrize(("every", "epochs"), [(0, (1, 2, 3, 4)), (1000, (1, 4))])
def test_plain_lines_now_and_then_where_no_one_looks(capsys, monkeypatch, every, epochs):
    monkeypatch.setattr(progress, "EVERY", every)
    fit(dense(), digits(), method="standard", progress=True, **OPTIONS)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.partition(": loss")[0] for line in err.splitlines()] == [f"standard, seed 0: epoch {i}/4" for i in epochs]


def test_nothing_where_nothing_is_asked_for(capsys, monkeypatch):
    fit(dense(), digits(), method="standard", **OPTIONS)
    monkeypatch.setattr(progress, "quiet", True)
    fit(dense(), digits(), method="standard", progress=True, **OPTIONS)
    with count_shown("runs", 2) as show, activity_shown("evaluation"), bytes_shown("file", 10) as arrive:
        show(1)
        arrive(5)
    assert capsys.readouterr() == ("", "")


def test_counts_now_and_then(capsys):
    with count_shown("runs", 9) as show:
        for done in (0, 0, 1, 2, 9):
            show(done)
    assert capsys.readouterr().err.splitlines() == ["runs: 0/9", "runs: 9/9"]


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    pretend_terminal(monkeypatch)
    with epochs_shown("clip", 3, done=1) as show:
        show(ROW | {"epoch": 2})
    out, err = capsys.readouterr()
    assert out == ""
    assert "━" in err
    assert "2/3" in err
    assert "accuracy 25.0%, weight 0.01235" in err


def test_an_activity(capsys):
    with activity_shown("evaluation"):
        pass
    assert capsys.readouterr() == ("", "evaluation\n")


def test_an_activity_on_a_terminal(capsys, monkeypatch):
    pretend_terminal(monkeypatch)
    with activity_shown("evaluation"):
        pass
    out, err = capsys.readouterr()
    assert out == ""
    assert "evaluation" in err
    assert "\x1b[" in err  # a spinner that clears itself
