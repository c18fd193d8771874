"""Commands in a process of their own, forked from this one, that are killed in the middle of their writing."""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cheaplip import __main__ as program
from cheaplip import files
from support.searches import short_ascents, short_searches


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int  # minus the signal, if one ended it
    err: str
    events: int  # of its writing: four a file


def command(folder: Path, *arguments: object, **more: Any) -> Ended:
    """Run `cheaplip ARGUMENTS` in `folder`, which must exist, as `begin` does, and wait for it."""
    return begin(folder, *arguments, **more)()


def begin(
    folder: Path, *arguments: object, kill: tuple[int, list[int]] | None = None, limit: int | None = None, name: str = ""
) -> Callable[[], Ended]:
    """Begin it; returns what waits for its end.

    Args:
        folder: working directory.
        *arguments: of the command.
        kill: an event's number, from 1, and the signals that the process sends itself then.
        limit: of the bytes of a file, as of a disk that is full.
        name: of the files with its output, beside the folder.
    """
    out, err, count = (folder.with_name(f"{folder.name}{name}-{kind}.txt") for kind in ("out", "err", "count"))

    def child() -> None:
        os.chdir(folder)
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            setattr(sys, ("stdout", "stderr")[number - 1], os.fdopen(number, "w", buffering=1, closefd=False))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        if limit is not None:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        sys.argv = ["cheaplip", *map(str, arguments)]
        with _counted(count, kill), short_searches(), short_ascents():
            program.main()

    return _forked(child, err, count)


def _forked(child: Callable[[], None], err: Path, count: Path) -> Callable[[], Ended]:
    count.write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: there is no other thread of ours
        pid = os.fork()
    if pid == 0:
        code = 70
        try:
            child()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def wait() -> Ended:
        _, status = os.waitpid(pid, 0)
        return Ended(os.waitstatus_to_exitcode(status), err.read_text(), count.stat().st_size)

    return wait


def _counted(count: Path, kill: tuple[int, list[int]] | None) -> Any:
    """Each file that is written passes four events: begun, full, flushed, in its place."""
    descriptor = os.open(count, os.O_WRONLY | os.O_APPEND)
    seen = 0

    def event() -> None:
        nonlocal seen
        seen += 1
        os.write(descriptor, b".")
        if kill is not None and seen == kill[0]:
            for number in kill[1]:
                os.kill(os.getpid(), number)

    class Watched(files.Draft):
        def __init__(self, file: Any) -> None:
            super().__init__(file)
            event()

        def publish(self, path: Path) -> None:
            event()
            super().publish(path)

    def replace(source: Any, target: Any) -> None:
        event()
        os.rename(source, target)
        event()

    return patch.multiple(files, Draft=Watched, os=_Patched(replace=replace))


class _Patched:
    """The module `os` with another `replace`."""

    def __init__(self, replace: Callable[[Any, Any], None]) -> None:
        self.replace = replace

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)
