"""The forms of the table: rounding, Markdown, CSV, JSON, and what is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cheaplip.report import csv_table, json_table, markdown_table, print_summary, summary_table, write_report
from cheaplip.report.tables import value_text
from cheaplip.run_folder import Run, find_runs
from support.run_folders import three_methods, write_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    return find_runs([three_methods(tmp_path_factory.mktemp("runs"))])


def test_bounds_are_rounded_outwards() -> None:
    assert (value_text(1.2399, "lower"), value_text(9.4201, "upper")) == ("1.23", "9.43")
    assert (value_text(1.2, "lower"), value_text(9.5, "upper")) == ("1.2", "9.5")
    assert [value_text(x, "number") for x in (0.0, 1234.5, 1.5e-10, 0.03)] == ["0", "1230", "1.5e-10", "0.03"]
    assert (value_text(0.9567, "percent"), value_text(31.24, "seconds")) == ("95.7", "31.2")


def test_json_form(runs: list[Run]) -> None:
    table = json_table(summary_table(runs))
    assert table["schema"] == 1
    assert [(row["method"], row["target"], row["n"]) for row in table["rows"]] == [
        ("standard", None, 2), ("weight", 0.95, 2), ("clip", 0.95, 2),
    ]  # fmt: skip
    metric = table["rows"][2]["metrics"]["strong_accuracy"]
    assert metric.keys() == {"mean", "ci95", "n", "samples"}
    assert metric["samples"] == 360
    assert table["rows"][0]["metrics"]["lipschitz_upper"]["mean"] > 82
    assert table["provenance"]["seeds"] == [0, 1]
    assert table["provenance"]["version"] == "0.1.0"


def test_no_cell_of_a_csv_is_a_formula(tmp_path: Path) -> None:
    names = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1")
    for i, name in enumerate(names):
        write_run(tmp_path / str(i), data=name, model=name, method=name)
    cells = csv_table(summary_table(find_runs([tmp_path]))).replace("\n", ",").split(",")
    assert sum(cell.startswith("'") for cell in cells) == 3 * len(names)
    assert not [cell for cell in cells if cell[:1] in "=@+\t" and cell]


def test_text_forms(runs: list[Run]) -> None:
    rows = summary_table(runs)
    headings, rule, *lines = markdown_table(rows).splitlines()
    assert headings.startswith("| Method | Target | n | Train % | ")
    assert rule.startswith("| --- | ---: | ---: | ---: | ")
    assert len(lines) == len(rows)
    header, *body = csv_table(rows).splitlines()
    assert "strong_accuracy,strong_accuracy_ci95" in header
    assert len(body) == 3


def test_the_printed_summary_is_the_markdown_table(runs: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(runs)
    printed = capsys.readouterr().out
    assert printed == markdown_table(summary_table(runs))
    assert re.search(r"\| CLIP \| 95 % .* 0\.9\d+ \.\. 7\.\d+", printed)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "TERM": "xterm", "COLUMNS": "250"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("terminal")
def test_a_terminal_gets_the_table_rendered(runs: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(runs)
    printed = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out)
    assert "|" not in printed
    assert "Strong %" in printed
    assert re.search(r"CLIP +95 % .* 0\.9\d+ \.\. 7\.\d+", printed)


def test_names_cannot_break_the_text_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "a", method="a|b\x1b[31m\n<i>[bold]\ud800", data="=1")
    found = find_runs([tmp_path])
    assert "a\\|b [31m &lt;i&gt;[bold]" in markdown_table(summary_table(found))
    print_summary(found)
    assert "\x1b" not in capsys.readouterr().out
    write_report(found, tmp_path / "out")


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize(
    "name",
    [
        "[link](https://example.org)",
        "![image](https://example.org)",
        "[link][1]",
        "<https://example.org>",
        "`code` *a* **b** ~~c~~ _d_ __e__ a_b",
        "a|b\\|c\\",
        "&#91;&lt;i&gt;",
        "[bold]x[/bold]",
        "# heading",
    ],
)
def test_markup_in_names_stays_text(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    write_run(tmp_path / "a", method=name)
    print_summary(find_runs([tmp_path]))
    printed = capsys.readouterr().out
    assert name in re.sub("\x1b\\[[0-9;]*m", "", printed)
    assert "\x1b]8" not in printed  # no link
