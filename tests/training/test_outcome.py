"""What a training leaves: the model, the records, the files, and nothing else."""

import copy
import json
import pickle

import pytest
import safetensors.torch
import torch
from torch.utils.data import DataLoader, TensorDataset

from cheaplip import fit
from cheaplip.training.batches import split
from cheaplip.training.checkpoint import checkpoints
from cheaplip.training.methods import METHODS
from support.networks import OPTIONS, dense, digits, regularised, same_weights, without

pytestmark = pytest.mark.usefixtures("quick_bounds")


def test_after_each_epoch_the_caller_sees_the_model():
    model, seen = dense(), []
    fit(model, digits(), after_epoch=lambda row, given: seen.append((row["epoch"], given is model)), **OPTIONS)
    assert seen == [(epoch + 1, True) for epoch in range(len(seen))]
    assert seen


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_decides_everything_and_touches_nothing(method):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = fit(regularised(), digits(), method=method, **OPTIONS)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    second = fit(regularised(), digits(), method=method, **OPTIONS)
    other = fit(regularised(), digits(), method=method, seed=1, **OPTIONS)
    assert same_weights(first.model, second.model)
    assert [without(row) for row in first.history] == [without(row) for row in second.history]
    assert not same_weights(first.model, other.model)


def test_a_loader_is_shuffled_by_the_seed():
    def run(seed):
        return fit(dense(), DataLoader(TensorDataset(*digits(100)), 20, shuffle=True), method="standard", epochs=2, seed=seed)

    torch.manual_seed(5)
    first, again, other = run(0), run(0), run(1)
    assert same_weights(first.model, again.model)
    assert not same_weights(first.model, other.model)
    assert first.result["samples"]["train_accuracy"] == 100


def test_the_model_is_left_plain(tmp_path):
    model = regularised()
    keys = set(vars(model))
    result = fit(model, digits(), out=tmp_path, **OPTIONS)
    assert result.model is model
    assert set(vars(model)) == keys
    assert not any(module.training for module in model.modules())
    copied = pickle.loads(pickle.dumps(model))
    x, _ = digits(5)
    assert torch.equal(copied(x), model(x))
    saved = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in model.state_dict().items())
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == result.history
    assert fit(model, digits(), **OPTIONS).history[0]["train_loss"] < rows[0]["train_loss"]  # a second time in one process


def test_history_and_result():
    trained = fit(dense(), digits(), method="clip", **OPTIONS)
    x, y = digits()
    indices = split(300, pair_share=0.1, validation_share=0.05, seed=0).fit
    right = int((trained.model(x[indices]).argmax(1) == y[indices]).sum())
    assert trained.result["train_accuracy"] == right / 255
    assert trained.result["samples"] == {"train_accuracy": 255}
    assert [row["epoch"] for row in trained.history] == [1, 2, 3, 4]
    assert trained.history[0]["weight"] == 0
    assert trained.history[0]["penalty"] is None
    assert trained.history[-1]["penalty"] > 0
    assert trained.history[-1]["lower_bound"] > 0
    assert trained.history[0]["learning_rate"] == 0.1 > trained.history[-1]["learning_rate"]
    assert len(trained.pairs) == 30


def test_best_pgd_keeps_the_best_epoch_after_the_warm_up(tmp_path):
    options = OPTIONS | {"keep": "best-pgd", "eps": 0.5, "epochs": 6, "warmup": 2, "lr": 0.5}
    trained = fit(dense(), digits(), out=tmp_path, **options)
    scores = [row["validation_pgd_accuracy"] for row in trained.history]
    assert scores[:2] == [None, None]
    assert trained.result["kept_epoch"] == scores.index(max(scores[2:])) + 1
    assert trained.result["weight"] == trained.history[trained.result["kept_epoch"] - 1]["weight"]
    state = torch.load(checkpoints(tmp_path)[0], weights_only=True)
    assert all(torch.equal(value, state["best"]["model"][name]) for name, value in trained.model.state_dict().items())


def test_half_precision_stays_outside_of_the_model(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    try:
        model = dense()
        seen = []
        model[1].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
        trained = fit(model, digits(), **OPTIONS)
    finally:
        AcceleratorState._reset_state()
    assert torch.bfloat16 in seen
    assert trained.pairs.u.dtype == torch.float32
    assert "forward" not in vars(model)
    assert copy.deepcopy(model)(digits(2)[0]).dtype == torch.float32
