"""Table 1 as jobs, as a command, and beside the paper."""

import csv
import json

import pytest

from cheaplip.errors import InputError
from cheaplip.experiments import table_1 as images
from cheaplip.experiments.table_1 import BLOCKS, EXPERIMENTS, reproduce_tables, table_jobs
from cheaplip.report import csv_table, summary_table, write_report
from cheaplip.report.paper_values import published
from cheaplip.report.tables import value_text
from cheaplip.run_folder import read_run
from support.networks import QUICK
from support.run_folders import write_run

SHORT = {key: value for key, value in QUICK.items() if key not in ("data", "target")} | {"epochs": 2}


def test_the_tables_of_each_experiment():
    assert EXPERIMENTS == {
        "mnist": ["mnist-default", "mnist-paper", "mnist-certified", "mnist-certified-wide", "mnist-wide"],
        "fashion-mnist": [
            "fashion-mnist-mlp",
            "fashion-mnist-certified",
            "fashion-mnist-certified-wide",
            "fashion-mnist-cnn",
        ],
    }


def test_table_1_has_the_papers_rows_and_those_at_the_targets_it_missed():
    jobs = table_jobs("mnist-default", 2)
    rows = {(job.training.method, job.training.target) for job in jobs.values() if job.training.method != "standard"}
    assert rows == {(method, t) for method in ("weight", "clip") for t in (0.95, 0.9, 0.85)} | {
        ("clip", 0.918),
        ("clip", 0.876),
    }
    assert {name for name in jobs if name.startswith("clip-91")} == {"clip-91.8-20", "clip-91.8-21"}
    assert all(job.data == "mnist" for job in jobs.values())


def test_the_papers_settings_come_in_both_readings_of_the_last_layer():
    jobs = table_jobs("mnist-paper", 1)
    assert {job.model.activation for job in jobs.values()} == {"sigmoid"}
    assert {job.training.rule for job in jobs.values()} == {"additive"}
    assert sum(job.model.output_activation == "sigmoid" for job in jobs.values()) == 7
    assert sum(job.training.squared for job in jobs.values()) == 3
    assert {job.training.update for job in jobs.values()} == {"minibatch"}
    assert len({job.model_dump_json() for job in jobs.values()}) == len(jobs)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_job_is_one_of_its_own(block):
    jobs = table_jobs(block, 3, {"epochs": 7, "warmup": 1, "keep": "last"})
    assert {job.training.seed for job in jobs.values()} == {20, 21, 22}
    assert {job.training.epochs for job in jobs.values()} == {7}
    assert len({job.model_dump_json() for job in jobs.values()}) == len(jobs)


def test_refusals(tmp_path):
    with pytest.raises(InputError, match="Did you mean 'mnist-default'"):
        reproduce_tables("mnist", tmp_path, seeds=1, tables=["mnist-defualt"])
    with pytest.raises(InputError, match="an experiment"):
        reproduce_tables("cifar", tmp_path, seeds=1)
    with pytest.raises(InputError, match="rows of mnist-wide can share; got method, target"):
        table_jobs("mnist-wide", 1, {"target": 0.9, "epochs": 3, "method": "clip"})
    with pytest.raises(InputError, match="at least one seed; got 0"):
        reproduce_tables("mnist", tmp_path, seeds=0)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("quick_bounds")
def test_tables_and_a_page_come_from_the_grid_and_failures_are_named(tmp_path, monkeypatch):
    rows = {"clip": {"method": "clip"}, "wrong": {"method": "clip", "lr": 1e30}}
    monkeypatch.setitem(images.BLOCKS, "mnist-default", ({"data": "digits"}, rows))
    failures = reproduce_tables("mnist", tmp_path, seeds=2, tables=["mnist-default"], settings=SHORT)
    assert [failure.name for failure in failures] == ["mnist-default/wrong-20", "mnist-default/wrong-21"]
    table = json.loads((tmp_path / "mnist-default/table.json").read_text())
    assert [(row["method"], row["n"]) for row in table["rows"]] == [("clip", 2)]
    assert (tmp_path / "mnist-default/index.html").exists()


def test_the_papers_numbers_are_those_of_its_table():
    row = published("mnist", "mlp 784-64-64-10 softplus", "clip", 0.90)
    assert row.pop("weight") == 3.91
    assert row == {"train_accuracy": 0.918, "test_accuracy": 0.916, "noise_accuracy": 0.78, "pgd_accuracy": 0.362}
    assert published("fashion-mnist", "cnn 1-32-64-1024-10 relu", "standard", None)["pgd_accuracy"] == pytest.approx(0.019)
    assert published("fashion-mnist", "mlp 784-64-64-10 relu", "standard", None) == {}
    assert published("digits", "mlp 784-64-64-10 relu", "standard", None) == {}
    assert published("mnist", "mlp 784-64-64-10 relu", "clip", 0.918) == {}
    wide = published("mnist", "mlp 784-200-80-10 softplus", "clip", 0.97)
    assert wide == {"test_accuracy": 0.97, "noise_accuracy_clamped": 0.346, "pgd_accuracy_clamped": 0.724}


def test_every_form_of_the_table_has_the_papers_numbers_beside_ours(tmp_path):
    model = "mlp 784-64-64-10 relu"
    runs = [read_run(write_run(tmp_path / data, data=data, model=model, target=0.9)) for data in ("mnist", "digits")]
    page = write_report(runs, tmp_path / "report").read_text()
    assert page.count('<small class="paper">[36.2]</small>') == 1
    assert page.count("In brackets: Table 1 of the paper;") == 1
    assert page.count(">Beside the printed values<") == 1  # of digits nothing is printed
    pgd = value_text(runs[0].result["pgd_accuracy"], "percent")
    assert f"PGD eq. (14) {pgd} against 36.2" in page  # the plot in words
    markdown = (tmp_path / "report/table.md").read_text()
    assert markdown.count("[36.2]") == 1
    assert "In brackets" in markdown
    with (tmp_path / "report/table.csv").open() as file:
        assert {line["data"]: line["pgd_accuracy_paper"] for line in csv.DictReader(file)} == {"mnist": "0.362", "digits": ""}
    rows = json.loads((tmp_path / "report/table.json").read_text())["rows"]
    assert {row["data"]: row.get("paper", {}).get("pgd_accuracy") for row in rows} == {"mnist": 0.362, "digits": None}
    assert "paper" not in csv_table(summary_table(runs[1:]))
