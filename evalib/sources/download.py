"""An address becomes a file on this disk: `fetch`.

No file has its final name before it is whole and checked: its bytes gather in NAME.part, from which
a call after a kill goes on. `downloads.json` beside it says what came; later that must match.
"""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from time import sleep
from urllib.parse import unquote, urlsplit

import requests
import urllib3
from filelock import FileLock
from gdown.download import get_url_from_gdrive_confirmation
from gdown.exceptions import FileURLRetrievalError
from requests.exceptions import ChunkedEncodingError, InvalidSchema, Timeout
from tqdm.auto import tqdm

TIMEOUT_S = (10.0, 60.0)  # to connect, and from one piece to the next
TRIES = 7  # in a row that bring nothing new; the pauses between them are 1 s, 2 s, 4 s, ...
LONGEST_PAUSE_S = 120.0  # that a server may ask for
CHUNK = 1 << 16
CUT = (requests.ConnectionError, Timeout, ChunkedEncodingError, urllib3.exceptions.HTTPError)
DRIVE = r"((https?://)?(drive|docs|drive\.usercontent)\.google\.com/.*?(/d/|[?&]id=)|drive:)"
REMEDY = (
    "Delete the file, if it is here, and call again. If this stays, correct what you promise or, "
    "if you trust what the address has now, delete its entry in downloads.json"
)
WAY_OUT = (
    "Look at it in a browser. If its quota is used up, or one has to sign in: make a private copy "
    "in your own Drive, then give that copy's id (drive:ID) or its path where your Drive is mounted"
)


def fetch(
    address: str, folder: Path | str, *, sha256: str = "", n_bytes: int = 0, progress: bool = True
) -> Path:
    """The file of an address, in `folder`; one that is there already is not downloaded again.

    address: https://, http://, a file's link on Google Drive or drive:ID; a path is given back.
    sha256, n_bytes: what the file must be; without them, what the first download recorded.
    Raises: OSError: network, server or disk; what has come is kept, and the next call goes on.
            ValueError: no such address, or what came is not what was promised.
    """
    address = str(address).strip()
    if drive := re.match(rf"{DRIVE}(?P<id>[\w-]+)", address, re.ASCII):
        address = f"drive:{drive['id']}"
    elif not re.match(r"(?i:https?)://(?!(drive|docs)\.google\.com/)", address):
        path = Path(address).expanduser()
        if address and path.exists():
            return path
        raise ValueError(
            f"{address!r} is no path on this disk; needed: one, https://, http://, drive:ID or the "
            "link of a file on Drive (of a folder, its path where your Drive is mounted)"
        )
    path = Path(folder) / _name(address)
    part = path.with_name(f"{path.name}.part")
    lock = path.with_name("downloads.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):  # two would write into one part
        recorded = _read(lock).get(address, {})
        given = {"sha256": sha256.lower(), "bytes": n_bytes}
        _compare(f"{address} in {lock}", recorded, given)
        if recorded and path.exists():
            _compare(path, {"bytes": path.stat().st_size}, recorded)
            return path
        promise = given | recorded
        # one that is there has lost its record
        whole = path if path.exists() else _brought(address, part, promise, progress)
        try:
            found = _measured(address, whole, promise)
        except ValueError:
            _discard(part)
            raise
        new = path.with_name(f".{path.name}.json")
        new.write_text(json.dumps(_read(lock) | {address: found}, indent=1), encoding="utf-8")
        os.replace(new, lock)
        os.replace(whole, path)
        _discard(part)
    return path


def _name(address: str) -> str:
    """A file's name of at most 77 characters that no other address has."""
    last = unquote(urlsplit(address).path).replace("\\", "/").rstrip("/").rpartition("/")[2]
    kept = re.sub("[^A-Za-z0-9._-]+", "_", last)[-64:].strip("._-")
    return f"{hashlib.sha256(address.encode()).hexdigest()[:12]}-{kept or 'file'}"


def _read(lock: Path) -> dict[str, dict]:
    """{address: {"sha256": ..., "bytes": ...}}. Raises ValueError: torn, which is not "empty"."""
    try:
        return json.loads(lock.read_text(encoding="utf-8")) if lock.exists() else {}
    except ValueError as error:
        raise ValueError(f"{lock} is torn ({error}): bring it back, or delete it") from error


def _compare(what: Path | str, found: dict, promise: dict) -> None:
    for key in found.keys() & promise.keys():
        if promise[key] and found[key] != promise[key]:
            raise ValueError(f"{what}: {key} {found[key]}, needed: {promise[key]}. {REMEDY}")


def _measured(address: str, path: Path, promise: dict) -> dict:
    """What to record of a file, once it is on the disk for good. Raises ValueError: not it."""
    sha = hashlib.sha256()
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
        start = file.read(512)
        if not start or re.match(rb"\W*(doctype )?html\b", start, re.I):
            raise ValueError(f"{address} gave {'a web page' if start else 'nothing'}. {WAY_OUT}")
        file.seek(0)
        while piece := file.read(1 << 20):
            sha.update(piece)
        found = {"sha256": sha.hexdigest(), "bytes": file.tell()}
    _compare(address, found, promise)
    return found


def _discard(part: Path) -> None:
    for path in part.parent.glob(f"{part.name}*"):  # with the note of its version
        path.unlink()


def _brought(address: str, part: Path, promise: dict, progress: bool) -> Path:
    """`part`, tried for until all is in it; only tries that bring nothing new are counted."""
    most = 0
    failed = 0
    while True:
        try:
            _go_on(address, part, promise, progress)
            return part
        except InvalidSchema as error:
            raise ValueError(f"{address} leads to less safety, not followed: {error}") from error
        except CUT as error:
            size = part.stat().st_size if part.exists() else 0
            failed = failed + 1 if size <= most else 1
            most = max(size, most)
            if failed >= TRIES:
                kept = f"Call again later: it goes on, unless you delete {part}"
                raise ConnectionError(f"{address}, {failed} tries: {error}. {kept}") from error
            sleep(2 ** (failed - 1))


def _go_on(address: str, part: Path, promise: dict, progress: bool) -> None:
    """Download what `part` lacks, or all, if the server does not say that both are one version."""
    note = part.with_name(f"{part.name}.version")  # of the part; a torn one is no server's version
    version = note.read_text(encoding="latin-1") if note.exists() and part.exists() else ""
    start = part.stat().st_size if version else 0
    headers = {"Range": f"bytes={start}-", "If-Range": version} if start else {}
    with requests.Session() as session, _ask(session, address, headers) as answer:
        span = answer.headers.get("Content-Range", "")
        if answer.status_code == 416 and span == f"bytes */{start}":
            return  # killed between the last byte and the check
        length = span.rpartition("/")[2] or answer.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else 0  # 0: unknown
        _compare(address, {"bytes": total} if total else {}, promise)
        tag = answer.headers.get("ETag", "")  # a weak one (W/"...") tells too little
        now = tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")
        fits = span == f"bytes {start}-{total - 1}/{total}" and now in ("", version)
        if not start or not fits:
            _discard(part)
            if answer.status_code != 200:
                raise requests.ConnectionError(f"after {start} bytes came {span or 'no range'}")
            start = 0
            note.write_text(now, encoding="latin-1")
        lack = (total - start - shutil.disk_usage(part.parent).free) / 2**20
        if lack > 0:
            raise OSError(f"{part.parent} lacks {lack:.1f} MB. Make room, or name another folder")
        shown = {"total": total or None, "initial": start, "disable": not progress}
        with open(part, "ab") as file, tqdm.wrapattr(file, "write", **shown) as counted:
            shutil.copyfileobj(answer.raw, counted, CHUNK)
    size = part.stat().st_size
    if total and size != total:
        raise requests.ConnectionError(f"{size} of {total} bytes came")


def _ask(session: requests.Session, address: str, headers: dict) -> requests.Response:
    """The answer that has the file, its rest, or no rest (416). Raises what any other means."""
    if not address.lower().startswith("http:"):
        del session.adapters["http://"]  # no redirect leads from https to there
    session.headers["Accept-Encoding"] = "identity"  # so that lengths are the file's
    url = _drive_link(session, address) if address.startswith("drive:") else address
    answer = session.get(url, headers=headers, stream=True, timeout=TIMEOUT_S)
    status = answer.status_code
    if status in (408, 429) or status >= 500:
        pause = urllib3.Retry().get_retry_after(answer.raw) or 0
        if pause > LONGEST_PAUSE_S:
            raise OSError(f"{address}: status {status}. Call again in {pause:.0f} s")
        sleep(pause)
        raise requests.ConnectionError(f"status {status}")
    kind = answer.headers.get("Content-Type", "no type").lower()
    if status != 416 and (status >= 400 or "html" in kind):
        raise ValueError(f"{address} gave status {status} ({kind}), not the file. {WAY_OUT}")
    return answer


def _drive_link(session: requests.Session, address: str) -> str:
    """Where the file is: a large one lies behind a page, and at a new link each time."""
    link = f"https://drive.google.com/uc?id={address.removeprefix('drive:')}"
    session.headers["User-Agent"] = "Mozilla/5.0"  # its pages are made for browsers
    with session.get(link, stream=True, timeout=TIMEOUT_S) as answer:
        if not answer.ok or "Content-Disposition" in answer.headers:
            return link  # no page, or a status that the next request will meet, too
        try:
            return get_url_from_gdrive_confirmation(answer.text)
        except FileURLRetrievalError as error:  # in Drive's own words
            raise ValueError(f"{address}: {error}. {WAY_OUT}") from error
