"""Commands in this process."""

import sys

from cheaplip import cli

TRAIN = ["train", "--data", "digits", "--hidden", "8", "--epochs", "2", "--attack-samples", "20"]
SETTINGS = {"curve_samples": 10, "iterations": 2, "lipschitz_samples": 20}


def run(monkeypatch, capsys, *arguments):
    """Exit code, standard output and standard error of one command."""
    monkeypatch.setattr(sys, "argv", ["cheaplip", *map(str, arguments)])
    try:
        cli.main()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    return code, *capsys.readouterr()
