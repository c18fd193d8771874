import numpy as np
import pytest
import torch
from torch import nn

from cheaplip import perturbed_pairs
from cheaplip.bounds import subdivision
from cheaplip.data import from_arrays, load
from cheaplip.errors import InputError
from cheaplip.runs.config import EVALUATIONS, EvaluationConfig
from cheaplip.runs.evaluation import evaluate
from cheaplip.runs.example_pairs import example_pairs, write_pairs
from support.networks import dense

QUICK = EvaluationConfig(eps=0.5, iterations=5, attack_samples=60, curve=(0.25, 0.5), curve_samples=30)


def linear(scale: float = 1.0) -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].weight[range(10), range(10)] = scale
    return model


def test_protocols():
    assert EvaluationConfig().eps == 2
    assert EVALUATIONS["digits"].curve == (0.09375, 0.1875, 0.375, 0.5625, 0.75, 0.9375, 1.125)
    assert QUICK.altered({"eps": 1.0}).curve == (0.5, 1.0)
    assert QUICK.altered({"eps": 1.0, "curve": (0.1,)}).curve == (0.1,)
    assert QUICK.altered({"eps": 1e-9}).curve == (5e-10, 1e-9)
    assert QUICK.altered({}) == QUICK


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"eps": 0.0}, "a valid eps; got 0.0. Input should be greater than 0"),
        ({"eps": float("nan")}, "a valid eps; got nan"),
        ({"noise": -1.0}, "a valid noise"),
        ({"iterations": 0}, "a valid iterations"),
        ({"restarts": 1.5}, "a valid restarts"),
        ({"attack_samples": -3}, "a valid attack_samples"),
        ({"curve_samples": 0}, "a valid curve_samples"),
        ({"curve": (0.5, 0.0)}, r"a valid curve\.1"),
        ({"epsilon": 1.0}, "Did you mean 'eps'"),
    ],
)
def test_bad_protocols_are_refused(options, match):
    with pytest.raises(InputError, match=match):
        EvaluationConfig().altered(options)


@pytest.mark.usefixtures("quick_bounds")
def test_every_metric_has_its_n_and_is_a_plain_fraction():
    measured, radius = evaluate(dense(), load("digits"), QUICK)
    assert radius is None
    accuracies = [name for name in measured if "_accuracy" in name]
    assert len(accuracies) == 6
    assert measured["samples"].keys() == {*accuracies, "lipschitz"}
    for name in accuracies:
        n = measured["samples"][name]
        assert measured[name] == round(measured[name] * n) / n
    assert [(point["eps"], point["n"]) for point in measured["curve"]] == [(0.25, 30), (0.5, 30)]
    assert measured["evaluation"]["eps"] == 0.5
    assert "settings" not in measured


@pytest.mark.usefixtures("quick_bounds")
def test_radii_are_certified_where_the_protocol_has_some():
    protocol = QUICK.altered({"certified": [0.01, 100.0]})
    measured, radius = evaluate(linear(3.0), load("digits"), protocol)
    near, far = measured["certified"]
    assert near["certified_accuracy"] == float((radius > 0.01).double().mean()) > 0
    assert far == {"eps": 100.0, "certified_accuracy": 0.0, "n": len(radius)}
    assert measured["samples"]["certified"] == len(radius) == len(load("digits").test_x)


@pytest.mark.usefixtures("quick_bounds")
def test_a_seed_decides():
    first, again, other = (evaluate(dense(), load("digits"), QUICK, seed=seed)[0] for seed in (0, 0, 1))
    assert first == again
    assert first["noise_accuracy"] != other["noise_accuracy"]


def test_the_bracket_of_a_linear_map_is_its_norm():
    lipschitz = evaluate(linear(3.0), load("digits"), QUICK)[0]["lipschitz"]
    assert lipschitz["lower"] == pytest.approx(3.0, rel=1e-4)
    assert lipschitz["upper"] == pytest.approx(3.0, rel=1e-4)


def test_pairs_of_the_training_are_searched_too(monkeypatch):
    """A network that is steep nowhere near the data but between one pair of the training."""
    monkeypatch.setattr(subdivision, "CELLS", 0)  # these would find it without
    for room in ("lower", "branching"):
        monkeypatch.setattr(f"cheaplip.bounds.{room}.pays", lambda inputs: False)
    data = from_arrays(np.linspace(0, 0.2, 40), np.zeros(40), domain=(0, 1))
    steep = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    with torch.no_grad():
        steep[0].weight.fill_(50.0)
        steep[0].bias.fill_(-49.99)  # 0 up to 0.9998
    assert evaluate(steep, data, QUICK)[0]["lipschitz"]["lower"] == 0
    pairs = perturbed_pairs(torch.full((300, 1), 0.9999), noise=0.00005)
    assert evaluate(steep, data, QUICK, pairs=pairs)[0]["lipschitz"]["lower"] == pytest.approx(50, rel=1e-3)


def test_regression_gives_the_loss():
    x = np.linspace(-1, 1, 50)
    data = from_arrays(x, 2 * x)
    measured, _ = evaluate(nn.Sequential(nn.Linear(1, 1)), data, QUICK)
    assert measured.keys() == {"test_loss", "samples", "lipschitz"}
    assert measured["samples"] == {"test_loss": 10, "lipschitz": 10}


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x.flatten(1)).exp()


@pytest.mark.usefixtures("quick_bounds")
def test_without_a_rule_there_is_no_upper_bound_but_a_reason():
    lipschitz = evaluate(Odd(), load("digits"), QUICK)[0]["lipschitz"]
    assert lipschitz["lower"] > 0
    assert lipschitz["upper"] is lipschitz["method"]["upper"] is None
    assert "Odd" in lipschitz["reason"]


def test_example_pairs_before_and_after(tmp_path):
    data, model = load("digits"), dense()
    arrays = example_pairs(model, data, steps=50)
    assert arrays["u_before"].shape == arrays["v_after"].shape == (4, 1, 8, 8)
    assert (arrays["quotient_after"] >= arrays["quotient_before"]).all()
    for when in ("before", "after"):
        assert arrays[f"u_{when}"].min() >= 0
        assert arrays[f"v_{when}"].max() <= 1
        assert ((arrays[f"confidence_u_{when}"] > 0.1) & (arrays[f"confidence_u_{when}"] <= 1)).all()
        points = torch.from_numpy(arrays[f"u_{when}"])
        assert (model(points).argmax(1).numpy() == arrays[f"label_u_{when}"]).all()
    write_pairs(tmp_path / "pairs.npz", arrays)
    with np.load(tmp_path / "pairs.npz", allow_pickle=False) as file:
        assert {name: file[name].shape for name in file.files} == {name: array.shape for name, array in arrays.items()}


@pytest.mark.parametrize("labels", [1, 2])
def test_example_pairs_of_few_classes(labels):
    x = np.random.default_rng(0).normal(size=(40, 3))
    data = from_arrays(x, np.arange(40) % 2, test=(x, np.arange(40) % labels))
    arrays = example_pairs(dense(inputs=3, outputs=2), data, steps=3)
    assert len(arrays["u_after"]) == labels
    assert all(np.isfinite(array).all() for array in arrays.values())
