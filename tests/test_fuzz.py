"""Whatever is given: the library answers or raises an error of ours, the command line never shows a traceback.

The examples are those of `hypothesis` with its seed fixed, some of them always, thousands as slow tests; each has some seconds.
"""

import math
import os
import shutil
import signal
import sys
from contextlib import contextmanager, suppress

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import cheaplip
from cheaplip import cli
from cheaplip.errors import CheaplipError
from support.searches import short_ascents, short_searches

pytestmark = pytest.mark.filterwarnings("ignore")
SECONDS = 20
X, Y = torch.rand(40, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3

HOSTILE = [
    None, "text", "a\0b", b"b", -1, 0, 2, 1.5, math.nan, math.inf, -math.inf, 2**40, 10**30, 10**400, 1e20, 1e300, True, [], {},
    (), object(), [1, 2], complex(1, 2), np.ones(3), np.float32(1), np.int64(2), np.array(["a"]), np.array([None]),
    np.ma.masked_array([1.0, 2.0], [0, 1]), torch.ones(3), torch.tensor(math.nan), torch.ones(40, 6, dtype=torch.int64),
    torch.zeros(0, 6), torch.full((40, 6), math.nan), torch.full((40, 6), 1e30), torch.ones(40, 6, dtype=torch.complex64),
    torch.rand(40, 5), torch.ones(40, 6).to_sparse(), X.numpy(), Y.numpy(), Y + 7, nn.Linear(6, 3), nn.Linear(5, 3),
    nn.Linear(6, 1), nn.Identity(), nn.Embedding(3, 3), (X, Y), (X, Y[:-1]), (X, X), [X.numpy(), Y.numpy()], {1: 2},
]  # fmt: skip


def network():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def penalised(**options):
    """What a regularizer does in a loop."""
    regularizer = cheaplip.LipschitzRegularizer(options.pop("model"), options.pop("pairs"), **options)
    for _ in range(3):
        regularizer()
        regularizer.step()


def steered(value, **options):
    """What a scheduler does in a loop."""
    scheduler = cheaplip.DiscrepancyPrinciple(**options)
    for _ in range(3):
        scheduler.step(value)


CALLS = {
    "fit": (
        cheaplip.fit,
        {"model": network, "data": (X, Y), "preset": "default", "validation": None, "out": None, "resume": False}
        | {"progress": False, "method": "clip", "epochs": 1, "target": 0.5, "lr": 0.1, "batch_size": 8, "seed": 0}
        | {"optimizer": "SGD", "optimizer_options": {"momentum": 0.9}, "active": 4, "margin": 0.0, "pair_share": 0.1}
        | {"loss": None, "schedule": "cosine"},
    ),
    "evaluate_robustness": (
        cheaplip.evaluate_robustness,
        {"model": network, "x": X, "y": Y, "eps": 0.5, "noise": 0.1, "iterations": 2, "step": None, "restarts": 1}
        | {"domain": (0.0, 1.0), "attack_samples": 10, "curve": (0.1,), "curve_samples": 5, "seed": 0},
    ),
    "from_arrays": (
        cheaplip.data.from_arrays,
        {"x": X, "y": Y, "name": "n", "test": None, "test_fraction": 0.2, "seed": 0, "domain": None},
    ),
    "difference_quotient": (
        cheaplip.difference_quotient,
        {"model": network, "u": X, "v": X + 1, "input_norm": 2, "output_norm": 2},
    ),
    "perturbed_pairs": (cheaplip.perturbed_pairs, {"inputs": X, "noise": 0.1, "seed": 0}),
    "matched_pairs": (cheaplip.matched_pairs, {"inputs": X, "seed": 0}),
    "uniform_pairs": (cheaplip.uniform_pairs, {"low": X[0] - 1, "high": X[0] + 1, "n": 5, "noise": 0.1, "seed": 0}),
    "penalty": (
        penalised,
        {"model": network, "pairs": cheaplip.matched_pairs(X), "domain": None, "seed": 0, "active": 4, "interval": 2}
        | {
            "pool": 10,
            "explore": 0.5,
            "reduction": "mean",
            "power": 2,
            "allowed": 0.0,
            "ascent": "normalized",
            "step_size": None,
        },
    ),
    "scheduler": (
        steered,
        {"target": 0.9, "tolerance": None, "rule": "multiplicative", "initial": None, "gain": None, "warmup": 1, "value": 0.95},
    ),
    "load": (cheaplip.data.load, {"name": "digits", "data_dir": None}),
    "verify": (cheaplip.data.verify, {"name": "digits", "data_dir": None}),
    "mlp": (
        cheaplip.models.mlp,
        {"input_shape": (6,), "outputs": 3, "hidden": (4,), "activation": "relu", "output_activation": None},
    ),
    "cnn": (
        cheaplip.models.cnn,
        {"input_shape": (1, 8, 8), "outputs": 3, "hidden": (4, 4, 4), "activation": "relu", "output_activation": None},
    ),
}


@contextmanager
def in_time():
    """A call that takes longer hangs: unless it asks for a long computation, which none of the examples may."""

    def late(number, frame):
        pytest.fail(f"more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@st.composite
def calls(draw):
    name = draw(st.sampled_from(sorted(CALLS)))
    function, arguments = CALLS[name]
    changed = draw(st.lists(st.sampled_from(sorted(arguments)), min_size=1, max_size=3, unique=True))
    return function, arguments | {argument: HOSTILE[draw(st.integers(0, len(HOSTILE) - 1))] for argument in changed}


def call_the_library(example):
    function, arguments = example
    arguments = {name: value() if value is network else value for name, value in arguments.items()}
    with in_time(), suppress(CheaplipError):
        function(**arguments)


@given(calls())
@settings(max_examples=40)
def test_some_calls_of_the_library(example):
    call_the_library(example)


@pytest.mark.slow
@given(calls())
@settings(max_examples=2500)
def test_thousands_of_calls_of_the_library(example):
    call_the_library(example)


VALUES = [
    "0", "1", "-1", "nan", "inf", "-inf", "1e20", "4e38", "1e400", str(10**23), str(2**40), "text", "", " ", "1,2",
    "1,,2", "a\tb",
    "\x1b[31m", "../run", "/dev/null", "/dev/zero", "fifo", "run", "file", "no.json", "deep.json", "good.npz", "huge.npz",
    "digits", "clip", "standard", "Adam", "LBFGS", "mlp", "cnn", "os:abort", "a:b:c", ":", "relu", "x" * 300, "[[", "--help",
]  # fmt: skip
TRAINING = """data method tolerance target lipschitz weight epochs seed preset lr batch-size optimizer schedule keep active
power certify margin config model hidden activation eps attack-samples data-dir out"""
OPTIONS = {
    "train": TRAINING.split(),
    "evaluate": ["eps", "noise", "iterations", "restarts", "attack-samples", "curve-samples", "data-dir"],
    "bound": ["eps", "budget", "data-dir"],
    "report": ["out"],
}
DAMAGES = {
    "config.json": [
        "", "[]", "[" * 10**5, "\0", "9" * 5000, '{"schema": 2}', '{"data": "digits", "model": {"hidden": [-1]}}',
        '{"data": "/dev/zero.npz"}', '{"data": "digits", "evaluation": {"curve": [1e999]}}', '{"data": 1e400}',
    ],
    "result.json": ["", "{}", "[" * 10**5, '{"schema": 1, "samples": 3}', '{"method": {}, "seed": [], "data": 0}'],
    "metrics.jsonl": ["", "x", "3\n", "[" * 10**5, '{"epoch": {}}\n', '{"epoch": 1e999, "weight": "x"}\n'],
    "pairs.npz": ["", "PK", "PK\3\4" + "x" * 100],
    "radii.csv": ["", "x"],
    "model.safetensors": ["", "\xff" * 64],
    "multipliers.safetensors": ["", "\xff" * 64],
}  # fmt: skip


@st.composite
def commands(draw):
    name = draw(st.sampled_from(sorted(OPTIONS)))
    arguments = {"train": ["--out", "new", "--epochs", "1"], "report": ["run", "--out", "page"]}.get(name, ["run"])
    for option in draw(st.lists(st.sampled_from(OPTIONS[name]), max_size=3)):
        arguments = [*arguments, f"--{option}", draw(st.sampled_from(VALUES))]
    damage = draw(st.sampled_from([None, *sorted(DAMAGES)]))
    content = (
        draw(st.sampled_from(DAMAGES[damage]) | st.binary(max_size=40).map(lambda b: b.decode("latin-1"))) if damage else ""
    )
    resume = name == "train" and draw(st.booleans())
    return [name, *arguments, *(["--out", "run", "--resume"] if resume else [])], damage, content


@pytest.fixture(scope="module")
def place(finished, tmp_path_factory):
    """A folder with a finished run and with everything bad that a file can be."""
    folder = tmp_path_factory.mktemp("fuzz")
    shutil.copytree(finished[0], folder / "good")
    (folder / "file").write_text("x")
    (folder / "no.json").write_text("{")
    (folder / "deep.json").write_text("[" * 10**5)
    os.mkfifo(folder / "fifo")
    np.savez(folder / "good.npz", X=X.numpy(), y=Y.numpy())
    np.savez(folder / "huge.npz", X=np.zeros(1), y=np.zeros((1, 1)))
    return folder


def call_the_command(place, monkeypatch, capsys, example):
    arguments, damage, content = example
    for name in ("run", "new", "page"):
        shutil.rmtree(place / name, ignore_errors=True)
    shutil.copytree(place / "good", place / "run")
    if damage:
        (place / "run" / damage).write_bytes(content.encode("latin-1"))
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["cheaplip", *arguments])
    with in_time(), short_searches(), short_ascents():
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
    out, err = capsys.readouterr()
    assert code in (0, 1, 2), (arguments, err)
    assert "\x1b" not in out + err
    assert "Traceback" not in err
    assert code == 0 or err


ONE_PLACE = [HealthCheck.function_scoped_fixture]


@given(example=commands())
@settings(max_examples=8, suppress_health_check=ONE_PLACE)
def test_some_commands(place, monkeypatch, capsys, example):
    call_the_command(place, monkeypatch, capsys, example)


@pytest.mark.slow
@given(example=commands())
@settings(max_examples=1200, suppress_health_check=ONE_PLACE)
def test_thousands_of_commands(place, monkeypatch, capsys, example):
    call_the_command(place, monkeypatch, capsys, example)
