"""The IDX parser, the sources of published data, and their checksums."""

import contextlib
import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cheaplip.data import arrays as data
from cheaplip.data import idx
from cheaplip.errors import InputError
from support.idx_files import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, idx_bytes, small_published, write

REAL = os.environ.get("CHEAPLIP_DATA")
needs_data = pytest.mark.skipif(not REAL, reason="CHEAPLIP_DATA names no folder with the real IDX files")


@pytest.fixture
def small(tmp_path, monkeypatch):
    return small_published(tmp_path, monkeypatch)


def refused(match: str):
    return pytest.raises(InputError, match=match)


@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6)),
    st.booleans(),
)
def test_idx_round_trip_plain_and_gzipped(tmp_path_factory, array, zipped):
    payload = idx_bytes(array)
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(gzip.compress(payload) if zipped else payload)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(idx.SIZES, TRAIN_IMAGES, len(payload))
        patch.setitem(idx.PUBLISHED["mnist"].sha256, TRAIN_IMAGES, hashlib.sha256(payload).hexdigest())
        found, problem = idx._read("mnist", TRAIN_IMAGES, path)
    assert problem is None
    parsed = idx.parse_idx(found)
    assert parsed.dtype == np.uint8
    np.testing.assert_array_equal(parsed, array)


@given(hnp.arrays(np.uint8, hnp.array_shapes(max_dims=3, max_side=5)), st.data())
def test_idx_cut_or_extended_is_refused(array, draw):
    payload = idx_bytes(array)
    with pytest.raises(InputError):
        idx.parse_idx(payload[: draw.draw(st.integers(0, len(payload) - 1))])
    with refused("bytes for the sizes"):
        idx.parse_idx(payload + b"\0")


@given(st.binary(max_size=40))
def test_idx_of_any_bytes_parses_or_is_refused(noise):
    for payload in (noise, b"\0\0\x08" + noise):
        with contextlib.suppress(InputError):  # and nothing else
            assert idx.parse_idx(payload).size <= len(payload)


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
        idx.parse_idx(payload)


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
    expected = idx.parse_idx(small[TEST_IMAGES])[:, None] / np.float32(255)
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
    path.write_bytes(gzip.compress(idx_bytes(np.zeros((4, 28, 28), np.uint8))))


def damage_short(path):
    path.write_bytes(gzip.compress(idx_bytes(np.zeros((3, 28, 28), np.uint8))))


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
        idx.fetch("mnist", tmp_path / "own")
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
    assert [check.file for check in checks] == list(idx.SIZES)
    assert [check.problem for check in checks] == [None] * 4
    assert where(name) == str(Path(REAL) / name)
