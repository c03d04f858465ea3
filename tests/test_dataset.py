import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from evalib import dataset, manifest, rooms

SIZE = 16


def image(numbers, salt, *shape):
    """(B, *shape) uint8 that follow from one number each: a renderer that takes no time."""
    numbers = np.array(list(map(int, numbers)), np.int64).reshape(-1, *[1] * len(shape))
    pixels = np.arange(int(np.prod(shape))).reshape(shape)
    return ((numbers * 7919 + pixels * (31 + salt) + pixels**2 * 3 + salt) % 251).astype(np.uint8)


@pytest.fixture(autouse=True)
def calls(monkeypatch):
    """Replace the renderer; the list has the number of samples of each call."""
    rendered = []

    def render(ids, size, *, seed=0):
        rendered.append(len(ids))
        return {
            "fg_bg": image(ids, seed, size, size, 3),
            "mask": (image(ids, 1, size, size) > 125).astype(np.uint8) * 255,
            "depth": image(ids, 2, size, size),
        }

    def render_backgrounds(bg, size, *, seed=0):
        return {"bg": image(bg, 3, size, size, 3), "bg_depth": image(bg, 4, size, size)}

    monkeypatch.setattr(rooms, "render", render)
    monkeypatch.setattr(rooms, "render_backgrounds", render_backgrounds)
    monkeypatch.setattr(dataset, "CHUNK_PIXELS", 10 * SIZE**2)
    return rendered


@pytest.fixture
def build(tmp_path):
    def build(tier="mid-1000", size=SIZE, *, limit=60, root=tmp_path, **options):
        return dataset.build(tier, size, limit=limit, root=root, progress=False, **options)

    return build


@pytest.fixture
def interrupt(monkeypatch):
    """interrupt(n): rendering stops at the n-th call from now, once, as the stop button does."""

    def arm(n):
        render, count = rooms.render, iter(range(1, 10**6))

        def stopping(*args, **options):
            if next(count) == n:
                raise KeyboardInterrupt
            return render(*args, **options)

        monkeypatch.setattr(rooms, "render", stopping)

    return arm


def data(path):
    files = [f for f in sorted(path.iterdir()) if f.suffix in (".u8", ".npy")]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_pack_holds_what_was_rendered_in_id_order(build):
    pack = build()
    ids = np.sort(manifest.sample_ids("mid-1000", 60))
    assert pack.index["id"].tolist() == ids.tolist() and len(pack) == 60
    assert pack.path.name == "mid-1000-60-16px" and (pack.tier, pack.size) == ("mid-1000", SIZE)
    rows = np.array([59, 0, 7])
    raw = pack.gather(rows)
    np.testing.assert_array_equal(raw["fg_bg"], image(ids[rows], 0, SIZE, SIZE, 3))
    np.testing.assert_array_equal(raw["depth"], image(ids[rows], 2, SIZE, SIZE))
    np.testing.assert_array_equal(raw["bg"], image(ids[rows] // 4000, 3, SIZE, SIZE, 3))
    np.testing.assert_array_equal(raw["bg_depth"], image(ids[rows] // 4000, 4, SIZE, SIZE))
    assert raw["row"].tolist() == rows.tolist()


def test_backgrounds_are_stored_once(build):
    pack = build()
    n_bg = len(np.unique(pack.index["bg"]))
    assert n_bg < 60 and pack.bg.shape == (n_bg, SIZE, SIZE, 3)
    assert (pack.path / "bg.u8").stat().st_size == n_bg * SIZE**2 * 3
    assert pack.bg_depth.shape == (n_bg, SIZE, SIZE) and pack.mask.shape == (60, SIZE, SIZE)


def test_floats_are_between_0_and_1_and_channels_come_first(build):
    batch = build().batch(np.arange(5))
    for name in ("bg", "fg_bg"):
        assert batch[name].shape == (5, 3, SIZE, SIZE) and batch[name].dtype == torch.float32
    for name in ("mask", "depth", "bg_depth"):
        assert batch[name].shape == (5, 1, SIZE, SIZE)
    assert set(batch["mask"].unique().tolist()) == {0.0, 1.0}
    expected = torch.from_numpy(image(build().index["id"][2:3], 0, SIZE, SIZE, 3)[0])
    assert torch.equal(batch["fg_bg"][2], expected.permute(2, 0, 1) / 255)


def test_a_finished_pack_is_not_rendered_again(build, calls):
    first = build()
    calls.clear()
    assert build().fingerprint == first.fingerprint and calls == []


@pytest.mark.parametrize("at", [1, 2, 6])
def test_an_interrupted_build_goes_on_and_ends_byte_for_byte_the_same(
    build, calls, interrupt, tmp_path, at
):
    whole = data(build(root=tmp_path / "whole").path)
    calls.clear()
    interrupt(at)
    with pytest.raises(KeyboardInterrupt):
        build()
    again = build()
    assert data(again.path) == whole
    assert calls == [10] * 6  # nothing was rendered twice


def test_samples_written_but_not_recorded_are_cut_off(build, interrupt, tmp_path):
    whole = data(build(root=tmp_path / "whole").path)
    interrupt(3)
    with pytest.raises(KeyboardInterrupt):
        build()
    path = tmp_path / "mid-1000-60-16px"
    with (path / "depth.u8").open("ab") as file:  # killed while the next chunk was written
        file.write(b"half a chunk")
    assert data(build().path) == whole


def test_a_build_killed_before_its_first_record_starts_anew(build, tmp_path):
    whole = build()
    (whole.path / "pack.json").unlink()
    expected = data(whole.path)
    assert data(build().path) == expected


def test_an_unfinished_pack_says_how_to_go_on(build, interrupt, tmp_path):
    interrupt(3)
    with pytest.raises(KeyboardInterrupt):
        build()
    command = "evalib build mid-1000 --size 16 --limit 60"
    with pytest.raises(ValueError, match=rf"unfinished \(20 of 60 .* go on with: {command}"):
        dataset.Pack(tmp_path / "mid-1000-60-16px")


def damage_json(path):
    (path / "pack.json").write_text('{"version": 1, "tier"', encoding="utf-8")


def damage_fields(path):
    (path / "pack.json").write_text('{"version": 1}', encoding="utf-8")


def damage_version(path):
    header = json.loads((path / "pack.json").read_text(encoding="utf-8"))
    (path / "pack.json").write_text(json.dumps(header | {"version": 0}), encoding="utf-8")


def damage_size(path):
    header = json.loads((path / "pack.json").read_text(encoding="utf-8"))
    (path / "pack.json").write_text(json.dumps(header | {"size": 8}), encoding="utf-8")


def damage_index(path):
    index = np.load(path / "index.npy")
    index["fg"][3] += 1
    np.save(path / "index.npy", index)


def cut(name):
    def cut(path):
        (path / name).write_bytes((path / name).read_bytes()[:-1])

    return cut


def lengthen(path):
    with (path / "mask.u8").open("ab") as file:
        file.write(b"x")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (damage_json, "cannot be read"),
        (damage_fields, "cannot be read"),
        (damage_version, "has version 0, not 2"),
        (damage_size, "do not agree"),
        (damage_index, "do not agree"),
        (cut("index.npy"), "cannot be read"),
        (cut("fg_bg.u8"), "fg_bg.u8 has 46,079 bytes, needed: 46,080"),
        (cut("bg.u8"), "bg.u8 has"),
        (lengthen, "mask.u8 has 15,361 bytes, needed: 15,360"),
        (lambda path: (path / "depth.u8").unlink(), "depth.u8 has 0 bytes"),
    ],
)
def test_a_damaged_pack_is_refused_and_says_what_to_do(build, damage, says):
    path = build().path
    damage(path)
    with pytest.raises(ValueError, match=says) as error:
        dataset.Pack(path)
    assert str(path) in str(error.value) and "delete the folder" in str(error.value)
    assert "rm -r" not in str(error.value)
    with pytest.raises(ValueError, match=says):
        build()


def test_a_damaged_unfinished_pack_is_not_gone_on_with(build, interrupt, tmp_path):
    interrupt(3)
    with pytest.raises(KeyboardInterrupt):
        build()
    cut("mask.u8")(tmp_path / "mid-1000-60-16px")
    with pytest.raises(
        ValueError, match="mask.u8 has 5,119 bytes, needed: 5,120; delete the folder"
    ):
        build()


def test_a_list_that_changed_since_is_noticed(build, monkeypatch):
    build()
    changed = manifest.sample_ids("mid-1000", 61)[1:]
    monkeypatch.setattr(manifest, "sample_ids", lambda tier, limit: changed)
    with pytest.raises(ValueError, match="holds other samples than mid-1000 has today; delete"):
        build()


def test_a_missing_pack_says_how_to_build_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="no pack in .*; build it: evalib build"):
        dataset.Pack(tmp_path / "full-400k-400000-64px")


def test_a_full_disk_is_told_before_anything_is_rendered(build, calls, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        OSError, match=r"full-400k-300000-16px needs 3\d\d MB more, .* has 0 MB free"
    ):
        build("full-400k", limit=300_000)
    assert calls == []


def test_a_size_that_cannot_be_built_is_refused(build):
    with pytest.raises(ValueError, match="size=8 pixels; needed: 16 or more"):
        build(size=8)


def test_fingerprints_differ_between_sizes_and_lists(build):
    prints = {build(size=s, limit=n).fingerprint for s in (16, 24) for n in (5, 6)}
    assert len(prints) == 4


def test_splits_are_disjoint_whole_and_the_same_on_every_machine(build):
    pack = build("full-400k", limit=500)
    rows = pack.split()
    assert tuple(rows) == manifest.SUBSETS
    assert sorted(np.concatenate(list(rows.values()))) == list(range(500))
    for number, name in enumerate(rows):
        assert set(manifest.subset_of(pack.index[rows[name]])) == {number}
    lists = b"".join(pack.index["id"][r].astype("<i8").tobytes() for r in rows.values())
    assert (
        hashlib.sha256(lists).hexdigest()
        == "bc06617b031b9bc074b9c460b378068503622a191d0ae64faa50900952cea593"
    )


def test_a_subset_keeps_its_order_in_a_pack_of_another_size(build):
    small, large = build("full-400k", 16, limit=100), build("full-400k", 24, limit=100)
    for one, other in zip(small.split().values(), large.split().values(), strict=True):
        assert np.array_equal(one, other)


def test_two_packs_of_one_tier_nest(build):
    small, large = build(limit=20), build(limit=60)
    assert set(small.index["id"]) < set(large.index["id"])


def test_the_real_rooms_give_the_same_files_whatever_is_rendered_together(tmp_path, monkeypatch):
    monkeypatch.undo()
    for chunk in (1, 4):
        monkeypatch.setattr(dataset, "CHUNK_PIXELS", chunk * SIZE**2)
        root = tmp_path / str(chunk)
        dataset.build("evaluation", SIZE, limit=6, root=root, progress=False)
    one, other = (data(tmp_path / chunk / "evaluation-6-16px") for chunk in "14")
    assert one == other
    pack = dataset.Pack(tmp_path / "1" / "evaluation-6-16px")
    assert set(np.unique(pack.mask)) <= {0, 255} and pack.fg_bg.std() > 5


def test_evaluation_goes_in_order_and_leaves_nothing_out(playground):
    parts = list(playground.batches(np.array([5, 3, 19, 0, 1]), 2))
    assert [p["row"].tolist() for p in parts] == [[5, 3], [19, 0], [1]]
    assert torch.equal(parts[1]["bg"], playground.batch(np.array([19, 0]))["bg"])


BUILDER = """
import sys
from evalib import dataset, rooms
render = rooms.render
def when_told(*args, **options):
    print("renders", flush=True)
    sys.stdin.readline()
    return render(*args, **options)
rooms.render = when_told
pack = dataset.build("playground-24", 16, root=sys.argv[1], progress=False)
print(len(pack), "samples")
"""


@pytest.fixture
def builder(tmp_path):
    """builder(): another process that builds playground-24, says when it is about to render, and
    renders when it is told to. It has two minutes: no test waits for ever."""
    with contextlib.ExitStack() as stack:

        def start():
            pipe = subprocess.PIPE
            command = [sys.executable, "-c", BUILDER, tmp_path]
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            limit = threading.Timer(120, process.kill)
            stack.callback(limit.cancel)
            limit.start()
            return process

        yield start


def wait_for(file):
    end = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < end, f"no {file}"
        time.sleep(0.01)


def test_of_two_processes_that_build_one_pack_the_second_waits(builder, tmp_path, monkeypatch):
    monkeypatch.undo()
    path = tmp_path / "playground-24-24-16px"
    one = builder()
    wait_for(path / "index.npy")
    other = builder()
    assert other.stdout.readline() == f"Another process builds {path}: waiting for it to finish.\n"
    assert one.communicate("go on\n")[0] == "renders\n24 samples\n"
    assert other.communicate()[0] == "24 samples\n"  # it rendered nothing
    whole = dataset.build("playground-24", 16, root=tmp_path / "alone")
    assert data(whole.path) == data(path)


def test_a_killed_builder_leaves_no_lock_behind(builder, tmp_path, monkeypatch, capsys):
    monkeypatch.undo()
    killed = builder()
    wait_for(tmp_path / "playground-24-24-16px" / "index.npy")
    killed.kill()
    killed.wait()
    assert (tmp_path / "playground-24-24-16px" / ".lock").exists()
    assert len(dataset.build("playground-24", 16, root=tmp_path)) == 24
    assert "Another process" not in capsys.readouterr().out


def test_who_opens_a_finished_pack_asks_for_no_lock(build, monkeypatch):
    build()
    monkeypatch.setattr(dataset, "FileLock", None)
    assert len(build()) == 60


def test_memory_is_pinned_for_a_gpu_only(monkeypatch):
    raw = {"bg": torch.from_numpy(image([1], 0, SIZE, SIZE, 3)), "row": torch.tensor([1])}
    pinned, moved = [], []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: pinned.append(x.dtype) or x)
    monkeypatch.setattr(torch.Tensor, "to", lambda x, device, **how: moved.append(how) or x)
    dataset.floats(raw, "cpu")
    dataset.floats(raw, torch.device("cpu"))
    assert pinned == []
    dataset.floats(raw, "cuda")
    dataset.floats(raw, torch.device("cuda", 0))
    assert pinned == [torch.uint8, torch.int64] * 2 and moved == [{"non_blocking": True}] * 8


def test_a_pack_on_a_device_gives_the_same_bytes(playground, monkeypatch):
    monkeypatch.setattr(dataset, "CHUNK", 7)  # 24 samples, 4 chunks
    there = playground.on("cpu")
    assert isinstance(there.fg_bg, torch.Tensor) and there.nbytes == playground.nbytes
    rows = np.array([3, 23, 3, 0])
    raw, expected = there.gather(rows), playground.gather(rows)
    assert raw.keys() == expected.keys()
    assert all(torch.equal(raw[name], expected[name]) for name in raw)
