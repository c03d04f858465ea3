"""What servers do to a download: a real one on this machine, which does as each test tells it."""

import contextlib
import email.utils
import functools
import hashlib
import json
import os
import re
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from requests.adapters import HTTPAdapter

from evalib.sources import download
from evalib.sources.download import fetch

BODY = b"PK\x03\x04" + hashlib.shake_256(b"an archive").digest(20_000)
OTHER = BODY[:10_000] + bytes(10_004)
SHA = hashlib.sha256(BODY).hexdigest()
PAGE = b"\n <!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append((self.path, dict(self.headers)))
        answers = self.server.answers
        with contextlib.suppress(ConnectionError):  # who asked may have gone
            (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    """`answers` are given in turn, the last one from then on; `asked` is what was asked for."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.answers, self.closing = [], [honest()], threading.Event()
        self.root = f"http://127.0.0.1:{self.server_port}"
        self.address = f"{self.root}/data/set.zip"

    def headers(self, name):
        """This header of each request, None where it had none."""
        return [headers.get(name) for _, headers in self.asked]


def answer(body=b"", status=200, length=True, cut=None, stall=False, **headers):
    """An answer whose headers say what they are told to; `cut`: it ends after so many bytes."""

    def give(handler):
        handler.send_response(status)
        if length is not None:
            handler.send_header("Content-Length", len(body) if length is True else length)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body[:cut])
        if stall:
            handler.wfile.flush()
            handler.server.closing.wait(60)

    return give


def honest(body=BODY, tag='"1"', if_range=True, **how):
    """What a good server answers to any request for `body`; how: as in `answer`."""

    def give(handler):
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        same = not if_range or handler.headers.get("If-Range", tag) == tag
        if not asked or not same:
            return answer(body, ETag=tag, **how)(handler)
        start = int(asked[1])
        if start >= len(body):
            return answer(status=416, Content_Range=f"bytes */{len(body)}")(handler)
        span = f"bytes {start}-{len(body) - 1}/{len(body)}"
        return answer(body[start:], 206, Content_Range=span, ETag=tag, **how)(handler)

    return give


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """The pauses that were made, none of which lasts."""
    made = []
    monkeypatch.setattr(download, "sleep", made.append)
    monkeypatch.setattr(download, "CHUNK", 1000)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return made


@pytest.fixture
def get(server, tmp_path):
    """fetch() of the server's file into tmp_path."""
    return functools.partial(fetch, server.address, tmp_path, progress=False)


def stop_button(*_):
    raise KeyboardInterrupt


def seen(folder):
    """What somebody who looks into the folder takes for data."""
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".")


def record(folder):
    return json.loads((folder / "downloads.json").read_text())


def is_nothing(folder):
    """No file has a final name, and nothing is recorded."""
    return all(re.search(r"\.zip\.part|\.lock$", path.name) for path in folder.iterdir())


def test_a_file_comes_whole_and_once_and_is_recorded(server, get, tmp_path):
    path = get()
    assert path.parent == tmp_path and path.read_bytes() == BODY
    assert seen(tmp_path) == sorted([path.name, "downloads.json"])
    assert record(tmp_path) == {server.address: {"sha256": SHA, "bytes": len(BODY)}}
    assert get(sha256=SHA.upper(), n_bytes=len(BODY)) == path == get()
    assert server.headers("Accept-Encoding") == ["identity"]


@pytest.mark.parametrize("cut", [0, 1, 999, 10_000, len(BODY) - 1])
def test_a_cut_transfer_goes_on_where_it_was_cut(server, get, cut):
    server.answers = [honest(cut=cut), honest()]
    assert get().read_bytes() == BODY
    assert server.headers("Range") == [None, f"bytes={cut}-" if cut else None]
    assert server.headers("If-Range") == [None, '"1"' if cut else None]


def test_only_tries_that_bring_nothing_are_counted(server, get, monkeypatch):
    monkeypatch.setattr(download, "TRIES", 2)
    server.answers = [honest(cut=1500)] * 12 + [honest()]
    assert get().read_bytes() == BODY and len(server.asked) == 13


def test_what_came_is_kept_for_the_next_call(server, get, tmp_path, pauses, monkeypatch):
    monkeypatch.setattr(download, "TRIES", 4)
    server.answers = [honest(cut=5000), honest(cut=0)]
    with pytest.raises(ConnectionError, match="4 tries: .* Call again later: it goes on"):
        get()
    assert is_nothing(tmp_path) and pauses == [1, 2, 4]
    server.answers = [honest()]
    assert get().read_bytes() == BODY
    assert server.headers("Range")[-1] == "bytes=5000-"


def test_the_stop_button_leaves_a_part_that_the_next_call_goes_on_from(
    server, get, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(download.tqdm, "update", stop_button)
        get()
    assert is_nothing(tmp_path)
    assert get().read_bytes() == BODY
    assert server.headers("Range") == [None, "bytes=1000-"]


def test_a_part_that_was_whole_when_its_session_was_killed_is_not_fetched_again(
    server, get, monkeypatch
):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "fsync", stop_button)
        get()
    assert get().read_bytes() == BODY
    assert server.headers("Range") == [None, f"bytes={len(BODY)}-"]


def test_a_part_longer_than_the_file_is_begun_anew(server, get):
    server.answers = [honest(BODY + b"more", cut=len(BODY) + 2), honest()]
    assert get().read_bytes() == BODY


def test_a_server_that_ignores_ranges_is_believed_from_its_first_byte(server, get):
    server.answers = [answer(BODY, cut=9000, ETag='"1"'), answer(BODY, ETag='"1"')]
    assert get().read_bytes() == BODY
    assert server.headers("Range") == [None, "bytes=9000-"]


@pytest.mark.parametrize(
    "span",
    ["bytes 8999-20003/20004", "bytes 9000-20002/20004", "bytes 9000-20003/*", "bytes */20004"]
    + ["bytes 0-20003/20004", "pages 9000-20003/20004", "bytes 9000-/20004", "", "²/²"],
)
def test_a_range_other_than_asked_for_is_not_appended(server, get, span):
    wrong = answer(BODY[9000:], 206, ETag='"1"', Content_Range=span)
    server.answers = [honest(cut=9000), wrong, honest()]
    assert get().read_bytes() == BODY
    assert server.headers("Range") == [None, "bytes=9000-", None]


def test_a_range_that_was_not_asked_for_is_not_appended(server, get):
    whole = answer(BODY, 206, Content_Range="bytes 0-20003/20004")
    server.answers = [answer(BODY, cut=9000), whole, honest()]
    assert get().read_bytes() == BODY


def test_a_range_longer_than_it_says_is_not_kept(server, get):
    span = "bytes 9000-20003/20004"
    server.answers = [honest(cut=9000), answer(bytes(30_000), 206, Content_Range=span), honest()]
    assert get().read_bytes() == BODY


@pytest.mark.parametrize("if_range", [True, False], ids=["knows If-Range", "ignores it"])
def test_two_versions_of_a_file_are_never_put_together(server, get, if_range):
    server.answers = [honest(cut=15_000), honest(OTHER, '"2"', if_range=if_range)]
    assert get().read_bytes() == OTHER


@pytest.mark.parametrize(
    "headers, sent",
    [
        ({}, None),
        ({"ETag": 'W/"1"'}, None),
        ({"Last_Modified": "Mon, 06 Jul 2020 00:00:00 GMT"}, "Mon, 06 Jul 2020 00:00:00 GMT"),
        ({"ETag": 'W/"1"', "Last_Modified": "Mon, 06 Jul 2020 00:00:00 GMT"}, "Mon, 06 "),
        ({"ETag": '"1"', "Last_Modified": "Mon, 06 Jul 2020 00:00:00 GMT"}, '"1"'),
    ],
)
def test_it_goes_on_only_where_the_server_tells_versions_apart(server, get, headers, sent):
    server.answers = [answer(BODY, cut=9000, **headers), answer(BODY, **headers)]
    assert get().read_bytes() == BODY
    assert (server.headers("If-Range")[1] or "").startswith(sent or "")
    assert (server.headers("Range")[1] is None) == (sent is None)


def test_a_torn_note_of_the_version_costs_no_more_than_beginning_anew(server, get, tmp_path):
    download_stops = [answer(BODY, cut=9000, ETag='"12345"'), answer(status=404)]
    server.answers = download_stops
    with pytest.raises(ValueError, match="404"):
        get()
    (note,) = tmp_path.glob("*.version")
    note.write_text(note.read_text()[:3])
    server.answers = [honest(tag='"12345"')]
    assert get().read_bytes() == BODY and server.headers("If-Range")[-1] == '"12'


def test_fewer_bytes_than_the_server_says_are_no_file(server, get, tmp_path):
    server.answers = [answer(BODY, length=len(BODY) + 1)]
    with pytest.raises(ConnectionError, match="20004 bytes read, 1 more expected|20004 of 20005"):
        get()
    assert is_nothing(tmp_path)


def test_a_length_below_what_is_promised_is_refused_before_a_byte_comes(
    server, get, tmp_path, monkeypatch
):
    monkeypatch.setattr(download, "tqdm", None)
    server.answers = [answer(BODY, length=len(BODY) - 1)]
    with pytest.raises(ValueError, match="bytes 20003, needed: 20004"):
        get(n_bytes=len(BODY))
    assert is_nothing(tmp_path) and len(server.asked) == 1


@pytest.mark.parametrize("n_bytes", [len(BODY) - 1, len(BODY) + 1])
def test_without_a_length_the_promise_is_what_counts(server, get, tmp_path, n_bytes):
    server.answers = [answer(BODY, length=None)]
    with pytest.raises(ValueError, match=f"bytes 20004, needed: {n_bytes}"):
        get(n_bytes=n_bytes)
    assert is_nothing(tmp_path)
    assert get(n_bytes=len(BODY)).read_bytes() == BODY


@pytest.mark.parametrize("length", ["many", "-5", "²"])
def test_a_length_that_is_no_number_is_none(server, get, length):
    server.answers = [answer(BODY, length=length.encode("latin-1").decode("latin-1"))]
    assert get().read_bytes() == BODY


def test_an_empty_file_is_told_and_not_recorded(server, get, tmp_path):
    server.answers = [answer()]
    with pytest.raises(ValueError, match="gave nothing. Look at it"):
        get()
    assert is_nothing(tmp_path)


@pytest.mark.parametrize("status", [401, 403, 404, 410, 400, 451])
def test_what_no_patience_heals_is_told_at_once(server, get, tmp_path, pauses, status):
    server.answers = [answer(PAGE, status, Content_Type="text/html")]
    with pytest.raises(ValueError, match=f"status {status}.*text/html.*your own Drive"):
        get()
    assert len(server.asked) == 1 and not pauses and is_nothing(tmp_path)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again_after_longer_and_longer_pauses(server, get, status, pauses):
    server.answers = [answer(status=status)] * 4 + [honest()]
    assert get().read_bytes() == BODY and [s for s in pauses if s] == [1, 2, 4, 8]


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_is_given_the_time_it_asks_for(server, get, status, pauses):
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    asked = ["20", date, "0", "soon"]
    server.answers = [*(answer(status=status, Retry_After=text) for text in asked), honest()]
    assert get().read_bytes() == BODY
    assert pauses[:2] == [20, 1] and 10 < pauses[2] <= 100 and pauses[3:] == [2, 0, 4, 8]


def test_a_server_that_wants_an_hour_is_not_waited_for(server, get, tmp_path, pauses):
    server.answers = [answer(status=503, Retry_After="3600")]
    with pytest.raises(OSError, match="503. Call again in 3600 s"):
        get()
    assert not pauses and is_nothing(tmp_path)


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream", "a/zip"])
def test_a_page_in_place_of_the_file_is_told_with_the_way_out(server, get, tmp_path, kind):
    page = BODY if "html" in kind else PAGE
    server.answers = [answer(page, Content_Type=kind), honest()]
    with pytest.raises(ValueError, match=r"(text/html|web page).*quota.*sign in.*drive:ID"):
        get()
    assert is_nothing(tmp_path)
    assert get().read_bytes() == BODY


def test_a_page_in_mid_transfer_costs_no_byte_of_the_part(server, get):
    server.answers = [honest(cut=9000), answer(PAGE, Content_Type="text/html"), honest()]
    with pytest.raises(ValueError, match="text/html"):
        get()
    assert get().read_bytes() == BODY
    assert server.headers("Range") == [None, "bytes=9000-", "bytes=9000-"]


def test_a_stalled_transfer_goes_on(server, get, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_S", (10, 0.3))
    monkeypatch.setattr(download, "TRIES", 1000)  # a busy machine may stall, too
    server.answers = [honest(cut=9000, stall=True), honest()]
    assert get().read_bytes() == BODY
    assert server.headers("Range")[1] == "bytes=9000-"


def test_where_nobody_answers_the_address_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TRIES", 2)
    with Server() as gone:
        address = gone.address
    with pytest.raises(ConnectionError, match=f"{address}, 2 tries"):
        fetch(address, tmp_path, progress=False)


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "x:y"])
def test_a_redirect_to_anything_but_the_web_is_refused(server, get, tmp_path, target):
    server.answers = [answer(status=302, Location=target), honest()]
    with pytest.raises(ValueError, match=f"not followed.*{target}"):
        get()
    assert len(server.asked) == 1 and is_nothing(tmp_path)


def test_redirects_are_followed_but_not_for_ever(server, get, tmp_path):
    server.answers = [answer(status=302, Location=f"../x/{n}") for n in range(10)] + [honest()]
    assert get().read_bytes() == BODY
    assert len(server.asked) == 11
    server.answers = [answer(status=302, Location=server.address)]
    with pytest.raises(OSError, match="redirects"):
        fetch(server.root, tmp_path / "loop", progress=False)
    assert is_nothing(tmp_path / "loop")


@pytest.mark.parametrize("body", [OTHER, BODY + b"more"], ids=["same size", "other size"])
def test_what_comes_later_must_be_what_came_first(server, get, tmp_path, body):
    get().unlink()
    before = record(tmp_path)
    server.answers = [honest(body)]
    with pytest.raises(ValueError, match=f"{server.address}: .*trust what the address has now"):
        get()
    assert seen(tmp_path) == ["downloads.json"] and record(tmp_path) == before
    server.answers = [honest()]
    assert get().read_bytes() == BODY


@pytest.mark.parametrize("promise", [{"sha256": "0" * 64}, {"n_bytes": 5}], ids=str)
def test_a_promise_that_differs_from_the_record_is_told_before_the_network(
    server, get, tmp_path, promise
):
    path = get()
    with pytest.raises(ValueError, match=r"downloads\.json: .*correct what you promise.*delete"):
        get(**promise)
    path.unlink()
    with pytest.raises(ValueError, match=r"downloads\.json"):
        get(**promise)
    assert len(server.asked) == 1 and record(tmp_path)[server.address]["sha256"] == SHA


@pytest.mark.parametrize("keep", [0, 1, 60])
def test_a_torn_lock_file_is_no_empty_one(server, get, tmp_path, keep):
    path = get()
    lock = tmp_path / "downloads.json"
    torn = lock.read_bytes()[:keep]
    lock.write_bytes(torn)
    with pytest.raises(ValueError, match=r"downloads\.json is torn .*delete it"):
        get()
    assert lock.read_bytes() == torn and path.read_bytes() == BODY
    lock.unlink()
    assert get() == path and record(tmp_path)[server.address]["sha256"] == SHA
    assert len(server.asked) == 1


def test_a_file_whose_record_was_lost_is_measured_and_never_deleted(server, get, tmp_path):
    path = get()
    (tmp_path / "downloads.json").unlink()
    with pytest.raises(ValueError, match="needed: 0000"):
        get(sha256="0" * 64)
    assert path.read_bytes() == BODY and not (tmp_path / "downloads.json").exists()


def test_a_file_of_another_size_than_recorded_is_neither_used_nor_deleted(server, get, tmp_path):
    path = get()
    path.write_bytes(BODY[:-1])
    with pytest.raises(ValueError, match=r"bytes 20003, needed: 20004. Delete the file"):
        get()
    path.unlink()
    assert get().read_bytes() == BODY


def test_a_wrong_sha_leaves_nothing_from_which_to_go_on(server, get, tmp_path):
    server.answers = [honest(OTHER), honest()]
    with pytest.raises(ValueError, match=f"sha256 [0-9a-f]{{64}}, needed: {SHA}. .*call again"):
        get(sha256=SHA)
    assert not list(tmp_path.glob("*.part*")) and is_nothing(tmp_path)
    assert get(sha256=SHA).read_bytes() == BODY


def test_a_disk_that_is_too_small_is_told_before_a_byte_comes(server, get, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 2**19))
    monkeypatch.setattr(download, "tqdm", None)
    server.answers = [answer(BODY, length=3 * 2**20)]
    with pytest.raises(OSError, match=r"lacks 2\.5 MB. Make room") as caught:
        get()
    assert str(tmp_path) in str(caught.value) and is_nothing(tmp_path)


HOSTILE = ["../../x", "%2e%2e%2f%2e%2e%2fx", "..%5c..%5cx", ".hidden", "a" * 300 + ".zip", "", "."]
HOSTILE += ["%00", "nul.zip%20.", "a%0ab", "x?name=../../y", "-rf", "%ff%fe", "~", "ü/ß", "a:b"]


@pytest.mark.parametrize("tail", HOSTILE)
def test_no_address_names_a_file_outside_of_its_folder(server, tmp_path, tail):
    folder = tmp_path / "inner"
    path = fetch(f"{server.root}/{tail}", folder, progress=False)
    assert path.resolve().parent == folder.resolve() and path.read_bytes() == BODY
    assert seen(tmp_path) == ["inner"] and seen(folder) == sorted([path.name, "downloads.json"])
    assert re.fullmatch(r"[0-9a-f][A-Za-z0-9._-]{0,94}", path.name) and path.name[-1] != "."


def test_two_addresses_never_share_a_name():
    tails = [*HOSTILE, "x", "X", "y/x", "x?1", "x?2", "a" * 301 + ".zip", "x#1", "x/"]
    names = [download._name(f"http://a/{tail}").lower() for tail in tails]
    assert len({*names}) == len(tails)
    assert download._name("https://a/set.zip").endswith("-set.zip")


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "ftp://a/x.zip",
        "data:,x",
        "",
        "no/such/file",
        "drive:../../x",
        "drive:",
    ]
    + ["https://drive.google.com/drive/folders/1-CmUdFjWjBJ4XBFHII-EbvlRY_LTueYa?usp=sharing"]
    + ["https://drive.google.com/drive/my-drive", "javascript:x", "//a/x.zip", "www.a.de/x.zip"],
)
def test_other_addresses_are_refused_and_told_what_is_needed(tmp_path, address):
    with pytest.raises(ValueError, match=r"https://.*drive:ID.*path where your Drive is mounted"):
        fetch(address, tmp_path / "data")
    assert not list(tmp_path.iterdir())


def test_a_path_is_given_back_as_it_is(tmp_path):
    file = tmp_path / "MyDrive" / "my set.zip"
    file.parent.mkdir()
    file.write_bytes(BODY)
    assert fetch(f" {file} ", tmp_path / "data") == file
    assert fetch(file.parent, tmp_path / "data") == file.parent
    assert seen(tmp_path) == ["MyDrive"]


def test_no_name_is_final_before_its_bytes_are_on_the_disk(get, tmp_path, monkeypatch):
    steps = []

    def noted(name):
        usual = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a: steps.append((name, seen(tmp_path))) or usual(*a))

    noted("fsync")
    noted("replace")
    path = get()
    part = [f"{path.name}.part", f"{path.name}.part.version"]
    both = sorted([*part, "downloads.json"])
    assert steps == [("fsync", part), ("replace", part), ("replace", both)]


def test_two_who_want_the_same_file_download_it_once(server, get):
    paths = []
    threads = [threading.Thread(target=lambda: paths.append(get())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert paths == [get()] * 4 and len(server.asked) == 1


def test_two_files_in_one_folder_are_both_recorded(server, tmp_path):
    addresses = {f"{server.root}/{name}" for name in "ab"}
    for address in addresses:
        fetch(address, tmp_path, progress=False)
    assert record(tmp_path).keys() == addresses


def test_the_bar_counts_bytes_and_begins_at_what_was_there(server, tmp_path, capsys):
    server.answers = [honest(cut=9000), honest()]
    fetch(server.address, tmp_path)
    shown = capsys.readouterr().err
    assert "45%" in shown and "19.5k/19.5k" in shown and "B/s" in shown


ID = "1zvkjI7s4fi1Q6HH6d0NiimFO_X4YqhNj"


LINKS = ["drive:{}", "https://drive.google.com/file/d/{}/view?usp=sharing"]
LINKS += ["https://drive.google.com/file/u/0/d/{}/edit", "https://drive.google.com/open?id={}"]
LINKS += ["https://drive.google.com/uc?export=download&id={}", "drive.google.com/file/d/{}"]
LINKS += ["https://drive.usercontent.google.com/download?id={}&export=download&confirm=t"]
LINKS += ["http://docs.google.com/uc?id={}#x", "https://drive.google.com/u/1/uc?id={}&x=1"]


FILE = {"Content_Type": "a/zip", "Content_Disposition": 'attachment; filename="set.zip"'}
HTML = {"Content_Type": "text/html; charset=utf-8"}
WARNING = (
    '<form id="download-form" action="https://drive.usercontent.google.com/download" method="get">'
    '<input type="hidden" name="id" value="{}"><input type="hidden" name="confirm" value="t">'
    '<input type="hidden" name="uuid" value="{}"></form>'
)
TOO_MANY = b'<p class="uc-error-subcaption">Too many users have viewed the file</p>'


@pytest.fixture
def google(server, monkeypatch):
    """This server answers for Google, too."""
    send = HTTPAdapter.send

    def to_server(adapter, request, **options):
        request.url = server.root + request.path_url
        return send(adapter, request, **options)

    monkeypatch.setattr(HTTPAdapter, "send", to_server)
    return server


def large(**how):
    """What Drive answers to any request for a large file: a page, whose link is another each time,
    and behind it the file; how: as in `honest`."""

    def give(handler):
        if handler.path.startswith("/uc?"):
            return answer(WARNING.format(ID, len(handler.server.asked)).encode(), **HTML)(handler)
        return honest(**how, **FILE)(handler)

    return give


@pytest.mark.parametrize("link", LINKS)
def test_every_link_to_a_file_on_drive_is_one_address(google, tmp_path, link):
    google.answers = [honest(**FILE)]
    path = fetch(link.format(ID), tmp_path, progress=False)
    assert path.read_bytes() == BODY and seen(tmp_path) == sorted([path.name, "downloads.json"])
    assert fetch(f"drive:{ID}", tmp_path, sha256=SHA) == path
    assert record(tmp_path) == {f"drive:{ID}": {"sha256": SHA, "bytes": len(BODY)}}
    assert {path for path, _ in google.asked} == {f"/uc?id={ID}"}


def test_a_large_file_on_drive_lies_behind_a_page(google, tmp_path):
    google.answers = [large()]
    assert fetch(f"drive:{ID}", tmp_path, progress=False).read_bytes() == BODY
    paths = [path for path, _ in google.asked]
    assert paths == [f"/uc?id={ID}", f"/download?id={ID}&confirm=t&uuid=1"]


def test_a_cut_transfer_from_drive_goes_on_at_a_new_link(google, tmp_path):
    google.answers = [large(cut=9000)] * 2 + [large()]
    assert fetch(f"drive:{ID}", tmp_path, progress=False).read_bytes() == BODY
    assert google.headers("Range") == [None, None, None, "bytes=9000-"]
    assert google.asked[1][0] != google.asked[3][0]


def test_a_later_call_goes_on_with_what_came_from_drive(google, tmp_path, monkeypatch):
    google.answers = [large()]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(download.tqdm, "update", stop_button)
        fetch(f"drive:{ID}", tmp_path, progress=False)
    assert fetch(f"drive:{ID}", tmp_path, progress=False).read_bytes() == BODY
    assert google.headers("Range")[-1] == "bytes=1000-"


@pytest.mark.parametrize("page", [TOO_MANY, PAGE], ids=["quota", "any"])
def test_what_drive_refuses_is_told_at_once_with_the_way_out(google, tmp_path, page):
    google.answers = [answer(page, **HTML)]
    told = "Too many users" if page == TOO_MANY else "Anyone with the link"
    with pytest.raises(ValueError, match=f"(?s){told}.*private copy.*drive:ID.*mounted"):
        fetch(f"drive:{ID}", tmp_path)
    assert len(google.asked) == 1 and seen(tmp_path) == []


def test_a_quota_that_ends_in_mid_transfer_costs_no_byte_of_the_part(google, tmp_path):
    google.answers = [large(cut=9000)] * 2 + [large(), answer(PAGE, **HTML), large()]
    with pytest.raises(ValueError, match=r"text/html.*private copy"):
        fetch(f"drive:{ID}", tmp_path, progress=False)
    assert fetch(f"drive:{ID}", tmp_path, progress=False).read_bytes() == BODY
    assert google.headers("Range")[-1] == "bytes=9000-"


@pytest.mark.parametrize("cut", [answer(status=503, **HTML), answer(b"<p", length=99, **HTML)])
def test_a_page_of_drive_that_does_not_come_is_asked_for_again(google, tmp_path, cut):
    google.answers = [cut, cut, large()]
    assert fetch(f"drive:{ID}", tmp_path, progress=False).read_bytes() == BODY


def test_nothing_leads_from_https_to_http(google, tmp_path):
    google.answers = [answer(status=302, Location=google.address), honest(**FILE)]
    with pytest.raises(ValueError, match=f"not followed.*'{google.address}'"):
        fetch(f"drive:{ID}", tmp_path)
    assert len(google.asked) == 1 and seen(tmp_path) == []


def test_a_file_from_drive_must_be_what_was_promised_too(google, tmp_path):
    google.answers = [large()]
    with pytest.raises(ValueError, match="needed: 0000"):
        fetch(f"drive:{ID}", tmp_path, sha256="0" * 64, progress=False)
    assert seen(tmp_path) == []
