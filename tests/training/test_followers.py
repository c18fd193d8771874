"""Who follows a training: a function of the caller's, which may end it, and trackers, which have every record."""

import pytest
import torch
from accelerate.tracking import GeneralTracker

from cheaplip import fit
from cheaplip.errors import InputError, TrackerWarning
from cheaplip.models import mlp
from support.networks import seeded

X = torch.rand(200, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0.5).long()
OPTIONS = {"epochs": 4, "batch_size": 20}


def network():
    return seeded(lambda: mlp((4,), 2, hidden=(8,)))


class Memory(GeneralTracker):
    name = "memory"
    requires_logging_directory = False
    tracker = None

    def __init__(self):
        super().__init__()
        self.settings, self.rows, self.finished = None, {}, False

    def store_init_configuration(self, values):
        self.settings = values

    def log(self, values, step, **_):
        self.rows[step] = values

    def finish(self):
        self.finished = True


def test_a_function_that_returns_true_ends_the_training_with_its_result(tmp_path):
    options = {**OPTIONS, "method": "standard", "schedule": "constant"}
    ended = fit(network(), (X, Y), out=tmp_path, after_epoch=lambda row, model: row["epoch"] == 2, **options)
    short = fit(network(), (X, Y), **options | {"epochs": 2})
    assert ended.result["epochs"] == len(ended.history) == 2
    assert ended.result["train_accuracy"] == short.result["train_accuracy"]
    assert all(map(torch.equal, ended.model.parameters(), short.model.parameters()))
    assert (tmp_path / "model.safetensors").exists()
    again = fit(network(), (X, Y), out=tmp_path, resume=True, after_epoch=lambda row, model: True, **options)
    assert len(again.history) == 2
    whole = fit(network(), (X, Y), out=tmp_path, resume=True, **options)
    assert len(whole.history) == 4


def test_a_tracker_has_every_record_and_the_settings():
    memory = Memory()
    done = fit(network(), (X, Y), loggers=[memory], **OPTIONS)
    assert {epoch: values["train_loss"] for epoch, values in memory.rows.items()} == {
        row["epoch"]: row["train_loss"] for row in done.history
    }
    assert {"weight", "lower_bound", "learning_rate"} <= memory.rows[4].keys()
    assert memory.settings["batch_size"] == 20
    assert memory.finished


def test_a_resumed_run_logs_each_epoch_once(tmp_path):
    first, second = Memory(), Memory()
    with pytest.raises(KeyboardInterrupt):
        fit(network(), (X, Y), out=tmp_path, loggers=[first], after_epoch=interrupted, **OPTIONS)
    fit(network(), (X, Y), out=tmp_path, resume=True, loggers=[second], **OPTIONS)
    assert [*first.rows, *second.rows] == [1, 2, 3, 4]


def interrupted(row, model):
    if row["epoch"] == 2:
        raise KeyboardInterrupt


class Failing(Memory):
    name = "failing"

    def __init__(self, *, at):
        self.at = at
        super().__init__()

    def store_init_configuration(self, values):
        if self.at == 0:
            raise ConnectionError("no server")

    def log(self, values, step, **_):
        if self.at == step:
            raise ConnectionError("server lost")
        super().log(values, step)


def test_a_tracker_that_does_not_start_is_told_before_training():
    with pytest.raises(InputError, match="trackers that start; got ConnectionError: no server"):
        fit(network(), (X, Y), loggers=[Failing(at=0)], **OPTIONS)


def test_a_tracker_that_fails_ends_no_training():
    memory, failing = Memory(), Failing(at=2)
    with pytest.warns(TrackerWarning, match="failing failed, and gets no more records: ConnectionError: server lost"):
        done = fit(network(), (X, Y), loggers=[failing, memory], **OPTIONS)
    assert len(done.history) == len(memory.rows) == 4
    assert list(failing.rows) == [1]


def test_a_tracker_is_finished_whatever_happens():
    memory = Memory()

    def stop(row, model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(network(), (X, Y), loggers=[memory], after_epoch=stop, **OPTIONS)
    assert memory.finished


def test_tensorboard_shows_the_records(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = fit(network(), (X, Y), out=tmp_path, loggers=["tensorboard"], **OPTIONS)
    events = EventAccumulator(str(tmp_path / "cheaplip")).Reload()
    for name in ("train_loss", "weight", "lower_bound"):
        shown = {scalar.step: scalar.value for scalar in events.Scalars(name)}
        assert shown == pytest.approx({row["epoch"]: row[name] for row in done.history}, rel=1e-6)


@pytest.mark.parametrize(
    ("loggers", "match"),
    [
        (["tensorbord"], "Did you mean 'tensorboard'"),
        ("tensorboard", "loggers to be Sequence"),
        (["wandb"], "the package wandb, to log to it; got none. pip install wandb"),
        (["tensorboard"], "out, the folder in which tensorboard writes"),
    ],
)
def test_what_is_refused(loggers, match, monkeypatch):
    missing = {"wandb"}
    monkeypatch.setattr("cheaplip.training.followers.find_spec", lambda name: None if name in missing else name)
    with pytest.raises(InputError, match=match):
        fit(network(), (X, Y), loggers=loggers, **OPTIONS)
