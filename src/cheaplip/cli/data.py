"""`cheaplip data`: the data sets."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from ..errors import InputError
from .options import AGAIN, AsJson, DataDir, continued_by

data_app = typer.Typer(no_args_is_help=True, help="Data sets: what there is, fetch it, verify it.")


@data_app.command("list")
def show(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Every data set, what it is, and where it was found."""
    from ..data.arrays import catalogue

    entries = catalogue(data_dir)
    if as_json:
        typer.echo(json.dumps([asdict(entry) for entry in entries], indent=2, default=str))
        return
    for entry in entries:
        typer.echo(f"{entry.name:14} {entry.about}; {entry.where or 'not here: `cheaplip data fetch ' + entry.name + '`'}")


@data_app.command("fetch")
def fetch(name: Annotated[str, typer.Argument(help="mnist or fashion-mnist.")], data_dir: DataDir = None) -> None:
    """Download a data set, verified by checksum."""
    from ..data import idx

    with continued_by(AGAIN):
        folder = idx.fetch(name, data_dir)
    typer.echo(f"{name}: {folder}")


@data_app.command("verify")
def verify(name: Annotated[str, typer.Argument(help="A data set.")], data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Check every file of a data set against its published checksum."""
    from ..data import arrays

    checks = arrays.verify(name, data_dir)
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=2, default=str))
    for check in () if as_json else checks:
        typer.echo(f"{check.file}: {check.problem or 'right'}" + (f" ({check.path})" if check.path else ""))
    if any(check.problem for check in checks):
        raise InputError(f"{name} as published", "the wrong or missing files above", f"Run `cheaplip data fetch {name}`.")
