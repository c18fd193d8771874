import json
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from cheaplip import cli
from cheaplip.training import checkpoint
from cheaplip.training.task import Task
from support.exported import run_exported
from support.networks import without
from support.searches import short_ascents, short_searches

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


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "300")
    return lambda *arguments: run(monkeypatch, capsys, *arguments)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    (folder / "quick.json").write_text(json.dumps(SETTINGS))
    with pytest.MonkeyPatch.context() as patch, short_searches(), short_ascents():
        patch.setattr(sys, "argv", ["cheaplip", *TRAIN, "--config", str(folder / "quick.json"), "--out", str(folder / "run")])
        with pytest.raises(SystemExit, match=r"^0$"):
            cli.main()
    return folder / "run"


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


def test_divergence_is_exit_code_1(call, tmp_path):
    code, out, err = call(*TRAIN, "--lr", 1e30, "--out", "run")
    assert (code, out) == (1, "")
    assert err.startswith("cheaplip: training diverged in epoch 1: the training loss is not finite. Lower the learning rate")
    assert call(*TRAIN, "--lr", 1e30, "--out", "run")[0] == 1  # the folder is free for another attempt


def test_a_full_disk_is_one_message(call, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    code, _, err = call(*TRAIN, "--out", "run")
    assert code == 1
    assert err == "cheaplip: [Errno 28] No space left on device\n"


WAITING = """
import time
from pathlib import Path
from torch import nn

class Waiting(nn.Linear):
    def forward(self, x):
        if Path("my run/checkpoint").exists() and Path("wait").exists():
            time.sleep(60)
        return super().forward(x)

def network(shape, outputs):
    return nn.Sequential(nn.Flatten(), Waiting(64, outputs))
"""


@pytest.mark.usefixtures("quick_bounds")
def test_ctrl_c_leaves_a_run_that_can_be_resumed(call, tmp_path, monkeypatch):
    """The network waits in its second epoch until it is interrupted."""
    monkeypatch.delenv("CHEAPLIP_DATA", raising=False)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "nets.py").write_text(WAITING)
    (tmp_path / "wait").touch()
    command = [sys.executable, "-m", "cheaplip", "train", "--out", "my run", "--data", "digits", "--model", "nets:network"]
    command += ["--epochs", "3", "--method", "standard", "--attack-samples", "20"]
    # a shell's background job, such as this suite may be, ignores interrupts, and so would its children
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, preexec_fn=listening, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "my run/metrics.jsonl").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines()[-1] == "Interrupted. Continue with: cheaplip train --resume --out 'my run' --model nets:network"
    assert "Traceback" not in err
    (tmp_path / "wait").unlink()
    code, _, err = call("train", "--out", "my run", "--resume")
    assert code == 2
    assert "got nets:network, which is code" in err
    assert "nets" not in sys.modules
    code, out, err = call("train", "--out", "my run", "--resume", "--trust-model")
    sys.modules.pop("nets", None)
    assert code == 0
    first = err.splitlines()[0]
    assert first.startswith("standard, seed 0: epoch ")
    assert "epoch 1/" not in first
    assert json.loads(out)["kept_epoch"] == 3
    assert [json.loads(line)["epoch"] for line in (tmp_path / "my run/metrics.jsonl").read_text().splitlines()] == [1, 2, 3]


@pytest.mark.usefixtures("quick_bounds")
def test_reproduce(call, monkeypatch):
    from cheaplip.experiments import table_1

    shared = {"data": "digits", "hidden": (8,), "attack_samples": 20, **SETTINGS}
    monkeypatch.setitem(table_1.BLOCKS, "mnist-default", (shared, {"standard": {"method": "standard"}}))
    Path("short.json").write_text('{"batch_size": 64, "epochs": 9}')
    command = ("reproduce", "mnist", "--table", "mnist-default", "--config", "short.json", "--seeds", 2)
    command += ("--epochs", 2, "--out", "tables")
    code, out, err = call(*command)
    assert code == 0
    assert "Standard" in out
    assert err.splitlines()[-1] == "runs: 2/2"
    assert {path.name for path in Path("tables/mnist-default").iterdir()} >= {"runs", "index.html", "table.json", "table.csv"}
    training = json.loads(Path("tables/mnist-default/runs/standard-20/config.json").read_text())["training"]
    assert (training["batch_size"], training["epochs"]) == (64, 2)
    code, out, _ = call(*command, "--json")  # nothing is left to do
    assert (code, json.loads(out)["rows"][0]["n"]) == (0, 2)
    code, _, err = call(*command[:-3], 3, "--out", "tables")
    assert code == 2
    assert "with a run of the same settings; got other settings" in err
    monkeypatch.setitem(table_1.BLOCKS, "mnist-default", (shared | {"lr": 1e30}, {"wrong": {"method": "standard"}}))
    code, _, err = call(*command)
    assert code == 1
    assert "mnist-default/wrong-20 failed: DivergenceError" in err


@pytest.mark.usefixtures("quick_bounds")
def test_reproduce_a_section(call, monkeypatch):
    from cheaplip.experiments import section_3

    monkeypatch.setattr(section_3, "MEASUREMENTS", {"absolute-value": section_3.absolute_value})
    monkeypatch.setenv("CHEAPLIP_DATA", "nowhere")  # of no concern to it
    code, out, err = call("reproduce", "analysis", "--seeds", 2, "--out", "results")
    assert code == 0
    assert "| Example (1) | " in out
    assert err.splitlines()[-1] == "parts: 2/2"
    assert {path.name for path in Path("results/analysis").iterdir()} == {
        "parts",
        "index.html",
        "table.json",
        "table.csv",
        "table.md",
    }

    def fails(seed, settings):
        raise KeyboardInterrupt if seed else ZeroDivisionError("by zero")

    monkeypatch.setattr(section_3, "MEASUREMENTS", {"fails": fails})
    code, _, err = call("reproduce", "analysis", "--seeds", 1, "--out", "other")
    assert code == 1
    assert "fails-0 failed: ZeroDivisionError: by zero" in err
    code, _, err = call("reproduce", "analysis", "--seeds", 2, "--out", "other")
    assert code == 130
    assert err.splitlines()[-1] == "Interrupted. The same command continues."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mnits"], "Did you mean 'mnist'"),
        (["mnist", "--table", "mnist-cnn"], "a table of mnist"),
        (["mnist", "--seeds", "0"], "at least one seed; got 0"),
        (["mnist", "--jobs", "0"], "at least one job at once; got 0"),
        (["mnist", "--backend", "slurm"], "backend to be one of dask, local"),
        (["regresion"], "Did you mean 'regression'"),
        (["regression", "--table", "mnist-default"], "expected options that regression has; got --table. Leave it away"),
        (["analysis", "--epochs", "3"], "expected options that analysis has; got --epochs. Leave it away"),
        (["regression", "--data-dir", "data"], "got --data-dir"),
        (["analysis", "--seeds", "0"], "at least one seed; got 0"),
        (["regression", "--jobs", "0"], "at least one job at once; got 0"),
        (["analysis", "--backend", "slurm"], "backend to be one of dask, local"),
    ],
)
def test_what_reproduce_refuses(call, arguments, message):
    code, out, err = call("reproduce", *arguments, "--out", "tables")
    assert (code, out) == (2, "")
    assert message in err
