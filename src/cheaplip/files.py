"""How files are written and read: whole or not at all, to last, and never more of them than there can be.

A file is written under another name, flushed to the disk, and renamed. So a reader never sees half of one, and what was there
before is lost neither by an interruption nor by a full disk. This module knows no torch, so that the report can read runs.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import secrets
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from .errors import InputError, one_line

LARGEST_TEXT = 2**28
"""Bytes of the largest JSON file that is read."""
LARGEST_ARRAY = 2**33
"""Bytes of the largest array that is read from an npz file: what the file claims is allocated before it is filled."""


class Draft(io.RawIOBase):
    """A file being written, a stream for whatever writes bytes; `publish` gives it its name.

    An error of the disk is raised by `publish`: torch turns one that it meets in the middle into an error of its own.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__()
        self._file, self._digest = file, hashlib.sha256()
        self._error: BaseException | None = None

    @property
    def sha256(self) -> str:
        """Of what is written so far."""
        return self._digest.hexdigest()

    def write(self, data: Any) -> int:
        """Add bytes; after an error, ignore them."""
        if self._error is None:
            try:
                self._file.write(data)
                self._digest.update(data)
            except BaseException as error:  # an interruption, too, must not pass through the C++ of torch
                self._error = error
        return memoryview(data).nbytes

    def writable(self) -> bool:
        """It is: a stream."""
        return True

    def publish(self, path: Path) -> None:
        """Put the file in the place of `path`, in one step that survives a loss of power; raise what went wrong before."""
        if self._error is not None:
            raise self._error
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._file.name, path)
        if hasattr(os, "O_DIRECTORY"):  # elsewhere folders cannot be opened, nor need they be
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


@contextmanager
def draft(folder: Path) -> Iterator[Draft]:
    """A new file in `folder`, of which nothing is left unless it is published."""
    temporary = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        with temporary.open("xb") as file:  # the mode is that of the user's umask
            yield Draft(file)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, write: Callable[[Any], object]) -> str:
    """Let `write` fill a stream of bytes that takes the place of `path` in one step; returns the sha256."""
    with draft(path.parent) as file:
        write(file)
        file.publish(path)
        return file.sha256


def remove_drafts(folder: Path) -> None:
    """Remove what processes that were killed left; nobody else may be writing into `folder`."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)


def read_bytes(path: Path, limit: int | None = None) -> bytes:
    """The content of a regular file of at most `limit` bytes; `OSError` for all else, a pipe that would wait included."""
    with open_regular(path) as file:
        content = file.read() if limit is None else file.read(limit + 1)
    if limit is not None and len(content) > limit:
        raise OSError(f"more than {limit} bytes")
    return content


def open_regular(path: Path) -> io.BufferedReader:
    """The opened file; `OSError` unless it is a regular one, without waiting for the other end of a pipe."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("no regular file")
    return os.fdopen(descriptor, "rb")


def sha256_of(path: Path) -> str:
    """Of the content of a regular file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_npz(path: Path, names: Callable[[str], bool], do: str, limit: int = LARGEST_ARRAY) -> dict[str, Any]:
    """The arrays of plain numbers in an npz file that `names` takes, read one at a time.

    Raises:
        InputError: the file cannot be read, or an array in it claims more bytes than `limit` or than the file can hold: a
            byte of it becomes 1,032 at most.
    """
    import numpy as np
    from numpy.lib.format import read_array

    arrays = {}
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            most = min(limit, 1032 * os.fstat(file.fileno()).st_size)
            for member in archive.namelist():
                name, ending = member[:-4], member[-4:]
                if ending != ".npy" or not names(name):
                    continue
                with archive.open(member) as stream:
                    shape, dtype = _array_header(stream)
                if (claimed := math.prod(shape) * dtype.itemsize) > most:
                    raise ValueError(f"{name} claims {claimed} bytes")
                with archive.open(member) as stream:
                    arrays[name] = np.asarray(read_array(stream, allow_pickle=False))
    except (OSError, ValueError, LookupError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} to be a readable npz file of plain numbers", one_line(error), do) from None
    return arrays


def _array_header(stream: IO[bytes]) -> tuple[tuple[int, ...], Any]:
    """Shape and type of the array that the stream begins."""
    from numpy.lib import format as npy

    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[npy.read_magic(stream)]
    shape, _, dtype = read(stream)
    return shape, dtype
