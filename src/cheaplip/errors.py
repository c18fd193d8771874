"""The errors a user meets. Every message says what was expected, what came, and what to do.

The command line turns `InputError` into exit code 2 and `DivergenceError` into exit code 1, one message each.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CheaplipError(Exception):
    """Base of everything cheaplip raises on purpose."""


class InputError(CheaplipError, ValueError):
    """Something the caller gave cannot be used: an argument, a data file, a run folder, a model."""

    def __init__(self, expected: str, got: object, do: str) -> None:
        super().__init__(f"expected {expected}; got {got}. {do}")
        self.expected, self.got, self.do = expected, got, do


class UnsupportedModuleError(InputError):
    """A layer for which no sound rule is known. It is refused by name, never skipped."""


class DivergenceError(CheaplipError, RuntimeError):
    """Training produced a non-finite quantity; the last good checkpoint is kept."""

    def __init__(self, quantity: str, epoch: int, do: str) -> None:
        super().__init__(f"training diverged in epoch {epoch}: {quantity} is not finite. {do}")


class ContradictionError(CheaplipError, RuntimeError):
    """A lower end above the upper one: a rule for a layer is wrong, of the user's or of cheaplip's."""

    def __init__(self, lower: float, found_by: str, upper: float, proved_by: str) -> None:
        do = "Check the rules that you have registered; without any, please report the network."
        super().__init__(f"lower {lower:.6g} ({found_by}) is above upper {upper:.6g} ({proved_by}). {do}")


class TargetWarning(UserWarning):
    """A target was not met, or says nothing: the network may be plainly trained, or hardly trained."""


class ScaleWarning(UserWarning):
    """Features of very different size: one of them decides what a distance is."""


class DamageWarning(UserWarning):
    """A file of a run is damaged; an older one takes its place."""


class TrackerWarning(UserWarning):
    """A tracker has failed and gets no more records; the run goes on."""


def require_in(name: str, value: float, interval: str, do: str = "Give a number in that range.") -> None:
    """Raise `InputError` unless `value` lies in `interval`, written such as `[0, 1)` or `(0, inf)`; nan lies in none.

    Example:
        >>> require_in("renewal", 1.5, "[0, 1]")
        Traceback (most recent call last):
        cheaplip.errors.InputError: expected renewal in [0, 1]; got 1.5. Give a number in that range.
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    if not (above and below):
        raise InputError(f"{name} in {interval}", value, do)


def one_line(error: BaseException) -> str:
    """Its message on one line, or its type if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def printable(text: str) -> str:
    """The text with its control characters written out: none of a file's may reach a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def require_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise `InputError` naming the nearest known spelling unless `name` is one of `known`."""
    names = sorted(known)
    if name not in names:
        close = difflib.get_close_matches(str(name), names, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else "Choose one of these."
        raise InputError(f"{kind} to be one of {', '.join(names)}", repr(name), hint)
