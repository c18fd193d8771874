"""The mixin's state in Lightning's checkpoints: a resumed run goes on as if never stopped, and so do two processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from support.lightning_modules import Classifier, lightning, loader, quietly, samples, scheduler, train
from support.networks import digits, same_weights

pytestmark = quietly


@pytest.mark.parametrize("validates", [False, True])
def test_a_resumed_run_is_the_same_run(tmp_path, validates):
    validation = samples() if validates else None
    whole = Classifier(scheduler(warmup=0))
    train(whole, 4, validation=validation)
    saver = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, save_last=True)
    train(Classifier(scheduler(warmup=0)), 2, validation=validation, enable_checkpointing=True, callbacks=[saver])
    resumed = Classifier(scheduler(warmup=0))
    train(resumed, 4, validation=validation, ckpt_path=saver.last_model_path)
    assert same_weights(resumed.network, whole.network)
    assert resumed.lipschitz_term.scheduler.state_dict() == whole.lipschitz_term.scheduler.state_dict()
    assert torch.equal(resumed.lipschitz_term.penalty.state.points, whole.lipschitz_term.penalty.state.points)


@pytest.mark.parametrize("step", [3, 8, 9, 12])
def test_a_checkpoint_of_a_step_has_the_state_after_it(tmp_path, step):
    """The batches are all alike, so that it does not matter where in an epoch Lightning goes on."""
    x, y = (part[60:92] for part in digits())
    alike = loader(x.repeat(8, 1, 1, 1), y.repeat(8))  # 8 steps in an epoch
    whole = Classifier(scheduler(warmup=0))
    train(whole, 2, data=alike)
    every = lightning.pytorch.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    train(Classifier(scheduler(warmup=0)), 2, data=alike, enable_checkpointing=True, callbacks=[every])
    resumed = Classifier(scheduler(warmup=0))
    train(resumed, 2, data=alike, ckpt_path=tmp_path / f"step={step}.ckpt")
    assert same_weights(resumed.network, whole.network)
    assert resumed.lipschitz_term.scheduler.state_dict() == whole.lipschitz_term.scheduler.state_dict()
    assert torch.equal(resumed.lipschitz_term.penalty.state.points, whole.lipschitz_term.penalty.state.points)


def test_a_checkpoint_from_without_the_mixin_starts_the_penalty():
    module = Classifier(scheduler())
    module.on_load_checkpoint({})
    assert module.lipschitz_term.scheduler.calls == 0


WORKER = """
import os, sys
import torch
from support.lightning_modules import Classifier, scheduler, train

torch.set_num_threads(1)
module = Classifier(scheduler(warmup=0))
train(module, 3, devices=2, strategy="ddp")
assert module.trainer.world_size == 2
state = {"network": module.network.state_dict(), "scheduler": module.lipschitz_term.scheduler.state_dict()}
torch.save(state, f"{sys.argv[1]}/{module.global_rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_stay_together(tmp_path):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script, tmp_path], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(first["network"][name], second["network"][name]) for name in first["network"])
    assert first["scheduler"] == second["scheduler"]
    assert first["scheduler"]["calls"] == 3
