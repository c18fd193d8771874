"""An interrupted run, resumed, is the run that was never interrupted, bit for bit."""

import contextlib
import functools
import os
import shutil

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from cheaplip import fit, matched_pairs
from cheaplip.errors import DamageWarning, InputError
from cheaplip.files import sha256_of
from cheaplip.training.checkpoint import checkpoints
from support.interruptions import ctrl_c
from support.networks import OPTIONS, curve, dense, digits, regularised, same_weights, without

pytestmark = pytest.mark.usefixtures("quick_bounds")


def loader(**options):
    return DataLoader(TensorDataset(*digits(200)), batch_size=30, shuffle=True, **options)


def pairs():
    return matched_pairs(digits(40)[0])


CASES = {
    "standard": (dense, digits, {"method": "standard"}),
    "weight": (dense, digits, {"method": "weight"}),
    "clip": (dense, digits, {"method": "clip"}),
    "local": (regularised, digits, {"method": "local", "radius": 0.5, "attacked": 100, "attack_interval": 5}),
    "many penalties": (dense, digits, {"interval": 1, "active": 5, "target": 0.15}),  # in the midst of a later round of pairs
    "clip as in the paper": (dense, digits, {"rule": "additive", "ascent": "accepted", "reduction": "max", "power": 1}),
    "best-pgd": (dense, digits, {"method": "clip", "keep": "best-pgd", "eps": 0.5}),
    "batch statistics and dropout": (regularised, digits, {"method": "clip"}),
    "margin": (dense, digits, {"method": "clip", "margin": 4.0, "saturation": 0.5}),
    "another optimizer": (dense, digits, {"optimizer": "Adam", "optimizer_options": {"betas": [0.8, 0.9]}, "lr": 0.01}),
    "StiefelMuon": (dense, digits, {"method": "standard", "optimizer": "StiefelMuon", "lr": 0.05, "margin": 4.0}),
    "regression": (lambda: dense(inputs=1, outputs=1), curve, {"target": 1.0}),
    "loader": (dense, loader, {"method": "standard"}),
    "loader with a generator": (dense, lambda: loader(generator=torch.Generator().manual_seed(7)), {"method": "weight"}),
    "loader and clip": (regularised, loader, {"method": "clip", "pairs": pairs, "input_noise": 1.0}),
    "pairs that have come back to the data": (regularised, digits, {"interval": 1, "active": 5, "pool": 5, "target": 0.15}),
}


def run(case, out=None, **more):
    make, data, options = CASES[case]
    options = {**OPTIONS, **options, **more}
    if "pairs" in options:
        options["pairs"] = options["pairs"]()
    return fit(make(), data(), out=out, **options)


@functools.cache
def whole_run(case):
    return run(case)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of "clip", and its folder."""
    folder = tmp_path_factory.mktemp("finished")
    return run("clip", folder), folder


@pytest.mark.parametrize("epoch", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_resumed_is_uninterrupted(tmp_path, case, epoch):
    whole = whole_run(case)
    assert case in ("standard", "loader", "StiefelMuon") or whole.history[-1]["weight"] > 0
    steps = 3 if case == "regression" else 7  # an epoch
    with ctrl_c((epoch - 1) * steps + 2):
        run(case, tmp_path)
    resumed = run(case, tmp_path, resume=True)
    assert same_weights(resumed.model, whole.model)
    assert [without(row) for row in resumed.history] == [without(row) for row in whole.history]
    assert without(resumed.result) == without(whole.result)
    if whole.pairs is not None:
        assert torch.equal(resumed.pairs.u, whole.pairs.u)
        assert torch.equal(resumed.pairs.v, whole.pairs.v)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 4


def test_resuming_a_finished_run_trains_nothing(finished):
    whole, folder = finished
    before = checkpoints(folder)
    again = run("clip", folder, resume=True)
    assert same_weights(again.model, whole.model)
    assert again.history == whole.history
    assert checkpoints(folder) == before


def cut(file):
    file.write_bytes(file.read_bytes()[:-100])


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def other(file):
    torch.save({"weights": torch.ones(3)}, file)


def a_list(file):
    torch.save([1, 2], file)


def code(file):
    torch.save({"config": os.abort}, file)


DAMAGES = [cut, flip, other, a_list, code, lambda file: file.write_bytes(b""), lambda file: file.unlink()]


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished[1], tmp_path, dirs_exist_ok=True)


def test_the_last_two_checkpoints_are_kept(finished):
    assert [file.name.partition("-")[0] for file in checkpoints(finished[1])] == ["000004", "000003"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_taken(finished, copied, damage):
    damage(checkpoints(copied)[0])
    lost = len(checkpoints(copied)) == 1
    with contextlib.nullcontext() if lost else pytest.warns(DamageWarning, match=r"000004-.*the one before it is taken"):
        again = run("clip", copied, resume=True)
    assert same_weights(again.model, finished[0].model)
    assert [without(row) for row in again.history] == [without(row) for row in finished[0].history]
    assert [file.name.partition("-")[0] for file in checkpoints(copied)] == ["000004", "000003"]


def test_code_is_refused_under_its_own_checksum(copied):
    for file in checkpoints(copied):
        code(file)
        file.rename(file.with_name(f"{file.name[:6]}-{sha256_of(file)}.pt"))
    with pytest.raises(InputError, match=r"Unsupported global|Weights only load failed"):
        run("clip", copied, resume=True)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoints_are_refused(copied, damage):
    for file in checkpoints(copied):
        damage(file)
    with pytest.raises(InputError, match=r"a checkpoint in .*checkpoint; got .*Start the run again"):
        run("clip", copied, resume=True)


def test_other_settings_are_refused(finished):
    _, folder = finished
    with pytest.raises(InputError, match="other values of lr, seed"):
        run("clip", folder, resume=True, lr=0.3, seed=1)
    with pytest.raises(InputError, match="without a run in it"):
        run("clip", folder)
    with pytest.raises(InputError, match="out, the folder"):
        run("clip", resume=True)


def test_another_network_is_refused(finished):
    _, folder = finished
    with pytest.raises(InputError, match=r"the network of the interrupted run; got .*size mismatch"):
        fit(dense(outputs=12), digits(), out=folder, resume=True, **OPTIONS)
    with pytest.raises(InputError, match="Make the regularizer with the same pairs"):
        fit(dense(), digits(), out=folder, resume=True, pairs=pairs(), **OPTIONS)
