"""The grid: one thread a run, the same results for any number of workers, failures apart, continuing where it stopped."""

import shutil

import pytest
import torch

from cheaplip.errors import InputError
from cheaplip.run_folder import claimed, find_runs, read_json
from cheaplip.runs import grid
from cheaplip.runs.configure import configure_run
from cheaplip.runs.grid import run_grid
from support.claims import refused_in_another_thread
from support.interruptions import ctrl_c
from support.networks import QUICK, without
from support.searches import short_ascents, short_searches


def jobs(seeds=2, **settings):
    return {f"clip-{seed}": configure_run(QUICK | settings | {"seed": seed}) for seed in range(seeds)}


def results(folder):
    return {run.folder.name: without(run.result) for run in find_runs([folder])}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    assert run_grid(jobs(), folder) == []
    return folder


@pytest.fixture(scope="module")
def quickly_alone(tmp_path_factory):
    """The same with brackets that nobody looks at."""
    folder = tmp_path_factory.mktemp("quickly-alone")
    with short_searches(), short_ascents():
        assert run_grid(jobs(), folder) == []
    return folder


@pytest.mark.slow
def test_the_results_do_not_depend_on_the_number_of_workers(alone, tmp_path):
    assert run_grid(jobs(), tmp_path, workers=2) == []
    assert results(tmp_path) == results(alone)
    assert all(run.result["provenance"]["threads"] == 1 for run in find_runs([tmp_path]))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["dask"])
@pytest.mark.filterwarnings("ignore")  # the clusters' own
def test_nor_on_the_cluster(alone, tmp_path, backend):
    pytest.importorskip("distributed")
    assert run_grid(jobs(), tmp_path, workers=2, backend=backend) == []
    assert results(tmp_path) == results(alone)


@pytest.mark.usefixtures("quick_bounds")
def test_finished_runs_are_kept_and_begun_ones_resumed(quickly_alone, tmp_path):
    shutil.copytree(quickly_alone / "clip-0", tmp_path / "clip-0")
    stamp = (tmp_path / "clip-0/result.json").stat().st_mtime_ns
    with ctrl_c(13):  # in the second epoch of the second run
        run_grid(jobs(), tmp_path)
    assert (tmp_path / "clip-1/checkpoint").exists()
    assert not (tmp_path / "clip-1/result.json").exists()
    assert run_grid(jobs(), tmp_path) == []
    assert results(tmp_path) == results(quickly_alone)
    assert (tmp_path / "clip-0/result.json").stat().st_mtime_ns == stamp


@pytest.mark.usefixtures("quick_bounds")
def test_a_failure_is_reported_and_takes_no_other_along(tmp_path):
    mixed = {"diverging": configure_run(QUICK | {"lr": 1e30}), **jobs(1)}
    (failure,) = run_grid(mixed, tmp_path)
    assert failure.name == "diverging"
    assert failure.reason.startswith("DivergenceError: ")
    assert (tmp_path / "clip-0/result.json").exists()


@pytest.mark.usefixtures("quick_bounds")
@pytest.mark.parametrize("content", ["", "{}", "{"])
def test_an_empty_or_damaged_result_is_not_finished(quickly_alone, tmp_path, content):
    shutil.copytree(quickly_alone / "clip-0", tmp_path / "clip-0")
    (tmp_path / "clip-0/result.json").write_text(content)
    assert run_grid(jobs(1), tmp_path) == []
    assert read_json(tmp_path / "clip-0/result.json")["seed"] == 0


def test_two_grids_do_not_share_a_folder(tmp_path):
    with claimed(tmp_path):
        assert refused_in_another_thread(lambda: run_grid(jobs(), tmp_path))


@pytest.mark.usefixtures("quick_bounds")
def test_threads_stay_as_they_were(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        run_grid(jobs(1), tmp_path)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


@pytest.mark.usefixtures("quick_bounds")
def test_progress_counts_the_finished_runs(tmp_path, capsys):
    run_grid(jobs(1), tmp_path, progress=True)
    assert capsys.readouterr().err.splitlines()[-1] == "runs: 1/1"


def test_refusals(tmp_path, quickly_alone):
    with pytest.raises(InputError, match="Did you mean 'dask'"):
        run_grid(jobs(), tmp_path, backend="daks")
    with pytest.raises(InputError, match="at least one job at once; got 0"):
        run_grid(jobs(), tmp_path, workers=0)
    with pytest.raises(InputError, match=r"with a run of the same settings; got other settings. Choose another --out"):
        run_grid(jobs(epochs=7), quickly_alone)
    assert not list(tmp_path.iterdir())


def test_a_backend_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(InputError, match=r"the package for the backend dask; got not installed. .*cheaplip\[dask\]"):
        run_grid(jobs(), tmp_path, backend="dask")
    assert grid.BACKENDS == ("local", "dask")


def test_a_run_is_complete_and_says_how_it_was_made(quickly_alone):
    for name, job in jobs().items():
        config = read_json(quickly_alone / name / "config.json")
        assert config["training"]["seed"] == job.training.seed
        assert (quickly_alone / name / "model.safetensors").exists()


class Cluster:
    """One whose workers are as listed at each look, and whose jobs never end, but for those that are done."""

    def __init__(self, *seen):
        self.seen, self.asked, self.cluster = list(seen), [], self

    def scheduler_info(self):
        return {"workers": self.seen.pop(0)}

    def scale(self, workers):
        self.asked.append(workers)


class Job:
    def __init__(self, *, done):
        self.done = done

    def result(self, timeout):
        if not self.done:
            raise TimeoutError


def test_a_cluster_without_workers_is_waited_for_once(monkeypatch):
    monkeypatch.setattr(grid, "LOOK", 0.01)
    cluster = Cluster({}, {"a": 1}, *[{}] * grid.PATIENCE)
    jobs = {"a": Job(done=False), "b": Job(done=True), "c": Job(done=False)}
    alone = "no worker of dask for 0.3 seconds"
    assert grid._answers(cluster, jobs, 2) == {"a": alone, "b": None, "c": alone}
    assert cluster.seen == []
    assert cluster.asked == [2] * (2 + grid.PATIENCE)


def test_a_cluster_of_others_is_not_told_its_size(monkeypatch):
    monkeypatch.setattr(grid, "LOOK", 0.01)
    cluster = Cluster(*[{}] * grid.PATIENCE)
    assert grid._answers(cluster, {"a": Job(done=False)}, None) == {"a": "no worker of dask for 0.3 seconds"}
    assert cluster.asked == []
