"""Data sets as tensors in memory: digits (comes with scikit-learn), MNIST, Fashion-MNIST, and the user's own arrays."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ..arguments import checked
from ..errors import InputError, one_line, require_in, require_known
from ..files import read_npz
from . import idx

DIGITS_SHA256 = "a05a21d0af2142c9ea21f63e4ce399317ed23dd7571bf8504876452c6c2afa19"
"""Of the four arrays of digits, so that it fixes scikit-learn's pixels and our split alike."""


ARRAYS = ("X", "y", "X_test", "y_test", "domain")
"""What is read of a user's npz file."""


@dataclass(frozen=True)
class Dataset:
    """Training and test samples in memory, and the box that the inputs live in."""

    name: str  # "digits", "mnist", "fashion-mnist" or the stem of the user's file
    train_x: Tensor  # (n, *input) float32
    train_y: Tensor  # (n,) int64 classes, or (n, *output) float32 for regression
    test_x: Tensor
    test_y: Tensor
    domain: tuple[float, float]  # attacks and pairs stay in it
    checksum: str  # sha256 over the payloads' checksums (IDX files) or the four arrays (all else)
    class_names: tuple[str, ...] | None = None  # by label, where labels are no names themselves

    @property
    def classes(self) -> int | None:
        """Largest label + 1 over both parts; None for regression."""
        if self.train_y.is_floating_point():
            return None
        return int(max(self.train_y.max(), self.test_y.max())) + 1


@dataclass(frozen=True)
class Entry:
    """One line of the catalogue."""

    name: str
    about: str
    where: str | None  # the source that `load` would use; None: it would be downloaded


@checked
def load(name: str, data_dir: Path | None = None) -> Dataset:
    """Load `digits`, `mnist`, `fashion-mnist`, or the user's own file if `name` ends in `.npz`.

    An npz file has X and y, maybe X_test and y_test, maybe `domain = [low, high]`, as `from_arrays` takes them.
    MNIST and Fashion-MNIST are downloaded if they are nowhere.

    Raises:
        InputError: unknown name, a file that is missing, truncated, corrupted or unusable, or no mirror answers.
    """
    if name.lower().endswith(".npz"):
        return _load_npz(Path(name))
    require_known("the data (a path ending in .npz is accepted too)", name, ("digits", *idx.PUBLISHED))
    return _load_digits() if name == "digits" else _load_published(name, data_dir)


@checked
def from_arrays(
    x: ArrayLike | Tensor,
    y: ArrayLike | Tensor,
    *,
    name: str = "arrays",
    test: tuple[ArrayLike | Tensor, ArrayLike | Tensor] | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    domain: ArrayLike | None = None,
) -> Dataset:
    """Make a data set of arrays or tensors; they are copied.

    Args:
        x: inputs `(n, *input)`, n >= 10; `(n,)` is read as `(n, 1)`.
        y: integer `(n,)` with every label 0..k-1 present, or floating `(n, *output)`; `(n,)` becomes `(n, 1)`.
        name: for provenance.
        test: the test part `(x, y)`; without it, `test_fraction` of the samples is drawn with `seed`, stratified.
        test_fraction: used if there is no `test`.
        seed: used if there is no `test`.
        domain: (low, high), in which all inputs lie; by default their smallest and largest value.

    Raises:
        InputError: lengths or shapes that do not fit, too few samples, NaN, types other than numbers, bad labels.
    """
    train_x, train_y = _samples(x, y, "")
    if len(train_x) < 10:
        raise InputError("at least 10 samples in X", len(train_x), "Give more data.")
    if test is None:
        train, held_out = _split(train_y, test_fraction, seed)
        train_x, train_y, test_x, test_y = train_x[train], train_y[train], train_x[held_out], train_y[held_out]
    else:
        test_x, test_y = _samples(*_pair(test), "_test")
    for label, a, b in (("X", train_x, test_x), ("y", train_y, test_y)):
        if (a.shape[1:], a.dtype) != (b.shape[1:], b.dtype):
            expected = f"{label}_test like {label}, {a.dtype} with samples of shape {a.shape[1:]}"
            raise InputError(expected, f"{b.dtype} and {b.shape[1:]}", "Prepare both parts in the same way.")
    if test is not None and train_y.dtype == np.int64 and not np.isin(test_y, train_y).all():
        strange = sorted(set(test_y.tolist()) - set(train_y.tolist()))
        raise InputError("in y_test labels that y has", strange[:5], "Give samples of every class to train on.")
    labels = np.unique(np.concatenate([train_y, test_y]))
    if train_y.dtype == np.int64 and (len(labels) < 2 or not np.array_equal(labels, np.arange(len(labels)))):
        do = "Renumber them: y = numpy.unique(y, return_inverse=True)[1]; or give floating y for regression."
        got = f"{len(labels)} labels from {labels[0]} to {labels[-1]}"
        raise InputError("labels 0, 1, ..., k-1 in y, every one present, k at least 2", got, do)
    span = float(min(train_x.min(), test_x.min())), float(max(train_x.max(), test_x.max()))
    return Dataset(
        name,
        *(torch.from_numpy(train_x), torch.from_numpy(train_y), torch.from_numpy(test_x), torch.from_numpy(test_y)),
        domain=_domain(span if domain is None else domain, span),
        checksum=_checksum(train_x, train_y, test_x, test_y),
    )


@checked
def catalogue(data_dir: Path | None = None) -> list[Entry]:
    """Every data set with a name, what it is and where `load` would find it."""
    entries = [Entry("digits", "handwritten digits, 1,297 + 500 images of 8 x 8, 10 classes", "inside scikit-learn")]
    for name, published in idx.PUBLISHED.items():
        source = idx.find(name, data_dir)
        entries.append(Entry(name, published.about, None if source is None else str(source)))
    return entries


@checked
def verify(name: str, data_dir: Path | None = None) -> list[idx.FileCheck]:
    """Hold everything that `load` would read against its known sha256.

    Raises:
        InputError: unknown name, or scikit-learn's digits are not the known ones.
    """
    require_known("the data", name, ("digits", *idx.PUBLISHED))
    if name != "digits":
        return idx.verify(name, data_dir)
    _load_digits()
    return [idx.FileCheck("digits", None, None)]


def _load_digits() -> Dataset:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)  # (1797, 64) in 0..16
    images = pixels.reshape(-1, 1, 8, 8) / 16
    digits = from_arrays(images, labels, name="digits", test_fraction=500 / 1797, domain=(0.0, 1.0))
    if digits.checksum != DIGITS_SHA256:
        do = "Install the versions of scikit-learn and numpy in constraints.txt."
        raise InputError(f"scikit-learn's digits of sha256 {DIGITS_SHA256}", digits.checksum, do)
    return digits


def _load_published(name: str, data_dir: Path | None) -> Dataset:
    arrays = idx.read(name, data_dir)

    def images(part: str) -> Tensor:
        x = torch.from_numpy(arrays.pop(f"{part}-images-idx3-ubyte").astype(np.float32))
        return x.unsqueeze(1).div_(255)  # (n, 1, 28, 28); in place: one float copy is 188 MB

    def labels(part: str) -> Tensor:
        return torch.from_numpy(arrays[f"{part}-labels-idx1-ubyte"].astype(np.int64))

    return Dataset(
        name=name,
        train_x=images("train"),
        train_y=labels("train"),
        test_x=images("t10k"),
        test_y=labels("t10k"),
        domain=(0.0, 1.0),
        checksum=hashlib.sha256("".join(idx.PUBLISHED[name].sha256[file] for file in idx.SIZES).encode()).hexdigest(),
        class_names=idx.PUBLISHED[name].class_names,
    )


def _load_npz(path: Path) -> Dataset:
    do = "Write it with numpy.savez(path, X=..., y=...)."
    arrays = read_npz(path, ARRAYS.__contains__, do)
    if missing := {"X", "y"} - arrays.keys():
        raise InputError(f"{path} to have arrays X and y", f"no {' and no '.join(sorted(missing))}", do)
    if ("X_test" in arrays) != ("y_test" in arrays):
        raise InputError(f"{path} to have both X_test and y_test, or neither", "one of them", do)
    test = (arrays["X_test"], arrays["y_test"]) if "X_test" in arrays else None
    return from_arrays(arrays["X"], arrays["y"], name=path.stem, test=test, domain=arrays.get("domain"))


def _samples(x: Any, y: Any, suffix: str) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Inputs as float32 `(n, *input)` and outputs as int64 `(n,)` or float32 `(n, *output)`, checked."""
    inputs, outputs = _numbers(x, f"X{suffix}").astype(np.float32, order="C", copy=False), _numbers(y, f"y{suffix}")
    if len(inputs) != len(outputs):
        expected = f"X{suffix} and y{suffix} of one length"
        raise InputError(expected, f"{len(inputs)} and {len(outputs)}", "Give one output for each input.")
    if outputs.dtype.kind != "f":
        if outputs.ndim != 1:
            do = "Give class labels, or floating numbers for regression."
            raise InputError(f"integer y{suffix} of shape (n,)", f"shape {outputs.shape}", do)
        outputs = outputs.astype(np.int64)
    elif outputs.ndim == 1:
        outputs = outputs[:, None]
    return inputs[:, None] if inputs.ndim == 1 else inputs, outputs


def _pair(test: Any) -> tuple[Any, Any]:
    try:
        x, y = test
    except (TypeError, ValueError) as error:
        raise InputError("test to be a pair (x, y)", one_line(error), "Give the inputs and their outputs.") from None
    return x, y


def _numbers(value: Any, label: str) -> NDArray[Any]:
    """Floating numbers become finite float32; integers stay what they are."""
    do = "Give an array of numbers, the samples along its first axis."
    try:
        if isinstance(value, Tensor):
            value = value.detach().cpu()
            value = (value.float() if value.is_floating_point() else value).numpy()  # numpy knows no bfloat16
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:  # a ragged list, a sparse tensor
        raise InputError(f"{label} to be an array", one_line(error), do) from None
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(f"{label} without a mask", "a masked array", "Fill or leave out the masked samples.")
    if array.dtype.kind not in "biuf" or array.ndim == 0 or array.size == 0:
        raise InputError(f"{label} to hold real numbers", f"{array.dtype} of shape {array.shape}", do)
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # an overflow gives an infinity, reported below
            array = array.astype(np.float32, order="C")
        bad = np.argwhere(~np.isfinite(array))
        if len(bad):
            got = f"{len(bad)} that are not, the first in sample {bad[0][0]}"
            raise InputError(f"all numbers in {label} to be finite in float32", got, "Remove or repair these samples.")
    return array


def _domain(given: Any, span: tuple[float, float]) -> tuple[float, float]:
    do = "Give domain = [low, high], or leave it out for the smallest and largest value."
    box = _numbers(given, "domain").astype(np.float32)  # rounded like the inputs: a bound they meet stays met
    if box.shape != (2,) or not box[0] < box[1]:
        raise InputError("a domain [low, high] with low < high", box.tolist(), do)
    low, high = map(float, box)
    if span[0] < low or span[1] > high:
        raise InputError(f"all inputs in the domain [{low}, {high}]", f"inputs from {span[0]} to {span[1]}", do)
    return low, high


def _split(y: NDArray[Any], fraction: float, seed: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Masks of the training and the test samples: evenly spaced picks from a random order, sorted by class."""
    if not 0 < fraction < 1:
        raise InputError("test_fraction between 0 and 1", fraction, "Give the share of samples to test on, say 0.2.")
    require_in("seed", seed, "[0, 4294967295]")
    n = len(y)
    count = min(max(round(fraction * n), 1), n - 1)
    order = np.random.RandomState(seed).permutation(n)  # numpy promises that this stream never changes
    if y.ndim == 1:  # classes
        order = order[np.argsort(y[order], kind="stable")]
    test = np.zeros(n, dtype=np.bool_)
    test[order[(2 * np.arange(count) + 1) * n // (2 * count)]] = True
    return ~test, test


def _checksum(*arrays: NDArray[Any]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()
