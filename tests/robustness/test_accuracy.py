"""The report: what it holds, that it is reproducible, and what it refuses."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cheaplip import evaluate_robustness
from cheaplip.errors import InputError
from cheaplip.inference import check_classifier, forward_checked
from cheaplip.robustness.accuracy import CHUNK, accuracy

EPS = 0.4
QUICK = {"eps": EPS, "noise": 0.3, "iterations": 8}


def classifier(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 3))


def samples(n=80, seed=0):
    x = torch.rand(n, 5, generator=torch.Generator().manual_seed(seed))
    y = classifier().eval()(x).argmax(1)
    y[: n // 10] = (y[: n // 10] + 1) % 3  # a tenth is wrong
    return x, y


def test_accuracies_of_a_linear_classifier_are_those_of_the_closed_form():
    """Only the sign of x_0 - 1/2 counts: without a box a sample falls when |x_0 - 1/2| < eps."""
    x = torch.rand(300, 4)
    y = (x[:, 0] > 0.5).long()
    y[:30] = 1 - y[:30]

    def model(x):
        return torch.stack([torch.full_like(x[:, 0], 0.5), x[:, 0]], dim=1)

    curve = [0.3, 0.1, 0.2]
    report = evaluate_robustness(model, x, y, eps=0.25, curve=curve, domain=None, iterations=40, curve_samples=200)
    distance = (x[:, 0] - 0.5).abs()
    right = model(x).argmax(1) == y
    assert report.test_accuracy == 0.9
    assert report.strong_accuracy == pytest.approx((right & (distance > 0.25)).float().mean().item())
    assert report.pgd_accuracy == pytest.approx((right & (distance > 0.25)).float().mean().item(), abs=0.02)
    assert [point["eps"] for point in report.curve] == [0.1, 0.2, 0.3]
    for point in report.curve:
        assert point["n"] == 200
        standing = (right & (distance > point["eps"]))[:200]
        assert point["strong_accuracy"] == pytest.approx(standing.float().mean().item())


def test_every_accuracy_states_its_number_of_samples():
    x, y = samples(80)
    report = evaluate_robustness(classifier(), x, y, attack_samples=30, curve=[0.1], curve_samples=20, **QUICK)
    assert report.samples == {
        "test_accuracy": 80,
        "noise_accuracy": 80,
        "noise_accuracy_clamped": 80,
        "pgd_accuracy": 30,
        "pgd_accuracy_clamped": 30,
        "strong_accuracy": 30,
    }
    assert report.curve[0]["n"] == 20
    for name, n in report.samples.items():
        count = getattr(report, name) * n
        assert count == pytest.approx(round(count))
        assert 0 <= count <= n
    expected = {**QUICK, "step": EPS / 8, "restarts": 1, "domain": (0.0, 1.0), "seed": 0}
    assert report.settings == expected
    many = evaluate_robustness(classifier(), x, y, **QUICK)
    assert many.samples["strong_accuracy"] == 80
    assert many.curve == []


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), restarts=st.integers(1, 2))
def test_what_disturbs_more_is_survived_by_fewer(seed, restarts):
    x, y = samples(60, seed)
    curve = [0.05, 0.2, 0.2, 0.5]
    report = evaluate_robustness(classifier(), x, y, curve=curve, restarts=restarts, seed=seed, **QUICK)
    along = [point["strong_accuracy"] for point in report.curve]
    assert along == sorted(along, reverse=True)
    assert report.strong_accuracy <= report.test_accuracy
    assert along[0] <= report.test_accuracy


def test_a_wrong_sample_counts_as_fooled_even_where_the_attack_leads_away_from_it():
    """The attack starts elsewhere in the ball, where this model is right, and climbs a slope that leads nowhere."""

    def model(x):
        inside = (x.abs().sum(1) == 0).float()
        return torch.stack([x.sum(1) * 0, 2 * inside - 1], dim=1)

    x, y = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
    report = evaluate_robustness(model, x, y, domain=None, curve=[1.0])
    assert report.test_accuracy == 0
    assert report.strong_accuracy == 0
    assert report.curve[0]["strong_accuracy"] == 0


@pytest.mark.parametrize("block", [torch.Tensor.detach, torch.round])
def test_a_model_that_passes_no_gradient_is_not_robust(block):
    net, (x, y) = classifier(), samples(50)
    with pytest.raises(InputError, match="whose outputs pass a gradient"):
        evaluate_robustness(lambda x: net(block(4 * x)), x, y, **QUICK)


def test_numpy_arrays_are_tensors_and_lists_are_tuples():
    net, (x, y) = classifier(), samples(50)
    plain = evaluate_robustness(net, x, y, **QUICK)
    assert evaluate_robustness(net, x.numpy(), y.numpy(), **QUICK | {"noise": np.float64(0.3)}) == plain


def test_more_restarts_fool_no_fewer_samples():
    x, y = samples(200)
    one, five = (evaluate_robustness(classifier(), x, y, restarts=r, **QUICK).strong_accuracy for r in (1, 5))
    assert five <= one


def test_a_seed_means_the_same_report():
    x, y = samples(CHUNK + 20)
    model = classifier()
    first, again = (evaluate_robustness(model, x, y, curve=[0.2], seed=3, **QUICK) for _ in range(2))
    other = evaluate_robustness(model, x, y, curve=[0.2], seed=4, **QUICK)
    assert first == again
    assert other.noise_accuracy != first.noise_accuracy


def test_noise_is_clamped_to_the_domain_if_there_is_one():
    x, y = samples(300)
    free = evaluate_robustness(classifier(), x, y, domain=None, **{**QUICK, "noise": 2.0})
    boxed = evaluate_robustness(classifier(), x, y, **{**QUICK, "noise": 2.0})
    assert free.noise_accuracy == free.noise_accuracy_clamped
    assert boxed.noise_accuracy == free.noise_accuracy
    assert boxed.noise_accuracy_clamped > boxed.noise_accuracy


def test_eq_14_is_clamped_to_the_domain_if_there_is_one():
    beyond = nn.Linear(1, 2)  # class 1 beyond 1.1, outside the box
    with torch.no_grad():
        beyond.weight.copy_(torch.tensor([[0.0], [1.0]]))
        beyond.bias.copy_(torch.tensor([0.0, -1.1]))
    x, y = torch.linspace(0.85, 1, 30)[:, None], torch.zeros(30, dtype=torch.int64)
    boxed = evaluate_robustness(beyond, x, y, eps=0.3, step=0.04)
    assert (boxed.pgd_accuracy, boxed.pgd_accuracy_clamped) == (0.0, 1.0)
    free = evaluate_robustness(beyond, x, y, eps=0.3, step=0.04, domain=None)
    assert free.pgd_accuracy_clamped == free.pgd_accuracy == 0.0


def test_modes_statistics_and_gradients_stay_as_they_were():
    model, (x, y) = classifier(), samples()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate_robustness(model, x, y, curve=[0.2], **QUICK)
    assert [module.training for module in model] == [True, False, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_accuracy_counts_in_evaluation_mode_and_nan_is_wrong():
    x, y = samples(CHUNK + 1)
    assert accuracy(classifier(), x, y) == pytest.approx(1 - 50 / 501)
    assert accuracy(lambda x: torch.full((len(x), 3), math.nan), x, y * 0) == 0


def test_number_of_classes():
    assert check_classifier(classifier(), *samples()) == 3


X, Y = torch.rand(6, 5), torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("x", "y", "match"),
    [
        (X, Y + 1, "labels 1 to 3"),
        (X, Y - 1, "labels -1 to 1"),
        (X, Y.float(), "float32.*one class number.*lipschitz_bracket"),
        (X, Y[:, None], r"y \(6, 1\)"),
        (X[:5], Y, r"x \(5, 5\)"),
        (X[:0], Y[:0], "n >= 1"),
        (X / 0, Y, "finite inputs"),
        (X[:, :4], Y, r"takes these inputs.*\(1, 4\)"),
        (X * 2, Y, "holds all inputs"),
        (X - 1, Y, "holds all inputs"),
    ],
)
def test_refuses_data_that_do_not_fit(x, y, match):
    with pytest.raises(InputError, match=match):
        evaluate_robustness(classifier(), x, y, **QUICK)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"eps": 0}, "eps in"),
        ({"eps": -1}, "eps in"),
        ({"eps": math.inf}, r"eps in"),
        ({"noise": math.nan}, "noise in"),
        ({"step": 0.0}, "step in"),
        ({"curve": [0.1, 0.0]}, "curve point 0.0 in"),
        ({"iterations": 0}, "iterations in"),
        ({"restarts": 0}, "restarts in"),
        ({"attack_samples": 0}, "samples in"),
        ({"curve_samples": 0}, "curve samples in"),
        ({"domain": (1.0, 0.0)}, "holds all inputs"),
        ({"eps": 1e20}, "eps in"),  # its square is infinite: every sample would stand
        ({"eps": "2"}, "eps to be float; got '2'"),
        ({"restarts": 2**40}, "restarts in"),
        ({"seed": 10**30}, "seed in"),
        ({"eps": 1e-9}, "steps of the attack that change the inputs"),
    ],
)
def test_refuses_settings_that_mean_nothing(options, match):
    with pytest.raises(InputError, match=match):
        evaluate_robustness(classifier(), X, Y, **options)


@pytest.mark.parametrize("model", [nn.Linear(5, 1), nn.Identity(), nn.Unflatten(1, (5, 1)), lambda x: (x, x)])
def test_refuses_models_that_are_no_classifiers(model):
    y = Y * 0 if isinstance(model, nn.Linear) else Y + 3
    with pytest.raises(InputError):
        check_classifier(model, X, y)


def test_a_model_that_refuses_the_shape_is_named_in_torchs_words():
    with pytest.raises(InputError, match="4D input"):
        forward_checked(nn.BatchNorm2d(3), X)

    def silent(x):
        raise RuntimeError

    with pytest.raises(InputError, match="takes these inputs"):
        forward_checked(silent, X)
