"""A grid of independent jobs through joblib: each into its own run folder, on one thread, wherever it runs.

So the results do not depend on how many jobs run at once, nor on which machine. A grid that was interrupted continues
where it stopped: finished runs are kept, begun ones resumed. A job that fails is reported and takes no other along.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from joblib import Parallel, delayed, parallel_config

from ..data import load
from ..errors import InputError, one_line, require_known
from ..jobs import CONFIG, RESULT, Job, read_job, run_job
from ..progress import count_shown

BACKENDS = ("loky", "ray", "dask")


@dataclass(frozen=True)
class Failure:
    """A job that did not finish, and why."""

    name: str
    reason: str


def run_grid(
    jobs: Mapping[str, Job],
    out: Path,
    *,
    workers: int = 1,
    backend: str = "loky",
    data_dir: Path | None = None,
    progress: bool = False,
) -> list[Failure]:
    """Carry out the jobs that are not finished yet, `workers` at once; returns those that failed.

    Args:
        jobs: name of the run folder below `out` -> job.
        out: folder of the run folders; on a cluster, one that all machines share.
        workers: jobs at once, one thread each.
        backend: of joblib: `loky` (processes on this machine), `ray` or `dask` (a cluster; their packages are extras).
        data_dir: see `cheaplip.data.load`.
        progress: show finished runs and the time left.

    Raises:
        InputError: an unknown backend or one that is not installed, workers < 1, data that are missing, a folder that
            holds a run of other settings.
    """
    require_known("backend", backend, BACKENDS)
    if workers < 1:
        raise InputError("at least one job at once", workers, "Give a positive number.")
    for name, job in jobs.items():
        if (out / name / CONFIG).exists() and read_job(out / name) != job:
            do = "Choose another --out, or remove that one."
            raise InputError(f"a folder {out / name} with a run of the same settings", "other settings", do)
    for data in sorted({job.data for job in jobs.values()}):
        load(data, data_dir)  # now, not in every job
    open_jobs = {name: job for name, job in jobs.items() if not _finished(out / name)}
    with _progress(jobs, out, progress), _cluster(backend, workers), _one_thread():
        reasons = Parallel(n_jobs=workers)(delayed(_carry_out)(job, out / name, data_dir) for name, job in open_jobs.items())
    return [Failure(name, reason) for name, reason in zip(open_jobs, reasons, strict=True) if reason is not None]


def _carry_out(job: Job, folder: Path, data_dir: Path | None) -> str | None:
    torch.set_num_threads(1)
    try:
        run_job(job, folder, data_dir=data_dir, resume=(folder / CONFIG).exists())
    except Exception as error:  # whatever it was, the other jobs go on
        return f"{type(error).__name__}: {one_line(error)}"
    return None


def _finished(folder: Path) -> bool:
    return (folder / RESULT).exists()


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
def _progress(jobs: Mapping[str, Job], out: Path, shown: bool) -> Iterator[None]:
    """Finished runs are counted in the folders, which works for every backend."""
    if not shown:
        yield
        return
    ended = threading.Event()
    with count_shown("runs", len(jobs)) as show:

        def watch() -> None:
            while not ended.wait(1.0):
                show(sum(_finished(out / name) for name in jobs))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
            show(sum(_finished(out / name) for name in jobs))
