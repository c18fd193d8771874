"""The README's promises: the CI runs its test command, its loop is that of `fit`, its pictures exist, it is short."""

import re
import subprocess
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

import cheaplip
from cheaplip import fit
from cheaplip.training.batches import TensorBatches, split
from support.networks import dense, digits, same_weights

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


def test_it_is_short():
    assert len(README.split()) < 450


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def loop(*, added):
    """The README's loop as a user has it: with the added lines of the diff, or as it was before."""
    (diff,) = blocks("diff")
    lines = [line for line in diff.splitlines() if line[0] != ("-" if added else "+")]
    return "\n".join(line[2:] for line in lines)


class Epochs:
    """The batches of `fit`, one epoch after the other."""

    def __init__(self, batches):
        self.batches, self.epoch = batches, 0

    def __iter__(self):
        self.epoch += 1
        return self.batches.epoch(self.epoch)


def run_loop(*, added, epochs=30):
    """Execute the README's own text on digits; returns its names."""
    x, y = digits()
    parts = split(len(x), pair_share=0.1, validation_share=0.05, seed=0)
    model = dense()
    names = {
        "cheaplip": cheaplip,
        "model": model,
        "held_out_inputs": x[parts.pairs],
        "loader": Epochs(TensorBatches(x, y, indices=parts.fit, batch_size=32, seed=0)),
        "criterion": cross_entropy,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        "epochs": epochs,
    }
    exec(loop(added=added), names)
    return names


def test_the_loop_is_that_of_fit_to_the_last_bit():
    names = run_loop(added=True)
    done = fit(dense(), digits(), epochs=30, batch_size=32, schedule="constant")
    weighted = sum(row["weight"] > 0 for row in done.history)
    assert 0 < weighted <= 15  # not in the warm-up
    assert same_weights(names["model"], done.model)
    assert names["term"].scheduler.excess == done.history[-1]["train_accuracy"] - done.result["steered_to"]
    assert names["regularizer"].calls == weighted * len(names["loader"].batches)


def test_without_the_added_lines_it_is_plain_training():
    names = run_loop(added=False)
    plain = fit(dense(), digits(), method="standard", epochs=30, batch_size=32, schedule="constant").model
    assert same_weights(names["model"], plain)


def test_bracket_and_radii():
    x, y = digits(600)
    names = {"cheaplip": cheaplip, "model": dense(), "x_test": x, "y_test": y}
    exec(blocks("python")[0], names)
    assert 0 < names["bracket"].lower <= names["bracket"].upper
    assert names["radius"].shape == (600,)
    assert bool((names["radius"] >= 0).all())


@pytest.mark.parametrize("path", re.findall(r"\]\((?!http)([^)]+)\)", README))
def test_links_and_pictures_exist(path):
    assert (ROOT / path).exists()
