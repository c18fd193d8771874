"""Settings as a user gives them on the command line: options, lists of numbers, a JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .errors import InputError


def given_options(given: dict[str, Any], config: Path | None = None) -> dict[str, Any]:
    """The settings in the file `config`, and those given on the command line, which win.

    Raises:
        InputError: a file that is no JSON object, or what `widths` refuses.
    """
    settings = {name: value for name, value in given.items() if value is not None}
    if "hidden" in settings:
        settings["hidden"] = widths(settings["hidden"])
    if config is None:
        return settings
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"a JSON file of settings, {config}", error, 'Write it like {"epochs": 30, "lr": 0.1}.') from None
    if not isinstance(content, dict):
        raise InputError(f"a JSON object of settings in {config}", type(content).__name__, 'Write {"name": value, ...}.')
    return content | settings


def widths(text: str) -> tuple[int, ...]:
    """Whole numbers separated by commas; `InputError` for anything else."""
    try:
        return tuple(int(width) for width in text.split(","))
    except ValueError:
        raise InputError("widths such as 64,64", repr(text), "Separate whole numbers by commas.") from None


def numbers(text: str) -> tuple[float, ...]:
    """Numbers separated by commas; `InputError` for anything else."""
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise InputError("numbers such as 0.3,0.5", repr(text), "Separate them by commas.") from None
