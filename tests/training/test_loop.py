import copy
import json
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from cheaplip import DiscrepancyPrinciple, LipschitzRegularizer, fit, perturbed_pairs
from cheaplip.bounds.lower import lower_bound
from cheaplip.data import from_arrays, load
from cheaplip.errors import DivergenceError, InputError
from cheaplip.models import mlp
from cheaplip.regularization.weight_norm import weight_norm
from cheaplip.training import loop
from cheaplip.training.batches import TensorBatches, split
from cheaplip.training.checkpoint import checkpoints
from cheaplip.training.methods import METHODS
from cheaplip.training.presets import configure
from cheaplip.training.schedule import update_period
from support.networks import OPTIONS, curve, dense, digits, regularised, same_weights, without

pytestmark = pytest.mark.usefixtures("quick_bounds")


def by_hand(model, *, penalty=None, weight=0.0, scheduler=None, epochs=4, update="epoch"):
    """A bare loop on the batches of `fit`, with nothing of `training` in it."""
    x, y = digits()
    parts = split(len(x), pair_share=0.1, validation_share=0.05, seed=0)
    batches = TensorBatches(x, y, indices=parts.fit, batch_size=32, seed=0)
    regularizer = penalty and penalty(model, x[parts.pairs])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    step = 0
    for epoch in range(1, epochs + 1):
        right = 0
        weight = scheduler.weight if scheduler else weight
        for batch, labels in batches.epoch(epoch):
            optimizer.param_groups[0]["lr"] = 0.1 * (0.51 + 0.49 * math.cos(math.pi * step / (epochs * len(batches))))
            step += 1
            outputs = model(batch)
            loss = cross_entropy(outputs, labels)
            if weight > 0:
                loss = loss + weight * regularizer()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if weight > 0 and hasattr(regularizer, "step"):
                regularizer.step()
            right += int((outputs.argmax(1) == labels).sum())
            if update == "minibatch":
                scheduler.step(float((outputs.argmax(1) == labels).float().mean()))
                weight = scheduler.weight
        if scheduler and update == "epoch":
            scheduler.step(right / (len(batches) * 32))
    return model


def lipschitz(model, inputs):
    pairs = perturbed_pairs(inputs, noise=0.1)
    box = (float(pairs.u.min()), float(pairs.v.max()))  # noise only adds
    regularizer = LipschitzRegularizer(model, pairs, active=8, explore=0, domain=box)
    regularizer.batch_size = 32  # as `fit` tells it: sums of other parts are rounded differently
    return regularizer


def test_after_each_epoch_the_caller_sees_the_model():
    model, seen = dense(), []
    fit(model, digits(), after_epoch=lambda row, given: seen.append((row["epoch"], given is model)), **OPTIONS)
    assert seen == [(epoch + 1, True) for epoch in range(len(seen))]
    assert seen


def test_standard_is_the_bare_loop():
    assert same_weights(fit(dense(), digits(), method="standard", **OPTIONS).model, by_hand(dense()))


def test_clip_is_the_loop_of_the_readme():
    scheduler = DiscrepancyPrinciple(target=0.3, warmup=1, initial=0.1)
    mine = by_hand(dense(), penalty=lipschitz, scheduler=scheduler)
    trained = fit(dense(), digits(), method="clip", **OPTIONS)
    assert trained.history[-1]["weight"] > 0
    assert same_weights(trained.model, mine)


@pytest.mark.parametrize(("method", "increment"), [("clip", 0.01), ("weight", 1e-4)])
def test_the_weight_may_move_at_every_minibatch_as_algorithm_2_prints_it(method, increment):
    kinds = {"clip": lipschitz, "weight": lambda model, _: lambda: weight_norm(model)}
    scheduler = DiscrepancyPrinciple(0.3, rule="additive", warmup=7, initial=0.1, increment=increment)  # 7 minibatches an epoch
    mine = by_hand(dense(), penalty=kinds[method], scheduler=scheduler, update="minibatch")
    trained = fit(dense(), digits(), method=method, rule="additive", update="minibatch", **OPTIONS)
    assert trained.history[-1]["weight"] not in (0, 0.1)
    assert same_weights(trained.model, mine)


@pytest.mark.parametrize("options", [{}, {"rule": "additive", "update": "minibatch"}])
def test_a_diverging_regression_is_told_as_such(options):
    with pytest.raises(DivergenceError, match="training loss"):
        fit(dense(inputs=1, outputs=1), curve(), lr=1e30, **options, **OPTIONS)


def test_an_epoch_whose_weight_ends_at_zero_still_has_its_penalty():
    options = {**OPTIONS, "target": 0.99, "warmup": 0, "initial_weight": 0.02, "epochs": 1}
    (row,) = fit(dense(), digits(), rule="additive", update="minibatch", **options).history
    assert row["weight"] == 0
    assert row["penalty"] > 0


def test_weight_adds_the_norm_of_the_weights():
    options = OPTIONS | {"target": None, "weight": 0.05}
    mine = by_hand(dense(), penalty=lambda model, _: lambda: weight_norm(model), weight=0.05)
    trained = fit(dense(), digits(), method="weight", **options)
    assert same_weights(trained.model, mine)
    assert trained.history[0]["penalty"] == pytest.approx(weight_norm(dense()).item(), rel=0.2)
    assert weight_norm(trained.model) < weight_norm(by_hand(dense()))


def test_gradient_of_the_weight_method():
    x, y = digits(64)
    model, start = dense(), dense()
    options = {"batch_size": 999, "epochs": 1, "lr": 1.0, "optimizer_options": {}, "schedule": "constant"}
    fit(model, (x, y), method="weight", weight=0.5, **options)
    plain = fit(dense(), (x, y), method="standard", **options).model
    norm = weight_norm(start).item()
    for p, q, p0 in zip(model.parameters(), plain.parameters(), start.parameters(), strict=True):
        torch.testing.assert_close(p - q, -0.5 * p0 / norm, atol=1e-6, rtol=1e-4)  # d|theta| / d theta = theta / |theta|


@pytest.mark.parametrize("method", ["weight", "clip"])
def test_weight_zero_is_standard(method):
    options = {key: OPTIONS[key] for key in ("epochs", "batch_size")}
    standard = fit(regularised(), digits(), method="standard", **options)
    assert same_weights(fit(regularised(), digits(), method=method, weight=0.0, **options).model, standard.model)


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


def test_pairs_against_noise_leave_the_domain():
    digits, short = load("digits"), {"method": "clip", "weight": 0.1, "epochs": 1}
    usual, noisy = (fit(dense(), digits, **short, **more).pairs for more in ({}, {"pair_scales": (0.5, 0.5)}))
    assert 0 <= usual.v.min() <= usual.v.max() <= 1
    assert noisy.v.min() < -0.5
    assert noisy.v.max() > 1.5


def test_the_weight_steers_the_accuracy_to_its_target():
    trained = fit(dense(), digits(600), method="clip", target=0.8, epochs=40, batch_size=32, lr=0.3)
    assert trained.result["train_accuracy"] == pytest.approx(0.8, abs=0.06)
    assert trained.history[-1]["weight"] > 0.001
    for points in (trained.pairs.u, trained.pairs.v):  # data without a domain: the pairs stay in the box of the first ones
        assert 0 <= points.min() <= points.max() <= 1.1


def test_regression_meets_a_loss_or_has_a_constant_weight():
    def mlp():
        return dense(inputs=1, outputs=1)

    options = {"epochs": 30, "batch_size": 16, "lr": 0.05}
    standard = fit(mlp(), curve(), method="standard", **options)
    clip = fit(mlp(), curve(), method="clip", weight=0.1, **options)
    assert clip.result["train_loss"] > standard.result["train_loss"]
    assert clip.history[-1]["lower_bound"] < 1
    assert "train_accuracy" not in clip.result
    assert clip.history[0]["train_accuracy"] is clip.history[0]["validation_accuracy"] is None
    steered = fit(mlp(), curve(), method="clip", target=0.1, **options | {"epochs": 60})
    assert steered.result["train_loss"] == pytest.approx(0.1, rel=0.3)


def test_best_pgd_keeps_the_best_epoch_after_the_warm_up(tmp_path):
    options = OPTIONS | {"keep": "best-pgd", "eps": 0.5, "epochs": 6, "warmup": 2, "lr": 0.5}
    trained = fit(dense(), digits(), out=tmp_path, **options)
    scores = [row["validation_pgd_accuracy"] for row in trained.history]
    assert scores[:2] == [None, None]
    assert trained.result["kept_epoch"] == scores.index(max(scores[2:])) + 1
    assert trained.result["weight"] == trained.history[trained.result["kept_epoch"] - 1]["weight"]
    state = torch.load(checkpoints(tmp_path)[0], weights_only=True)
    assert all(torch.equal(value, state["best"]["model"][name]) for name, value in trained.model.state_dict().items())


def poison(monkeypatch, epoch, change):
    train_epoch = loop._train_epoch

    def poisoned(network, task, state, *rest):
        row = train_epoch(network, task, state, *rest)
        if row["epoch"] == epoch:
            change(state.model, row)
        return row

    monkeypatch.setattr(loop, "_train_epoch", poisoned)


@torch.no_grad()
def break_parameter(model, row):
    model[5].weight[3, 2] = torch.nan


@torch.no_grad()
def break_buffer(model, row):
    model[2].running_var[0] = torch.inf


def break_loss(model, row):
    row["train_loss"] = float("nan")


def break_bound(model, row):
    row["lower_bound"] = float("inf")


@pytest.mark.parametrize(
    ("change", "quantity"),
    [
        (break_parameter, "5.weight"),
        (break_buffer, "2.running_var"),
        (break_loss, "the training loss"),
        (break_bound, "the lower bound of Lip"),
    ],
)
def test_divergence_keeps_the_last_good_epoch(tmp_path, monkeypatch, change, quantity):
    whole = fit(regularised(), digits(), **OPTIONS)
    model = regularised()
    with monkeypatch.context() as patch:
        poison(patch, 3, change)
        with pytest.raises(DivergenceError, match=f"diverged in epoch 3: {quantity}.* is not finite.*learning rate"):
            fit(model, digits(), out=tmp_path, **OPTIONS)
    state = torch.load(checkpoints(tmp_path)[0], weights_only=True)
    assert [row["epoch"] for row in state["history"]] == [1, 2]
    assert all(torch.equal(value, state["model"][name]) for name, value in model.state_dict().items())
    assert same_weights(fit(regularised(), digits(), out=tmp_path, resume=True, **OPTIONS).model, whole.model)


def test_divergence_in_the_first_epoch_leaves_the_initial_weights(tmp_path):
    model = regularised()
    with pytest.raises(DivergenceError, match="diverged in epoch 1: the training loss is not finite"):
        fit(model, digits(), out=tmp_path, lr=1e30, **OPTIONS)
    assert same_weights(model, regularised())
    assert list(tmp_path.iterdir()) == []


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


X, Y = digits(100)
BAD = {
    "accuracy of 1.5": ({"target": 1.5}, "a target accuracy in .0, 1.; got 1.5"),
    "optimizer": ({"optimizer": "SDG"}, "optimizer to be one of .*Did you mean 'SGD'"),
    "its options": (
        {"optimizer_options": {"momentun": 0.9}},
        "torch.optim.SGD to take a step.*; got .*momentun",
    ),
    "its values": (
        {"optimizer_options": {"momentum": -1}},
        "torch.optim.SGD to take a step.*; got Invalid momentum",
    ),
    "multiplying nothing": ({"initial_weight": 0.0}, "cannot leave 0"),
}


def never(row, model):
    raise AssertionError("an epoch was trained")


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_refused_before_training(case, tmp_path):
    options, match = BAD[case]
    with pytest.raises(InputError, match=match):
        fit(dense(), (X, Y), out=tmp_path / "run", after_epoch=never, **options)
    assert not (tmp_path / "run").exists()


def test_clip_on_a_loader_needs_pairs():
    with pytest.raises(InputError, match="pairs for the method clip on a DataLoader; got none"):
        fit(dense(), DataLoader(TensorDataset(X, Y), 20), method="clip")


def test_a_test_part_that_does_not_fit_is_refused_before_training():
    x, y = X.flatten(1), Y % 3
    data = replace(from_arrays(x, y), test_y=torch.arange(20) % 3 + 1)
    with pytest.raises(InputError, match="labels 1 to 3"):
        fit(dense(outputs=3), data, after_epoch=never)


def test_a_model_without_parameters_is_refused():
    with pytest.raises(InputError, match="got optimizer got an empty parameter list"):
        fit(nn.Flatten(), (X, Y), method="standard")


@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop", "Adagrad", "Rprop"])
def test_an_optimizer_by_its_name_alone(name):
    assert fit(dense(), digits(100), method="standard", optimizer=name, lr=0.001, epochs=1).history


@pytest.mark.parametrize("name", ["LBFGS", "SparseAdam"])
def test_an_optimizer_that_cannot_take_such_steps_is_refused(name):
    with pytest.raises(InputError, match=f"torch.optim.{name} to take a step.*(closure|dense)"):
        fit(dense(), digits(100), method="standard", optimizer=name, optimizer_options={})


@pytest.mark.parametrize("options", [{"lr": 1e39}, {"optimizer_options": {"weight_decay": 1e300}}, {"epochs": 10**23}])
def test_settings_that_no_number_of_torch_holds_are_refused(options):
    with pytest.raises(InputError):
        fit(dense(), digits(100), method="standard", **options)


def test_arrays_are_tensors():
    x, y = digits(100)
    arrays = fit(dense(), [x.numpy(), y.numpy()], method="standard", epochs=np.int64(2))
    assert same_weights(arrays.model, fit(dense(), (x, y), method="standard", epochs=2).model)
    with pytest.raises(InputError, match="data without a mask"):
        fit(dense(), (np.ma.masked_array(x.numpy()), y.numpy()))


def test_redraw_draws_the_pairs_afresh_every_epoch(monkeypatch):
    monkeypatch.setattr(LipschitzRegularizer, "refine", lambda self: 0.0)  # it moves them

    def pairs(redraw):
        options = without(OPTIONS, "target") | {"weight": 1e-6, "ascent": "printed", "step_size": 1e-9}
        return fit(dense(), digits(), method="clip", redraw=redraw, **options).pairs

    kept, drawn = pairs(False), pairs(True)
    assert (kept.u - drawn.u).abs().max() < 1e-3  # perturbed pairs: the same inputs ...
    assert (kept.v - drawn.v).abs().max() > 0.01  # ... with other noise


@pytest.mark.parametrize("start", [1e-5, 1e3])
def test_a_weight_far_off_finds_its_way(start):
    data = load("digits")
    torch.manual_seed(0)
    options = {"epochs": 30, "batch_size": 32, "lr": 0.05, "initial_weight": start}
    trained = fit(mlp((1, 8, 8), 10), data, method="clip", target=0.95, **options)
    assert trained.result["train_accuracy"] == pytest.approx(0.95, abs=0.02)
    assert trained.result["weight"] > 0


def test_updates_within_an_epoch_see_the_samples_since_the_last_one(tmp_path):
    x, y = digits(1200)
    options = {"target": 0.5, "batch_size": 8, "epochs": 2, "warmup": 1}
    seen = []
    whole = fit(dense(), (x, y), after_epoch=lambda row, model: seen.append(row["epoch"]), **options)
    batches = 1020 // 8
    calls = whole.history[-1]["epoch"] * batches // update_period(configure(**options), batches)
    assert calls > 25

    def stop(row, model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(dense(), (x, y), out=tmp_path, after_epoch=stop, **options)
    resumed = fit(dense(), (x, y), out=tmp_path, resume=True, **options)  # in the middle of a period
    assert same_weights(whole.model, resumed.model)
    assert whole.history[-1]["weight"] == resumed.history[-1]["weight"] > 0


def test_a_run_of_three_epochs_is_no_plain_training():
    data, bounds = load("digits"), []
    for method in ("standard", "clip"):
        torch.manual_seed(0)
        model = mlp((1, 8, 8), 10, activation="relu")
        done = fit(model, data, method=method, target=0.8, epochs=3, batch_size=8, lr=0.05)
        bounds.append(lower_bound(model, data.test_x[:50], steps=5).value)
    assert done.history[-1]["weight"] > 0
    assert bounds[1] < bounds[0] / 2


def test_a_folder_may_be_a_string(tmp_path):
    fit(dense(), digits(), **OPTIONS, out=str(tmp_path / "run"))
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_gradients_accumulate_as_accelerate_says(monkeypatch):
    options = {"method": "clip", "weight": 0.1, "epochs": 4, "active": 8, "interval": 2}
    whole = fit(dense(), digits(), batch_size=80, **options)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    halves = fit(dense(), digits(), batch_size=40, **options)
    assert [row["learning_rate"] for row in halves.history] == [row["learning_rate"] for row in whole.history]
    for mine, theirs in zip(halves.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)


def test_a_run_with_another_number_of_steps_does_not_resume(tmp_path, monkeypatch):
    fit(dense(), digits(), method="clip", out=tmp_path, **OPTIONS | {"epochs": 1})
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    with pytest.raises(InputError, match=r"7 steps in an epoch, as in the interrupted run; got 4\. Resume with"):
        fit(dense(), digits(), method="clip", out=tmp_path, resume=True, **OPTIONS | {"epochs": 1})
