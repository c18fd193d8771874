"""Settings of the estimators: searches, pipelines, networks, and what is refused."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from cheaplip.errors import InputError, ScaleWarning
from support.estimators import quick, two_classes

pytestmark = pytest.mark.usefixtures("quick_bounds")


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
