import multiprocessing
import os
import pickle
import stat
import struct
import tracemalloc
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from archive_fixtures import archive, plain

from evalib.sources import members
from evalib.sources.members import open_files


def zipped(path, members, how=zipfile.ZIP_DEFLATED):
    """A zip of (name or ZipInfo, bytes) pairs."""
    with zipfile.ZipFile(path, "w", how) as file:
        for name, data in members:
            file.writestr(name, data, how)
    return path


def patched(path, old, new):
    """The same file, with some of its bytes replaced."""
    data = path.read_bytes()
    assert old in data and len(old) == len(new)
    path.write_bytes(data.replace(old, new))
    return path


def info(name, **attributes):
    made = zipfile.ZipInfo(name)
    for key, value in attributes.items():
        setattr(made, key, value)
    return made


@pytest.mark.parametrize("form", ["folder", "zips", "zip"])
def test_names_and_bytes_are_the_same_in_a_folder_in_zips_and_in_a_zip(form, tmp_path):
    made = archive("G")
    path = getattr(made, form)(tmp_path / "data")
    with open_files(path) as files:
        assert files.names == sorted(plain(name) for name in made.members)
        for name, data in made.members.items():
            assert files.read(plain(name)) == data


def test_a_zip_counts_as_a_folder_of_its_name(tmp_path):
    (tmp_path / "fg_bg").mkdir()
    zipped(tmp_path / "fg_bg" / "bg001.ZIP", [("./a//b/./c.jpg", b"1"), ("d.jpg", b"2")])
    (tmp_path / "fg_bg" / "bg002.jpg").write_bytes(b"3")
    with open_files(str(tmp_path)) as files:
        assert files.names == ["fg_bg/bg001/a/b/c.jpg", "fg_bg/bg001/d.jpg", "fg_bg/bg002.jpg"]
        assert [files.read(name) for name in files.names] == [b"1", b"2", b"3"]


def test_what_systems_leave_behind_is_left_out(tmp_path):
    litter = ["__MACOSX/a.jpg", "b/__MACOSX/._c.zip", "._d.jpg", "b/.DS_Store", "Thumbs.db", "b/"]
    path = zipped(tmp_path / "a.zip", [(name, b"") for name in [*litter, "b/bg.jpg"]])
    with open_files(path) as files:
        assert files.names == ["b/bg.jpg"]


def test_names_that_differ_by_case_are_different(tmp_path):
    path = zipped(tmp_path / "a.zip", [("BG1.jpg", b"1"), ("bg1.jpg", b"2")])
    with open_files(path) as files:
        assert [files.read(name) for name in ("BG1.jpg", "bg1.jpg")] == [b"1", b"2"]


def test_names_in_other_alphabets_are_read(tmp_path):
    path = zipped(tmp_path / "a.zip", [("фон/背景 1.jpg", b"1")])
    with open_files(path) as files:
        assert files.names == ["фон/背景 1.jpg"]


def test_an_unknown_name_is_a_key_error(tmp_path):
    path = zipped(tmp_path / "a.zip", [("b.jpg", b"1")])
    with open_files(path) as files, pytest.raises(KeyError, match="has no 'c.jpg'"):
        files.read("c.jpg")


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_files(tmp_path / "nowhere")


LINK = {"external_attr": (stat.S_IFLNK | 0o777) << 16}
PIPE = {"external_attr": (stat.S_IFIFO | 0o777) << 16}
HOSTILE = {
    "absolute": (("/etc/passwd", b"x"), "'/etc/passwd' leads out"),
    "above": (("a/../../b.jpg", b"x"), "'a/../../b.jpg' leads out"),
    "above, in litter": (("__MACOSX/../../b.jpg", b"x"), "leads out"),
    "a drive": (("C:b.jpg", b"x"), "'C:b.jpg' leads out"),
    "a line": (("a\nb.jpg", b"x"), "leads out"),
    "link": ((info("a.jpg", **LINK), b"/etc/passwd"), "'a.jpg' is a link"),
    "link from Windows": ((info("a.jpg", create_system=0, **LINK), b"/etc"), "'a.jpg' is a link"),
    "pipe": ((info("a.jpg", **PIPE), b""), "'a.jpg' is a link or a device"),
    "nested": (("fg_bg/bg001.zip", b"PK"), "'fg_bg/bg001.zip' is an archive in an archive"),
    "nested tar": (("fg_bg.tar.gz", b""), "'fg_bg.tar.gz' is an archive in an archive"),
    "long name": (("a" * 1001, b""), "a' has a name of 1,001 characters"),
    "bomb": (("a.png", bytes(2 << 20)), "'a.png' would unpack from 2,[0-9]+ to 2,097,152 bytes"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_member_is_refused_by_name_before_any_is_read(case, tmp_path, monkeypatch):
    member, error = HOSTILE[case]
    path = zipped(tmp_path / "a.zip", [("good.jpg", b"x"), member])
    monkeypatch.setattr(members.Files, "_bytes", lambda *_: pytest.fail("a member was read"))
    with pytest.raises(ValueError, match=error):
        open_files(path)
    with pytest.raises(ValueError, match=error):
        open_files(tmp_path)


def test_backslashes_are_slashes(tmp_path):
    path = patched(zipped(tmp_path / "a.zip", [("a__b.jpg", b"x")]), b"a__b", b"a\\_b")
    with open_files(path) as files:
        assert files.names == ["a/_b.jpg"] and files.read("a/_b.jpg") == b"x"
    path = patched(zipped(tmp_path / "b.zip", [("a___/b.jpg", b"x")]), b"a___/b", b"a\\../b")
    with pytest.raises(ValueError, match="leads out"):
        open_files(path)


def test_data_beside_the_pictures_may_be_large_and_is_not_read(tmp_path):
    path = zipped(tmp_path / "a.zip", [("nyu.h5", bytes(3 << 20)), ("a.jpg", b"x")])
    with open_files(path) as files:
        assert files.names == ["a.jpg", "nyu.h5"]


@pytest.mark.parametrize("how", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_another_way_of_packing_is_named(how, tmp_path):
    path = zipped(tmp_path / "a.zip", [("a.jpg", b"x")], how)
    with pytest.raises(ValueError, match=f"'a.jpg' is packed in a way .number {how}."):
        open_files(path)


def test_an_encrypted_member_is_refused(tmp_path):
    path = zipped(tmp_path / "a.zip", [("a.jpg", b"x")])
    with zipfile.ZipFile(path) as file:
        at = file.start_dir + 8
    data = bytearray(path.read_bytes())
    data[at] |= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="'a.jpg' is encrypted"):
        open_files(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("again", ["b/a.jpg", "./b/a.jpg", "b//a.jpg"])
def test_a_name_that_is_there_twice_is_refused(again, tmp_path):
    path = zipped(tmp_path / "a.zip", [("b/a.jpg", b"x"), (again, b"y")])
    with pytest.raises(ValueError, match="has 'b/a.jpg' twice"):
        open_files(path)


def test_a_zip_beside_its_own_contents_is_refused(tmp_path):
    zipped(tmp_path / "bg.zip", [("a.jpg", b"x")])
    (tmp_path / "bg").mkdir()
    (tmp_path / "bg" / "a.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match="has 'bg/a.jpg' twice"):
        open_files(tmp_path)


def test_more_than_was_declared_is_never_unpacked(tmp_path):
    n = 32 << 20
    path = zipped(tmp_path / "a.zip", [("a.png", bytes(n))])
    size = struct.pack("<I", n)
    assert path.read_bytes().count(size) == 2
    patched(path, size, struct.pack("<I", 1000))
    with open_files(path) as files:
        tracemalloc.start()
        with pytest.raises(ValueError, match="'a.png' is damaged"):
            files.read("a.png")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 1 << 20


def test_a_flipped_bit_is_found(tmp_path):
    for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        data = os.urandom(1000)
        path = zipped(tmp_path / "a.zip", [("a.jpg", data)], how)
        patched(path, data[500:510], bytes(byte ^ 1 for byte in data[500:510]))
        with open_files(path) as files, pytest.raises(ValueError, match="'a.jpg' is damaged"):
            files.read("a.jpg")


def test_a_truncated_zip_is_named_wherever_it_ends(tmp_path):
    path = zipped(tmp_path / "a.zip", [(f"{i}.jpg", os.urandom(50)) for i in range(4)])
    data = path.read_bytes()
    for end in range(0, len(data), 3):
        path.write_bytes(data[:end])
        with pytest.raises(ValueError, match="a.zip is no zip, or its end is missing"):
            open_files(path)


def test_bytes_lost_from_the_middle_are_noticed(tmp_path):
    path = zipped(tmp_path / "a.zip", [(f"{i}.jpg", os.urandom(50)) for i in range(4)])
    data = path.read_bytes()
    for start in range(0, len(data) - 40, 7):
        path.write_bytes(data[:start] + data[start + 10 :])
        with pytest.raises(ValueError, match="a.zip (misses a part|is damaged)"):
            open_files(path)


def test_html_under_the_name_of_a_zip_is_named(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(ValueError, match="a.zip is no zip"):
        open_files(tmp_path)


def test_any_changed_byte_is_an_error_or_changes_nothing_but_names(tmp_path):
    """Nothing but ValueError comes out of a directory that somebody forged."""
    path = zipped(tmp_path / "a.zip", [("a.jpg", b"12345"), ("b.jpg", b"67890")])
    data = path.read_bytes()
    for at in range(len(data)):
        for value in (0xFF, data[at] ^ 1):
            path.write_bytes(data[:at] + bytes([value]) + data[at + 1 :])
            try:
                with open_files(path) as files:
                    said = [files.read(name) for name in files.names]
            except ValueError:
                continue
            assert set(said) <= {b"12345", b"67890"}


def end_record(count, size, offset):
    return struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, size, offset, 0)


def end_record_64(count, size, offset):
    wide = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, offset)
    return wide + struct.pack("<4sIQI", b"PK\6\7", 0, size, 1) + end_record(65535, 0xFFFFFFFF, 0)


def memory_to_refuse(path, match):
    """Bytes held at the most until the archive is refused with these words."""
    tracemalloc.start()
    with pytest.raises(ValueError, match=match):
        open_files(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize(
    "end",
    [end_record_64(5_000_001, 46, 0), end_record_64(3, 1 << 40, 0), end_record(3, 1 << 31, 0)],
)
def test_a_directory_that_declares_too_much_is_not_read(end, tmp_path, monkeypatch):
    path = tmp_path / "a.zip"
    path.write_bytes(bytes(100) + end)
    assert memory_to_refuse(path, "a.zip declares .* members .*; split it") < 4 << 20


def directory(names):
    """A zip that is nothing but a directory."""
    body = b"".join(
        struct.pack("<4s6H3I5H2I", b"PK\1\2", *[0] * 9, len(name), *[0] * 6) + name
        for name in names
    )
    return body + end_record(len(names) % 65536, len(body), 0)


def test_more_members_than_the_directory_declares_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(members, "MAX_MEMBERS", 70_000)
    path = tmp_path / "a.zip"
    path.write_bytes(directory([b"%d.txt/" % i for i in range(70_001)]))  # declares 4,465
    with pytest.raises(ValueError, match="a.zip has more than 70,000 members"):
        open_files(path)


def test_all_zips_of_a_folder_are_counted_together(tmp_path, monkeypatch):
    monkeypatch.setattr(members, "MAX_MEMBERS", 5)
    for name in "abc":
        zipped(tmp_path / f"{name}.zip", [("1.jpg", b"x"), ("2.jpg", b"x")])
    with pytest.raises(ValueError, match="c.zip has more than 1 members"):
        open_files(tmp_path)


def test_many_empty_members_are_refused_in_bounded_memory(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(directory([b"%06d.jpg" % i for i in range(100_000)]))
    assert memory_to_refuse(path, "'001000.jpg' is empty, as are 1,000 others") < 4 << 20


def test_a_few_empty_members_are_members(tmp_path):
    path = zipped(tmp_path / "a.zip", [("a.jpg", b""), ("b.jpg", b"")])
    with open_files(path) as files:
        assert [files.read(name) for name in files.names] == [b"", b""]


def test_members_beyond_four_gigabytes_are_found(tmp_path):
    """zip64: a hole in the file stands for what lies before."""
    path = tmp_path / "a.zip"
    data = b"far away"
    far = (1 << 32) + 5
    name = b"a.jpg"
    crc = zlib.crc32(data)
    local = struct.pack("<4s5H3I2H", b"PK\3\4", *[0] * 5, crc, 8, 8, len(name), 0) + name + data
    extra = struct.pack("<2HH2HQ", 7, 2, 0, 1, 8, far)  # another field, then that of zip64
    entry = struct.pack(
        *("<4s6H3I5H2I", b"PK\1\2", *[0] * 6, crc, 8, 8),
        *(len(name), len(extra), 0, 0, 0, 0, 0xFFFFFFFF),
    )
    entry += name + extra
    with path.open("wb") as file:
        file.seek(far)
        file.write(local + entry + end_record_64(1, len(entry), far + len(local)))
    with open_files(path) as files:
        assert files.read("a.jpg") == data


@pytest.mark.skipif(os.name != "posix", reason="links need rights on Windows")
def test_links_out_of_a_folder_are_refused_by_name(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"x")
    data = tmp_path / "data"
    data.mkdir()
    (data / "inside.jpg").write_bytes(b"y")
    (data / "link.jpg").symlink_to("inside.jpg")
    (data / "round").symlink_to(".")
    with open_files(data) as files:
        assert files.names == ["inside.jpg", "link.jpg"]
    for target in (tmp_path / "secret.jpg", tmp_path, "../data2"):
        (data / "out").symlink_to(target)
        with pytest.raises(ValueError, match="'out' is a link that leads out"):
            open_files(data)
        (data / "out").unlink()


def test_a_huge_file_of_a_folder_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(members, "MAX_BYTES", 1000)
    (tmp_path / "a.jpg").write_bytes(bytes(1001))
    with open_files(tmp_path) as files, pytest.raises(ValueError, match="a.jpg is larger than"):
        files.read("a.jpg")


@pytest.mark.parametrize("n_open", [0, 1, 100])
def test_more_zips_than_may_stay_open_are_read_all_the_same(n_open, tmp_path, monkeypatch):
    monkeypatch.setattr(members, "MAX_OPEN", n_open)
    made = archive("B")
    with open_files(made.zips(tmp_path / "data")) as files:
        for name, data in made.members.items():
            assert files.read(name.replace(".zip!", "/").replace("./", "")) == data


def test_threads_do_not_get_each_others_bytes(tmp_path):
    members = {f"{i}.jpg": os.urandom(500 + i) for i in range(50)}
    path = zipped(tmp_path / "a.zip", members.items())
    names = list(members) * 40
    with open_files(path) as files, ThreadPoolExecutor(8) as threads:
        assert list(threads.map(files.read, names)) == [members[name] for name in names]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process is forked on Windows")
def test_forked_processes_do_not_get_each_others_bytes(tmp_path):
    members = {f"{i}.jpg": os.urandom(500 + i) for i in range(50)}
    path = zipped(tmp_path / "a.zip", members.items())
    with open_files(path) as files:

        def read_all():
            return [files.read(name) == members[name] for name in list(members) * 40]

        fork = multiprocessing.get_context("fork")
        done = [fork.Process(target=lambda: os._exit(not all(read_all()))) for _ in range(4)]
        for process in done:
            process.start()
        for process in done:
            process.join()
    assert [process.exitcode for process in done] == [0] * 4


def test_a_pickled_archive_opens_its_path_again(tmp_path):
    path = zipped(tmp_path / "a.zip", [("a.jpg", b"1")])
    with open_files(path) as files, pickle.loads(pickle.dumps(files)) as again:
        assert again.read("a.jpg") == b"1"


def test_a_closed_archive_says_so(tmp_path):
    files = open_files(zipped(tmp_path / "a.zip", [("a.jpg", b"1")]))
    files.close()
    with pytest.raises(ValueError, match="closed file"):
        files.read("a.jpg")
