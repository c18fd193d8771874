import json

import pytest

from cheaplip.errors import InputError
from cheaplip.training.config import TrainConfig
from cheaplip.training.presets import PRESETS, configure


def test_presets():
    assert configure() == TrainConfig() == PRESETS["default"]
    paper = configure("paper", method="weight", target=0.9)
    assert (paper.reduction, paper.power, paper.rule, paper.ascent, paper.keep) == (
        "max",
        1,
        "additive",
        "accepted",
        "best-pgd",
    )
    assert paper == configure(**paper.model_dump())
    assert json.loads(paper.model_dump_json()) == paper.model_dump(mode="json")


def test_a_wish_replaces_the_one_before():
    assert configure(weight=0.5).tolerance is None
    assert configure(weight=0.0).tolerance is None
    assert configure(weight=None).tolerance == 0.01
    assert configure("paper", weight=0.5).target is None
    options = {"weight": 1.0}
    configure(**options)
    assert options == {"weight": 1.0}


BAD = {
    "unknown": ({"epoch": 3}, "a setting to be one of active, .*got 'epoch'. Did you mean 'epochs'"),
    "method": ({"method": "clipp"}, "a valid method; got 'clipp'.*'standard', 'weight', 'clip' or 'local'"),
    "target 0": ({"target": 0.0}, "a valid target; got 0.0"),
    "target nan": ({"target": float("nan")}, "a valid target; got nan"),
    "both": ({"target": 0.9, "weight": 1.0}, "one of them; got tolerance None, target 0.9, lipschitz None, weight 1.0"),
    "none": ({"tolerance": None}, "one of them; got tolerance None, target None, lipschitz None, weight None"),
    "negative weight": ({"weight": -1.0}, "a valid weight"),
    "text for a number": ({"epochs": "3"}, "a valid epochs; got '3'.*integer"),
    "truth for a number": ({"epochs": True}, "a valid epochs"),
    "no epochs": ({"epochs": 0}, "a valid epochs; got 0.*greater than or equal to 1"),
    "seed": ({"seed": -1}, "a valid seed"),
    "large seed": ({"seed": 2**40}, "a valid seed"),
    "lr": ({"lr": float("inf")}, "a valid lr"),
    "share": ({"pair_share": 0.5}, "a valid pair_share"),
    "keep": ({"keep": "best"}, "a valid keep; got 'best'.*best-pgd"),
    "power": ({"power": 3}, "a valid power"),
    "best of no epoch": (
        {"keep": "best-pgd", "epochs": 3, "target": 0.9},
        "an epoch after the warm-up.*got 3 epochs with 3 of warm-up",
    ),
    "options": ({"optimizer_options": [0.9]}, "a valid optimizer_options"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_refused(case):
    options, match = BAD[case]
    with pytest.raises(InputError, match=match):
        configure(**options)


def test_an_unknown_preset_is_refused():
    with pytest.raises(InputError, match="default, paper; got 'papr'"):
        configure("papr")


def test_without_warm_up_every_epoch_can_be_the_best():
    assert configure(keep="best-pgd", epochs=1, weight=1.0).choose_after == 0
    assert configure(keep="best-pgd", epochs=1, method="standard").choose_after == 0


def test_a_noise_to_bear_is_for_clip_without_a_constant():
    for options in ({"method": "local"}, {"lipschitz": 1.0}):
        with pytest.raises(InputError, match="noise to bear"):
            configure(**options, input_noise=1.0)


def test_only_the_additive_rule_moves_every_minibatch():
    with pytest.raises(InputError, match="rule='additive' for update='minibatch'"):
        configure(update="minibatch")
    assert configure(update="minibatch", rule="additive").update == "minibatch"
    with pytest.raises(InputError, match="steer_by='training' for update='minibatch'"):
        configure(update="minibatch", rule="additive", steer_by="validation")
