"""Downloads a file: with progress, resumed where it stopped, checked against a checksum."""

import hashlib
import http.client
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

BLOCK_BYTES = 1 << 20
TIMEOUT = 60  # seconds without a byte
PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 206, 416


def download(url: str, path: Path, sha256: str | None = None) -> None:
    """Downloads `url` to `path`, unless it is there. What is not complete yet is in `<path>.part`.

    Args:
        url: http or https.
        path: where to. Its folder is made.
        sha256: checksum of the file, in hexadecimal; None leaves it unchecked.

    Raises:
        OSError: if the download fails. The next call goes on where it stopped.
        ValueError: if the file has another checksum. It is deleted.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        _download(url, part)
    except (OSError, http.client.HTTPException) as error:
        raise OSError(
            f"cannot download {url}: {error}. Another try goes on at {_size(part):,} bytes; or download it yourself "
            "and give the file as `source`"
        ) from error
    if sha256 is not None and (found := hashlib.sha256(part.read_bytes()).hexdigest()) != sha256:
        part.unlink()
        raise ValueError(f"{url} has the SHA-256 checksum {found}, not {sha256}: what was downloaded is deleted")
    part.replace(path)


def _download(url: str, part: Path) -> None:
    done = _size(part)
    try:
        response = urlopen(Request(url, headers={"Range": f"bytes={done}-"} if done else {}), timeout=TIMEOUT)
    except HTTPError as error:
        if error.code != RANGE_NOT_SATISFIABLE:
            raise
        error.close()
        if error.headers["Content-Range"] == f"bytes */{done}":
            return  # all of it is there
        part.unlink()
        raise OSError("what was there of it does not fit and is deleted") from error
    with response:
        resumed = response.status == PARTIAL_CONTENT
        done = done if resumed else 0
        length = response.headers["Content-Length"]
        total = None if length is None else done + int(length)
        with (
            part.open("ab" if resumed else "wb") as file,
            tqdm(desc=part.stem, total=total, initial=done, unit="B", unit_scale=True) as progress,
        ):
            while block := response.read(BLOCK_BYTES):
                file.write(block)
                progress.update(len(block))
    if total is not None and _size(part) != total:
        raise OSError(f"the connection ended after {_size(part):,} of {total:,} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
