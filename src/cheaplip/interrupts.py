"""Ctrl-C, SIGTERM and SIGHUP end a command in one way: what runs is left where it can be continued, and a message says how."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupted(BaseException):
    """A signal asks the command to end. No `Exception`, so that nothing takes it for a fault; the exit code is 128 + signal."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number


def raise_on_signals() -> None:
    """From now on the first signal raises `Interrupted` in the main thread, and another one ends the process at once.

    A signal that is ignored, as SIGHUP under nohup, stays ignored.
    """
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise)


def end_on_signals() -> None:
    """From now on the next signal ends the process at once: nothing is left that could be continued."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    end_on_signals()
    raise Interrupted(number)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(128 + number)
