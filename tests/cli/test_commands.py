"""What each command does, prints and leaves."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from support.commands import SETTINGS, TRAIN
from support.exported import run_exported
from support.networks import without


@pytest.mark.usefixtures("quick_bounds")
def test_train_evaluate_report(call, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    code, out, err = call("evaluate", "run", "--eps", 1.5, "--noise", 0.1, "--restarts", 2)
    assert (code, err) == (0, "run: evaluation\n")
    result = json.loads(out)
    assert (result["evaluation"]["eps"], result["evaluation"]["iterations"], result["evaluation"]["restarts"]) == (1.5, 2, 2)
    assert json.loads((tmp_path / "run/result.json").read_text())["strong_accuracy"] == result["strong_accuracy"]
    code, out, _ = call("report", "run", "--out", "page")
    assert code == 0
    assert "CLIP" in out
    assert out.rstrip().endswith("index.html")
    assert (tmp_path / "page/index.html").exists()
    code, out, err = call("--quiet", "evaluate", "run", "--restarts", 1)
    assert (code, err) == (0, "")
    document = json.loads(call("report", "run", "--out", "page", "--json")[1])
    assert document["path"] == str(tmp_path / "page/index.html")
    assert document["rows"][0]["n"] == 1


@pytest.mark.parametrize("suffix", ["pt2", pytest.param("onnx", marks=pytest.mark.slow)])
def test_export_takes_what_is_proved_along(call, finished, suffix):
    if suffix == "onnx":
        pytest.importorskip("onnxscript")
    code, out, err = call("export", finished, f"model.{suffix}", "--json")
    assert (code, err) == (0, "")
    result = json.loads((finished / "result.json").read_text())
    outputs, known = run_exported(Path(f"model.{suffix}"), torch.zeros(3, 1, 8, 8))
    assert outputs.shape == (3, 10)
    assert json.loads(out) == {"path": str(Path(f"model.{suffix}").resolve()), **known}
    assert known["lipschitz"] == result["lipschitz"]
    assert known["method"] == "clip"
    assert known["weights_sha256"] == result["weights_sha256"]
    assert known["version"] == version("cheaplip")


@pytest.mark.usefixtures("quick_bounds")
def test_options_win_over_the_file(call, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(SETTINGS | {"epochs": 50, "lr": 0.2, "hidden": [4], "method": "standard"}))
    code, out, err = call(*TRAIN, "--config", "c.json", "--out", "run", "--seed", 3)
    assert code == 0
    result = json.loads(out)
    assert (result["epochs"], result["seed"], result["method"], result["model"]) == (2, 3, "standard", "mlp 64-8-10 softplus")
    assert json.loads((tmp_path / "run/config.json").read_text())["training"]["lr"] == 0.2
    assert [line.split(":")[0] for line in err.splitlines()] == ["standard, seed 3"] * 3


@pytest.mark.usefixtures("quick_bounds")
def test_the_local_penalty_has_a_radius(call, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(SETTINGS))
    code, out, _ = call(*TRAIN, "--config", "c.json", "--out", "run", "--method", "local", "--radius", 0.5)
    assert code == 0
    assert json.loads(out)["method"] == "local"
    assert json.loads((tmp_path / "run/config.json").read_text())["training"]["radius"] == 0.5


@pytest.mark.usefixtures("quick_bounds")
def test_resume_without_options_or_with_the_same(call, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    before = json.loads((tmp_path / "run/result.json").read_text())
    for again in (["train"], TRAIN, [*TRAIN, "--preset", "default"]):
        (tmp_path / "run/result.json").unlink()
        more = ["--config", finished.parent / "quick.json"] if len(again) > 1 else []
        assert call(*again, *more, "--resume", "--out", "run")[0] == 0
        assert without(json.loads((tmp_path / "run/result.json").read_text())) == without(before)
    code, _, err = call("train", "--resume", "--out", "run", "--lr", 0.3, "--model", "cnn", "--attack-samples", 3)
    assert code == 2
    assert "got others for evaluation.attack_samples, model.name, training.lr. Leave them away" in err


def test_data_commands(call, tmp_path, monkeypatch):
    code, out, _ = call("data", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["digits", "mnist", "fashion-mnist"]
    assert [entry["name"] for entry in json.loads(call("data", "list", "--json")[1])][:1] == ["digits"]
    assert call("data", "verify", "digits")[:2] == (0, "digits: right\n")
    assert json.loads(call("data", "verify", "digits", "--json")[1]) == [{"file": "digits", "path": None, "problem": None}]
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist/train-labels-idx1-ubyte").write_bytes(b"short")
    code, out, err = call("data", "verify", "mnist", "--data-dir", tmp_path)
    assert code == 2
    assert "train-labels-idx1-ubyte: 5 bytes instead of 60008" in out
    assert "expected mnist as published" in err
    code, _, err = call("train", "--data", "mnist", "--data-dir", tmp_path, "--out", "run")
    assert code == 2
    assert not (tmp_path / "run").exists()


def test_the_doctor_says_what_there_is(call):
    code, out, _ = call("doctor", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["data"]["digits"] == "inside scikit-learn"
    assert found["threads"] >= 1
    code, out, _ = call("doctor")
    assert code == 0
    assert "data digits              inside scikit-learn" in out
    assert f"torch                    {found['torch']}" in out


def test_help_and_version(call):
    for command in ([], ["train"], ["evaluate"], ["report"], ["demo"], ["export"], ["data"], ["data", "fetch"]):
        code, out, _ = call(*command, "--help")
        assert code == 0
        assert "Usage: cheaplip" in out
    code, out, _ = call("--version")
    assert code == 0
    assert out.strip().count(".") == 2


def test_help_does_not_import_torch():
    check = "import sys; from cheaplip import cli; assert not {'torch', 'numpy', 'matplotlib'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", check], check=True)
