"""The estimators are scikit-learn's in every respect that its own checks know, and they press the constant."""

import numpy as np
import pytest
import torch
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes, load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from cheaplip import evaluate_robustness, lipschitz_bracket
from cheaplip.sklearn import CLIPClassifier, CLIPRegressor
from support.estimators import quick

pytestmark = pytest.mark.usefixtures("quick_bounds")


@pytest.mark.filterwarnings("ignore::cheaplip.errors.ScaleWarning")  # their data have features in the hundreds
@parametrize_with_checks(
    [CLIPClassifier(epochs=3, hidden=(8,)), CLIPRegressor(epochs=6, hidden=(8,))],
    # a repeated sample may fall into another batch and another part than the first
    expected_failed_checks=lambda _: dict.fromkeys(["check_sample_weight_equivalence_on_dense_data"], "batches are random"),
)
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def lower_bound(classifier):
    return classifier.history_[-1]["lower_bound"]


def test_digits(classifier, digits):
    _, x, _, y = digits
    assert classifier.score(x, y) > 0.9
    assert abs(classifier.result_["train_accuracy"] - 0.96) < 0.02
    assert classifier.weight_ > 0
    assert len(classifier.history_) == 60


def test_the_constant_is_lower_than_without_the_penalty(classifier, digits):
    x, _, y, _ = digits
    plain = CLIPClassifier(weight=0, epochs=60).fit(x, y)
    assert plain.weight_ == 0
    assert lower_bound(classifier) < lower_bound(plain) / 4


def test_the_network_goes_into_attacks_and_brackets(classifier, digits):
    _, x_test, _, y_test = digits
    x, y = torch.from_numpy(x_test[:100]).float(), torch.from_numpy(y_test[:100])
    report = evaluate_robustness(classifier.model_, x, y, eps=0.3, iterations=3)
    assert report.test_accuracy == pytest.approx(classifier.score(x_test[:100], y_test[:100]))
    bracket = lipschitz_bracket(classifier.model_, x)
    assert 0 < bracket.lower <= bracket.upper


def test_radii_and_bracket_belong_to_the_network(digits):
    x, x_test, y, _ = digits
    fitted = CLIPClassifier(target=0.9, epochs=10, hidden=(16,)).fit(x, y)
    bracket, radius = fitted.lipschitz_bracket_, fitted.certified_radius(x_test[:50])
    assert bracket is fitted.lipschitz_bracket_
    assert bracket.lower <= bracket.upper < np.inf
    assert radius.shape == (50,)
    direction = np.random.default_rng(0).normal(size=(50, 64))
    moved = x_test[:50] + 0.999 * (radius / np.linalg.norm(direction, axis=1))[:, None] * direction
    assert np.array_equal(fitted.predict(moved), fitted.predict(x_test[:50]))
    assert (radius > 0).any()


def test_data_frames_keep_their_names():
    x, y = load_iris(return_X_y=True, as_frame=True)
    fitted = quick().fit(x, y.map({0: "setosa", 1: "versicolor", 2: "virginica"}))
    assert list(fitted.feature_names_in_) == list(x.columns)
    assert set(fitted.predict(x)) <= {"setosa", "versicolor", "virginica"}
    with pytest.raises(ValueError, match="feature names"):
        fitted.predict(x[x.columns[::-1]])


def test_real_values_in_one_and_two_columns():
    x, y = load_diabetes(return_X_y=True)
    pipeline = make_pipeline(
        StandardScaler(), TransformedTargetRegressor(CLIPRegressor(epochs=20), transformer=StandardScaler())
    )
    assert pipeline.fit(x, y).score(x, y) > 0.4
    both = np.stack([y, -y], axis=1) / 100
    fitted = CLIPRegressor(epochs=2).fit(x, both)
    assert fitted.predict(x).shape == both.shape
    assert fitted.model_(torch.zeros(1, 10)).shape == (1, 2)
    assert CLIPRegressor(epochs=2).fit(x, y).predict(x).shape == y.shape


def test_the_weight_of_a_regression_is_constant_or_steered_to_a_loss():
    x = np.linspace(-2, 2, 100)[:, None]
    y = np.sin(2 * x[:, 0])
    default, steep = CLIPRegressor(epochs=60).fit(x, y), CLIPRegressor(weight=0, epochs=30).fit(x, y)
    flat = CLIPRegressor(weight=1.0, epochs=30).fit(x, y)
    assert (steep.weight_, flat.weight_) == (0, 1)
    assert default.weight_ > 0
    assert lower_bound(flat) < lower_bound(steep) / 2
    assert default.score(x, y) > 0.8
    steered = CLIPRegressor(target=0.1, epochs=40).fit(x, y)
    assert steered.result_["train_loss"] == pytest.approx(0.1, rel=0.5)
    assert lower_bound(steered) < lower_bound(default)
