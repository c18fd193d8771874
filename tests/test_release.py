"""What a release says of itself, in one voice."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_there_is_one_version():
    assert version("cheaplip") == PROJECT["version"]
    (cited,) = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), flags=re.M)
    assert cited == PROJECT["version"]
    (newest, *_) = re.findall(r"^## \[.*", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    assert PROJECT["version"] in newest
    written = [path for path in (ROOT / "src").rglob("*.py") if f'"{PROJECT["version"]}"' in path.read_text()]
    assert written == []


def test_the_audit_is_the_one_that_is_told():
    (told,) = re.findall(r"^pip-audit .*", (ROOT / "SECURITY.md").read_text(), flags=re.M)
    assert f"- run: {told}\n" in (ROOT / ".github/workflows/audit.yml").read_text()
