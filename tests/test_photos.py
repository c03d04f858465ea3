"""Photographs of one's own: pasted together on demand, and written as a data set."""

import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from evalib import dataset, manifest, sources, training
from evalib.__main__ import main
from evalib.batches import Batches
from evalib.config import Config
from evalib.sources import Photos, compose
from evalib.stream import Stream

N_BG, N_FG = 10, 10
TINY = dict(batch_size=8, log_every=2, evaluate_every=4, n_valid=8, ema=0.5, depth_loss="")


def scene(number):
    """Smooth, and of its own colour."""
    y, x = np.mgrid[:60, :80]
    return np.stack([10 * number + y, x + 20, np.full_like(x, 90)], -1).astype(np.uint8)


def cutout(number):
    """A red disc with a soft edge; larger numbers are taller."""
    y, x = np.mgrid[: 40 + 4 * number, :40]
    away = np.hypot((y - y.max() / 2) / y.max() * 2, (x - 19.5) / 20)
    alpha = np.clip((1 - away) * 255 * 3, 0, 255)
    colour = np.stack([np.full_like(x, 250), 20 * number + x * 0, x], -1)
    return np.dstack([colour, alpha]).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for kind, n, make in (("bg", N_BG, scene), ("fg", N_FG, cutout)):
        (root / kind).mkdir()
        for number in range(n):
            Image.fromarray(make(number)).save(root / kind / f"{kind}{number + 1}.png")
    return root


@pytest.fixture
def tier(folder, tmp_path, monkeypatch):
    (tmp_path / "mine.csv").write_text(
        f"tier,source,address,subsets,n_samples\nmine,photos,{folder},,\nfew,photos,{folder},train,20\n"
    )
    monkeypatch.setenv("EVALIB_MANIFEST", str(tmp_path / "mine.csv"))
    return sources.open_source(manifest.find("mine"), "")


def shifted(image):
    """Where a picture has the red of cut-outs."""
    return image[..., 0] > 200


def test_every_background_meets_every_object_at_forty_placements(tier):
    assert len(tier.index()) == N_BG * N_FG * 40
    index = tier.tier.index_of(np.array([0, 39, 40, 40 * N_FG, 40 * N_FG * N_BG - 1]))
    told = index[["bg", "fg", "placement"]].tolist()
    assert told == [(0, 0, 0), (0, 0, 39), (0, 1, 0), (1, 0, 0), (9, 9, 39)]


def test_bg2_is_the_second_background(folder):
    names = [path.name for path in Photos(folder / "bg", folder / "fg").bg_paths]
    assert names == [f"bg{number}.png" for number in range(1, 11)]


def test_what_a_sample_shows_follows_from_its_number_and_the_seed(tier, folder):
    ids = [5, 805, 3999]
    first = tier.render(ids, 48)
    again = Photos(folder / "bg", folder / "fg").render(ids[1:], 48, seed=0)
    for kind, images in again.items():
        assert np.array_equal(images, first[kind][1:])
    other = tier.maker.render(ids, 48, seed=1)
    assert not np.array_equal(other["mask"], first["mask"])


def test_outside_the_cut_out_the_picture_is_its_background(tier):
    ids = np.arange(0, 4000, 37)
    shots = tier.render(ids, 64)
    bg = tier.render_backgrounds(tier.tier.index_of(ids)["bg"], 64)["bg"]
    changed = (shots["fg_bg"] != bg).any(-1)
    new = shots["mask"] > 0
    assert not (new & ~changed).any()
    rim = changed & ~new  # soft: what is less than half new
    assert 0 < rim.sum() < new.sum()


def test_a_soft_edge_stays_soft(tier):
    ids = np.arange(0, 400, 7)
    shots = tier.render(ids, 128)
    red = shots["fg_bg"][..., 0].astype(int)
    assert ((red > 120) & (red < 230)).any(axis=(1, 2)).mean() > 0.9


def test_a_mirrored_twin_stands_at_the_same_place(tier):
    shots = tier.render(np.arange(80), 64)["mask"].reshape(40, 2, 64, 64) > 0
    for plain, mirrored in shots:  # discs are their own mirror images, but for a pixel's rounding
        assert (plain ^ mirrored).sum() <= 0.15 * plain.sum() + 4


def test_one_sample_is_the_same_at_any_size(tier):
    ids = np.arange(0, 4000, 211)
    small = tier.render(ids, 32)["mask"].mean((1, 2)) / 255
    large = tier.render(ids, 224)["mask"].mean((1, 2)) / 255
    assert np.abs(small - large).max() < 0.02


def test_some_samples_have_nothing_new(tier):
    masks = tier.render(np.arange(0, 4000, 2), 32)["mask"]
    assert 0.005 < (masks.max((1, 2)) == 0).mean() < 0.05


def test_whatever_is_larger_stands_lower(tier):
    masks = tier.render(np.arange(0, 4000, 2), 64)["mask"] > 0
    area = masks.sum((1, 2))
    feet = np.array([np.nonzero(m.any(1))[0].max() if m.any() else -1 for m in masks])
    some = area > 20
    assert np.corrcoef(np.sqrt(area[some]), feet[some])[0, 1] > 0.5


def test_a_mask_beside_a_photo_takes_the_place_of_transparency(folder, tmp_path):
    for kind in ("fg", "fg_mask"):
        (tmp_path / kind).mkdir()
    for number in range(N_FG):
        pixels = cutout(number)
        image = Image.fromarray(np.ascontiguousarray(pixels[..., :3]))
        image.save(tmp_path / "fg" / f"fg{number + 1}.png")
        Image.fromarray(pixels[..., 3].copy()).save(tmp_path / "fg_mask" / f"fg{number + 1}.png")
    one = Photos(folder / "bg", folder / "fg").render([11, 500], 64)
    other = Photos(folder / "bg", tmp_path / "fg").render([11, 500], 64)
    assert np.array_equal(one["fg_bg"], other["fg_bg"])


def test_a_photo_without_transparency_is_named(folder, tmp_path):
    (tmp_path / "fg").mkdir()
    Image.fromarray(scene(1)).save(tmp_path / "fg" / "dog.png")
    with pytest.raises(ValueError, match=r"dog.png has no transparency; needed: a cut-out saved"):
        Photos(folder / "bg", tmp_path / "fg").render(range(40), 32)


def test_folders_without_pictures_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no pictures in .*nothing; needed there: .jpg"):
        Photos(folder / "bg", tmp_path / "nothing")


def test_whole_backgrounds_and_objects_are_held_out(tier, tmp_path):
    pack = dataset.build("mine", 32, limit=300, root=tmp_path, progress=False)
    trained = pack.index[pack.split()["train"]]
    assert not {4, 9} & (set(trained["bg"].tolist()) | set(trained["fg"].tolist()))
    assert len(pack.split()["unseen_both"])
    few = dataset.build("few", 32, root=tmp_path, progress=False)
    assert len(few.split()["train"]) == len(few) == 20


def test_another_photo_makes_another_pack(tier, folder, tmp_path):
    dataset.build("few", 32, root=tmp_path, progress=False)
    shutil.copytree(folder, tmp_path / "copy")
    Image.fromarray(scene(0)[::-1]).save(tmp_path / "copy" / "bg" / "bg1.png")
    mine = (tmp_path / "mine.csv").read_text().replace(str(folder), str(tmp_path / "copy"))
    (tmp_path / "mine.csv").write_text(mine)
    with pytest.raises(ValueError, match="few-20-32px holds other samples than few has today"):
        dataset.build("few", 32, root=tmp_path, progress=False)


def test_a_stream_of_photographs_is_that_of_its_numbers(tier):
    config = Config(**TINY, sizes=(((16, 32), 6),), window=128, reuse=1)
    batches = Batches(Stream("mine", config), config)
    steps = [(step, config.size_at(step)) for step in range(6)]
    for raw in batches.ahead(steps):
        assert "depth" not in raw
        size = raw["mask"].shape[-1]
        shots = tier.render(raw["row"].numpy(), size)
        assert np.array_equal(raw["fg_bg"].numpy(), shots["fg_bg"])
        subsets = manifest.subset_of(tier.tier.index_of(raw["row"].numpy()))
        assert set(subsets) == {manifest.SUBSETS.index("train")}


def test_training_on_photographs_goes_on_bit_for_bit(tier, tmp_path):
    config = Config(**TINY, sizes=((32, 6),), window=128)
    valid = dataset.build("mine", 32, limit=200, root=tmp_path, progress=False)
    options = {"valid": valid, "progress": False, "device": "cpu"}
    straight = training.train(config, "mine", tmp_path / "straight", **options)
    first = training.train(config, "mine", tmp_path / "cut", **options, time_budget=1e-3)
    assert not first.done
    second = training.train(config, "mine", tmp_path / "cut", **options)
    ours, theirs = (run.model.state_dict() for run in (straight, second))
    assert second.done and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_compose_writes_is_read_back(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert main(["compose", *map(str, (folder / "bg", folder / "fg", out)), "--limit", "60"]) == 0
    (tmp_path / "theirs.csv").write_text(f"tier,source,address,layout\ntheirs,folder,{out},\n")
    monkeypatch.setenv("EVALIB_MANIFEST", str(tmp_path / "theirs.csv"))
    archive = sources.open_source(manifest.find("theirs"), "")
    assert archive.layout.name == "A" and archive.kinds == ("bg", "fg_bg", "mask")
    assert len(archive.index()) == 60 and archive.pairs.leak == ""
    photos = Photos(folder / "bg", folder / "fg")
    chosen = compose.chosen(photos, 60, seed=0)
    place, mirrored = np.divmod(chosen % 40, 2)
    chosen = chosen[np.lexsort((place, mirrored, chosen // 40))]  # in the names, all mirrored last
    ours = photos.render(chosen, 224)
    theirs = archive.render(archive.index()["id"], 224)
    same = (ours["mask"] == theirs["mask"]).mean((1, 2))
    assert (same > 0.995).all()  # JPEG moves a few pixels at edges
    with zipfile.ZipFile(out / "bg001.zip") as file:
        boxes = file.read("bbox.txt").decode().splitlines()
        names = file.read("file_map.txt").decode().splitlines()
    assert len(boxes) == len(names) and names[0].split("\t")[0] == "bg001"
    stem, x, y, w, h = boxes[0].split("\t")
    mask = ours["mask"][0] > 0
    assert (int(w), int(h)) == (mask.any(0).sum(), mask.any(1).sum()) and mask[:, int(x)].any()


def test_a_stopped_compose_goes_on(folder, tmp_path, monkeypatch):
    photos = Photos(folder / "bg", folder / "fg")
    whole = compose.compose(photos, tmp_path / "whole", limit=40, size=32, progress=False)
    with monkeypatch.context() as patch:
        fill, calls = compose._fill, iter(range(99))

        def stopped(*args):
            if next(calls) == 3:
                raise KeyboardInterrupt
            fill(*args)

        patch.setattr(compose, "_fill", stopped)
        with pytest.raises(KeyboardInterrupt):
            compose.compose(photos, tmp_path / "cut", limit=40, size=32, progress=False)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").glob("*.zip")}
    assert len(kept) == 3
    cut = compose.compose(photos, tmp_path / "cut", limit=40, size=32, progress=False)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    for one, other in zip(whole, cut, strict=True):
        with zipfile.ZipFile(one) as a, zipfile.ZipFile(other) as b:
            assert a.namelist() == b.namelist()
            assert all(a.read(name) == b.read(name) for name in a.namelist())
    assert not list((tmp_path / "cut").glob("*.part"))


def test_a_limit_takes_few_of_all_backgrounds(tier):
    rows = tier.index(200)
    assert len(np.unique(rows["bg"])) == N_BG
    assert replace(tier.tier, n_samples=5).n_samples == 5


def test_compose_mixes_nothing_with_what_is_there(folder, tmp_path):
    photos = Photos(folder / "bg", folder / "fg")
    compose.compose(photos, tmp_path, limit=4, size=16, progress=False)
    with pytest.raises(ValueError, match="holds what was composed .* another limit, size or seed"):
        compose.compose(photos, tmp_path, size=32, progress=False)


def test_subsets_of_photographs_are_drawn_from(tier, tmp_path):
    some = replace(tier.tier, subsets=("unseen_bg",), n_samples=50)
    subsets = manifest.subset_of(some.index_of(manifest.sample_ids(some)))
    assert set(subsets) == {manifest.SUBSETS.index("unseen_bg")}
    with pytest.raises(
        ValueError, match="a subset has no 4000 samples .*'unseen_bg': 640.*add pic"
    ):
        manifest.sample_ids(replace(some, n_samples=4000))
