"""Whatever ends a command in the middle of its writing, the same result is reached from what it leaves, and nothing else."""

import json
import shutil
import signal

import pytest

from cheaplip.files import sha256_of
from support.networks import without
from support.victims import begin, command

pytestmark = pytest.mark.slow

SETTINGS = {"curve_samples": 10, "iterations": 2, "lipschitz_samples": 10, "attack_samples": 20, "batch_size": 128}
TRAIN = ["train", "--data", "digits", "--hidden", "8", "--epochs", "3", "--target", "0.2", "--config", "../quick.json"]
COMMANDS = {
    "train": [*TRAIN, "--out", "run"],
    "evaluate": ["evaluate", "run", "--noise", "0.1"],
    "bound": ["bound", "run", "--eps", "0.3", "--budget", "60"],
    "reproduce": ["reproduce", "analysis", "--seeds", "2", "--out", "out"],
}
ENDS = {
    "SIGKILL": [signal.SIGKILL],
    "SIGTERM": [signal.SIGTERM],
    "SIGHUP": [signal.SIGHUP],
    "SIGINT twice": [signal.SIGINT] * 2,
}


def again(name):
    return ["train", "--resume", "--out", "run"] if name == "train" else COMMANDS[name]


def content(folder):
    """Every file below a folder, less what measures time."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith(".pt"):
            text = path.read_bytes()
            if path.name in ("result.json", "metrics.jsonl") or path.parent.name == "parts":
                text = [timeless(json.loads(line)) for line in ([text] if path.suffix == ".json" else text.splitlines())]
            found[str(path.relative_to(folder))] = text if path.suffix not in (".html", ".svg", ".csv", ".md") else None
    if (folder / "run/checkpoint").exists():
        found["checkpoints"] = sorted(path.name.partition("-")[0] for path in (folder / "run/checkpoint").iterdir())
    found.pop("out/analysis/table.json", None)  # of the parts, with their dates
    return found


def timeless(record):
    return {key: timeless(value) if isinstance(value, dict) else value for key, value in without(record).items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """For each command: the folder it starts in, the content of the folder it leaves, and the events of its writing."""
    from cheaplip.experiments import section_3

    root = tmp_path_factory.mktemp("kills")
    (root / "quick.json").write_text(json.dumps(SETTINGS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(section_3, "MEASUREMENTS", {"absolute-value": section_3.absolute_value})
        known = {}
        (root / "start-train").mkdir()
        for name, arguments in COMMANDS.items():
            start, folder = root / f"start-{name}", root / f"whole-{name}"
            if name != "train":
                shutil.copytree(root / "whole-train", start)
            shutil.copytree(start, folder)
            done = command(folder, *arguments)
            assert done.code == 0, done.err
            known[name] = start, content(folder), done.events
        yield root, known


def killed_and_continued(whole, name, event, end):
    root, known = whole
    start, expected, _ = known[name]
    folder = root / "victim"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(start, folder)
    signals = ENDS[end]
    ended = command(folder, *COMMANDS[name], kill=(event, signals))
    assert ended.code == (-9 if end == "SIGKILL" else 128 + signals[0]), ended.err
    assert "Traceback" not in ended.err
    if end == "SIGTERM":
        assert ended.err.splitlines()[-1].startswith("Interrupted. ")
    begun = name != "train" or (folder / "run/config.json").exists()
    done = command(folder, *(again(name) if begun else COMMANDS[name]))
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    assert content(folder) == expected


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_every_write(whole, name, end):
    for event in range(1, whole[1][name][2] + 1):
        killed_and_continued(whole, name, event, end)
    print(f"{name}, {end}: {event} of {event}")


def test_a_full_disk_at_twenty_sizes(whole, tmp_path):
    """A file that may not grow beyond some size ends the command with one message, and the run goes on once there is room."""
    root, known = whole
    largest = max(path.stat().st_size for path in (root / "whole-train/run").rglob("*") if path.is_file())
    failed = 0
    for i in range(20):
        folder = tmp_path / "full"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (tmp_path / "quick.json").write_text(json.dumps(SETTINGS))
        ended = command(folder, *COMMANDS["train"], limit=1000 + (i * (largest - 1000)) // 20)
        assert "Traceback" not in ended.err
        assert ended.code == 1
        assert ended.err.splitlines()[-1].startswith("cheaplip: ")
        failed += 1
        begun = (folder / "run/config.json").exists()
        done = command(folder, *(again("train") if begun else COMMANDS["train"]))
        assert done.code == 0, done.err
        assert content(folder) == known["train"][1]
    print(f"full disk: {failed} of 20 ended with a message and went on")


def test_two_writers_two_hundred_times(tmp_path):
    """Of two processes that want one folder, one gets it; the other one is told."""
    (tmp_path / "quick.json").write_text(json.dumps(SETTINGS))
    for _ in range(200):
        folder = tmp_path / "both"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        waiting = [begin(folder, *COMMANDS["train"], "--epochs", 2, "--seed", seed, name=str(seed)) for seed in (1, 2)]
        ended = [wait() for wait in waiting]
        assert sorted(one.code for one in ended) == [0, 2]
        seed = 1 + [one.code for one in ended].index(0)
        late = "expected an output folder without a run in it"  # a training as short as this may be over already
        assert any(told in ended[2 - seed].err for told in (late, "expected a folder into which no other process writes"))
        result, config = (json.loads((folder / f"run/{name}.json").read_text()) for name in ("result", "config"))
        assert result["seed"] == config["training"]["seed"] == seed
        assert result["weights_sha256"] == sha256_of(folder / "run/model.safetensors")
