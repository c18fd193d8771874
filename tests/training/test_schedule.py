"""When the weight moves, when the warm-up ends, and the learning rate at each step."""

import pytest

from cheaplip.training.presets import configure
from cheaplip.training.schedule import make_lr_schedule, update_period, warmup_updates


@pytest.mark.parametrize(("epochs", "period"), [(1, 8), (3, 10), (12, 40), (30, 100), (300, 100)])
def test_short_runs_move_the_weight_as_often_as_long_ones(epochs, period):
    assert update_period(configure(epochs=epochs), 100) == period


@pytest.mark.parametrize(
    ("options", "updates"),
    [
        ({"target": 0.9}, 3),
        ({"target": 0.9, "epochs": 300}, 3),
        ({}, 15),
        ({"epochs": 300}, 150),
        ({"epochs": 3}, 15),  # some 30 in a short run
        ({"epochs": 300, "warmup": 7}, 7),
        ({"method": "standard"}, 3),
        ({"target": 0.9, "update": "minibatch", "rule": "additive"}, 300),
        ({"update": "minibatch", "rule": "additive"}, 1500),
        ({"lipschitz": 1.0}, 0),
        ({"target": 0.9, "update": "minibatch", "rule": "additive", "warmup": 5}, 500),
    ],
)
def test_the_warm_up_is_half_of_a_run_with_a_tolerance(options, updates):
    assert warmup_updates(configure(**options), 100) == updates


def test_the_learning_rate_falls_once_and_with_a_tolerance_twice():
    once, twice = (make_lr_schedule(configure(**options), 100) for options in ({"target": 0.9}, {}))
    assert (once(0), once(1500), once(3000)) == pytest.approx((1, 0.51, 0.02))
    assert (twice(0), twice(750), twice(1499), twice(1500), twice(2250), twice(3000)) == pytest.approx(
        (1, 0.51, 0.02, 1, 0.51, 0.02), abs=1e-5
    )


@pytest.mark.parametrize("options", [{}, {"epochs": 7}, {"update": "minibatch", "rule": "additive"}, {"warmup": 4}])
def test_the_second_fall_begins_with_the_weight(options):
    config = configure(**options)
    end = warmup_updates(config, 100) * update_period(config, 100)
    factor = make_lr_schedule(config, 100)
    assert factor(end - 1) < 0.03
    assert factor(end) == 1


def test_plain_training_has_one_cosine_whatever_the_tolerance():
    plain = make_lr_schedule(configure(method="standard"), 100)
    assert plain(1500) == pytest.approx(0.51)


def test_a_constant_learning_rate_stays():
    assert {make_lr_schedule(configure(schedule="constant"), 10)(step) for step in range(300)} == {1.0}
