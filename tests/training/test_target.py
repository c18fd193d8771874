"""No network is plainly trained, or hardly trained, in silence."""

import warnings

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from cheaplip import LipschitzRegularizer, fit, lipschitz_bracket, perturbed_pairs
from cheaplip.bounds.lower import lower_bound
from cheaplip.data import load
from cheaplip.errors import InputError, TargetWarning
from cheaplip.models import mlp
from cheaplip.robustness.accuracy import accuracy
from support.networks import OPTIONS, curve, dense, digits, seeded

pytestmark = pytest.mark.filterwarnings("default::cheaplip.errors.TargetWarning")


def trained(data=None, model=None, **options):
    """The result, and what was said on the way."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TargetWarning)
        done = fit(model or dense(), data or digits(), **(OPTIONS | options))
    said = [str(warning.message) for warning in caught if warning.category is TargetWarning]
    return done, said


def test_a_target_out_of_reach_is_told_early_and_at_the_end():
    done, said = trained(target=0.999, epochs=10)
    assert done.result["weight"] == 0
    assert done.result["target_met"] is False
    assert said[-1] == done.result["target_note"]
    for message, epochs in zip(said, (2, 10), strict=True):
        best = max(row["train_accuracy"] for row in done.history[:epochs])
        assert f"not acted in {epochs} epochs" in message
        assert f"reached {best:.4g}, the target is 0.999" in message
        assert f"such as {best - 0.01:.3g}" in message


def test_the_proposed_target_is_reached():
    done, _ = trained(target=0.999, epochs=10)
    proposed = float(done.result["target_note"].split("such as ")[1].split(",")[0])
    assert max(row["weight"] for row in trained(target=proposed, epochs=10)[0].history) > 0


def test_a_target_that_is_missed_is_told_with_the_value_reached():
    done, said = trained(target=0.3, initial_weight=1e-5)
    value = done.history[-1]["train_accuracy"]
    assert len(said) == 1
    assert f"ended at {value:.4g} for a target of 0.3" in said[0]
    assert "weight was still rising" in said[0]
    assert done.result["target_met"] is False


def test_a_target_that_is_met_is_silent():
    done, said = trained(digits(600), target=0.8, epochs=40, lr=0.2)
    assert abs(done.history[-1]["train_accuracy"] - 0.8) <= 0.01 or said
    met = [row["target_met"] for row in done.history]
    assert met == [abs(row["train_accuracy"] - 0.8) <= 0.01 for row in done.history]
    assert any(met)


@pytest.mark.parametrize("options", [{"method": "standard"}, {"weight": 0.1, "target": None}])
def test_without_a_target_there_is_nothing_to_meet(options):
    done, said = trained(**options)
    assert (done.result["target_met"], done.result["target_note"], said) == (None, None, [])


def test_a_target_that_one_constant_answer_meets_is_told_and_raised():
    x, y = digits()
    rare = (y == 3).long()  # a tenth of the samples
    done, said = trained((x, rare), model=dense(outputs=2), target=0.5, epochs=30)
    assert "met by one constant answer" in done.result["target_note"]
    assert "balance the classes" in said[-1]
    assert done.result["steered_to"] > 0.9
    assert done.result["train_accuracy"] > 0.9  # the weight did not rise without end


def test_a_loss_that_one_constant_answer_meets_is_told_and_lowered():
    done, said = trained(curve(), model=dense(inputs=1, outputs=1), target=5.0, epochs=10)
    assert "the variance of the values" in said[-1]
    assert done.result["steered_to"] < 1
    assert done.history[-1]["weight"] < 100


def test_a_loss_is_told_in_its_own_words():
    _, said = trained(curve(), model=dense(inputs=1, outputs=1), target=1e-9)
    assert "the loss reached" in said[-1]


def test_a_loader_has_targets_too():
    x, y = digits()
    loader = DataLoader(TensorDataset(x, y), batch_size=32)
    _, said = trained(loader, target=0.999, pairs=perturbed_pairs(x[:50]))
    assert "not acted" in said[-1]


@pytest.mark.parametrize("initial", [1e-3, pytest.param(1.0, marks=pytest.mark.slow)])
def test_a_constant_is_met_from_any_weight(initial):
    done, _ = trained(digits(600), target=None, lipschitz=3.0, epochs=40, lr=0.1, initial_weight=initial)
    assert done.history[-1]["lower_bound"] == pytest.approx(3.0, rel=0.1)
    assert done.result["lipschitz_target"] == 3.0


def test_a_constant_is_for_clip_alone():
    with pytest.raises(InputError, match="Only clip measures it"):
        fit(dense(), digits(), method="weight", lipschitz=1.0)


def test_a_resumed_run_says_the_same(tmp_path):
    def stop(row, model):
        if row["epoch"] == 3:
            raise KeyboardInterrupt

    whole, _ = trained(target=0.999)
    with pytest.raises(KeyboardInterrupt):
        trained(target=0.999, out=tmp_path, after_epoch=stop)
    resumed, said = trained(target=0.999, out=tmp_path, resume=True)
    assert said == [resumed.result["target_note"]] == [whole.result["target_note"]]
    assert torch.equal(whole.model[1].weight, resumed.model[1].weight)


@pytest.mark.slow
def test_without_a_wish_at_most_a_point_is_given_up_and_the_constant_halved():
    data, results = load("digits"), {}
    for method in ("standard", "clip"):
        torch.manual_seed(0)
        done = fit(mlp((1, 8, 8), 10), data, method=method, epochs=20, batch_size=32, lr=0.05)
        correct = accuracy(done.model, data.test_x, data.test_y)
        results[method] = correct, lower_bound(done.model, data.test_x[:100], steps=20).value
    (plain, steep), (clipped, flat) = results["standard"], results["clip"]
    assert clipped >= plain - 0.015
    assert flat < steep / 2
    assert done.result["tolerance"] == 0.01
    assert done.result["steered_to"] >= max(row["target_value"] for row in done.history[:9]) - 0.01 - 1e-9
    weighted = [row["weight"] > 0 for row in done.history]
    assert weighted[:9] == [False] * 9  # half of the run is plain training
    assert weighted[10:] == [True] * 10


def test_a_step_that_half_a_run_does_not_resolve_is_trained_plainly_and_told():
    x = 2 * torch.rand(300, 1) - 1
    data = x, torch.tanh(30 * x) + 0.05 * torch.randn(300, 1)
    options = {"target": None, "optimizer": "Adam", "optimizer_options": {}, "lr": 0.01, "warmup": None, "epochs": 20}
    done, said = trained(data, model=seeded(lambda: mlp((1,), 1)), tolerance=0.01, **options)
    plain, _ = trained(data, model=seeded(lambda: mlp((1,), 1)), weight=0.0, **options)
    assert done.result["weight"] == 0
    assert done.result["train_loss"] <= 1.2 * plain.result["train_loss"]
    assert "nearest neighbours show" in said[-1] == done.result["target_note"]


def test_steered_by_validation_the_target_is_the_validation_parts():
    done, _ = trained(digits(600), target=0.5, steer_by="validation", validation_share=0.2, epochs=30)
    assert [row["target_value"] for row in done.history] == [row["validation_accuracy"] for row in done.history]
    assert max(row["weight"] for row in done.history) > 0


def test_steering_by_validation_needs_validation_samples():
    x, y = digits()
    loader = DataLoader(TensorDataset(x, y), batch_size=32)
    with pytest.raises(InputError, match="validation samples for steer_by='validation'; got none"):
        fit(dense(), loader, pairs=perturbed_pairs(x[:50]), **(OPTIONS | {"steer_by": "validation"}))


@pytest.mark.slow
def test_a_constant_with_certificate_is_kept_by_the_proved_bound():
    data = digits(600)
    done, said = trained(data, target=None, lipschitz=3.0, certify=1.0, epochs=20, lr=0.1)
    upper = done.history[-1]["upper_bound"]
    assert upper == pytest.approx(3.0, rel=0.05)
    assert lipschitz_bracket(done.model, data[0][:50]).upper <= upper * (1 + 1e-6)
    assert (done.result["target_met"], said) == (True, [])


def test_a_network_that_stays_below_the_constant_is_not_held_back():
    plain, _ = trained(target=None, weight=0.0)
    free, said = trained(target=None, lipschitz=1e4)
    assert free.result["train_accuracy"] == plain.result["train_accuracy"]
    assert (free.result["target_met"], said) == (True, [])


def test_a_longer_search_that_finds_more_is_told(monkeypatch):
    monkeypatch.setattr(LipschitzRegularizer, "refine", lambda self: 3.3)
    done, said = trained(target=None, lipschitz=3.0)
    assert "finds Lip(f) >= 3.3 for an allowed 3" in said[-1] == done.result["target_note"]
    assert done.result["target_met"] is False
