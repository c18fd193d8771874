"""The command line. Each command is a thin call into the library; torch is imported only where a command needs it.

Options that are fields of a record take their help from the field's description.
"""

import io
import json
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from . import progress
from .errors import CheaplipError, InputError, printable, require_known
from .files import LARGEST_TEXT, read_bytes
from .interrupts import Interrupted
from .models.config import ModelConfig
from .progress import tell
from .run_folder import CONFIG, RESULT, Run, find_runs
from .runs.config import EvaluationConfig, RunConfig
from .training.config import TrainConfig

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown")
data_app = typer.Typer(no_args_is_help=True, help="Data sets: what there is, fetch it, verify it.")
app.add_typer(data_app, name="data")

DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder with mnist/ and fashion-mnist/ (four IDX files each).", envvar="CHEAPLIP_DATA"),
]


TrustModel = Annotated[
    bool, typer.Option("--trust-model", help="Import and run the network that the run folder names, if it is code.")
]


AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]


def _field(record: type[BaseModel], name: str, **more: Any) -> Any:
    """The option for a field of a record."""
    return typer.Option(help=record.model_fields[name].description, **more)


def _numbers(text: str) -> tuple[float, ...]:
    """Numbers separated by commas."""
    try:
        return tuple(map(float, text.split(",")))
    except ValueError:
        raise typer.BadParameter(f"expected numbers such as 0.3,0.5; got {text!r}. Separate them by commas.") from None


def _widths(text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas."""
    try:
        return tuple(map(int, text.split(",")))
    except ValueError:
        raise typer.BadParameter(f"expected widths such as 64,64; got {text!r}. Separate whole numbers by commas.") from None


def main() -> None:
    """Run a command: our errors become one message and an exit code, never a traceback."""
    warnings.formatwarning = lambda message, *_: f"cheaplip: {printable(str(message))}\n"
    try:
        app(prog_name="cheaplip")
    except CheaplipError as error:
        tell(f"cheaplip: {error}")
        sys.exit(2 if isinstance(error, InputError) else 1)
    except OSError as error:  # such as a full disk
        tell(f"cheaplip: {error}")
        sys.stdout = io.StringIO()  # if it was the output that is full, it is not flushed again at the end
        sys.exit(1)


@contextmanager
def _continued_by(do: str | Callable[[], str]) -> Iterator[None]:
    """What an interruption inside tells, and ends with."""
    try:
        yield
    except (KeyboardInterrupt, Interrupted) as interrupted:
        if _is_first():
            tell(f"Interrupted. {do if isinstance(do, str) else do()}")
        raise typer.Exit(getattr(interrupted, "code", 130)) from None


def _is_first() -> bool:
    """Whether this process speaks for all that a launcher such as torchrun has started."""
    return os.environ.get("RANK", "0") == "0"


def _program() -> str:
    """How this command was begun, as far as the launcher has said it."""
    of_all, here = (os.environ.get(name, "1") for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if of_all == "1":
        return "cheaplip"
    nodes = "" if of_all == here else f"--nnodes {int(of_all) // int(here)} "
    return f"torchrun {nodes}--nproc-per-node {here} -m cheaplip"


NO_SETTINGS = {"out", "run", "config", "data_dir", "resume", "trust_model"}
"""Options that say where and how, not what."""
AGAIN = "Nothing is changed; the same command starts again."


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(version("cheaplip"))
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress; results, warnings and errors stay.")] = False,
) -> None:
    """Train PyTorch networks with a small Lipschitz constant, cheaply (CLIP, SSVM 2021; nothing to do with OpenAI's CLIP)."""
    progress.quiet = quiet


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Where runs and report go; must not hold an earlier demo.")] = Path("cheaplip-demo"),
    as_json: AsJson = False,
) -> None:
    """The main job on embedded data: train Standard, Weight Reg. and CLIP on digits, evaluate, bracket, report."""
    from .experiments.demo import run_demo
    from .report import write_report

    with _continued_by("Choose another --out to start again, or remove that one."):
        runs = run_demo(out, progress=True)
    _print_runs(runs, "Report", write_report(runs, out), as_json)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Run folder to write; must not hold another run.")],
    data: Annotated[str | None, _field(RunConfig, "data")] = None,
    method: Annotated[str | None, _field(TrainConfig, "method")] = None,
    tolerance: Annotated[float | None, _field(TrainConfig, "tolerance")] = None,
    target: Annotated[float | None, _field(TrainConfig, "target")] = None,
    lipschitz: Annotated[float | None, _field(TrainConfig, "lipschitz")] = None,
    weight: Annotated[float | None, _field(TrainConfig, "weight")] = None,
    steer_by: Annotated[str | None, _field(TrainConfig, "steer_by")] = None,
    epochs: Annotated[int | None, _field(TrainConfig, "epochs")] = None,
    seed: Annotated[int | None, _field(TrainConfig, "seed")] = None,
    preset: Annotated[str | None, typer.Option(help="Settings to start from: default (ours), or paper.")] = None,
    lr: Annotated[float | None, _field(TrainConfig, "lr")] = None,
    batch_size: Annotated[int | None, _field(TrainConfig, "batch_size")] = None,
    optimizer: Annotated[str | None, _field(TrainConfig, "optimizer")] = None,
    schedule: Annotated[str | None, _field(TrainConfig, "schedule")] = None,
    keep: Annotated[str | None, _field(TrainConfig, "keep")] = None,
    active: Annotated[int | None, _field(TrainConfig, "active")] = None,
    reduction: Annotated[str | None, _field(TrainConfig, "reduction")] = None,
    power: Annotated[int | None, _field(TrainConfig, "power")] = None,
    certify: Annotated[float | None, _field(TrainConfig, "certify")] = None,
    margin: Annotated[float | None, _field(TrainConfig, "margin")] = None,
    saturation: Annotated[float | None, _field(TrainConfig, "saturation")] = None,
    ascent: Annotated[str | None, _field(TrainConfig, "ascent")] = None,
    radius: Annotated[float | None, _field(TrainConfig, "radius")] = None,
    config: Annotated[Path | None, typer.Option(help="JSON file with any settings, by name; options win over it.")] = None,
    model: Annotated[str | None, _field(ModelConfig, "name")] = None,
    hidden: Annotated[Any, _field(ModelConfig, "hidden", parser=_widths, metavar="WIDTHS")] = None,
    activation: Annotated[str | None, _field(ModelConfig, "activation")] = None,
    output_activation: Annotated[str | None, _field(ModelConfig, "output_activation")] = None,
    eps: Annotated[float | None, _field(EvaluationConfig, "eps")] = None,
    attack_samples: Annotated[int | None, _field(EvaluationConfig, "attack_samples")] = None,
    data_dir: DataDir = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the interrupted run in --out.")] = False,
    trust_model: TrustModel = False,
) -> None:
    """Train one network, steer the weight to the target, evaluate it; leaves a run folder."""
    given = {name: value for name, value in locals().items() if name not in NO_SETTINGS}
    options = _settings(given, config)
    from .models.spec import require_trusted
    from .runs.configure import configure_run, resumed_config
    from .runs.execute import execute_run

    def again() -> str:
        command = f"{_program()} train --resume --out {shlex.quote(str(out))}"
        command += f" --data-dir {shlex.quote(str(data_dir))}" if data_dir else ""
        command += f" --model {shlex.quote(model)}" if model and ":" in model else " --trust-model" if trust_model else ""
        return f"Continue with: {command}" if (out / CONFIG).exists() else AGAIN

    with _continued_by(again):
        settings = resumed_config(out, options) if resume else configure_run(options)
        if resume and model is None:
            require_trusted(settings.model, out, trust_model)
        result = execute_run(settings, out, data_dir=data_dir, resume=resume, progress=True)
    if _is_first():
        typer.echo(json.dumps({key: value for key, value in result.items() if key not in ("curve", "provenance")}, indent=2))


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A finished run folder; its result.json is written anew.")],
    eps: Annotated[float | None, _field(EvaluationConfig, "eps")] = None,
    noise: Annotated[float | None, _field(EvaluationConfig, "noise")] = None,
    iterations: Annotated[int | None, _field(EvaluationConfig, "iterations")] = None,
    restarts: Annotated[int | None, _field(EvaluationConfig, "restarts")] = None,
    attack_samples: Annotated[int | None, _field(EvaluationConfig, "attack_samples")] = None,
    curve_samples: Annotated[int | None, _field(EvaluationConfig, "curve_samples")] = None,
    data_dir: DataDir = None,
    trust_model: TrustModel = False,
) -> None:
    """Measure a finished run again: clean, noise, eq. (14), strong attack, accuracy versus eps, Lipschitz bracket."""
    given = {name: value for name, value in locals().items() if name not in NO_SETTINGS}
    from .runs.execute import evaluate_run

    with _continued_by(AGAIN):
        result = evaluate_run(run, _settings(given), data_dir=data_dir, trust_model=trust_model, progress=True)
    typer.echo(json.dumps({key: value for key, value in result.items() if key != "provenance"}, indent=2))


@app.command()
def bound(
    run: Annotated[Path, typer.Argument(help="A finished run folder; its result.json is written anew.")],
    eps: Annotated[
        Any, typer.Option(help="Radii at which to certify.", parser=_numbers, metavar="NUMBERS")
    ] = "0.3,0.5,1.0,1.58",
    budget: Annotated[float, typer.Option(help="Seconds after which the searches stop with what they have.")] = 60.0,
    data_dir: DataDir = None,
    trust_model: TrustModel = False,
) -> None:
    """Bracket the Lipschitz constant of a finished run, lower <= Lip <= upper, and certify its test samples.

    Counts the samples that are right and proved to stay so within each eps; every sample's radius is left in radii.csv.
    """
    from .runs.execute import bound_run

    with _continued_by(AGAIN):
        result = bound_run(run, eps=eps, budget=budget, data_dir=data_dir, trust_model=trust_model, progress=True)
    typer.echo(json.dumps({key: result[key] for key in ("lipschitz", "certified") if key in result}, indent=2))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of run folders.")],
    out: Annotated[Path, typer.Option(help="Where index.html and the tables go.")],
    as_json: AsJson = False,
) -> None:
    """Write a self-contained page and tables (Markdown, CSV, JSON) from run folders."""
    from .report import write_report

    found = find_runs(runs)
    _print_runs(found, "Report", write_report(found, out), as_json)


def _print_runs(runs: list[Run], what: str, where: Path, as_json: bool) -> None:
    from .report import json_table, print_summary, summary_table

    if as_json:
        table = json_table(summary_table(runs)) if runs else {"rows": []}
        typer.echo(json.dumps({"path": str(where.resolve()), **table}, indent=2))
        return
    if runs:
        print_summary(runs)
    typer.echo(f"\n{what}: {where.resolve()}")


@app.command()
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
    """Run a table or figure of the paper as a grid of independent runs; leaves tables, and pages or figures."""
    require_known("an experiment", experiment, ("mnist", "fashion-mnist", "regression", "analysis"))
    if experiment in ("regression", "analysis"):
        _refuse_given(context, experiment, "table", "epochs", "config", "data_dir")
        _reproduce_parts(experiment, out / experiment, seeds=seeds, workers=jobs, backend=backend, as_json=as_json)
        return
    from .experiments.table_1 import reproduce_tables

    settings = _settings({"epochs": epochs}, config)
    with _continued_by("The same command continues."):
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
    _print_runs(find_runs([out]) if any(out.rglob(RESULT)) else [], "Tables and pages", out, as_json)
    if failures:
        raise typer.Exit(1)


def _settings(given: dict[str, Any], config: Path | None = None) -> dict[str, Any]:
    """The settings in the file `config`, and those given on the command line, which win."""
    options = {name: value for name, value in given.items() if value is not None}
    if config is None:
        return options
    try:
        content = json.loads(read_bytes(config, LARGEST_TEXT))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"a JSON file of settings, {config}", error, 'Write it like {"epochs": 30, "lr": 0.1}.') from None
    if not isinstance(content, dict):
        raise InputError(f"a JSON object of settings in {config}", type(content).__name__, 'Write {"name": value, ...}.')
    return content | options


def _refuse_given(context: typer.Context, experiment: str, *names: str) -> None:
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"options that {experiment} has", option, "Leave it away: it is of mnist and fashion-mnist.")


def _reproduce_parts(experiment: str, out: Path, *, seeds: int, workers: int, backend: str, as_json: bool) -> None:
    from .experiments.figure_2 import reproduce_regression
    from .experiments.section_3 import reproduce_analysis

    run = reproduce_regression if experiment == "regression" else reproduce_analysis
    with _continued_by("The same command continues."):
        text, failures = run(out, seeds=seeds, workers=workers, backend=backend, progress=True)
    for failure in failures:
        tell(f"{failure.name} failed: {failure.reason}")
    typer.echo(json.dumps({"path": str(out.resolve())}) if as_json else f"{text}\nTables and figures: {out.resolve()}")
    if failures:
        raise typer.Exit(1)


@app.command()
def doctor(
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """What there is: versions, devices, threads, extras, data."""
    from .doctor import examine, lines

    found = examine(data_dir)
    typer.echo(json.dumps(found, indent=2) if as_json else "\n".join(lines(found)))


@data_app.command("list")
def data_list(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Every data set, what it is, and where it was found."""
    from .data.arrays import catalogue

    entries = catalogue(data_dir)
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in entries], indent=2, default=str))
        return
    for entry in entries:
        typer.echo(f"{entry.name:14} {entry.about}; {entry.where or 'not here: `cheaplip data fetch ' + entry.name + '`'}")


@data_app.command("fetch")
def data_fetch(name: Annotated[str, typer.Argument(help="mnist or fashion-mnist.")], data_dir: DataDir = None) -> None:
    """Download a data set, verified by checksum."""
    from .data.idx import fetch

    with _continued_by(AGAIN):
        folder = fetch(name, data_dir)
    typer.echo(f"{name}: {folder}")


@data_app.command("verify")
def data_verify(
    name: Annotated[str, typer.Argument(help="A data set.")], data_dir: DataDir = None, as_json: AsJson = False
) -> None:
    """Check every file of a data set against its published checksum."""
    from .data.arrays import verify

    checks = verify(name, data_dir)
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=2, default=str))
    for check in () if as_json else checks:
        typer.echo(f"{check.file}: {check.problem or 'right'}" + (f" ({check.path})" if check.path else ""))
    if any(check.problem for check in checks):
        raise InputError(f"{name} as published", "the wrong or missing files above", f"Run `cheaplip data fetch {name}`.")
