"""A grid of independent jobs: each into its own run folder, on one thread, in whatever process and on whatever machine.

So the results do not depend on how many jobs run at once, nor on where. A grid that was interrupted continues where it
stopped: finished runs are kept, begun ones resumed; each job looks for itself. A job that fails, or whose worker is killed,
is reported and takes no other along.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from ..data.arrays import load
from ..errors import InputError, one_line, require_known
from ..progress import count_shown
from ..run_folder import CONFIG, RESULT, claimed, finished_json
from .config import RunConfig
from .configure import read_config
from .execute import execute_run
from .workers import carry_out

BACKENDS = ("local", "dask")
LOOK, PATIENCE = 10.0, 30
"""Seconds between two looks at the workers of a cluster, and looks at none before it is given up."""


@dataclass(frozen=True)
class Failure:
    """A job that did not finish, and why."""

    name: str
    reason: str


def run_grid(
    runs: Mapping[str, RunConfig],
    out: Path,
    *,
    workers: int = 1,
    backend: str = "local",
    data_dir: Path | None = None,
    progress: bool = False,
) -> list[Failure]:
    """Carry out the jobs that are not finished yet, `workers` at once; returns those that failed.

    Args:
        runs: name of the run folder below `out` -> what decides it.
        out: folder of the run folders; on a cluster, one that all machines share.
        workers: jobs at once, one thread each.
        backend: `local` (processes of this machine) or `dask` (a cluster, at DASK_SCHEDULER_ADDRESS, or one started here).
        data_dir: see `cheaplip.data.load`.
        progress: show finished runs and the time left.

    Raises:
        InputError: an unknown backend or one that is not installed, workers < 1, data that are missing, a folder that
            holds a run of other settings.
    """
    require_workers(workers, backend)
    for name, config in runs.items():
        if (out / name / CONFIG).exists() and read_config(out / name) != config:
            do = "Choose another --out, or remove that one."
            raise InputError(f"a folder {out / name} with a run of the same settings", "other settings", do)
    for data in sorted({config.data for config in runs.values()}):
        load(data, data_dir)  # now, not in every job
    calls = {name: partial(_begin_or_resume, config, out / name, data_dir) for name, config in runs.items()}
    finished = {name: out / name / RESULT for name in runs}
    with claimed(out):
        return in_parallel(calls, finished, title="runs", workers=workers, backend=backend, progress=progress)


def _begin_or_resume(config: RunConfig, folder: Path, data_dir: Path | None) -> None:
    execute_run(config, folder, data_dir=data_dir, resume=(folder / CONFIG).exists())


def require_workers(workers: int, backend: str) -> None:
    """Raise `InputError` unless these are workers that `in_parallel` can have."""
    require_known("backend", backend, BACKENDS)
    if workers < 1:
        raise InputError("at least one job at once", workers, "Give a positive number.")


def in_parallel(
    calls: Mapping[str, Callable[[], object]],
    finished: Mapping[str, Path],
    *,
    title: str,
    workers: int,
    backend: str,
    progress: bool,
) -> list[Failure]:
    """Make the calls whose file in `finished` is not there yet, or damaged, each on one thread; returns those that failed."""
    todo = {name: partial(_carry_out, call) for name, call in calls.items() if finished_json(finished[name]) is None}
    with _progress(title, finished, progress):
        if backend == "dask":
            reasons = _on_cluster(todo, workers)
        elif workers > 1:
            reasons = carry_out(todo, workers)
        else:
            with _one_thread():
                reasons = {name: call() for name, call in todo.items()}
    return [Failure(name, reason) for name in todo if (reason := reasons[name]) is not None]


def _carry_out(call: Callable[[], object]) -> str | None:
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):  # numpy's and scipy's threads: another number rounds differently
            call()
    except Exception as error:  # whatever it was, the other jobs go on
        return f"{type(error).__name__}: {one_line(error)}"
    return None


def _on_cluster(calls: Mapping[str, Callable[[], str | None]], workers: int) -> dict[str, str | None]:
    """What the calls return on dask's workers; dask begins a job again whose worker has died."""
    try:
        import dask
        from distributed import Client
    except ImportError:
        do = "Install it with pip install 'cheaplip[dask]'."
        raise InputError("the package for the backend dask", "not installed", do) from None
    given = dask.config.get("scheduler-address", None)
    local = {} if given else {"n_workers": workers, "threads_per_worker": 1}
    with Client(**local) as client:
        futures = {name: client.submit(call, pure=False, retries=2) for name, call in calls.items()}
        return _answers(client, futures, None if given else workers)


def _answers(client: Any, futures: Mapping[str, Any], workers: int | None) -> dict[str, str | None]:
    """Why each job failed; also that dask has had no worker for the last `PATIENCE` looks, for all jobs that wait then.

    A cluster of this machine is asked for its `workers` again at each look: dask gives up one that dies while it starts.
    """
    alone, reasons = 0, dict[str, str | None]()
    for name, future in futures.items():
        while name not in reasons:
            try:
                reasons[name] = future.result(timeout=LOOK if alone < PATIENCE else 0.1)
            except TimeoutError:  # of the waiting: a job returns its own errors
                if alone >= PATIENCE:
                    reasons[name] = f"no worker of dask for {PATIENCE * LOOK:g} seconds"
                    continue
                alone = 0 if client.scheduler_info()["workers"] else alone + 1
                if workers is not None:
                    client.cluster.scale(workers)
            except Exception as error:  # such as that all its workers died
                reasons[name] = f"{type(error).__name__}: {one_line(error)}"
    return reasons


@contextmanager
def _one_thread() -> Iterator[None]:
    """With one worker, jobs stay in this process; its number of threads is the user's."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _progress(title: str, finished: Mapping[str, Path], shown: bool) -> Iterator[None]:
    """What is finished is counted in the folders, which works for every backend."""
    if not shown:
        yield
        return
    ended = threading.Event()

    def done() -> int:
        return sum(path.exists() and path.stat().st_size > 0 for path in finished.values())

    with count_shown(title, len(finished)) as show:

        def watch() -> None:
            while not ended.wait(1.0):
                show(done())

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            show(done())
