"""The README's promises: the CI runs its test command, its three-line loop works, its pictures and files exist."""

import re
import subprocess
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

import cheaplip

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_ci_runs_the_test_command_literally():
    script = (ROOT / ".ci" / "run").read_text()
    (extraction,) = re.findall(r"^command=\$\((.*)\)$", script, flags=re.M)
    command = subprocess.run(["bash", "-c", extraction], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "venv" in command
    assert command.strip().endswith("-m pytest")
    assert command.strip() in README.splitlines()
    assert "-c constraints.txt" in command


def code_with(line: str) -> str:
    return next(block for block in re.findall(r"```python\n(.*?)```", README, flags=re.S) if line in block)


def test_the_loop_trains_and_presses_the_constant():
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Softplus(), torch.nn.Linear(16, 2))
    x = torch.randn(64, 4)
    y = (x[:, 0] > 0).long()
    names = {
        "model": model,
        "held_out_inputs": torch.randn(64, 4),
        "loader": [(x, y)] * 40,
        "criterion": cross_entropy,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.3),
        "epochs": 8,
        "train_accuracy": 0.99,  # always above the target, so the weight rises
    }
    exec(code_with("regularizer.step()"), names)
    assert names["principle"].weight > 0.01
    assert names["regularizer"].state.quotient.isfinite().any()
    assert (model(x).argmax(1) == y).float().mean() > 0.9


def test_the_certified_loss_presses_on_the_upper_end():
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    x = torch.randn(64, 4)
    names = {"cheaplip": cheaplip, "model": model, "pairs": cheaplip.perturbed_pairs(x), "x": x, "y": (x[:, 0] > 0).long()}
    names["principle"] = cheaplip.DiscrepancyPrinciple(target=0.95, initial=100.0, warmup=0)
    exec(code_with("certify="), names)
    before = names["regularizer"].upper_bound()
    names["loss"].backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 1e-6 * parameter.grad
    assert names["regularizer"].upper_bound() < before


@pytest.mark.parametrize("path", re.findall(r"!\[[^]]*\]\(([^)]+)\)", README))
def test_pictures_exist(path):
    assert (ROOT / path).is_file()
