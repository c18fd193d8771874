"""The command line. Each command is a thin call into the library; torch is imported only where a command needs it.

Options that are fields of a record take their help from the field's description.
"""

import io
import json
import os
import shlex
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import progress
from ..errors import CheaplipError, InputError, printable
from ..models.config import ModelConfig
from ..progress import tell
from ..run_folder import CONFIG, find_runs
from ..runs.config import EvaluationConfig, RunConfig
from ..training.config import TrainConfig
from .data import data_app
from .options import AGAIN, AsJson, DataDir, TrustModel, continued_by, field_option, is_first, print_runs, settings_of
from .reproduce import reproduce

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich takes a third of the time of --help
    context_settings={"max_content_width": 120},
)
app.add_typer(data_app, name="data")


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


def _program() -> str:
    """How this command was begun, as far as the launcher has said it."""
    of_all, here = (os.environ.get(name, "1") for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if of_all == "1":
        return "cheaplip"
    nodes = "" if of_all == here else f"--nnodes {int(of_all) // int(here)} "
    return f"torchrun {nodes}--nproc-per-node {here} -m cheaplip"


NO_SETTINGS = {"out", "run", "config", "data_dir", "resume", "trust_model", "track"}
"""Options that say where and how, not what."""


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
    """The main job on the digits: train, evaluate, bracket, report.

    The data are embedded; the networks are trained plainly, with weight regularisation and with CLIP.
    """
    from ..experiments.demo import run_demo
    from ..report import write_report

    with continued_by("Choose another --out to start again, or remove that one."):
        runs = run_demo(out, progress=True)
    print_runs(runs, "Report", write_report(runs, out), as_json)


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Run folder to write; must not hold another run.")],
    data: Annotated[str | None, field_option(RunConfig, "data")] = None,
    method: Annotated[str | None, field_option(TrainConfig, "method")] = None,
    tolerance: Annotated[float | None, field_option(TrainConfig, "tolerance")] = None,
    target: Annotated[float | None, field_option(TrainConfig, "target")] = None,
    lipschitz: Annotated[float | None, field_option(TrainConfig, "lipschitz")] = None,
    weight: Annotated[float | None, field_option(TrainConfig, "weight")] = None,
    steer_by: Annotated[str | None, field_option(TrainConfig, "steer_by")] = None,
    epochs: Annotated[int | None, field_option(TrainConfig, "epochs")] = None,
    seed: Annotated[int | None, field_option(TrainConfig, "seed")] = None,
    preset: Annotated[str | None, typer.Option(help="Settings to start from: default (ours), or paper.")] = None,
    lr: Annotated[float | None, field_option(TrainConfig, "lr")] = None,
    batch_size: Annotated[int | None, field_option(TrainConfig, "batch_size")] = None,
    optimizer: Annotated[str | None, field_option(TrainConfig, "optimizer")] = None,
    schedule: Annotated[str | None, field_option(TrainConfig, "schedule")] = None,
    keep: Annotated[str | None, field_option(TrainConfig, "keep")] = None,
    active: Annotated[int | None, field_option(TrainConfig, "active")] = None,
    reduction: Annotated[str | None, field_option(TrainConfig, "reduction")] = None,
    power: Annotated[int | None, field_option(TrainConfig, "power")] = None,
    certify: Annotated[float | None, field_option(TrainConfig, "certify")] = None,
    input_noise: Annotated[float | None, field_option(TrainConfig, "input_noise")] = None,
    margin: Annotated[float | None, field_option(TrainConfig, "margin")] = None,
    saturation: Annotated[float | None, field_option(TrainConfig, "saturation")] = None,
    ascent: Annotated[str | None, field_option(TrainConfig, "ascent")] = None,
    radius: Annotated[float | None, field_option(TrainConfig, "radius")] = None,
    config: Annotated[Path | None, typer.Option(help="JSON file with any settings, by name; options win over it.")] = None,
    model: Annotated[str | None, field_option(ModelConfig, "name")] = None,
    hidden: Annotated[Any, field_option(ModelConfig, "hidden", parser=_widths, metavar="WIDTHS")] = None,
    activation: Annotated[str | None, field_option(ModelConfig, "activation")] = None,
    output_activation: Annotated[str | None, field_option(ModelConfig, "output_activation")] = None,
    eps: Annotated[float | None, field_option(EvaluationConfig, "eps")] = None,
    attack_samples: Annotated[int | None, field_option(EvaluationConfig, "attack_samples")] = None,
    track: Annotated[
        list[str] | None, typer.Option(help="Log each epoch to tensorboard, wandb or mlflow as well; may be repeated.")
    ] = None,
    data_dir: DataDir = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the interrupted run in --out.")] = False,
    trust_model: TrustModel = False,
) -> None:
    """Train one network with a steered weight, and evaluate it.

    Leaves a run folder.
    """
    given = {name: value for name, value in locals().items() if name not in NO_SETTINGS}
    options = settings_of(given, config)
    from ..models.spec import require_trusted
    from ..runs.configure import configure_run, resumed_config
    from ..runs.execute import execute_run

    def again() -> str:
        command = f"{_program()} train --resume --out {shlex.quote(str(out))}"
        command += f" --data-dir {shlex.quote(str(data_dir))}" if data_dir else ""
        command += f" --model {shlex.quote(model)}" if model and ":" in model else " --trust-model" if trust_model else ""
        command += "".join(f" --track {name}" for name in track or ())
        return f"Continue with: {command}" if (out / CONFIG).exists() else AGAIN

    with continued_by(again):
        settings = resumed_config(out, options) if resume else configure_run(options)
        if resume and model is None:
            require_trusted(settings.model, out, trust_model)
        result = execute_run(settings, out, data_dir=data_dir, resume=resume, progress=True, loggers=tuple(track or ()))
    if is_first():
        typer.echo(json.dumps({key: value for key, value in result.items() if key not in ("curve", "provenance")}, indent=2))


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A finished run folder; its result.json is written anew.")],
    eps: Annotated[float | None, field_option(EvaluationConfig, "eps")] = None,
    noise: Annotated[float | None, field_option(EvaluationConfig, "noise")] = None,
    iterations: Annotated[int | None, field_option(EvaluationConfig, "iterations")] = None,
    restarts: Annotated[int | None, field_option(EvaluationConfig, "restarts")] = None,
    attack_samples: Annotated[int | None, field_option(EvaluationConfig, "attack_samples")] = None,
    curve_samples: Annotated[int | None, field_option(EvaluationConfig, "curve_samples")] = None,
    data_dir: DataDir = None,
    trust_model: TrustModel = False,
) -> None:
    """Measure a finished run again.

    Clean, noise, eq. (14), strong attack, accuracy versus eps, Lipschitz bracket.
    """
    given = {name: value for name, value in locals().items() if name not in NO_SETTINGS}
    from ..runs.execute import evaluate_run

    with continued_by(AGAIN):
        result = evaluate_run(run, settings_of(given), data_dir=data_dir, trust_model=trust_model, progress=True)
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
    """Bracket the Lipschitz constant of a finished run.

    The bracket is lower <= Lip <= upper. Counts the test samples that are right and proved to stay so within each eps; every
    sample's radius is left in radii.csv. What is left of the budget goes into larger radii, from a bound of each sample's own
    neighbourhood, where the network is not too wide for it: in the column local_radius, and counted as certified_locally.
    """
    from ..runs.execute import bound_run

    with continued_by(AGAIN):
        result = bound_run(run, eps=eps, budget=budget, data_dir=data_dir, trust_model=trust_model, progress=True)
    typer.echo(
        json.dumps({key: result[key] for key in ("lipschitz", "certified", "certified_locally") if key in result}, indent=2)
    )


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, or folders of run folders.")],
    out: Annotated[Path, typer.Option(help="Where index.html and the tables go.")],
    as_json: AsJson = False,
) -> None:
    """Write a page and tables from run folders.

    The page is self-contained; the tables are Markdown, CSV and JSON.
    """
    from ..report import write_report

    found = find_runs(runs)
    print_runs(found, "Report", write_report(found, out), as_json)


app.command()(reproduce)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    out: Annotated[Path, typer.Argument(help="File to write; ends in .pt2 (torch.export) or .onnx (needs the extra onnx).")],
    data_dir: DataDir = None,
    trust_model: TrustModel = False,
    as_json: AsJson = False,
) -> None:
    """Write a finished run's network as one file.

    It runs without cheaplip, and has the run's bracket and certified accuracies inside.
    """
    from ..runs.export import export_run

    with continued_by(AGAIN):
        about = export_run(run, out, data_dir=data_dir, trust_model=trust_model)
    typer.echo(json.dumps({"path": str(out.resolve()), **about}, indent=2) if as_json else f"Network: {out.resolve()}")


@app.command()
def doctor(
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """What there is: versions, devices, threads, extras, data."""
    from ..doctor import examine, lines

    found = examine(data_dir)
    typer.echo(json.dumps(found, indent=2) if as_json else "\n".join(lines(found)))
