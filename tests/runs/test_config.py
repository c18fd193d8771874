import sys

import pytest
import torch
from torch import nn

from cheaplip.data import load
from cheaplip.errors import InputError
from cheaplip.models.config import ModelConfig
from cheaplip.models.spec import build_network, describe_network
from cheaplip.runs.config import EvaluationConfig, RunConfig
from cheaplip.runs.configure import configure_run, read_config
from cheaplip.runs.execute import bound_run, evaluate_run, execute_run
from support.networks import QUICK

# ---------------------------------------------------------------- descriptions


def test_settings_find_their_record():
    job = configure_run(QUICK | {"lr": 0.2, "noise": 0.5, "model": "cnn", "hidden": [2, 3, 4]})
    assert (job.training.lr, job.training.epochs, job.evaluation.noise, job.evaluation.iterations) == (0.2, 3, 0.5, 3)
    assert (job.model.name, job.model.hidden) == ("cnn", (2, 3, 4))


def test_eps_is_one_radius_for_all():
    digits, mnist = configure_run({"data": "digits"}), configure_run({"data": "mnist"})
    assert (digits.training.eps, digits.evaluation.eps) == (0.75, 0.75)
    assert mnist.evaluation == EvaluationConfig()
    wide = configure_run({"data": "mnist", "eps": 4.0})
    assert (wide.training.eps, wide.evaluation.eps) == (4.0, 4.0)
    assert wide.evaluation.curve == tuple(2 * point for point in mnist.evaluation.curve)


def test_the_paper_has_sigmoids_in_its_mlp_alone():
    paper = configure_run({"data": "mnist", "preset": "paper"})
    assert (paper.training.reduction, paper.training.epochs, paper.model.activation) == ("max", 100, "sigmoid")
    assert configure_run({"data": "mnist", "preset": "paper", "activation": "relu"}).model.activation == "relu"
    assert configure_run({"data": "mnist", "preset": "paper", "model": "cnn"}).model.activation is None


BAD = {
    "no data": ({"epochs": 3}, "data; got none"),
    "unknown": ({"data": "digits", "epoch": 3}, "a setting to be one of .*Did you mean 'epochs'"),
    "data no name": ({"data": ["digits"]}, "a valid data; got .'digits'."),
    "preset": ({"data": "digits", "preset": ["paper"]}, "preset to be one of default, paper"),
    "eps": ({"data": "digits", "eps": -1.0}, "a valid eps; got -1.0"),
    "eps text": ({"data": "digits", "eps": "1"}, "a valid eps; got '1'"),
    "samples": ({"data": "digits", "attack_samples": 0}, "a valid attack_samples"),
    "curve": ({"data": "digits", "curve": [0.1, -1]}, r"a valid curve.1; got -1"),
    "hidden": ({"data": "digits", "hidden": ["64"]}, r"a valid hidden.0; got '64'"),
    "model": ({"data": "digits", "model": 3}, "a valid name; got 3"),
    "target": ({"data": "digits", "target": -0.5}, "a valid target"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_refused(case):
    options, match = BAD[case]
    with pytest.raises(InputError, match=match):
        configure_run(options)


@pytest.mark.usefixtures("quick_bounds")
def test_a_job_survives_its_file(tmp_path):
    options = QUICK | {"optimizer": "Adam", "optimizer_options": {"betas": [0.9, 0.99]}}
    execute_run(configure_run(options | {"epochs": 2}), tmp_path / "run")
    job = read_config(tmp_path / "run")
    assert job == configure_run(options | {"epochs": 2})
    execute_run(job, tmp_path / "run", resume=True)


DAMAGED = ["", "[]", "{", '{"data": 3}', '{"data": "digits", "colour": 1}', '{"schema": 9}']
DAMAGED += ['{"data": "digits", "training": {"epochs": 0}}']


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_config_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InputError, match=r"config\.json"):
        read_config(tmp_path)


# ---------------------------------------------------------------- networks


def test_networks_are_built_from_the_seed_alone():
    data = load("digits")
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again, other = (build_network(ModelConfig(), data, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[1].weight, again[1].weight)
    assert not torch.equal(first[1].weight, other[1].weight)


def test_descriptions():
    data = load("digits")
    for spec, text in (
        (ModelConfig(), "mlp 64-64-64-10 softplus"),
        (ModelConfig(hidden=(7,), activation="tanh", output_activation="sigmoid"), "mlp 64-7-10 tanh, output sigmoid"),
        (ModelConfig(name="cnn", hidden=(2, 3, 4)), "cnn 1-2-3-4-10 relu"),
    ):
        assert describe_network(spec, build_network(spec, data, 0)) == text


OWN = """
import torch
from torch import nn
def good(shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], 16), nn.ReLU(), nn.Linear(16, outputs))
def narrow(shape, outputs):
    return good(shape, outputs - 1)
def fails(shape, outputs):
    raise KeyError("no such\\nlayer")
def nothing(shape, outputs):
    return 3
def fragile(shape, outputs):
    class Fragile(nn.Linear):
        def forward(self, x):
            raise AttributeError("oh")
    return Fragile(64, outputs)
value = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's in the current folder."""
    (tmp_path / "mynets.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("1 +")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path
    sys.modules.pop("mynets", None)


@pytest.mark.usefixtures("quick_bounds")
def test_a_network_of_the_users(own):
    options = {name: value for name, value in QUICK.items() if name != "hidden"}
    result = execute_run(configure_run(options | {"model": "mynets:good"}), own / "run")
    assert result["model"] == "mynets:good"
    assert result["lipschitz"]["upper"] >= result["lipschitz"]["lower"] > 0
    sys.modules.pop("mynets")
    for measure in (lambda: evaluate_run(own / "run", {}), lambda: bound_run(own / "run")):
        with pytest.raises(InputError, match=r"cheaplip's own; got mynets:good, which is code.*--trust-model"):
            measure()
    assert "mynets" not in sys.modules
    assert evaluate_run(own / "run", {}, trust_model=True)["test_accuracy"] == result["test_accuracy"]


BAD_MODELS = {
    "mynets:god": "a function at mynets:god; got AttributeError",
    "nowhere:good": "a function at nowhere:good; got ModuleNotFoundError",
    "broken:good": "a function at broken:good; got SyntaxError",
    ":good": "a function at :good; got ValueError",
    "mynets:": "a function at mynets:; got AttributeError",
    "mynets:value": "to build a network; got TypeError",
    "mynets:fails": "to build a network; got KeyError: 'no such.*layer'. Correct it",
    "mynets:nothing": "to return an nn.Module; got int",
    "mynets:narrow": "one output for each of the classes",
    "mpl": "Did you mean 'mlp'",
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_networks_are_refused_and_the_folder_stays_free(own, name):
    options = {name: value for name, value in QUICK.items() if name != "hidden"}
    with pytest.raises(InputError, match=BAD_MODELS[name]) as caught:
        execute_run(configure_run(options | {"model": name}), own / "run")
    assert "\n" not in str(caught.value)
    assert not (own / "run").exists() or not list((own / "run").iterdir())


def test_widths_are_not_for_a_network_of_the_users(own):
    with pytest.raises(InputError, match="no hidden for a model of your own"):
        execute_run(configure_run(QUICK | {"model": "mynets:good"}), own / "run")


def test_a_fault_in_the_users_network_is_not_hidden(own):
    options = {name: value for name, value in QUICK.items() if name != "hidden"}
    with pytest.raises(AttributeError, match="oh"):
        execute_run(configure_run(options | {"model": "mynets:fragile"}), own / "run")
    assert not (own / "run").exists()


def test_too_large_a_network_is_refused(tmp_path):
    with pytest.raises(InputError, match="widths >= 1 and"):
        execute_run(configure_run(QUICK | {"hidden": (10**9, 10**9)}), tmp_path / "run")


def test_a_job_is_plain_data():
    assert RunConfig.model_validate_json(configure_run(QUICK).model_dump_json()) == configure_run(QUICK)
    assert isinstance(build_network(ModelConfig(), load("digits"), 0), nn.Module)
