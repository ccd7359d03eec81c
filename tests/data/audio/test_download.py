"""Downloads from a server on this machine, which may stop in the middle or not know about ranges."""

import errno
import hashlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from perceiver.claims import MACHINE, Claim
from perceiver.data.audio import download as download_module
from perceiver.data.audio.download import download

CONTENT = np.random.default_rng(0).bytes(300_000)
PART = f"data.zip.{MACHINE}-x.part"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves `CONTENT` as /data.zip.

    Attributes:
        stop_after: bytes after which it hangs up.
        ranges: whether it serves a part where one is asked for.
        requested: what ranges were asked for.
    """

    stop_after = len(CONTENT)
    ranges = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requested: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/data.zip"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.server.requested.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges else 0
        if self.path != "/data.zip":
            self.send_error(404)
        elif start >= len(CONTENT):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(CONTENT)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self.send_response(206 if wanted and self.server.ranges else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            self.wfile.write(CONTENT[start:][: self.server.stop_after])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download_module, "TIMEOUT", None)  # a busy machine may take its time
    with Server() as result:
        thread = threading.Thread(target=result.serve_forever, args=[0.01])
        thread.start()
        yield result
        result.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_download_once(server, tmp_path, capsys):
    path = tmp_path / "new" / "data.zip"
    download(server.url, path, SHA256)
    assert path.read_bytes() == CONTENT
    assert names(tmp_path) == ["data.zip"]
    progress = capsys.readouterr().err
    assert "data.zip: 100%" in progress and "300k/300k" in progress
    download(server.url, path, SHA256)
    assert server.requested == [None]


@pytest.mark.parametrize("ranges", [True, False])
def test_go_on_where_it_stopped(server, tmp_path, ranges):
    server.ranges = ranges
    server.stop_after = 100_000
    path = tmp_path / "data.zip"
    with pytest.raises(
        OSError, match=r"after 100,000 of 300,000 bytes. Another try goes on at 100,000 bytes; or .* as `s"
    ):
        download(server.url, path, SHA256)
    (part,) = names(tmp_path)
    assert part.startswith(f"data.zip.{MACHINE}-") and part.endswith(".part")
    server.stop_after = len(CONTENT)
    download(server.url, path, SHA256)
    assert path.read_bytes() == CONTENT
    assert server.requested == [None, "bytes=100000-"]
    assert names(tmp_path) == ["data.zip"]


def test_stopped_before_the_check(server, tmp_path):
    """All bytes are there: nothing is left to ask for."""
    (tmp_path / PART).write_bytes(CONTENT)
    download(server.url, tmp_path / "data.zip", SHA256)
    assert names(tmp_path) == ["data.zip"]


def test_a_part_of_something_else(server, tmp_path):
    (tmp_path / PART).write_bytes(CONTENT + b"more")
    with pytest.raises(
        OSError, match=r"what was there of it does not fit and is deleted. Another try goes on at 0 bytes"
    ):
        download(server.url, tmp_path / "data.zip", SHA256)
    (tmp_path / PART).write_bytes(b"x" * 1000)
    with pytest.raises(ValueError, match=f"has the SHA-256 checksum .*, not {SHA256}: what was downloaded is deleted"):
        download(server.url, tmp_path / "data.zip", SHA256)
    assert names(tmp_path) == []
    download(server.url, tmp_path / "data.zip", SHA256)
    assert (tmp_path / "data.zip").read_bytes() == CONTENT


def test_no_checksum(server, tmp_path):
    download(server.url, tmp_path / "data.zip")
    assert (tmp_path / "data.zip").read_bytes() == CONTENT


def test_failures(server, tmp_path):
    with pytest.raises(OSError, match=r"cannot download http://.*/other: HTTP Error 404"):
        download(server.url.replace("data.zip", "other"), tmp_path / "data.zip")
    with socket.socket() as nobody:  # a port that is taken, and where nothing listens
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/x"
        with pytest.raises(OSError, match=rf"cannot download {url}: .*refused"):
            download(url, tmp_path / "data.zip")
    assert names(tmp_path) == []


def test_what_is_there_is_checked(server, tmp_path, caplog):
    path = tmp_path / "data.zip"
    path.write_bytes(b"other")
    with pytest.raises(ValueError, match=r"has the SHA-256 checksum .*, not 12: what was downloaded is deleted"):
        download(server.url, path, "12")
    assert path.read_bytes() == b"other"
    download(server.url, path, SHA256)
    assert path.read_bytes() == CONTENT and len(server.requested) == 2
    assert "data.zip has the SHA-256 checksum" in caplog.text and "it is downloaded again" in caplog.text


def test_nobody_writes_to_the_part_of_another(server, tmp_path):
    """A part that a process works on stays; of what was left behind, the longest goes on."""
    (tmp_path / "data.zip.elsewhere-x.part").write_bytes(CONTENT[:7])
    for name, length in {"a": 100, "b": 3000, "c": 200, "d": 5000}.items():
        (tmp_path / f"data.zip.{MACHINE}-{name}.part").write_bytes(CONTENT[:length])
    in_use = Claim(tmp_path / f"data.zip.{MACHINE}-d.part")
    download(server.url, tmp_path / "data.zip", SHA256)
    assert server.requested == ["bytes=3000-"]
    assert set(names(tmp_path)) == {"data.zip", f"data.zip.{MACHINE}-d.part", "data.zip.elsewhere-x.part"}
    assert (tmp_path / f"data.zip.{MACHINE}-d.part").read_bytes() == CONTENT[:5000]
    in_use.release()


def test_two_at_once(server, tmp_path):
    """Each has a file of its own."""
    path = tmp_path / "data.zip"
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(download, server.url, path, SHA256) for _ in range(8)]:
            done.result()
    assert path.read_bytes() == CONTENT and names(tmp_path) == ["data.zip"]


def test_without_locks_nothing_is_left(server, tmp_path, monkeypatch):
    def flock(handle: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    server.stop_after = 100_000
    with pytest.raises(OSError, match="the connection ended after 100,000 of 300,000 bytes"):
        download(server.url, tmp_path / "data.zip", SHA256)
    assert names(tmp_path) == []
