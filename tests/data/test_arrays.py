"""Digits, the user's own arrays and npz files."""

import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cheaplip.data import arrays as data
from cheaplip.data import idx
from cheaplip.errors import InputError


def refused(match: str):
    return pytest.raises(InputError, match=match)


@pytest.mark.parametrize("name", ["mnits", "MNIST", "cifar"])
def test_unknown_names_are_refused(name):
    with refused(r"\.npz is accepted too.*digits, fashion-mnist, mnist"):
        data.load(name)
    for function in (idx.fetch, data.verify, idx.verify, idx.read):
        with refused("fashion-mnist, mnist"):
            function(name)


@pytest.fixture
def read_anew(monkeypatch):
    """The digits are read at every call, not once for all tests."""
    monkeypatch.setattr(data, "_load_digits", data._load_digits.__wrapped__)


@pytest.mark.usefixtures("read_anew")
def test_digits():
    digits = data.load("digits")
    assert digits.train_x.shape == (1297, 1, 8, 8)
    assert digits.test_x.shape == (500, 1, 8, 8)
    assert (digits.classes, digits.domain) == (10, (0.0, 1.0))
    assert (digits.train_x.min(), digits.train_x.max()) == (0, 1)
    assert torch.equal(digits.train_x * 16, (digits.train_x * 16).round())
    share = torch.bincount(digits.test_y) / (torch.bincount(digits.train_y) + torch.bincount(digits.test_y))
    assert ((share - 500 / 1797).abs() < 1 / 174).all()  # each class has at least 174 images: one more or less
    rows = torch.cat([digits.train_x, digits.test_x]).flatten(1).unique(dim=0)
    assert len(rows) == 1797  # no image in both parts
    assert torch.equal(digits.test_x, data.load("digits").test_x)
    assert data.verify("digits") == [idx.FileCheck("digits", None, None)]


@pytest.mark.usefixtures("read_anew")
def test_other_digits_are_refused(monkeypatch):
    monkeypatch.setattr(data, "DIGITS_SHA256", "0" * 64)
    for function in (data.load, data.verify):
        with refused("scikit-learn's digits of sha256 0"):
            function("digits")


# ---------------------------------------------------------------- arrays of the user's

X = np.linspace(-1, 3, 40).reshape(20, 2)
LABELS = np.arange(20) % 4


def test_classification_arrays():
    own = data.from_arrays(X, LABELS, seed=3)
    assert (own.name, own.classes, own.domain) == ("arrays", 4, (-1.0, 3.0))
    assert (own.train_x.shape, own.train_x.dtype) == ((16, 2), torch.float32)
    assert own.train_y.dtype == torch.int64
    assert sorted(own.test_y.tolist()) == [0, 1, 2, 3]  # stratified
    again, other = data.from_arrays(X, LABELS, seed=3), data.from_arrays(X, LABELS, seed=4)
    assert again.checksum == own.checksum != other.checksum


@pytest.mark.parametrize("shape", [(20,), (20, 1), (20, 3, 2)])
def test_regression_arrays(shape):
    y = np.random.default_rng(0).normal(size=shape)
    own = data.from_arrays(np.arange(20), y)
    assert own.classes is None
    assert own.train_x.shape == (16, 1)
    assert own.test_y.shape == (4, *(shape[1:] or (1,)))
    assert own.test_y.dtype == torch.float32


@given(
    st.lists(st.integers(0, 3), min_size=10, max_size=60),
    st.floats(0.01, 0.99),
    st.integers(0, 2**32 - 1),
)
def test_a_split_is_a_partition_and_stratified(labels, fraction, seed):
    labels = np.array([0, 1, 2, 3, *labels])
    own = data.from_arrays(np.arange(len(labels)), labels, test_fraction=fraction, seed=seed)
    assert sorted(torch.cat([own.train_x, own.test_x]).flatten().tolist()) == list(range(len(labels)))
    for x, y in ((own.train_x, own.train_y), (own.test_x, own.test_y)):
        assert len(x) > 0
        np.testing.assert_array_equal(labels[x.flatten().long()], y)  # inputs keep their labels
    share = len(own.test_x) / len(labels)
    expected = np.bincount(labels, minlength=4) * share
    assert (np.abs(np.bincount(own.test_y, minlength=4) - expected) <= 1 + 1e-9).all()


def test_tensors_are_copied_and_a_test_part_is_kept():
    x, y = torch.rand(12, 1, 4, 4, requires_grad=True), torch.arange(12) % 2
    transposed = np.asfortranarray(x.detach().numpy())
    own = data.from_arrays(x, y, test=(transposed[:3], y[:3]), domain=(0, 1), name="mine")
    assert (own.name, own.domain, len(own.train_x)) == ("mine", (0.0, 1.0), 12)
    assert torch.equal(own.test_x, own.train_x[:3])
    own.train_x.zero_()
    assert x.detach().sum() > 0
    half = data.from_arrays(x.bfloat16(), y.bool())
    assert half.classes == 2
    assert half.train_x.dtype == torch.float32


def test_a_domain_is_rounded_like_the_inputs():
    x = np.full((10, 1), 0.1)
    x[0] = -0.1
    assert data.from_arrays(x, x, domain=(-0.1, 0.1)).domain == (float(np.float32(-0.1)), float(np.float32(0.1)))


def with_at(array, index, value):
    array = np.array(array, dtype=float)
    array[index] = value
    return array


BAD_ARRAYS = {
    "few": ({"X": X[:9], "y": LABELS[:9]}, "at least 10 samples in X; got 9"),
    "lengths": ({"y": LABELS[:-1]}, "of one length; got 20 and 19"),
    "nan in X": ({"X": with_at(X, (7, 1), np.nan)}, "in X to be finite.*got 1 .*sample 7"),
    "inf in y": ({"y": with_at(LABELS, 3, np.inf)}, "in y to be finite.*sample 3"),
    "float64 beyond float32": ({"X": with_at(X, 0, 1e300)}, "finite in float32"),
    "text": ({"X": np.full((20, 2), "a")}, "X to hold real numbers; got <U1"),
    "complex": ({"y": LABELS + 1j}, "y to hold real numbers; got complex128"),
    "no axis": ({"X": np.array(1.0)}, "X to hold real numbers"),
    "no features": ({"X": np.ones((20, 0))}, r"got float64 of shape \(20, 0\)"),
    "negative labels": ({"y": LABELS - 1}, r"labels 0, 1.*got 4 labels from -1 to 2.*Renumber"),
    "labels with a gap": ({"y": LABELS * 2}, "4 labels from 0 to 6"),
    "one class": ({"y": LABELS * 0}, "k at least 2"),
    "integer columns": ({"y": LABELS[:, None]}, r"integer y of shape \(n,\)"),
    "test shape": ({"X_test": X[:, :1], "y_test": LABELS}, r"X_test like X.*\(2,\); got float32 and \(1,\)"),
    "test type": ({"X_test": X, "y_test": LABELS * 1.0}, "y_test like y, int64"),
    "test lengths": ({"X_test": X, "y_test": LABELS[1:]}, "X_test and y_test of one length"),
    "domain order": ({"domain": [1, 0]}, "low < high"),
    "domain shape": ({"domain": [0, 1, 2]}, "low, high"),
    "domain too small": ({"domain": [0, 1]}, "all inputs in the domain"),
    "constant": ({"X": np.ones((20, 2))}, "low < high"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_refused(tmp_path, case):
    change, match = BAD_ARRAYS[case]
    np.savez(tmp_path / "own.npz", **({"X": X, "y": LABELS} | change))
    with refused(match):
        data.load(str(tmp_path / "own.npz"))


@pytest.mark.parametrize(("x", "match"), [([[1], [1, 2]], "X to be an array"), (torch.eye(20).to_sparse(), "an array")])
def test_what_is_no_array_is_refused(x, match):
    with refused(match):
        data.from_arrays(x, LABELS)


@pytest.mark.parametrize("fraction", [0, 1, float("nan")])
def test_bad_test_fractions_are_refused(fraction):
    with refused("test_fraction"):
        data.from_arrays(X, LABELS, test_fraction=fraction)


# ---------------------------------------------------------------- npz


def test_npz(tmp_path):
    np.savez_compressed(tmp_path / "own.npz", X=X, y=LABELS)
    own = data.load(str(tmp_path / "own.npz"))
    assert (own.name, own.classes, len(own.train_x), len(own.test_x)) == ("own", 4, 16, 4)
    assert own.checksum == data.from_arrays(X, LABELS).checksum
    np.savez(tmp_path / "own.npz", X=X, y=LABELS, X_test=X[:5], y_test=LABELS[:5], domain=[-2, 4])
    own = data.load(str(tmp_path / "own.npz"))
    assert (len(own.train_x), len(own.test_x), own.domain) == (20, 5, (-2.0, 4.0))


class Trap:
    def __reduce__(self):
        return os.abort, ()


def npz_missing(path):
    pass


def npz_npy(path):
    with path.open("wb") as stream:
        np.save(stream, X)


def npz_pickle(path):
    path.write_bytes(pickle.dumps(Trap()))


def npz_objects(path):
    np.savez(path, X=np.array([Trap()] * 20), y=LABELS)


def npz_cut(path):
    np.savez(path, X=X, y=LABELS)
    path.write_bytes(path.read_bytes()[:-100])


def npz_huge(path):
    with zipfile.ZipFile(path, "w") as archive, archive.open("X.npy", "w") as stream:
        header = {"descr": "<f8", "fortran_order": False, "shape": (2**40,)}
        np.lib.format.write_array_header_1_0(stream, header)


def npz_flipped(path):
    np.savez(path, X=X, y=LABELS)
    content = bytearray(path.read_bytes())
    content[300] ^= 0xFF
    path.write_bytes(content)


def npz_members(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("X", "text")
        archive.writestr("y", "text")


def npz_no_y(path):
    np.savez(path, X=X)


def npz_no_x_and_y(path):
    np.savez(path, x=X)


def npz_half_test(path):
    np.savez(path, X=X, y=LABELS, X_test=X)


@pytest.mark.parametrize(
    ("write", "match"),
    [
        (npz_missing, "No such file"),
        (Path.mkdir, "no regular file"),
        (os.mkfifo, "no regular file"),
        (npz_npy, "not a zip file"),
        (npz_pickle, "not a zip file"),
        (npz_objects, "allow_pickle"),
        (npz_cut, "not a zip file"),
        (npz_huge, "X claims 8796093022208 bytes"),
        (npz_flipped, "CRC"),
        (npz_members, "got no X and no y"),
        (npz_no_y, "got no y"),
        (npz_no_x_and_y, "got no X and no y"),
        (npz_half_test, "both X_test and y_test"),
    ],
)
def test_bad_npz_files_are_refused(tmp_path, write, match):
    write(tmp_path / "own.npz")
    with refused(match):
        data.load(str(tmp_path / "own.npz"))
