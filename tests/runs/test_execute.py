import json
import os
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch

from cheaplip.errors import DivergenceError, InputError
from cheaplip.files import sha256_of
from cheaplip.models.weights import save_multipliers
from cheaplip.report import write_report
from cheaplip.run_folder import find_runs
from cheaplip.runs import execute
from cheaplip.runs.configure import configure_run, read_config, resumed_config
from cheaplip.runs.execute import bound_run, evaluate_run, execute_run
from cheaplip.training.checkpoint import checkpoints
from support.interruptions import ctrl_c
from support.networks import QUICK, without

CERTIFIED = {**QUICK, "target": None, "weight": 0.01, "certify": 0.1, "lipschitz_samples": 4}
ACCURACIES = ["train", "test", "noise", "pgd", "strong"]


def test_the_run_folder_is_complete(finished):
    folder, result = finished
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "metrics.jsonl", "model.safetensors", "checkpoint", "result.json"} | {
        "pairs.npz",
        "pairs-1.npz",
    }
    assert json.loads((folder / "result.json").read_text()) == json.loads(json.dumps(result))
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3


def test_the_result_keeps_its_contract(finished):
    _, result = finished
    names = {f"{name}_accuracy" for name in ACCURACIES} | {"noise_accuracy_clamped", "pgd_accuracy_clamped"}
    rest = {"schema", "method", "target", "seed", "data", "model", "epochs", "weight", "lipschitz", "seconds", "provenance"}
    assert names | rest <= result.keys()
    assert (result["schema"], result["method"], result["target"], result["seed"]) == (1, "clip", 0.2, 0)
    assert (result["data"], result["epochs"]) == ("digits", 3)
    for name in names:
        n = result["samples"][name]
        assert result[name] == round(result[name] * n) / n  # the decimal fraction itself, no rounding noise of float32
    assert result["samples"]["train_accuracy"] == 1102
    assert result["samples"]["test_accuracy"] == 500
    assert result["samples"]["strong_accuracy"] == 40
    assert [point["n"] for point in result["curve"]] == [20, 20]
    assert {"lower", "upper", "method"} <= result["lipschitz"].keys()
    assert 0 < result["lipschitz"]["lower"] <= result["lipschitz"]["upper"]
    assert {"version", "git", "torch", "python", "device", "threads", "date"} <= result["provenance"].keys()


def test_the_report_reads_it(finished, tmp_path):
    folder, _ = finished
    assert write_report(find_runs([folder]), tmp_path).exists()


@pytest.mark.usefixtures("quick_bounds")
def test_the_weights_are_those_measured(finished, run_copy):
    result = finished[1]
    again = evaluate_run(run_copy, {})
    changing = ("lipschitz", "seconds", "provenance")
    assert {k: v for k, v in again.items() if k not in changing} == {k: v for k, v in result.items() if k not in changing}
    assert json.loads((run_copy / "result.json").read_text())["test_accuracy"] == result["test_accuracy"]


@pytest.mark.usefixtures("quick_bounds")
def test_evaluated_by_another_protocol(run_copy):
    again = evaluate_run(run_copy, {"eps": 1.5, "attack_samples": 30, "noise": 0.1})
    assert again["evaluation"]["eps"] == 1.5
    assert [point["eps"] for point in again["curve"]] == [0.8, 1.6]
    assert again["samples"]["strong_accuracy"] == 30
    assert again["samples"]["train_accuracy"] == 1102


@pytest.mark.usefixtures("quick_bounds")
def test_a_job_leaves_the_global_generator_alone(tmp_path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    execute_run(configure_run(QUICK | {"epochs": 2}), tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("quick_bounds")
@pytest.mark.parametrize("step", [3, 13])
def test_an_interrupted_job_is_resumed(finished, tmp_path, step):
    """In the first epoch, of which nothing is left, and in the second; a step here is one of 8 an epoch."""
    whole = finished[1]
    with ctrl_c(step):
        execute_run(configure_run(QUICK), tmp_path / "run")
    with pytest.raises(InputError, match="without a run in it"):
        execute_run(configure_run(QUICK), tmp_path / "run")
    with pytest.raises(InputError, match=r"a finished run in .*--resume"):
        evaluate_run(tmp_path / "run", {})
    assert without(execute_run(resumed_config(tmp_path / "run", {}), tmp_path / "run", resume=True)) == without(whole)


@pytest.mark.usefixtures("quick_bounds")
def test_a_finished_job_resumed_is_evaluated_again(finished, run_copy):
    (run_copy / "result.json").unlink()
    assert without(execute_run(configure_run(QUICK), run_copy, resume=True)) == without(finished[1])


@pytest.mark.usefixtures("quick_bounds")
def test_what_is_refused_leaves_the_folder_free(tmp_path):
    with pytest.raises(InputError, match="a target accuracy"):
        execute_run(configure_run(QUICK | {"target": 1.5}), tmp_path)
    with pytest.raises(DivergenceError):
        execute_run(configure_run(QUICK | {"lr": 1e30}), tmp_path)
    assert list(tmp_path.iterdir()) == []
    execute_run(configure_run(QUICK | {"epochs": 2}), tmp_path)


def arrays(tmp_path, **content):
    np.savez(tmp_path / "own.npz", **content)
    return str(tmp_path / "own.npz")


@pytest.mark.usefixtures("quick_bounds")
def test_regression_on_arrays_of_the_users(tmp_path, monkeypatch):
    x = np.linspace(-1, 1, 80)
    arrays(tmp_path, X=x, y=x**2)
    monkeypatch.chdir(tmp_path)
    options = {"epochs": 2, "hidden": (8,), "weight": 0.1}
    result = execute_run(configure_run({"data": "own.npz", **options}), tmp_path / "run")
    assert {"train_loss", "test_loss"} <= result.keys()
    assert not [name for name in result if "accuracy" in name]
    assert result["samples"].keys() == {"train_loss", "test_loss", "lipschitz"}
    assert (result["data"], result["target"], result["weight"]) == ("own", None, 0.1)
    assert not (tmp_path / "run/pairs.npz").exists()
    monkeypatch.chdir("/")
    assert evaluate_run(tmp_path / "run", {})["test_loss"] == result["test_loss"]
    assert write_report(find_runs([tmp_path / "run"]), tmp_path / "report").exists()


@pytest.mark.usefixtures("quick_bounds")
@pytest.mark.parametrize("classes", [2, 3])
def test_classification_on_arrays_of_the_users(tmp_path, classes):
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, 90)
    data = arrays(tmp_path, X=rng.normal(size=(90, 2)) + y[:, None], y=y)
    result = execute_run(configure_run({**QUICK, "data": data}), tmp_path / "run")
    assert result["model"] == f"mlp 2-16-{classes} softplus"
    assert (tmp_path / "run/pairs.npz").exists()


@pytest.mark.usefixtures("quick_bounds")
def test_a_test_part_of_one_class(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 2
    data = arrays(tmp_path, X=x, y=y, X_test=x[::2], y_test=y[::2])
    assert execute_run(configure_run({**QUICK, "data": data}), tmp_path / "run")["samples"]["test_accuracy"] == 30


def test_tiny_data_are_refused(tmp_path):
    data = arrays(tmp_path, X=np.arange(10.0), y=np.arange(10.0))
    with pytest.raises(InputError, match="two samples at least in every part"):
        execute_run(configure_run({"data": data, "weight": 1.0}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def permuted_weights(folder):
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    weights |= {name: weights[name][order] for name in ("3.weight", "3.bias")}
    safetensors.torch.save_file(weights, folder / "model.safetensors")


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def cut_weights(folder):
    (folder / "model.safetensors").write_bytes(b"abc")


def other_weights(folder):
    config = json.loads((folder / "config.json").read_text())
    config["model"]["hidden"] = [5]
    (folder / "config.json").write_text(json.dumps(config))


def bad_result(folder):
    (folder / "result.json").write_text("{")


@pytest.mark.parametrize("damage", [permuted_weights, no_weights, cut_weights, other_weights, bad_result])
def test_a_damaged_run_is_not_evaluated(run_copy, damage):
    damage(run_copy)
    with pytest.raises(InputError, match=r"model\.safetensors.*; got|result\.json to be readable"):
        evaluate_run(run_copy, {})


@pytest.mark.usefixtures("quick_bounds")
def test_certified_accuracies_and_radii_come_and_go_together(run_copy):
    radii = run_copy / "radii.csv"
    assert bound_run(run_copy, eps=[0.3], budget=1.0)["radii_sha256"] == sha256_of(radii)
    assert evaluate_run(run_copy, {})["radii_sha256"] == sha256_of(radii)  # of the same weights
    again = execute_run(configure_run(QUICK), run_copy, resume=True)
    assert not {"certified", "radii_sha256"} & again.keys()
    assert not radii.exists()


@pytest.mark.usefixtures("quick_bounds")
def test_a_lost_checkpoint_is_no_new_run(run_copy):
    shutil.rmtree(run_copy / "checkpoint")
    with pytest.raises(InputError, match=r"a checkpoint in .*; got none"):
        execute_run(configure_run(QUICK), run_copy, resume=True)
    assert (run_copy / "config.json").exists()


@pytest.mark.usefixtures("quick_bounds")
def test_pairs_of_an_epoch_are_made_when_its_checkpoint_was_the_last_thing(finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(execute, "write_pairs", interrupt)
        with pytest.raises(KeyboardInterrupt):
            execute_run(configure_run(QUICK), tmp_path / "run")
    assert len(checkpoints(tmp_path / "run")) == 1
    execute_run(configure_run(QUICK), tmp_path / "run", resume=True)
    assert (tmp_path / "run/pairs-1.npz").read_bytes() == (finished[0] / "pairs-1.npz").read_bytes()


def interrupt(*given):
    raise KeyboardInterrupt


@pytest.mark.usefixtures("quick_bounds")
def test_a_folder_deleted_while_training_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "write_pairs", lambda path, arrays: shutil.rmtree(path.parent))
    with pytest.raises(FileNotFoundError):
        execute_run(configure_run(QUICK), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("quick_bounds")
def test_a_run_with_a_certificate_is_bounded_from_its_multipliers(tmp_path):
    proved = execute_run(configure_run(CERTIFIED), tmp_path)["lipschitz"]["upper"]
    trained = find_runs([tmp_path])[0].history[-1]["upper_bound"]
    out_of_time = bound_run(tmp_path, budget=1e-3)["lipschitz"]["upper"]
    assert max(proved, out_of_time) <= trained
    save_multipliers(tmp_path / "multipliers.safetensors", [torch.zeros(15)])
    with pytest.raises(InputError, match=r"vectors of 16; got \(15,\)"):
        bound_run(tmp_path)
    (tmp_path / "multipliers.safetensors").write_bytes(b"abc")
    with pytest.raises(InputError, match=r"the multipliers of the run's certificate in .*starts afresh"):
        bound_run(tmp_path)


def test_files_follow_the_umask(finished):
    modes = {path.stat().st_mode & 0o777 for path in finished[0].rglob("*") if path.is_file()}
    mask = os.umask(0)
    os.umask(mask)
    assert modes == {0o666 & ~mask}


def test_a_resumed_job_contradicts_nothing(finished):
    folder, _ = finished
    job = read_config(folder)
    assert resumed_config(folder, {}) == resumed_config(folder, QUICK) == resumed_config(folder, {"epochs": 3}) == job
    assert resumed_config(folder, QUICK | {"preset": "default"}) == job
    with pytest.raises(
        InputError, match=r"got others for evaluation.curve, evaluation.eps, model.hidden, training.eps, training.lr"
    ):
        resumed_config(folder, {"lr": 0.3, "hidden": (3,), "eps": 1.0})
    with pytest.raises(InputError, match="got others for data"):
        resumed_config(folder, {"data": "mnist"})
    with pytest.raises(InputError, match=r"others for .*training.reduction"):
        resumed_config(folder, QUICK | {"preset": "paper", "epochs": 7})
