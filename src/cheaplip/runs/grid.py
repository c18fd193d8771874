"""A grid of independent jobs through joblib: each into its own run folder, on one thread, wherever it runs.

So the results do not depend on how many jobs run at once, nor on which machine. A grid that was interrupted continues
where it stopped: finished runs are kept, begun ones resumed. A job that fails is reported and takes no other along.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from joblib import Parallel, delayed, parallel_config
from threadpoolctl import threadpool_limits

from ..data.arrays import load
from ..errors import InputError, one_line, require_known
from ..progress import count_shown
from ..run_folder import CONFIG, RESULT
from .config import RunConfig
from .configure import read_config
from .execute import execute_run

BACKENDS = ("loky", "ray", "dask")


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
    backend: str = "loky",
    data_dir: Path | None = None,
    progress: bool = False,
) -> list[Failure]:
    """Carry out the jobs that are not finished yet, `workers` at once; returns those that failed.

    Args:
        runs: name of the run folder below `out` -> what decides it.
        out: folder of the run folders; on a cluster, one that all machines share.
        workers: jobs at once, one thread each.
        backend: of joblib: `loky` (processes on this machine), `ray` or `dask` (a cluster; their packages are extras).
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
    calls = {
        name: partial(execute_run, config, out / name, data_dir=data_dir, resume=(out / name / CONFIG).exists())
        for name, config in runs.items()
    }
    finished = {name: out / name / RESULT for name in runs}
    return in_parallel(calls, finished, title="runs", workers=workers, backend=backend, progress=progress)


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
    """Make the calls whose file in `finished` is not there yet, each on one thread; returns those that failed."""
    todo = {name: call for name, call in calls.items() if not finished[name].exists()}
    with _progress(title, finished, progress), _cluster(backend, workers), _one_thread():
        reasons = Parallel(n_jobs=workers)(delayed(_carry_out)(call) for call in todo.values())
    return [Failure(name, reason) for name, reason in zip(todo, reasons, strict=True) if reason is not None]


def _carry_out(call: Callable[[], object]) -> str | None:
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):  # numpy's and scipy's threads: another number rounds differently
            call()
    except Exception as error:  # whatever it was, the other jobs go on
        return f"{type(error).__name__}: {one_line(error)}"
    return None


@contextmanager
def _cluster(backend: str, workers: int) -> Iterator[None]:
    """Joblib's backend; `ray` and `dask` find a cluster by RAY_ADDRESS and DASK_SCHEDULER_ADDRESS, or start a local one."""
    try:
        if backend == "ray":
            from ray.util.joblib import register_ray

            register_ray()
        elif backend == "dask":
            import dask
            from distributed import Client

            local = {} if dask.config.get("scheduler-address", None) else {"n_workers": workers, "threads_per_worker": 1}
            with Client(**local), parallel_config(backend=backend):
                yield
            return
    except ImportError:
        do = f"Install it with pip install 'cheaplip[{backend}]'."
        raise InputError(f"the package for the backend {backend}", "not installed", do) from None
    with parallel_config(backend=backend):
        yield


@contextmanager
def _one_thread() -> Iterator[None]:
    """With one worker, joblib stays in this process; its number of threads is the user's."""
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
    with count_shown(title, len(finished)) as show:

        def watch() -> None:
            while not ended.wait(1.0):
                show(sum(path.exists() for path in finished.values()))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            show(sum(path.exists() for path in finished.values()))
