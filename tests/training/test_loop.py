"""`fit` is the bare loop of Algorithm 2, and its weight meets what is wished for."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from cheaplip import DiscrepancyPrinciple, LipschitzRegularizer, fit, perturbed_pairs
from cheaplip.bounds.lower import lower_bound
from cheaplip.data import load
from cheaplip.models import mlp
from cheaplip.regularization.weight_norm import weight_norm
from cheaplip.training.batches import TensorBatches, split
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


def test_redraw_draws_the_pairs_afresh_every_epoch(monkeypatch):
    monkeypatch.setattr(LipschitzRegularizer, "refine", lambda self: 0.0)  # it moves them

    def pairs(redraw):
        options = without(OPTIONS, "target") | {"weight": 1e-6, "ascent": "printed", "step_size": 1e-9}
        return fit(dense(), digits(), method="clip", redraw=redraw, **options).pairs

    kept, drawn = pairs(False), pairs(True)
    assert (kept.u - drawn.u).abs().max() < 1e-3  # perturbed pairs: the same inputs ...
    assert (kept.v - drawn.v).abs().max() > 0.01  # ... with other noise


@pytest.mark.parametrize("start", [1e-5, pytest.param(1e3, marks=pytest.mark.slow)])
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


def test_gradients_accumulate_as_accelerate_says(monkeypatch):
    options = {"method": "clip", "weight": 0.1, "epochs": 4, "active": 8, "interval": 2}
    whole = fit(dense(), digits(), batch_size=80, **options)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    halves = fit(dense(), digits(), batch_size=40, **options)
    assert [row["learning_rate"] for row in halves.history] == [row["learning_rate"] for row in whole.history]
    for mine, theirs in zip(halves.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
