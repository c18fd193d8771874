"""The estimators are scikit-learn's in every respect that its own checks know, and they press the constant."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes, load_digits, load_iris, make_classification
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from cheaplip import evaluate_robustness, lipschitz_bracket
from cheaplip.errors import InputError, ScaleWarning
from cheaplip.sklearn import CLIPClassifier, CLIPRegressor
from cheaplip.sklearn.calibration import temperature_of
from cheaplip.training.batches import split

pytestmark = pytest.mark.usefixtures("quick_bounds")


@pytest.mark.filterwarnings("ignore::cheaplip.errors.ScaleWarning")  # their data have features in the hundreds
@parametrize_with_checks(
    [CLIPClassifier(epochs=5, hidden=(8,)), CLIPRegressor(epochs=8, hidden=(8,))],
    # a repeated sample may fall into another batch and another part than the first
    expected_failed_checks=lambda _: dict.fromkeys(["check_sample_weight_equivalence_on_dense_data"], "batches are random"),
)
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def quick(**chosen):
    return CLIPClassifier(**{"epochs": 8, "hidden": (16,), **chosen})


def two_classes(n=200):
    x, y = make_classification(n, 5, n_informative=3, n_redundant=0, class_sep=2.0, flip_y=0.02, random_state=0)
    return x, y


def lower_bound(classifier):
    return classifier.history_[-1]["lower_bound"]


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return train_test_split(x / 16, y, test_size=500, random_state=0)  # x, x_test, y, y_test


@pytest.fixture(scope="module")
def classifier(digits):
    x, _, y, _ = digits
    return CLIPClassifier(target=0.96, epochs=60).fit(x, y)


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


def test_probabilities_belong_to_the_labels():
    x, y = two_classes()
    labels = np.array(["ham", "spam"])[y]
    fitted = quick().fit(x, labels)
    assert list(fitted.classes_) == ["ham", "spam"]
    probabilities = fitted.predict_proba(x)
    assert np.allclose(probabilities.sum(1), 1)
    assert np.array_equal(fitted.predict(x), fitted.classes_[probabilities.argmax(1)])
    assert fitted.score(x, labels) > 0.85
    assert np.array_equal(quick().fit(x, y).predict_proba(x), probabilities)


def expected_calibration_error(probabilities, y, bins=10):
    confidence, right = probabilities.max(1), probabilities.argmax(1) == y
    bin_of = np.minimum((bins * confidence).astype(int), bins - 1)
    of_each = [(bin_of == k, right[bin_of == k], confidence[bin_of == k]) for k in range(bins) if (bin_of == k).any()]
    return sum(inside.mean() * abs(r.mean() - c.mean()) for inside, r, c in of_each)


def test_probabilities_are_calibrated_where_logits_are_small(classifier, digits):
    _, x, _, y = digits
    with torch.no_grad():
        cautious = classifier.model_(torch.from_numpy(x).float()).softmax(1).numpy()
    assert expected_calibration_error(cautious, y) > 0.2
    assert expected_calibration_error(classifier.predict_proba(x), y) < 0.05
    assert classifier.temperature_ < 0.5


@settings(max_examples=20)
@given(st.integers(2, 60), st.integers(2, 5), st.floats(0.05, 20.0), st.integers(0, 2**31))
def test_the_temperature_is_that_of_the_units(n, classes, scale, seed):
    """Logits in other units have another temperature, and the same probabilities."""
    generator = torch.Generator().manual_seed(seed)
    logits, y = torch.randn(n, classes, generator=generator), torch.randint(classes, (n,), generator=generator)
    one, other = temperature_of(logits, y), temperature_of(scale * logits, y)
    assert other == pytest.approx(scale * one, rel=0.06) or max(one, other) > 40  # where logits say nothing, nothing is lost


def test_samples_that_are_all_right_do_not_make_it_certain():
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]]).repeat(5, 1)
    temperature = temperature_of(logits, logits.argmax(1))
    assert 0.7 < float((logits / temperature).softmax(1).max()) < 0.99


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


def rare(n=400):
    """A tenth of the samples are positive, and the two kinds overlap."""
    random = np.random.default_rng(0)
    y = (np.arange(n) % 10 == 0).astype(int)
    return random.normal(size=(n, 2)) + 1.2 * y[:, None], y


def test_a_rare_class_counts_as_much_as_the_other():
    x, y = rare()
    recalls = [
        (quick(epochs=20, target=0.7, class_weight=weight).fit(x, y).predict(x)[y == 1] == 1).mean()
        for weight in (None, "balanced", {0: 1, 1: 9})
    ]
    assert recalls[0] < 0.3
    assert min(recalls[1:]) > 0.5


def test_the_steered_accuracy_is_that_of_the_weights():
    x, y = rare()
    fitted = quick(class_weight="balanced", epochs=5).fit(x, y)
    model = fitted.model_
    weights = compute_sample_weight("balanced", y)
    parts = split(len(x), pair_share=0.1, validation_share=0.05, seed=0)
    right = model(torch.tensor(x[parts.fit], dtype=torch.float32)).argmax(1).numpy() == y[parts.fit]
    expected = np.average(right, weights=weights[parts.fit])
    assert fitted.result_["train_accuracy"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", [CLIPClassifier, CLIPRegressor])
def test_samples_of_weight_0_do_not_count(kind):
    """What is wrong with them does not matter; equal weights are none."""
    x, y = two_classes()
    wrong, weights = y.copy(), np.ones(len(y))
    wrong[::3], weights[::3] = 1 - y[::3], 0.0
    settings = {"epochs": 5, "hidden": (8,), "weight": 0.0}
    with_wrong, with_right = (kind(**settings).fit(x, labels, sample_weight=weights).predict(x) for labels in (wrong, y))
    assert np.array_equal(with_wrong, with_right)
    equal, none = (kind(**settings).fit(x, y, sample_weight=given).predict(x) for given in (np.full(len(y), 3.0), None))
    assert np.array_equal(equal, none)


def test_data_frames_keep_their_names():
    x, y = load_iris(return_X_y=True, as_frame=True)
    fitted = quick().fit(x, y.map({0: "setosa", 1: "versicolor", 2: "virginica"}))
    assert list(fitted.feature_names_in_) == list(x.columns)
    assert set(fitted.predict(x)) <= {"setosa", "versicolor", "virginica"}
    with pytest.raises(ValueError, match="feature names"):
        fitted.predict(x[x.columns[::-1]])


def test_search_over_settings_of_fit():
    x, y = two_classes()
    grid = {"lr": [0.05, 0.1], "options__step_size": [0.3]}
    search = GridSearchCV(quick(options={"interval": 4}, epochs=2), grid, cv=2).fit(x, y)
    best = search.best_estimator_
    assert best.options == {"interval": 4, "step_size": search.best_params_["options__step_size"]}
    assert best.lr == search.best_params_["lr"]


@pytest.mark.parametrize(
    ("scale", "told"), [(np.ones(5), False), (np.array([1, 1, 1, 1, 100.0]), True), (np.full(5, 50.0), True)]
)
def test_features_that_are_not_scaled_are_told(scale, told):
    x, y = two_classes()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ScaleWarning)
        quick(epochs=1).fit(x / x.std(axis=0) * scale, y)
    assert ("StandardScaler" in "".join(str(warning.message) for warning in said)) == told


def test_search_over_the_target_in_a_pipeline():
    x, y = two_classes()
    pipeline = make_pipeline(StandardScaler(), quick())
    search = GridSearchCV(pipeline, {"clipclassifier__target": [0.6, 0.95]}, cv=2).fit(x, y)
    assert search.best_score_ > 0.8
    assert search.best_params_["clipclassifier__target"] in (0.6, 0.95)


def test_clones_and_pickles():
    x, y = two_classes()
    fitted = quick(random_state=3).fit(x, y)
    loaded = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(loaded.predict_proba(x), fitted.predict_proba(x))
    again = clone(fitted)
    assert not hasattr(again, "model_")
    assert again.get_params() == fitted.get_params()
    assert np.array_equal(again.fit(x, y).predict_proba(x), fitted.predict_proba(x))


def test_the_random_state_decides_and_torch_is_left_alone():
    x, y = two_classes()
    before = torch.get_rng_state()
    first = quick(random_state=1).fit(x, y).predict_proba(x)
    assert torch.equal(torch.get_rng_state(), before)
    assert not np.array_equal(quick(random_state=2).fit(x, y).predict_proba(x), first)
    drawn = [quick(random_state=np.random.RandomState(5)).fit(x, y).predict_proba(x) for _ in range(2)]
    assert np.array_equal(*drawn)
    unseeded = [quick(random_state=None, epochs=1).fit(x, y).predict_proba(x) for _ in range(2)]
    assert not np.array_equal(*unseeded)


def deep(shape, outputs):
    return nn.Sequential(nn.Linear(*shape, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, outputs))


def test_a_network_of_ones_own():
    x, y = two_classes()
    fitted = quick(module=deep).fit(x, y)
    assert isinstance(fitted.model_[1], nn.BatchNorm1d)
    assert fitted.score(x, y) > 0.85


def test_options_are_the_settings_of_fit():
    x, y = two_classes()
    plain = quick(options={"method": "standard"}).fit(x, y)
    assert plain.result_["method"] == "standard"
    assert plain.result_["target"] is None
    assert quick(weight=0.5).fit(x, y).result_["weight"] == 0.5
    assert quick(options={"method": "local", "radius": 0.1}).fit(x, y).result_["method"] == "local"


def test_batches_and_learning_rate_are_chosen_or_given():
    x, y = two_classes()
    chosen = quick().fit(x, y).predict_proba(x)
    assert np.array_equal(quick(batch_size=10).fit(x, y).predict_proba(x), chosen)
    assert not np.array_equal(quick(batch_size=50).fit(x, y).predict_proba(x), chosen)
    assert not np.array_equal(quick(lr=0.01).fit(x, y).predict_proba(x), chosen)


@pytest.mark.parametrize(
    ("chosen", "match"),
    [
        ({"options": {"lrr": 1.0}}, "Did you mean 'lr'"),
        ({"options": {"epochs": 3}}, "got epochs"),
        ({"tolerance": None}, "a tolerance, a target, a Lipschitz constant or a constant weight"),
        ({"target": 0.9, "lipschitz": 1.0}, "one of them; got tolerance None, target 0.9, lipschitz 1.0"),
        ({"target": 95.0}, "a fraction such as 0.95"),
        ({"activation": "selu"}, "activation"),
        ({"module": lambda shape, outputs: None}, "nn.Module; got NoneType"),
        ({"module": lambda shape, outputs: nn.Linear(3, outputs)}, "a model that takes these inputs"),
    ],
)
def test_unusable_settings_are_refused(chosen, match):
    with pytest.raises(InputError, match=match):
        quick(**chosen).fit(*two_classes())


def test_few_samples():
    x, y = two_classes()
    some = np.concatenate([np.flatnonzero(y == label)[:4] for label in (0, 1)])
    for n in range(6, 9):
        assert quick().fit(x[some][-n:], y[some][-n:]).result_["samples"] == {"train_accuracy": n - 4}
    with pytest.raises(ValueError, match="minimum of 6"):
        quick().fit(x[:5], y[:5])
    with pytest.raises(InputError, match="1 class"):
        quick().fit(x, np.zeros(len(x)))


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
    default, steep = CLIPRegressor(epochs=100).fit(x, y), CLIPRegressor(weight=0, epochs=30).fit(x, y)
    flat = CLIPRegressor(weight=1.0, epochs=30).fit(x, y)
    assert (steep.weight_, flat.weight_) == (0, 1)
    assert default.weight_ > 0
    assert lower_bound(flat) < lower_bound(steep) / 2
    assert default.score(x, y) > 0.8
    steered = CLIPRegressor(target=0.1, epochs=40).fit(x, y)
    assert steered.result_["train_loss"] == pytest.approx(0.1, rel=0.5)
    assert lower_bound(steered) < lower_bound(default)
