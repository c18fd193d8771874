"""Workers die, and their parents: no job is lost, no process left, and the tables are the same."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from cheaplip.run_folder import find_runs
from cheaplip.runs.configure import configure_run
from cheaplip.runs.grid import run_grid
from cheaplip.runs.workers import TRIES, carry_out
from support.jobs import answer, kill_the_worker
from support.networks import QUICK, without


def test_answers_come_back_by_name():
    assert carry_out({str(i): partial(answer, f"no {i}") for i in range(3)}, 2) == {str(i): f"no {i}" for i in range(3)}


def test_a_killed_worker_costs_its_job_alone(tmp_path):
    once, ever = tmp_path / "once", tmp_path / "ever"
    calls = {"dies once": partial(kill_the_worker, once, 1), "dies": partial(kill_the_worker, ever, 9)}
    calls |= {str(i): partial(answer, "fine") for i in range(3)}
    reasons = carry_out(calls, 2)
    assert reasons.pop("dies") == f"{TRIES} workers died of it, the last with exit code -9"
    assert reasons == {"dies once": None} | {str(i): "fine" for i in range(3)}
    assert len(ever.read_text().splitlines()) == TRIES


PARENT = """
import sys
from functools import partial
from pathlib import Path
from cheaplip.runs.workers import carry_out
from support.jobs import sleep
carry_out({name: partial(sleep, Path(sys.argv[1]) / name) for name in "ab"}, 2)
"""


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def eventually(holds, seconds=120):  # a process takes half a minute to start where others want the cores
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_parent(tmp_path, number):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    listening = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    marks = [tmp_path / name for name in "ab"]
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path], env=environment, preexec_fn=listening, stderr=subprocess.DEVNULL
    ) as parent:
        eventually(lambda: all(mark.exists() and mark.read_text() for mark in marks))
        parent.send_signal(number)
    eventually(lambda: not any(alive(int(mark.read_text())) for mark in marks))


def jobs():
    return {f"clip-{seed}": configure_run(QUICK | {"seed": seed, "epochs": 8, "hidden": (4,)}) for seed in range(4)}


def results(folder):
    """Less the bracket, which is searched for some seconds: the hash of the weights says that it is of the same network."""
    return {run.folder.name: without(run.result, "lipschitz") for run in find_runs([folder])}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run_grid(jobs(), folder) == []
    return results(folder)


GRID = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_workers import jobs
from cheaplip.runs.grid import run_grid
if __name__ == "__main__":
    failures = run_grid(jobs(), Path(sys.argv[1]), workers=2, backend=sys.argv[2])
    print("ended with", failures)
"""


def begin(folder, backend):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "20"}
    script = folder.with_suffix(".py")
    script.write_text(GRID)
    command = [sys.executable, script, folder, backend, str(Path(__file__).parent)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def descendants(pid):
    """The processes below one."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["local", "dask"])
def test_workers_are_killed_ten_times(undisturbed, tmp_path, backend):
    killed = 0
    with begin(tmp_path / "grid", backend) as parent:
        while parent.poll() is None:
            time.sleep(0.4)
            writing = [pid for pid in descendants(parent.pid) if holds_a_lock(pid, tmp_path / "grid")]
            if killed < 10 and writing:
                os.kill(writing[killed % len(writing)], signal.SIGKILL)
                killed += 1
        out = parent.stdout.read()
    print(f"{backend}: {killed} workers killed, {out}")
    failed = out.count("Failure(")
    assert failed == 0 or killed >= TRIES
    assert run_grid(jobs(), tmp_path / "grid") == []
    assert results(tmp_path / "grid") == undisturbed


def holds_a_lock(pid, folder):
    """Whether a process is at work in a run folder."""
    try:
        files = [os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return False
    return any(file.startswith(f"{folder}/clip") and file.endswith("/.lock") for file in files)


def at_work(parent, folder):
    return parent.poll() is not None or any(holds_a_lock(pid, folder) for pid in descendants(parent.pid))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["local", "dask"])
def test_parents_are_killed_ten_times(undisturbed, tmp_path, backend):
    for i in range(10):
        with begin(tmp_path / "grid", backend) as parent:
            eventually(
                lambda p=parent: p.poll() is not None or any(holds_a_lock(c, tmp_path / "grid") for c in descendants(p.pid))
            )
            time.sleep(0.1 * (i % 5))
            below = descendants(parent.pid)
            parent.kill()
        eventually(lambda pids=below: not any(alive(pid) for pid in pids))
    assert run_grid(jobs(), tmp_path / "grid") == []
    assert results(tmp_path / "grid") == undisturbed
