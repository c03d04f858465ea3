import re

import numpy as np
import pytest
from archive_fixtures import FOLDERS, LETTERS, SIZE, archive, bg_of, plain, serial_of

from evalib import manifest
from evalib.sources import layouts
from evalib.sources.archive import load_image
from evalib.sources.layouts import LAYOUTS, detect
from evalib.sources.members import open_files
from evalib.sources.pairs import pair


def read_all(files, pairs, layout):
    """What each sample's pictures say that they are: (serial of each kind), bg."""
    for row, record in enumerate(pairs.index):
        said = set()
        for kind in pairs.members.keys() - {"bg"}:
            name = files.names[pairs.members[kind][row]]
            said.add(serial_of(kind, load_image(files.read(name), kind, SIZE, layout)))
        name = files.names[pairs.members["bg"][record["bg"]]]
        yield said, bg_of(load_image(files.read(name), "bg", SIZE, layout))


def opened(made, form, folder):
    return open_files(
        {
            "folder": lambda: made.folder(folder / "data"),
            "zips": lambda: made.zips(folder / "data"),
            "zip": lambda: made.zip(folder / "data.zip"),
            "zip in a folder": lambda: made.zip(folder / "data.zip", "Dataset/").parent,
        }[form]()
    )


@pytest.mark.parametrize("form", ["folder", "zips", "zip", "zip in a folder"])
@pytest.mark.parametrize("letter", LETTERS)
def test_every_layout_is_recognised_and_its_pictures_belong_together(letter, form, tmp_path):
    with opened(archive(letter), form, tmp_path) as files:
        layout = detect(files.names)
        assert layout.name == letter
        pairs = pair(files.names, layout)
        said = list(read_all(files, pairs, layout))
    assert len(said) == 16
    for (serials, bg), record in zip(said, pairs.index, strict=True):
        (serial,) = serials
        assert bg == record["bg"] == serial >> 3
        assert record["fg"] == (-1 if letter == "H" else serial >> 2 & 1)
    assert sorted(serials.pop() for serials, _ in said) == list(range(16))
    assert pairs.problems.keys() == {"not used"}
    assert bool(pairs.leak) == (letter == "H")


@pytest.mark.parametrize("letter", set(LETTERS) - {"H"})
def test_numbers_are_ranks_that_follow_from_names_alone(letter, tmp_path):
    names = sorted(plain(name) for name in archive(letter).members)
    pairs = pair(names, detect(names))
    assert pairs.index.dtype == manifest.INDEX
    assert pairs.index["id"].tolist() == list(range(16))
    assert pairs.index["placement"].tolist() == [0, 1, 2, 3] * 4
    assert pairs.index["bg"].tolist() == [0] * 8 + [1] * 8


def test_bg2_stands_before_bg10():
    names = sorted(plain(name) for name in archive("D").members)
    pairs = pair(names, detect(names))
    assert pairs.bg_names == ["bg_2", "bg_10"]
    assert pairs.fg_names == ["fg9", "fg10"]
    pairs = pair(sorted(plain(name) for name in archive("C").members), LAYOUTS["C"])
    assert pairs.bg_names == ["office2", "office10"]


@pytest.mark.parametrize("letter", LETTERS)
def test_masks_without_depth_are_a_data_set(letter, tmp_path):
    with opened(archive(letter, with_depth=False), "folder", tmp_path) as files:
        layout = detect(files.names)
        pairs = pair(files.names, layout)
        said = list(read_all(files, pairs, layout))
    assert layout.name == letter
    assert set(pairs.members) == {"fg_bg", "mask", "bg"}
    assert sorted(serials.pop() for serials, _ in said) == list(range(16))


@pytest.mark.parametrize("letter", LETTERS)
def test_uppercase_suffixes_and_jpeg_for_jpg_are_the_same(letter):
    names = [plain(name) for name in archive(letter).members]
    for old, new in ((".jpg", ".JPG"), (".jpg", ".jpeg"), (".jpeg", ".jpg"), (".png", ".jpg")):
        changed = sorted(name.replace(old, new) for name in names)
        assert detect(changed).name == letter
        assert len(pair(changed, LAYOUTS[letter]).index) == 16


@pytest.mark.parametrize("kind", ["mask", "depth"])
@pytest.mark.parametrize("letter", LETTERS)
def test_a_missing_file_is_named_and_shifts_nothing(letter, kind, tmp_path):
    made = archive(letter)
    whole = pair(sorted(map(plain, made.members)), LAYOUTS[letter])
    lost = made.samples[5]
    del made.members[lost[kind]]
    with opened(made, "zips", tmp_path) as files:
        pairs = pair(files.names, LAYOUTS[letter])
        said = list(read_all(files, pairs, LAYOUTS[letter]))
    n, (name,) = pairs.problems[f"fg_bg without {kind}"]
    assert n == 1 and name.endswith(plain(lost["fg_bg"]).rpartition("/")[2])
    assert all(len(serials) == 1 for serials, _ in said)
    assert sorted(serials.pop() for serials, _ in said) == [*range(5), *range(6, 16)]
    kept = np.isin(whole.index["id"], pairs.index["id"])
    assert np.array_equal(whole.index[kept], pairs.index)


@pytest.mark.parametrize("letter", LETTERS)
def test_a_mask_without_its_picture_is_named(letter):
    made = archive(letter)
    del made.members[made.samples[3]["fg_bg"]]
    pairs = pair(sorted(map(plain, made.members)), LAYOUTS[letter])
    assert pairs.problems["mask without fg_bg"] == (1, [plain(made.samples[3]["mask"])])
    assert len(pairs.index) == 15


def test_masks_with_other_numbers_are_never_given_to_pictures_in_their_order():
    names = sorted(archive("G").members)
    renumbered = [
        f"{name[:-10]}{int(name[-10:-4]) + 16:06}.jpg" if name.startswith("fg_bg_masks") else name
        for name in names
    ]
    with pytest.raises(ValueError, match="no sample is whole(?s:.*)fg_bg without mask: 16"):
        pair(sorted(renumbered), LAYOUTS["G"])


def test_a_file_that_is_there_twice_is_named_and_used_once():
    made = archive("A")
    name = made.samples[0]["mask"]
    made.members[name.replace(".jpeg", ".png")] = b""
    made.members["MODEST/bg/bg001.png"] = b""
    pairs = pair(sorted(made.members), LAYOUTS["A"])
    n, names = pairs.problems["a second for its place"]
    assert n == 2 and names == ["MODEST/bg/bg001.png", name.replace(".jpeg", ".png")]
    assert len(pairs.index) == 16


def test_a_background_without_a_picture_is_named_with_its_samples_left_out():
    made = archive("B")
    del made.members[made.samples[0]["bg"]]
    pairs = pair(sorted(map(plain, made.members)), LAYOUTS["B"])
    assert pairs.problems["bg without a picture"] == (1, ["bg001"])
    assert pairs.index["bg"].tolist() == [1] * 8
    assert pairs.members["bg"][0] == -1


def test_ten_names_are_shown_of_many():
    made = archive("B")
    names = sorted(plain(name) for name in made.members)
    more = sorted([*names, *(f"notes/{i}.txt" for i in range(50))])
    n, few = pair(more, LAYOUTS["B"]).problems["not used"]
    assert n == 52 and len(few) == 10


def test_objects_that_each_batch_numbers_anew_are_different_objects():
    names = sorted(plain(name) for name in archive("J").members)
    anew = [re.sub(r"(fg_bg|mask)_2_", r"\1_1_", name) for name in names]
    assert anew != names
    pairs = pair(sorted(anew), LAYOUTS["J"])
    assert len(pairs.index) == 16
    assert pairs.fg_names == ["batch1/1", "batch2/1"]


def test_unknown_names_are_shown_with_the_layouts_that_were_tried():
    with pytest.raises(
        ValueError, match=r"none of the layouts A, B.* Found: a/b/1.jpg \(2 there\)"
    ):
        detect(["a/b/1.jpg", "a/b/2.jpg"])


def test_two_layouts_in_one_archive_are_not_chosen_between():
    both = [*map(plain, archive("A").members), *map(plain, archive("B").members)]
    with pytest.raises(ValueError, match="A and B of the layouts"):
        detect(sorted(set(both)))


def test_own_expressions_pair_samples_that_each_have_a_background(tmp_path):
    layout = layouts.folders(FOLDERS)
    made = archive("folders")
    with opened(made, "zip", tmp_path) as files:
        pairs = pair(files.names, layout)
        said = list(read_all(files, pairs, layout))
    assert [serials for serials, _ in said] == [{i} for i in range(16)]
    assert [bg for _, bg in said] == [0] * 8 + [1] * 8
    assert "blocks" in pairs.leak
    assert set(pairs.index["fg"]) == {-1}


def test_without_names_of_backgrounds_whole_blocks_are_held_out():
    kinds = ("overlay", "cut", "empty")
    names = sorted(f"{kind}/{n:04}.jpg" for kind in kinds for n in range(1000))
    pairs = pair(names, layouts.folders(FOLDERS))
    held = manifest.held_out(pairs.index["bg"])
    numbers = sorted(int(names[at][-8:-4]) for at in pairs.members["fg_bg"][held])
    blocks = sorted({number // 10 for number in numbers})  # 100 blocks of 10
    assert len(numbers) == 200 and blocks == list(range(4, 100, 5))
    of_sample = pairs.members["bg"][pairs.index["bg"]]
    for at, bg in zip(pairs.members["fg_bg"], of_sample, strict=True):
        assert names[at][-8:] == names[bg][-8:]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "needed: one of A, B, .* fg_bg=regex"),
        ("fg_bg=a(?P<n>.);mask=b(?P<n>.)", "needed: one of A, B, .* fg_bg=regex"),
        ("fg_bg=a(?P<n>;mask=b(?P<n>.);bg=c", "fg_bg=.* is no regular expression"),
        ("fg_bg=abc;mask=b(?P<n>.);bg=(?P<n>.)", "fg_bg=abc names no group"),
    ],
)
def test_a_row_that_spells_no_layout_is_refused(text, error):
    with pytest.raises(ValueError, match=error):
        layouts.folders(text)


def test_a_number_that_is_none_is_named():
    layout = layouts.folders(r"fg_bg=a/(?P<n>.+)\.jpg;mask=b/(?P<n>.+);bg=c/(?P<n>.+)")
    with pytest.raises(ValueError, match="'a/x.jpg': its group i or n is 'x'"):
        pair(["a/x.jpg"], layout)


def test_parts_of_an_archive_lend_each_other_nothing():
    made = [
        f"part{part}/{folder}/bg_001/img_000{n}.jpg"
        for part in (1, 2)
        for folder in ("fg_bg", "fg_bg_mask", "fg_bg_depth")
        for n in (1, 2)
    ]
    names = sorted([*made, "part1/bg/bg_001.jpg", "part2/bg/bg_001.jpg"])
    lost = "part1/fg_bg_mask/bg_001/img_0002.jpg"
    names.remove(lost)
    pairs = pair(names, LAYOUTS["H"])
    for row in range(len(pairs.index)):
        parts = {names[at[row]].split("/")[0] for kind, at in pairs.members.items() if kind != "bg"}
        assert len(parts) == 1, parts
    assert len(pairs.index) == 2
    for name in [n for n in names if n.startswith("part2/fg_bg") and n.endswith("2.jpg")]:
        if "/fg_bg_mask/" in name:
            names.remove(name)
    assert len(pair(names, LAYOUTS["H"]).index) == 1


@pytest.mark.parametrize("folder", ["batch1_images", "Batch 1", "images_batch1", "batch-1"])
def test_batches_are_known_by_their_folders(folder):
    name = f"{folder}/fg_bg_jpg/fg_bg_1_2_0_1.jpg"
    other = name.replace("batch1", "batch2").replace("ch 1", "ch 2").replace("ch-1", "ch-2")
    told = {LAYOUTS["J"].parse(n)[1]["batch"] for n in (name, other)}
    assert len(told) == 2 and None not in told
