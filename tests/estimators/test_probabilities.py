"""Calibrated probabilities, and the weights of samples and classes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_sample_weight

from cheaplip.sklearn import CLIPClassifier, CLIPRegressor
from cheaplip.sklearn.calibration import temperature_of
from cheaplip.training.batches import split
from support.estimators import quick, two_classes

pytestmark = pytest.mark.usefixtures("quick_bounds")


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
