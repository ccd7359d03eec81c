"""Downloads a file: with progress, resumed where it stopped, checked against a checksum."""

import http.client
import logging
import os
import tempfile
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from perceiver.claims import MACHINE, Claim, abandoned
from perceiver.data.cache import BLOCK_BYTES, sha256_of

TIMEOUT = 60  # seconds without a byte
PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416

logger = logging.getLogger(__name__)


def download(url: str, path: Path, sha256: str | None = None) -> None:
    """Downloads `url` to `path`, unless it is there with that checksum.

    What is not complete yet is in `<path>.<machine>-*.part`, a file for each process that downloads.

    Args:
        url: http or https.
        path: where to. Its folder is made.
        sha256: checksum of the file, in hexadecimal; None leaves it unchecked.

    Raises:
        OSError: if the download fails. The next call goes on where it stopped.
        ValueError: if the file has another checksum. It is deleted; what was at `path` stays.
    """
    if path.exists():
        if sha256 is None or (found := sha256_of(path)) == sha256:
            return
        logger.warning("%s has the SHA-256 checksum %s, not %s: it is downloaded again", path, found, sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    claim = _part(path)
    try:
        try:
            _download(url, claim.path, path.name)
        except (OSError, http.client.HTTPException) as error:
            raise OSError(
                f"cannot download {url}: {error}. Another try goes on at {_size(claim.path):,} bytes; or download it "
                "yourself and give the file as `source`"
            ) from error
        if sha256 is not None and (found := sha256_of(claim.path)) != sha256:
            claim.path.unlink()
            raise ValueError(f"{url} has the SHA-256 checksum {found}, not {sha256}: what was downloaded is deleted")
        claim.path.replace(path)
    finally:
        if not claim.locked or _size(claim.path) == 0:  # no other call would find it, or find something in it
            claim.path.unlink(missing_ok=True)
        claim.release()


def _part(path: Path) -> Claim:
    """What a process has left of the file, the longest of it if there are several, or else an empty file."""
    left = sorted(abandoned(path.parent, f"{path.name}.", ".part"), key=lambda claim: _size(claim.path))
    for claim in left[:-1]:
        claim.path.unlink()
        claim.release()
    if left:
        return left[-1]
    while True:
        handle, name = tempfile.mkstemp(prefix=f"{path.name}.{MACHINE}-", suffix=".part", dir=path.parent)
        os.close(handle)
        try:
            return Claim(Path(name))
        except BlockingIOError:  # another process has taken it for one that was left
            continue


def _download(url: str, part: Path, name: str) -> None:
    done = _size(part)
    try:
        response = urlopen(Request(url, headers={"Range": f"bytes={done}-"} if done else {}), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != RANGE_NOT_SATISFIABLE:
            raise
        error.close()
        if error.headers["Content-Range"] == f"bytes */{done}":
            return  # all of it is there
        part.write_bytes(b"")
        raise OSError("what was there of it does not fit and is deleted") from error
    with response:
        resumed = response.status == PARTIAL_CONTENT
        done = done if resumed else 0
        length = response.headers["Content-Length"]
        total = None if length is None else done + int(length)
        with (
            part.open("ab" if resumed else "wb") as file,
            tqdm(desc=name, total=total, initial=done, unit="B", unit_scale=True) as progress,
        ):
            while block := response.read(BLOCK_BYTES):
                file.write(block)
                progress.update(len(block))
    if total is not None and _size(part) != total:
        raise OSError(f"the connection ended after {_size(part):,} of {total:,} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
