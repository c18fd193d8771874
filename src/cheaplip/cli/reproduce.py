"""`cheaplip reproduce`: the paper's tables and figures."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError, require_known
from ..progress import tell
from ..run_folder import RESULT, find_runs
from .options import AsJson, DataDir, continued_by, print_runs, settings_of


def reproduce(
    context: typer.Context,
    experiment: Annotated[
        str, typer.Argument(help="Of the paper: mnist or fashion-mnist (Table 1), regression (Figure 2), analysis (Section 3).")
    ],
    out: Annotated[Path, typer.Option(help="Where runs, tables and page go; the same folder continues an interrupted one.")],
    table: Annotated[list[str] | None, typer.Option(help="Only this table, such as mnist-default; may be repeated.")] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each row.")] = 5,
    epochs: Annotated[int | None, typer.Option(help="Passes over the fitting part, for all rows.")] = None,
    config: Annotated[Path | None, typer.Option(help="JSON file of settings, for all rows; options given here win.")] = None,
    jobs: Annotated[int, typer.Option(help="Runs at once, one thread each.")] = 1,
    backend: Annotated[str, typer.Option(help="local (processes of this machine) or dask (a cluster).")] = "local",
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Run a table or figure of the paper.

    A grid of independent runs; leaves tables, and pages or figures.
    """
    require_known("an experiment", experiment, ("mnist", "fashion-mnist", "regression", "analysis"))
    if experiment in ("regression", "analysis"):
        _refuse_given(context, experiment, "table", "epochs", "config", "data_dir")
        _reproduce_parts(experiment, out / experiment, seeds=seeds, workers=jobs, backend=backend, as_json=as_json)
        return
    from ..experiments.table_1 import reproduce_tables

    settings = settings_of({"epochs": epochs}, config)
    with continued_by("The same command continues."):
        failures = reproduce_tables(
            experiment,
            out,
            tables=table,
            seeds=seeds,
            settings=settings,
            workers=jobs,
            backend=backend,
            data_dir=data_dir,
            progress=True,
        )
    for failure in failures:
        tell(f"{failure.name} failed: {failure.reason}")
    print_runs(find_runs([out]) if any(out.rglob(RESULT)) else [], "Tables and pages", out, as_json)
    if failures:
        raise typer.Exit(1)


def _refuse_given(context: typer.Context, experiment: str, *names: str) -> None:
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"options that {experiment} has", option, "Leave it away: it is of mnist and fashion-mnist.")


def _reproduce_parts(experiment: str, out: Path, *, seeds: int, workers: int, backend: str, as_json: bool) -> None:
    from ..experiments.figure_2 import reproduce_regression
    from ..experiments.section_3 import reproduce_analysis

    run = reproduce_regression if experiment == "regression" else reproduce_analysis
    with continued_by("The same command continues."):
        text, failures = run(out, seeds=seeds, workers=workers, backend=backend, progress=True)
    for failure in failures:
        tell(f"{failure.name} failed: {failure.reason}")
    typer.echo(json.dumps({"path": str(out.resolve())}) if as_json else f"{text}\nTables and figures: {out.resolve()}")
    if failures:
        raise typer.Exit(1)
