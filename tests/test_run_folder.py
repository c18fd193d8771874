"""The run folder: atomic writes, strict JSON, damaged files, claimed folders."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cheaplip.errors import InputError
from cheaplip.files import write_atomic
from cheaplip.run_folder import (
    SCHEMA,
    claimed,
    find_runs,
    read_json,
    read_run,
    require_free,
    write_json,
    write_metrics,
)
from support.claims import refused_in_another_thread

RESULT = {"schema": SCHEMA, "method": "clip", "seed": 0, "data": "digits", "model": "mlp", "provenance": {}}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=5,
)


def make_run(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", {"schema": SCHEMA, "method": "clip"})
    write_json(folder / "result.json", {**RESULT, **changes})
    write_metrics(folder / "metrics.jsonl", [{"epoch": 0, "loss": 1.5}, {"epoch": 1, "loss": 0.5}])
    return folder


@given(content=st.dictionaries(st.text().filter(lambda key: key != "schema"), VALUES, max_size=4))
def test_json_comes_back_as_written(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "content.json"
    write_json(path, content)
    assert read_json(path) == content


def test_json_is_strict(tmp_path):
    numbers = {"nan": math.nan, "inf": [math.inf, {"deep": (-math.inf, 1.0)}], 3: np.float64("nan")}
    write_json(tmp_path / "a.json", numbers)
    write_metrics(tmp_path / "m.jsonl", [numbers, {"loss": 2.0}])

    def forbidden(constant):
        raise AssertionError(constant)

    expected = {"nan": None, "inf": [None, {"deep": [None, 1.0]}], "3": None}
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=forbidden) == expected
    lines = (tmp_path / "m.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=forbidden) for line in lines] == [expected, {"loss": 2.0}]


def test_an_error_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})

    def fail(stream):
        stream.write(b"half of it")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_atomic(path, fail)
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}
    assert os.listdir(tmp_path) == ["result.json"]


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    def slow(stream):
        stream.write(b"{")
        assert read_json(path) == {"a": 1}
        stream.write(b'"a": 2}')

    with path.open() as reader:
        write_atomic(path, slow)
        assert json.load(reader) == {"a": 1}  # replaced, not written over
    assert read_json(path) == {"a": 2}


DAMAGED = {
    "empty": b"",
    "cut": b'{"a": 1',
    "binary": b"\xff\xfe\x00",
    "deep": b"[" * 200_000,
    "digits": b"1" * 10_000,
    "list": b"[1]",
    "other schema": b'{"schema": 99}',
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_json_is_refused_by_name(tmp_path, kind):
    path = tmp_path / "config.json"
    path.write_bytes(DAMAGED[kind])
    with pytest.raises(InputError, match=r"config\.json"):
        read_json(path)


def test_missing_json_is_refused(tmp_path):
    with pytest.raises(InputError, match="nothing there"):
        read_json(tmp_path / "config.json")
    with pytest.raises(InputError):
        read_json(tmp_path)


def test_a_finished_run_is_read(tmp_path):
    run = read_run(make_run(tmp_path / "run"))
    assert run.result["method"] == "clip"
    assert run.config["method"] == "clip"
    assert [record["loss"] for record in run.history] == [1.5, 0.5]


@pytest.mark.parametrize("name", ["config.json", "result.json", "metrics.jsonl"])
def test_a_run_without_one_of_its_files_is_refused_by_name(tmp_path, name):
    folder = make_run(tmp_path / "run")
    (folder / name).unlink()
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        read_run(folder)


@pytest.mark.parametrize("line", [b"{", b"\xff", b"[" * 200_000])
def test_damaged_metrics_are_refused(tmp_path, line):
    folder = make_run(tmp_path / "run")
    (folder / "metrics.jsonl").write_bytes(b'{"epoch": 0}\n' + line)
    with pytest.raises(InputError, match=r"metrics\.jsonl"):
        read_run(folder)


def test_a_result_without_its_fields_is_refused_by_their_names(tmp_path):
    folder = make_run(tmp_path / "run")
    write_json(folder / "result.json", {"schema": SCHEMA, "data": "digits", "model": "mlp", "provenance": {}})
    with pytest.raises(InputError, match="method, seed"):
        read_run(folder)


def test_runs_are_found_once_each(tmp_path):
    for name in ("b/run-1", "a", "b/run-0"):
        make_run(tmp_path / name)
    everything = find_runs([tmp_path])
    assert [str(run.folder.relative_to(tmp_path)) for run in everything] == ["a", "b/run-0", "b/run-1"]
    assert [run.folder for run in find_runs([tmp_path / "b" / "run-1", tmp_path])] == [
        tmp_path / name for name in ("b/run-1", "a", "b/run-0")
    ]


@pytest.mark.parametrize("name", ["nowhere", "empty", "file"])
def test_a_path_without_runs_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=name):
        find_runs([tmp_path / name])


def test_a_folder_is_claimed_and_left_as_it_was(tmp_path):
    folder = tmp_path / "new" / "run"
    with claimed(folder), claimed(folder):
        assert folder.is_dir()
    assert not folder.exists()
    folder.mkdir()
    (folder / "probe").write_text("the user's own")
    (folder / ".1234.tmp").write_text("of a process that was killed")
    with claimed(folder):
        pass
    assert os.listdir(folder) == ["probe"]


def test_a_folder_with_a_run_is_not_free(tmp_path):
    require_free(tmp_path)
    with pytest.raises(InputError, match="--resume"):
        require_free(make_run(tmp_path / "run"))


HOLD = """
import sys, time
from pathlib import Path
from cheaplip.run_folder import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_claimed_by_one_process_until_that_dies(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=r"no other process writes, .*; got one that is in use"), claimed(tmp_path):
            pass
        other.kill()
    with claimed(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


def test_a_folder_is_claimed_by_one_thread(tmp_path):
    with claimed(tmp_path):
        assert refused_in_another_thread(lambda: claimed(tmp_path).__enter__())


@pytest.mark.parametrize("name", ["file", "file/run", "name with \0", "x" * 300])
def test_what_is_no_output_folder(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="can be written"), claimed(tmp_path / name):
        pass


def test_a_folder_without_the_right_to_write_is_refused(tmp_path, monkeypatch):
    def refuse(path, *given, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)  # root, who runs many a test, may write everywhere
    with pytest.raises(InputError, match=r"can be written.*Permission denied"), claimed(tmp_path):
        pass
