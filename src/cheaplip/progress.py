"""Progress: a bar with the time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from .errors import printable

Report = Callable[[Mapping[str, Any]], None]
EVERY = 5.0
"""Seconds from one plain line to the next; the first and the last are always there."""
quiet = False
"""Whether nothing is shown, whoever asks; the command line's --quiet."""


class _Seldom:
    """Plain lines, of which those that come too early after another are left out, but for the last."""

    def __init__(self, total: int) -> None:
        self.total, self.next = total, 0.0

    def tell(self, done: int, text: str) -> None:
        if done == self.total or time.monotonic() >= self.next:
            self.next = time.monotonic() + EVERY
            tell(text)


@contextmanager
def epochs_shown(title: str, total: int, done: int = 0) -> Iterator[Report]:
    """Yields a function that takes each epoch's record of metrics and shows it on standard error."""
    if quiet:
        yield lambda row: None
        return
    if not sys.stderr.isatty():
        plain = _Seldom(total)
        yield lambda row: plain.tell(row["epoch"], f"{title}: epoch {row['epoch']}/{total}: {describe(row)}")
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[metrics]}"), console=Console(stderr=True)) as bar:
        task = bar.add_task(_unmarked(title), total=total, completed=done, metrics="")
        yield lambda row: bar.update(task, completed=row["epoch"], metrics=describe(row))


@contextmanager
def count_shown(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function that takes how many of `total` are done and shows it, and the time left, on standard error."""
    if quiet:
        yield lambda done: None
        return
    if not sys.stderr.isatty():
        plain, last = _Seldom(total), -1

        def show(done: int) -> None:
            nonlocal last
            if done != last:
                plain.tell(done, f"{title}: {done}/{total}")
            last = done

        yield show
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(_unmarked(title), total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def activity_shown(title: str) -> Iterator[None]:
    """For what has no steps to count: a spinner on a terminal, one plain line elsewhere; on standard error."""
    if quiet:
        yield
        return
    if not sys.stderr.isatty():
        tell(title)
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(_unmarked(title)):
        yield


@contextmanager
def bytes_shown(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Yields a function that takes how many bytes have come, and shows it on a terminal; a bar is for eyes."""
    if quiet or not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), TaskProgressColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(_unmarked(title), total=total)
        yield lambda done: bar.update(task, completed=done)


def _unmarked(title: str) -> str:
    """The title as rich shows it: a folder may be called [red]."""
    from rich.markup import escape

    return escape(printable(title))


def tell(text: str) -> None:
    """A line on standard error, if anybody listens.

    In one write: `print` writes the end of the line by itself, and an interrupt between the two runs lines together.
    """
    with suppress(OSError, ValueError):  # a pipe whose reader has gone, a full disk: no reason to end a training
        sys.stderr.write(printable(text) + "\n")


def describe(row: Mapping[str, Any]) -> str:
    """Loss, accuracy, weight and current lower bound, those that the record has."""
    shown = (
        ("loss", "train_loss", "{:.4f}"),
        ("accuracy", "train_accuracy", "{:.1%}"),
        ("weight", "weight", "{:.4g}"),
        ("Lip >=", "lower_bound", "{:.3g}"),
    )
    return ", ".join(f"{label} {form.format(row[key])}" for label, key, form in shown if row.get(key) is not None)
