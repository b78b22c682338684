"""Public dumps of tournament replays: fetched by name, resumed where they broke off, verified by checksum."""

from __future__ import annotations

import hashlib
import http.client
import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wm_runtime.errors import UserError
from wm_runtime.replays.dataset import write_text

BASE_URL = "https://storage.googleapis.com/slippi.appspot.com"
LEDGER = "checksums.json"
"""File in the folder of dumps: name → file, url, size, sha256 and etag of the first complete download."""
TRIES = 5
"""Attempts in a row that bring nothing new before a download is given up."""
BACKOFF = 1.0
"""Seconds before the second attempt; doubled before each one after."""
TIMEOUT = 60.0
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Dump:
    """An archive on the server. `sha256` is empty where nobody has recorded it yet."""

    path: str
    event: str
    replays: int
    """Files in it, as ScavieFae/autonomous-world-model counted them."""
    sha256: str = ""

    @property
    def file(self) -> str:
        return self.path.rpartition("/")[2]


DUMPS: dict[str, Dump] = {
    "gang": Dump("dump/gang-replays.7z", "The Gang", 3561),
    "full-bloom-5": Dump("dump/full-bloom-5-replays.7z", "Full Bloom 5", 4502),
    "fight-pitt-9": Dump("dump/fight-pitt-9-replays.7z", "Fight Pitt 9", 1150),
    "pound-2019": Dump("dump/pound-2019-replays.7z", "Pound 2019", 11019),
    "nma-2": Dump("dump/national-melee-arcadian-2.7z", "National Melee Arcadian 2", 2817),
    "summit-11": Dump("replays/bundles/Summit-11.zip", "Smash Summit 11", 419),
}

Progress = Callable[[int, "int | None"], None]
"""Called with (bytes there, bytes in all or None)."""


def fetch(name: str, folder: str | Path, base_url: str = BASE_URL, on_progress: Progress | None = None) -> Path:
    """The dump `name` in `folder`, downloaded unless it is there already; either way its checksum is right.

    An unfinished download is kept as FILE.part and gone on with, unless the file on the server has changed since. The
    first complete one is recorded in LEDGER; from then on that is what the file must be. Raises UserError.
    """
    if name not in DUMPS:
        raise UserError(f"{name}: no dump of this name; there are {', '.join(DUMPS)}")
    folder, dump = Path(folder), DUMPS[name]
    url = f"{base_url}/{dump.path}"
    path = folder / dump.file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        expected = dump.sha256 or _read_ledger(folder).get(name, {}).get("sha256", "")
        if path.exists():
            etag = "" if expected else _check_size(url, path)
            sha256 = _sha256(path)
            if expected and sha256 != expected:
                wrong = f"SHA-256 {sha256[:12]}…, not {expected[:12]}…"
                raise UserError(f"{path}: damaged or changed ({wrong}); delete it and fetch again")
        else:
            part = path.with_name(path.name + ".part")
            etag = _download(url, part, on_progress or (lambda done, total: None))
            sha256 = _sha256(part)
            if expected and sha256 != expected:
                _discard(part)
                raise UserError(
                    f"{url}: not the file that was recorded (SHA-256 {sha256[:12]}…, not {expected[:12]}…); fetch "
                    f"again; if it stays so and you trust the server, remove {name!r} from {folder / LEDGER}"
                )
            part.replace(path)
            _validator(part).unlink(missing_ok=True)
        ledger = _read_ledger(folder)
        if name not in ledger:
            row = {"file": path.name, "url": url, "size": path.stat().st_size, "sha256": sha256, "etag": etag}
            write_text(folder / LEDGER, json.dumps({**ledger, name: row}, indent=1))
    except OSError as error:
        raise UserError(f"{error.filename or folder}: {error.strerror or error}; choose another folder") from None
    return path


class _BrokenOff(Exception):
    """An attempt that may go better the next time. `reached` says whether the server had answered."""

    def __init__(self, message: str, reached: bool = True):
        super().__init__(message)
        self.reached = reached


def _download(url: str, part: Path, on_progress: Progress) -> str:
    """Downloads to `part` until it is whole. Returns the ETag."""
    best, tries, reached = _size(part), 0, False
    while True:
        try:
            return _attempt(url, part, on_progress)
        except _BrokenOff as error:
            reached = reached or error.reached
            if not reached:
                raise UserError(f"{url}: {error}; check the network") from None
            tries = 1 if _size(part) > best else tries + 1
            best = max(best, _size(part))
            if tries == TRIES:
                goes_on = f" and it goes on from {part}" if _validator(part).exists() else ""
                raise UserError(f"{url}: {error}; fetch again later{goes_on}") from None
            time.sleep(BACKOFF * 2 ** (tries - 1))


def _attempt(url: str, part: Path, on_progress: Progress) -> str:
    """One request for what is missing of `part`, or for all of it. Returns the ETag; raises _BrokenOff if cut short."""
    have = _size(part) if _validator(part).exists() else 0
    headers = {"Range": f"bytes={have}-", "If-Range": _validator(part).read_text()} if have else {}
    try:
        response = _request(url, headers)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":  # nothing is missing
            return error.headers.get("ETag", "")
        _discard(part)
        raise _BrokenOff("the file on the server has changed") from None
    with response:
        if response.status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            _discard(part)
            raise _BrokenOff("the server sent another part than was asked for")
        done = have if response.status == 206 else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        etag = response.headers.get("ETag", "")
        if done == 0:
            # Only a strong validator tells that the rest belongs to what is there.
            validator = etag if etag.startswith('"') else response.headers.get("Last-Modified", "")
            _discard(part)
            if validator:
                _validator(part).write_text(validator)
        if total and total - done > (free := shutil.disk_usage(part.parent).free):
            raise UserError(f"{part.parent}: {total - done:,} bytes are to come, {free:,} are free; make room for them")
        with open(part, "ab") as out:
            on_progress(done, total)
            while chunk := _receive(response):
                out.write(chunk)
                done += len(chunk)
                on_progress(done, total)
    if total is not None and done != total:
        raise _BrokenOff(f"the connection broke off after {done:,} of {total:,} bytes")
    return etag


def _request(url: str, headers: dict[str, str] | None = None, method: str = "GET") -> http.client.HTTPResponse:
    """Raises _BrokenOff where another try may help, HTTPError for a range past the end, UserError for the rest."""
    headers = {"User-Agent": "melee-world-model", "Accept-Encoding": "identity", **(headers or {})}
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers, method=method), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and "Range" in headers:
            raise
        message = f"the server answers {error.code} {error.reason}"
        if error.code == 429 or error.code >= 500:
            raise _BrokenOff(message) from None
        raise UserError(f"{url}: {message}; if the dump has moved, download it by hand, build from the file") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise _BrokenOff(f"no answer ({reason})", reached=isinstance(error, http.client.HTTPException)) from None


def _receive(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(_CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOff(f"the connection broke off ({error or type(error).__name__})") from None


def _check_size(url: str, path: Path) -> str:
    """Compares a file of unknown origin with the server's size. Returns the ETag; raises UserError."""
    try:
        with _request(url, method="HEAD") as response:
            size, etag = response.headers.get("Content-Length"), response.headers.get("ETag", "")
    except _BrokenOff as error:
        raise UserError(f"{path}: nobody has recorded its checksum, and the server cannot be asked: {error}") from None
    if size and int(size) != _size(path):
        raise UserError(f"{path}: {_size(path):,} bytes, {int(size):,} on the server; delete it and fetch again")
    return etag


def _read_ledger(folder: Path) -> dict[str, dict]:
    path = folder / LEDGER
    try:
        ledger = json.loads(path.read_text())
        if not all(isinstance(row["sha256"], str) for row in ledger.values()):
            raise TypeError
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: damaged; delete it, and what lies beside it is recorded anew") from None
    return ledger


def _validator(part: Path) -> Path:
    """The file that holds the ETag or date of the file on the server that `part` began with."""
    return part.with_name(part.name + ".etag")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _validator(part).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
