"""Jobs in processes of this machine. A worker that is killed costs its job alone, which another one begins again.

A worker reads calls from its standard input, one after the other, and writes what they return. When that input ends, because
the parent is done or was killed, the worker ends at once, in the middle of a job, too.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

TRIES = 3
"""Of a job: what has killed so many workers would kill the next one, too."""

Process = Any
"""A `subprocess.Popen` whose pipes are open."""
Call = Callable[[], str | None]
"""A job; it returns why it failed."""


def carry_out(calls: Mapping[str, Call], workers: int) -> dict[str, str | None]:
    """What each of the calls returns; for one whose workers died, how. All processes are gone afterwards."""
    todo: SimpleQueue[tuple[str, bytes]] = SimpleQueue()
    for name, call in calls.items():
        todo.put((name, pickle.dumps(call)))
    crew = [_Worker(todo) for _ in range(min(workers, len(calls)))]
    try:
        for worker in crew:
            worker.start()
        for worker in crew:
            worker.join()
    finally:
        for worker in crew:
            worker.stop()
    return {name: reason for worker in crew for name, reason in worker.reasons.items()}


class _Worker(threading.Thread):
    """One process at a time, and the jobs that it is given."""

    def __init__(self, todo: SimpleQueue[tuple[str, bytes]]) -> None:
        super().__init__(daemon=True)
        self.reasons: dict[str, str | None] = {}
        self._todo, self._lock, self._stopped = todo, threading.Lock(), False
        self._process: Process = None

    def run(self) -> None:
        """Take jobs until there are none."""
        while True:
            try:
                name, call = self._todo.get_nowait()
            except Empty:
                return
            for _ in range(TRIES):
                if (process := self._ready()) is None:
                    return
                try:
                    _send(process, call)
                    self.reasons[name] = pickle.load(process.stdout)
                    break
                except (OSError, EOFError, pickle.UnpicklingError):
                    code = process.wait()
                    self.reasons[name] = f"{TRIES} workers died of it, the last with exit code {code}"

    def stop(self) -> None:
        """End the process, whatever it does."""
        with self._lock:
            self._stopped = True
            if self._process is not None:
                _end(self._process)

    def _ready(self) -> Process:
        """A process that waits for a job; None once it is too late."""
        with self._lock:
            if self._stopped:
                return None
            if self._process is None or self._process.poll() is not None:
                if self._process is not None:
                    _end(self._process)
                command = [sys.executable, "-m", __name__]
                # a session of its own: Ctrl-C is for the parent, which ends its workers
                self._process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, env=_environment()
                )
            return self._process


def _environment() -> dict[str, str]:
    """With the parent's modules in reach."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def _send(process: Process, call: bytes) -> None:
    process.stdin.write(call)
    process.stdin.flush()


def _end(process: Process) -> None:
    process.kill()
    process.wait()
    with suppress(OSError):  # of a job that was still in the buffer
        process.stdin.close()
    process.stdout.close()


def serve() -> None:
    """What a worker does."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a job prints is no answer
    calls: SimpleQueue[Call] = SimpleQueue()

    def listen() -> None:
        try:
            while True:
                calls.put(pickle.load(sys.stdin.buffer))
        finally:
            os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        pickle.dump(calls.get()(), answers)
        answers.flush()


if __name__ == "__main__":
    serve()
