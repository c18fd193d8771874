"""A command, and a run that one has left."""

import json
import sys

import pytest

from cheaplip import cli
from support.commands import SETTINGS, TRAIN, run
from support.searches import short_ascents, short_searches


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "300")
    return lambda *arguments: run(monkeypatch, capsys, *arguments)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    (folder / "quick.json").write_text(json.dumps(SETTINGS))
    with pytest.MonkeyPatch.context() as patch, short_searches(), short_ascents():
        patch.setattr(sys, "argv", ["cheaplip", *TRAIN, "--config", str(folder / "quick.json"), "--out", str(folder / "run")])
        with pytest.raises(SystemExit, match=r"^0$"):
            cli.main()
    return folder / "run"
