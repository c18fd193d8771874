"""How a command ends that cannot go on: a diverged training, a full disk, Ctrl-C."""

import json
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

from cheaplip.training import checkpoint
from support.commands import SETTINGS, TRAIN


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
    (tmp_path / "quick.json").write_text(json.dumps(SETTINGS))
    command = [sys.executable, "-m", "cheaplip", "train", "--out", "my run", "--data", "digits", "--model", "nets:network"]
    command += ["--epochs", "3", "--method", "standard", "--attack-samples", "20", "--config", "quick.json"]
    # a shell's background job, such as this suite may be, ignores interrupts, and so would its children
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command, preexec_fn=listening, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 180
        while not (tmp_path / "my run/metrics.jsonl").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=180)
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
