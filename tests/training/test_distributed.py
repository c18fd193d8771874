"""Two processes on the CPU train one network. (`accelerate launch --cpu` silently starts a single one: torchrun it is.)"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
HERE = str(Path(__file__).parents[1])

WORKER = """
import sys
from pathlib import Path
import torch
from accelerate import PartialState
from torch.utils.data import DataLoader, TensorDataset
from cheaplip import fit, perturbed_pairs
from support.networks import OPTIONS, dense, digits, regularised

out, kind, epochs, resume = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "resume"
x, y = digits()
loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
more = {"data": loader, "pairs": perturbed_pairs(x[:50])} if kind == "loader" else {"data": (x, y)}
if epochs < 4:
    from cheaplip.training import loop
    train_epoch = loop._train_epoch
    def stop(network, task, state, *rest):
        if state.epoch == epochs:
            raise SystemExit
        return train_epoch(network, task, state, *rest)
    loop._train_epoch = stop
model = regularised() if kind == "loader" else dense()
trained = fit(model, method="clip", out=Path(out) / "run", resume=resume, **more, **OPTIONS)
state = PartialState()
assert state.num_processes == 2
record = {"weights": trained.model.state_dict(), "pairs": trained.pairs.u, "history": trained.history, "result": trained.result}
torch.save(record, Path(out) / f"{state.process_index}.pt")
state.destroy_process_group()
"""


def torchrun(*command):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": HERE, "CUDA_VISIBLE_DEVICES": ""}
    options = ["--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, "-m", "torch.distributed.run", *options, *map(str, command)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("kind", ["tensors", "loader"])
def test_two_processes_stay_in_step(tmp_path, kind):
    (tmp_path / "worker.py").write_text(WORKER)

    def train(folder, epochs, resume):
        folder.mkdir(exist_ok=True)
        done = torchrun(tmp_path / "worker.py", folder, kind, epochs, resume)
        assert done.returncode == 0, done.stderr
        return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)] if epochs == 4 else []

    first, second = train(tmp_path / "whole", 4, "new")
    buffers = ("running_mean", "running_var")  # of one process' batches, as usual with data parallelism
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]) or name.endswith(buffers)
    for mine, theirs in zip(first["history"], second["history"], strict=True):
        assert (mine["train_loss"], mine["train_accuracy"], mine["weight"]) == (
            theirs["train_loss"],
            theirs["train_accuracy"],
            theirs["weight"],
        )
    assert first["history"][-1]["weight"] > 0
    assert any(row["penalty"] for row in first["history"])
    assert first["result"]["samples"] == second["result"]["samples"]
    assert first["result"]["samples"]["train_accuracy"] == {"tensors": 255, "loader": 320}[kind]  # a loader pads its batches
    if kind == "loader":  # and batch statistics, by which each process sees slightly other quotients
        return
    assert torch.equal(first["pairs"], second["pairs"])
    train(tmp_path / "halves", 2, "new")
    resumed, _ = train(tmp_path / "halves", 4, "resume")
    for name, value in first["weights"].items():
        assert torch.equal(value, resumed["weights"][name])


def test_the_command_line_on_two_processes(tmp_path):
    (tmp_path / "quick.json").write_text(json.dumps({"attack_samples": 20, "curve_samples": 10, "iterations": 2}))
    command = ["-m", "cheaplip", "train", "--data", "digits", "--hidden", "8", "--epochs", "2"]
    done = torchrun(*command, "--config", tmp_path / "quick.json", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["samples"]["train_accuracy"] == 1102
