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
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from cheaplip import fit, perturbed_pairs
from cheaplip.training import loop
from support.networks import OPTIONS, curve, dense, digits, regularised, seeded

out, kind, epochs, resume = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "resume"
x, y = digits()
more, model = {"data": (x, y)}, dense()
if kind == "loader":
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
    more, model = {"data": loader, "pairs": perturbed_pairs(x[:50])}, regularised()
if kind == "best":
    more, model = {"data": (x, y), "keep": "best-pgd", "certify": 0.1}, dense()
if kind == "regression":
    more = {"data": curve(), "target": 0.9}
    model = seeded(lambda: nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1)))
if kind == "unused":
    model.register_parameter("unused", nn.Parameter(torch.ones(1)))
if epochs < 4:
    train_epoch = loop._train_epoch
    def stop(network, task, state, *rest):
        if state.epoch == epochs:
            raise SystemExit
        return train_epoch(network, task, state, *rest)
    loop._train_epoch = stop
trained = fit(model, method="clip", out=Path(out) / "run", resume=resume, **OPTIONS | more)
state = PartialState()
history = [{name: value for name, value in row.items() if name != "seconds"} for row in trained.history]
samples, kept = trained.result["samples"], trained.result["kept_epoch"]
record = {"weights": trained.model.state_dict(), "pairs": trained.pairs.u, "history": history, "samples": samples, "kept": kept}
torch.save(record, Path(out) / f"{state.process_index}.pt")
state.destroy_process_group()
"""


def torchrun(*command, processes=2):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([HERE, *sys.path])}
    options = ["--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, "-m", "torch.distributed.run", *options, *map(str, command)]
    return subprocess.run(command, env=environment | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, timeout=300)


@pytest.fixture
def train(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)

    def trained(kind, processes, folder="", epochs=4, resume="new"):
        """What each process has in the end."""
        folder = tmp_path / (folder or str(processes))
        folder.mkdir(exist_ok=True)
        done = torchrun(tmp_path / "worker.py", folder, kind, epochs, resume, processes=processes)
        assert done.returncode == 0, done.stderr
        return [torch.load(folder / f"{rank}.pt") for rank in range(processes)] if epochs == 4 else []

    return trained


def same(one, other):
    return all(torch.equal(value, other["weights"][name]) for name, value in one["weights"].items())


def close(one, other, tolerance=1e-5):
    return all((value - other["weights"][name]).abs().max() <= tolerance for name, value in one["weights"].items())


@pytest.mark.parametrize("kind", ["tensors", "loader", "best", "regression", "unused"])
def test_processes_stay_in_step(train, kind):
    first, second = train(kind, 2)
    assert same(first, second)
    assert torch.equal(first["pairs"], second["pairs"])
    assert first["history"] == second["history"]
    assert (first["samples"], first["kept"]) == (second["samples"], second["kept"])
    assert first["history"][-1]["weight"] > 0
    assert any(row["penalty"] for row in first["history"])
    if kind != "loader":  # batch normalisation and dropout see the share of each process
        (alone,) = train(kind, 1)
        assert close(first, alone)
        assert first["samples"] == alone["samples"]


def test_a_run_goes_on_with_fewer_processes(train):
    (alone,) = train("tensors", 1)
    four = train("tensors", 4)
    train("tensors", 4, "halves", epochs=2)
    resumed, _ = train("tensors", 2, "halves", resume="resume")
    assert close(resumed, alone)
    assert close(four[0], alone)
    assert [row["learning_rate"] for row in resumed["history"]] == [row["learning_rate"] for row in alone["history"]]
    weights = [[row["weight"] for row in run["history"]] for run in (resumed, alone)]
    assert weights[0] == pytest.approx(weights[1])


def test_a_run_resumes_bit_for_bit(train):
    whole, _ = train("regression", 2)
    train("regression", 2, "halves", epochs=2)
    resumed, _ = train("regression", 2, "halves", resume="resume")
    assert same(whole, resumed)
    assert whole["history"] == resumed["history"]


LOOP = """
import time
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy, mse_loss
from torch.nn.parallel import DistributedDataParallel
import cheaplip
from cheaplip.errors import InputError
from support.networks import curve, dense, digits, regularised

dist.init_process_group("gloo")
rank = dist.get_rank()

def train(model, x, y, scheduler, loss, **options):
    mine = slice(rank, None, 2)
    regularizer = cheaplip.LipschitzRegularizer(model, cheaplip.perturbed_pairs(x[:40]), **options)
    term, parallel = cheaplip.PenaltyTerm(regularizer, scheduler), DistributedDataParallel(model)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.05)
    for epoch in range(4):
        for batch_x, batch_y in zip(x[40:].split(50), y[40:].split(50)):
            outputs = parallel(batch_x[mine])
            value = loss(outputs, batch_y[mine]) + term(outputs, batch_y[mine])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            term.step()
        term.update_weight()
    return term

def of_all(value):
    values = [None, None]
    dist.all_gather_object(values, value)
    return values

x, y = digits()
for options in ({}, {"cost": 0.5}, {"active": 1, "pool": 1}, {"reduction": "max", "ascent": "accepted"}):
    model = dense()
    term = train(model, x, y, cheaplip.DiscrepancyPrinciple(0.1, initial=0.1, warmup=0), cross_entropy, **options)
    assert len(set(of_all(term.weight))) == 1 and term.weight != 0.1
    states = of_all({name: value for name, value in vars(term.penalty.state).items()})
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0, equal_nan=True)
    weights = of_all(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
u, v = curve()
high = cheaplip.DiscrepancyPrinciple(0.9, initial=50.0, warmup=0, quantity="loss")
term = train(dense(inputs=1, outputs=1), u, v + rank, high, mse_loss)
assert len(set(of_all(term.weight))) == 1 and term.weight < 50
limit = cheaplip.DiscrepancyPrinciple(0.5, quantity="lipschitz")
term = train(regularised(), x, y, limit, cross_entropy, allowed=0.5, interval=1, power=1)
assert len(set(of_all(term.weight))) == 1
principle = cheaplip.DiscrepancyPrinciple(0.5, warmup=0)
principle.step(0.4 + 0.4 * rank)
assert abs(principle.value - 0.6) < 1e-12
if rank == 0:
    assert term.penalty.lower_bound() > 0  # alone
assert len(set(of_all(term.penalty.refine()))) == 1
try:
    cheaplip.LipschitzRegularizer(dense(), cheaplip.perturbed_pairs(x[:40], seed=rank))()
    raise AssertionError
except InputError as error:
    assert "the same pairs on all 2 processes" in str(error)
try:
    cheaplip.LipschitzRegularizer(dense(seed=rank), cheaplip.perturbed_pairs(x[:40]))()
    raise AssertionError
except InputError as error:
    assert "the same parameters on all 2 processes" in str(error)
dist.destroy_process_group()
"""


def test_a_loop_of_ones_own(tmp_path):
    (tmp_path / "worker.py").write_text(LOOP)
    done = torchrun(tmp_path / "worker.py")
    assert done.returncode == 0, done.stderr


def test_the_command_line_on_two_processes(tmp_path):
    (tmp_path / "quick.json").write_text(json.dumps({"attack_samples": 21, "curve_samples": 10, "iterations": 2, "eps": 0.1}))
    command = ["-m", "cheaplip", "train", "--data", "digits", "--hidden", "8", "--epochs", "2"]
    done = torchrun(*command, "--config", tmp_path / "quick.json", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "run/result.json").read_text())
    shown = json.loads(done.stdout)  # once
    assert shown["samples"] == result["samples"]
    assert result["samples"]["train_accuracy"] == 1102
    assert result["samples"]["strong_accuracy"] == 21
    assert result["samples"]["test_accuracy"] == 500
    assert 0 < result["strong_accuracy"] * 21 == pytest.approx(round(result["strong_accuracy"] * 21))
    assert done.stderr.count("epoch 2/2") == 1
