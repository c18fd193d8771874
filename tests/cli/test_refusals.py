"""Bad input is one message and exit code 2, at once."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from cheaplip.training.task import Task


def write_inputs(folder: Path) -> None:
    """Everything bad that a file can be."""
    (folder / "no.json").write_text("{")
    (folder / "list.json").write_text("[1]")
    (folder / "key.json").write_text('{"epoch": 3}')
    (folder / "type.json").write_text('{"epochs": "3"}')
    (folder / "file").write_text("a file, not a folder")
    (folder / "text.npz").write_text("text")
    x, y = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 3
    np.savez(folder / "good.npz", X=x, y=y)
    (folder / "cut.npz").write_bytes((folder / "good.npz").read_bytes()[:500])
    np.savez(folder / "nan.npz", X=np.where(x > 2, np.nan, x), y=y)
    np.savez(folder / "inf.npz", X=x, y=np.where(y == 2, np.inf, 0.0))
    np.savez(folder / "shape.npz", X=x, y=y[:-1])
    np.savez(folder / "labels.npz", X=x, y=y * 7)
    np.savez(folder / "few.npz", X=x[:12], y=y[:12])
    np.savez(folder / "same.npz", X=np.ones((60, 2)), y=y)
    (folder / "nets.py").write_text("def fails(shape, outputs):\n    raise ZeroDivisionError('by zero')\nname = 3\n")
    (folder / "empty").mkdir()


BAD_TRAINING = {
    "option": (["--learning-rate", "1"], "No such option"),
    "value of an option": (["--epochs", "many"], "Invalid value for '--epochs'"),
    "config not there": (["--config", "nowhere.json"], "a JSON file of settings, nowhere.json; got"),
    "config no JSON": (["--config", "no.json"], "a JSON file of settings"),
    "config no object": (["--config", "list.json"], "a JSON object of settings in list.json; got list"),
    "config key": (["--config", "key.json"], "got 'epoch'. Did you mean 'epochs'"),
    "config type": (["--config", "type.json", "--data", "digits"], "a valid epochs; got '3'"),
    "target 0": (["--target", "0"], "a valid target; got 0.0"),
    "target 1": (["--target", "1"], "a target accuracy in (0, 1); got 1.0"),
    "target -1": (["--target", "-1"], "a valid target; got -1.0"),
    "target nan": (["--target", "nan"], "a valid target; got nan"),
    "target and weight": (["--target", "0.9", "--weight", "1"], "one of them"),
    "weight": (["--weight", "-1"], "a valid weight"),
    "method": (["--method", "clipp"], "'standard', 'weight', 'clip' or 'local'"),
    "preset": (["--preset", "ours"], "preset to be one of default, paper"),
    "optimizer": (["--optimizer", "SDG"], "Did you mean 'SGD'"),
    "schedule": (["--schedule", "step"], "'cosine' or 'constant'"),
    "keep": (["--keep", "best"], "'last' or 'best-pgd'"),
    "reduction": (["--reduction", "median"], "'mean' or 'max'"),
    "power": (["--power", "3"], "1 or 2"),
    "ascent": (["--ascent", "none"], "'normalized', 'printed' or 'accepted'"),
    "active": (["--active", "0"], "a valid active"),
    "epochs": (["--epochs", "0"], "a valid epochs"),
    "batch size": (["--batch-size", "0"], "a valid batch_size"),
    "lr": (["--lr", "inf"], "a valid lr"),
    "eps": (["--eps", "0"], "a valid eps; got 0.0"),
    "attack samples": (["--attack-samples", "0"], "a valid attack_samples"),
    "hidden words": (["--hidden", "wide"], "widths such as 64,64; got 'wide'"),
    "hidden nothing": (["--hidden", ""], "widths such as 64,64; got ''"),
    "hidden 0": (["--hidden", "8,0"], "widths >= 1"),
    "activation": (["--activation", "rely"], "Did you mean 'relu'"),
    "model": (["--model", "mpl"], "Did you mean 'mlp'"),
    "model path": (["--model", "nowhere.nets:mlp"], "a function at nowhere.nets:mlp; got ModuleNotFoundError"),
    "model name": (["--model", "nets:other"], "a function at nets:other; got AttributeError"),
    "model no function": (["--model", "nets:name"], "to build a network; got TypeError"),
    "model that fails": (["--model", "nets:fails"], "to build a network; got ZeroDivisionError: by zero"),
    "cnn on vectors": (["--data", "good.npz", "--model", "cnn"], "images (channels, height, width)"),
    "data": (["--data", "mnits"], "Did you mean 'mnist'"),
    "data file": (["--data", "nowhere.npz"], "No such file"),
    "data text": (["--data", "text.npz"], "to be a readable npz file"),
    "data cut": (["--data", "cut.npz"], "to be a readable npz file"),
    "data nan": (["--data", "nan.npz"], "all numbers in X to be finite"),
    "data inf": (["--data", "inf.npz"], "all numbers in y to be finite"),
    "data shape": (["--data", "shape.npz"], "X and y of one length; got 60 and 59"),
    "data labels": (["--data", "labels.npz"], "labels 0, 1, ..., k-1"),
    "data few": (["--data", "few.npz"], "two samples at least in every part"),
    "data constant": (["--data", "same.npz"], "low < high"),
    "out below a file": (["--out", "file/run"], "an output folder that can be written, file/run; got Not a directory"),
    "out a file": (["--out", "file"], "an output folder that can be written, file; got"),
    "out taken": (["--out", "taken"], "an output folder without a run in it; got taken"),
    "tracker": (["--track", "tensorbord"], "a tracker to be one of mlflow, tensorboard, wandb; got 'tensorbord'. Did you mean"),
    "resume of nothing": (["--resume"], "a file run/config.json; got nothing there"),
}


@pytest.mark.parametrize("case", BAD_TRAINING)
def test_bad_training_is_refused_at_once(call, finished, tmp_path, monkeypatch, case):
    options, message = BAD_TRAINING[case]
    write_inputs(tmp_path)
    shutil.copytree(finished, tmp_path / "taken")
    monkeypatch.setattr(Task, "loss", None)  # nothing is trained
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    given = [*(["--data", "digits"] if "--data" not in options else []), *(["--out", "run"] if "--out" not in options else [])]
    code, out, err = call("train", *given, *options)
    sys.modules.pop("nets", None)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith(("cheaplip: expected", "Usage: cheaplip train"))
    assert err.count("\n") == 1 or err.startswith("Usage")
    assert not (tmp_path / "run").exists() or list((tmp_path / "run").iterdir()) == []  # free for the next attempt


BAD_OTHERS = {
    "no command": (["trian"], "No such command"),
    "train without out": (["train", "--data", "digits"], "Missing option '--out'"),
    "train without data": (["train", "--out", "x"], "expected data; got none"),
    "evaluate nothing": (["evaluate", "nowhere"], "nowhere/config.json; got nothing there"),
    "evaluate no run": (["evaluate", "empty"], "empty/config.json; got nothing there"),
    "evaluate eps": (["evaluate", "taken", "--eps", "0"], "a valid eps; got 0.0"),
    "evaluate eps nan": (["evaluate", "taken", "--eps", "nan"], "a valid eps; got nan"),
    "evaluate noise": (["evaluate", "taken", "--noise", "-1"], "a valid noise"),
    "evaluate iterations": (["evaluate", "taken", "--iterations", "0"], "a valid iterations"),
    "evaluate unfinished": (["evaluate", "unfinished"], "a finished run in unfinished; got one without result.json"),
    "evaluate bad config": (["evaluate", "bad-config"], "a valid bad-config/config.json"),
    "evaluate bad weights": (["evaluate", "bad-weights"], "the run's weights in bad-weights/model.safetensors"),
    "resume bad checkpoint": (
        ["train", "--resume", "--out", "bad-checkpoint"],
        "a checkpoint in bad-checkpoint/checkpoint",
    ),
    "resume bad config": (["train", "--resume", "--out", "bad-config"], "a valid bad-config/config.json"),
    "export nothing": (["export", "nowhere", "model.pt2"], "nowhere/config.json; got nothing there"),
    "export unfinished": (["export", "unfinished", "model.pt2"], "a finished run in unfinished; got one without result.json"),
    "export bad weights": (["export", "bad-weights", "model.pt2"], "the run's weights in bad-weights/model.safetensors"),
    "export suffix": (["export", "taken", "model.pt"], "a file that ends in .pt2 or .onnx; got model.pt"),
    "export out": (["export", "taken", "file/model.pt2"], "a file in a folder that there is"),
    "report nothing": (["report", "nowhere", "--out", "page"], "a run folder"),
    "report no run": (["report", "empty", "--out", "page"], "a run folder"),
    "report bad result": (["report", "bad-result", "--out", "page"], "bad-result/result.json"),
    "report out": (["report", "taken", "--out", "file/page"], "an output folder that can be written"),
    "demo out": (["demo", "--out", "file/demo"], "an output folder that can be written"),
    "demo again": (["demo", "--out", "demo"], "an output folder without an earlier demo"),
    "fetch": (["data", "fetch", "cifar"], "the data to fetch to be one of fashion-mnist, mnist; got 'cifar'"),
    "verify": (["data", "verify", "mnits"], "Did you mean 'mnist'"),
}


@pytest.mark.parametrize("case", BAD_OTHERS)
def test_bad_commands_are_refused(call, finished, tmp_path, case):
    arguments, message = BAD_OTHERS[case]
    write_inputs(tmp_path)
    (tmp_path / "demo/runs").mkdir(parents=True)
    for name in ("taken", "unfinished", "bad-config", "bad-weights", "bad-checkpoint", "bad-result"):
        shutil.copytree(finished, tmp_path / name)
    (tmp_path / "unfinished/result.json").unlink()
    (tmp_path / "bad-config/config.json").write_text('{"schema": 1, "data": "digits", "training": {"epochs": -1}}')
    (tmp_path / "bad-weights/model.safetensors").write_bytes(b"\xff" * 100)
    for file in (tmp_path / "bad-checkpoint/checkpoint").iterdir():
        file.write_bytes(b"PK\x03\x04")
    (tmp_path / "bad-result/result.json").write_text('{"schema": 1}')
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1 or err.startswith("Usage")
