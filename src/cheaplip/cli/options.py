"""What several commands share: their options, how an interruption ends them, how they show runs."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from ..errors import InputError
from ..files import LARGEST_TEXT, read_bytes
from ..interrupts import Interrupted
from ..progress import tell
from ..run_folder import Run

DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder with mnist/ and fashion-mnist/ (four IDX files each).", envvar="CHEAPLIP_DATA"),
]
TrustModel = Annotated[
    bool, typer.Option("--trust-model", help="Import and run the network that the run folder names, if it is code.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
AGAIN = "Nothing is changed; the same command starts again."


def field_option(record: type[BaseModel], name: str, **more: Any) -> Any:
    """The option for a field of a record."""
    return typer.Option(help=record.model_fields[name].description, **more)


@contextmanager
def continued_by(do: str | Callable[[], str]) -> Iterator[None]:
    """What an interruption inside tells, and ends with."""
    try:
        yield
    except (KeyboardInterrupt, Interrupted) as interrupted:
        if is_first():
            tell(f"Interrupted. {do if isinstance(do, str) else do()}")
        raise typer.Exit(getattr(interrupted, "code", 130)) from None


def is_first() -> bool:
    """Whether this process speaks for all that a launcher such as torchrun has started."""
    return os.environ.get("RANK", "0") == "0"


def print_runs(runs: list[Run], what: str, where: Path, as_json: bool) -> None:
    """A table of the runs and where their files are."""
    from ..report import json_table, print_summary, summary_table

    if as_json:
        table = json_table(summary_table(runs)) if runs else {"rows": []}
        typer.echo(json.dumps({"path": str(where.resolve()), **table}, indent=2))
        return
    if runs:
        print_summary(runs)
    typer.echo(f"\n{what}: {where.resolve()}")


def settings_of(given: dict[str, Any], config: Path | None = None) -> dict[str, Any]:
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
