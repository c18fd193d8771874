"""`cheaplip reproduce`."""

import json
from pathlib import Path

import pytest

from support.commands import SETTINGS


@pytest.mark.usefixtures("quick_bounds")
def test_reproduce(call, monkeypatch):
    from cheaplip.experiments import table_1

    shared = {"data": "digits", "hidden": (8,), "attack_samples": 20, **SETTINGS}
    monkeypatch.setitem(table_1.BLOCKS, "mnist-default", (shared, {"standard": {"method": "standard"}}))
    Path("short.json").write_text('{"batch_size": 64, "epochs": 9}')
    command = ("reproduce", "mnist", "--table", "mnist-default", "--config", "short.json", "--seeds", 2)
    command += ("--epochs", 2, "--out", "tables")
    code, out, err = call(*command)
    assert code == 0
    assert "Standard" in out
    assert err.splitlines()[-1] == "runs: 2/2"
    assert {path.name for path in Path("tables/mnist-default").iterdir()} >= {"runs", "index.html", "table.json", "table.csv"}
    training = json.loads(Path("tables/mnist-default/runs/standard-20/config.json").read_text())["training"]
    assert (training["batch_size"], training["epochs"]) == (64, 2)
    code, out, _ = call(*command, "--json")  # nothing is left to do
    assert (code, json.loads(out)["rows"][0]["n"]) == (0, 2)
    code, _, err = call(*command[:-3], 3, "--out", "tables")
    assert code == 2
    assert "with a run of the same settings; got other settings" in err
    monkeypatch.setitem(table_1.BLOCKS, "mnist-default", (shared | {"lr": 1e30}, {"wrong": {"method": "standard"}}))
    code, _, err = call(*command)
    assert code == 1
    assert "mnist-default/wrong-20 failed: DivergenceError" in err


@pytest.mark.usefixtures("quick_bounds")
def test_reproduce_a_section(call, monkeypatch):
    from cheaplip.experiments import section_3

    monkeypatch.setattr(section_3, "MEASUREMENTS", {"absolute-value": section_3.absolute_value})
    monkeypatch.setenv("CHEAPLIP_DATA", "nowhere")  # of no concern to it
    code, out, err = call("reproduce", "analysis", "--seeds", 2, "--out", "results")
    assert code == 0
    assert "| Example (1) | " in out
    assert err.splitlines()[-1] == "parts: 2/2"
    assert {path.name for path in Path("results/analysis").iterdir()} == {
        "parts",
        "index.html",
        "table.json",
        "table.csv",
        "table.md",
    }

    def fails(seed, settings):
        raise KeyboardInterrupt if seed else ZeroDivisionError("by zero")

    monkeypatch.setattr(section_3, "MEASUREMENTS", {"fails": fails})
    code, _, err = call("reproduce", "analysis", "--seeds", 1, "--out", "other")
    assert code == 1
    assert "fails-0 failed: ZeroDivisionError: by zero" in err
    code, _, err = call("reproduce", "analysis", "--seeds", 2, "--out", "other")
    assert code == 130
    assert err.splitlines()[-1] == "Interrupted. The same command continues."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mnits"], "Did you mean 'mnist'"),
        (["mnist", "--table", "mnist-cnn"], "a table of mnist"),
        (["mnist", "--seeds", "0"], "at least one seed; got 0"),
        (["mnist", "--jobs", "0"], "at least one job at once; got 0"),
        (["mnist", "--backend", "slurm"], "backend to be one of dask, local"),
        (["regresion"], "Did you mean 'regression'"),
        (["regression", "--table", "mnist-default"], "expected options that regression has; got --table. Leave it away"),
        (["analysis", "--epochs", "3"], "expected options that analysis has; got --epochs. Leave it away"),
        (["regression", "--data-dir", "data"], "got --data-dir"),
        (["analysis", "--seeds", "0"], "at least one seed; got 0"),
        (["regression", "--jobs", "0"], "at least one job at once; got 0"),
        (["analysis", "--backend", "slurm"], "backend to be one of dask, local"),
    ],
)
def test_what_reproduce_refuses(call, arguments, message):
    code, out, err = call("reproduce", *arguments, "--out", "tables")
    assert (code, out) == (2, "")
    assert message in err
