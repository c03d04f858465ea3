"""Tiers of archives, from a row of a manifest to packs and networks."""

import io
import json

import numpy as np
import pytest
import torch
from archive_fixtures import FOLDERS, LETTERS, SIZE, archive, background, depth, plain, serial_of
from PIL import Image

from evalib import dataset, manifest, metrics, show, sources, training
from evalib.__main__ import main
from evalib.sources import archive as archives
from evalib.unet import predictor

TINY = dict(sizes=((32, 4),), batch_size=4, log_every=2, evaluate_every=4, n_valid=4, ema=0.5)


@pytest.fixture
def row(tmp_path, monkeypatch):
    """row(address, **fields): write a manifest with the tier `mine`."""

    def write(address, **fields):
        fields = {"tier": "mine", "source": "folder", "address": str(address)} | fields
        lines = [",".join(fields), ",".join(f'"{value}"' for value in fields.values())]
        (tmp_path / "mine.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        monkeypatch.setenv("EVALIB_MANIFEST", str(tmp_path / "mine.csv"))
        monkeypatch.setattr(archives, "MAX_BROKEN", 0.05)  # of so few
        return manifest.find("mine")

    return write


def build(tmp_path, size=SIZE, **options):
    return dataset.build("mine", size, root=tmp_path / "packs", progress=False, **options)


def serials(pack, kind):
    return [serial_of(kind, image) for image in getattr(pack, kind)]


@pytest.mark.parametrize("letter", LETTERS)
def test_a_pack_of_any_layout_holds_what_belongs_together(letter, tmp_path, row):
    row(archive(letter).zips(tmp_path / "data"), layout="")
    pack = build(tmp_path)
    assert len(pack) == 16 and pack.kinds == ["bg", "fg_bg", "mask", "depth"]
    told = serials(pack, "fg_bg")
    assert sorted(told) == list(range(16))
    assert told == serials(pack, "mask") == serials(pack, "depth")
    assert pack.problems == {} and pack.skipped == []
    batch = pack.batch(np.arange(16))
    assert batch["bg"].shape == (16, 3, SIZE, SIZE) and "bg_depth" not in batch
    green = (255 * batch["bg"][:, 1].mean((1, 2))).round()
    bg = [np.asarray(background(serial >> 3))[0, 0, 1] for serial in told]
    assert (green - torch.tensor(bg)).abs().max() <= 2


def test_own_expressions_in_a_row_pair_a_folder_without_names(tmp_path, row):
    row(archive("folders").folder(tmp_path / "data"), layout=FOLDERS)
    pack = build(tmp_path)
    assert serials(pack, "fg_bg") == serials(pack, "mask") == serials(pack, "depth")


def test_depth_that_runs_the_other_way_is_seen_and_turned_as_its_row_says(tmp_path, row, capsys):
    data = archive("A", inverted=True).folder(tmp_path / "data")
    wrong = sources.open_source(row(data), "")
    assert "WRONG WAY ROUND: say depth=near_bright in its row" in wrong.report()
    right = sources.open_source(row(data, depth="near_bright"), "")
    assert "WRONG" not in right.report()
    image = right.render(right.index(1)["id"], SIZE)["depth"][0]
    assert np.abs(image - np.asarray(depth(0)).astype(int)).max() <= 8  # JPEG


def test_depth_has_the_metres_that_its_row_says(tmp_path, row):
    data = archive("A").folder(tmp_path / "data")
    images = {}
    for scale in (10, 5, 20):
        source = sources.open_source(row(data, scale=scale), "")
        images[scale] = source.render([3], SIZE)["depth"].astype(int)
    assert np.abs(images[5] - images[10] / 2).max() <= 1
    assert np.abs(images[20] - np.minimum(images[10] * 2, 255)).max() <= 1


def test_depth_that_is_not_wanted_is_left_out(tmp_path, row):
    row(archive("A").folder(tmp_path / "data"), depth="none")
    assert build(tmp_path).kinds == ["bg", "fg_bg", "mask"]


def test_a_depth_that_is_no_way_of_running_is_named(tmp_path, row):
    tier = row(archive("A").folder(tmp_path / "data"), depth="nearly")
    with pytest.raises(ValueError, match="depth 'nearly'; needed: near_dark, near_bright"):
        sources.open_source(tier, "")


def damaged(made, kind, serial, data):
    made.members[made.samples[serial][kind]] = data
    return plain(made.samples[serial][kind])


@pytest.mark.filterwarnings("ignore:mine-16")
@pytest.mark.parametrize("kind", ["fg_bg", "mask", "depth"])
def test_a_torn_picture_is_named_and_its_sample_is_in_no_subset(kind, tmp_path, row):
    made = archive("A")
    whole = made.members[made.samples[5][kind]]
    name = damaged(made, kind, 5, whole[: len(whole) // 2])
    row(made.folder(tmp_path / "data"))
    with pytest.warns(UserWarning, match=f"1 problems: {name} .cannot read the picture"):
        pack = build(tmp_path)
    assert list(pack.problems) == [name] and pack.skipped == [5]
    rows = np.concatenate(list(pack.split().values()))
    assert sorted(rows) == [i for i in range(16) if i != 5]


@pytest.mark.filterwarnings("ignore:mine-16")
def test_samples_of_a_background_that_is_torn_are_in_no_subset(tmp_path, row):
    made = archive("A")
    name = damaged(made, "bg", 15, b"\xff\xd8 no more")
    row(made.folder(tmp_path / "data"))
    with pytest.warns(UserWarning, match=name):
        assert build(tmp_path).skipped == list(range(8, 16))


def test_too_many_torn_pictures_are_an_error_that_names_them(tmp_path, row, monkeypatch):
    made = archive("A")
    names = [damaged(made, "depth", serial, b"") for serial in (3, 4)]
    row(made.folder(tmp_path / "data"))
    monkeypatch.setattr(archives, "MAX_BROKEN", 0.03)
    with pytest.raises(ValueError, match=f"2 pictures .* 3.0% of all: {names[0]}.*, {names[1]}"):
        build(tmp_path)


def test_a_mask_of_another_sample_is_named(tmp_path, row):
    made = archive("A")
    for serial, sample in enumerate(made.samples):
        bg, new = (np.asarray(Image.open(io.BytesIO(made.members[sample[k]]))) for k in NEW)
        made.members[sample["fg_bg"]] = png(np.where(new[..., None] > 127, 255 - bg, bg))
        assert serial == serial_of("mask", new > 127)
    name = damaged(made, "mask", 5, made.members[made.samples[6]["mask"]])
    row(made.folder(tmp_path / "data"))
    with pytest.warns(UserWarning, match=f"{name} .is not where its picture differs"):
        pack = build(tmp_path)
    assert list(pack.problems) == [name] and pack.skipped == []


NEW = ("bg", "mask")


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:mine-16")
def test_a_killed_build_goes_on_and_forgets_no_problem(tmp_path, row, monkeypatch):
    made = archive("A")
    name = damaged(made, "depth", 1, b"")
    row(made.folder(tmp_path / "data"))
    monkeypatch.setattr(dataset, "CHUNK_PIXELS", 4 * SIZE * SIZE)
    with monkeypatch.context() as patch:
        read = archives.Archive.render
        calls = iter(range(100))

        def render(self, ids, size):
            if next(calls) == 2:
                raise KeyboardInterrupt
            return read(self, ids, size)

        patch.setattr(archives.Archive, "render", render)
        with pytest.raises(KeyboardInterrupt):
            build(tmp_path)
    (header,) = (tmp_path / "packs").glob("*/pack.json")
    assert json.loads(header.read_text())["done"] == 8
    pack = build(tmp_path)
    assert list(pack.problems) == [name] and pack.skipped == [1]
    assert serials(pack, "fg_bg") == list(range(16))


def test_an_archive_that_was_changed_is_noticed(tmp_path, row):
    made = archive("A")
    row(made.folder(tmp_path / "data"))
    build(tmp_path)
    (tmp_path / "data" / "another.txt").write_text("x")
    with pytest.raises(ValueError, match="holds other samples than mine has today; delete"):
        build(tmp_path)


def test_a_limit_is_spread_over_the_archive(tmp_path, row):
    row(archive("A").folder(tmp_path / "data"))
    some = build(tmp_path, limit=4).index
    assert some["id"].tolist() == [0, 2, 9, 11]  # by chance, the same at any time
    with pytest.raises(ValueError, match="limit=0; needed: 1 or more"):
        build(tmp_path, limit=0)
    tier = row(tmp_path / "data", n_samples=8)
    assert len(sources.open_source(tier, "").index()) == 8


def test_an_archive_is_not_streamed(tmp_path, row):
    row(archive("A").folder(tmp_path / "data"))
    with pytest.raises(ValueError, match="mine is read from an archive, .*Build packs of it"):
        training.train(training.Config(**TINY), "mine", tmp_path / "run", valid=object())


def test_masks_alone_are_trained_scored_and_shown(tmp_path, row):
    row(archive("A", with_depth=False).folder(tmp_path / "data"))
    pack = build(tmp_path)
    config = training.Config(**TINY, depth_loss="")
    run = training.train(config, {32: pack}, tmp_path / "run", device="cpu", progress=False)
    assert run.done and run.history[-1]["score"] == run.history[-1]["train_iou"]
    table = metrics.by_subset({"network": predictor(run.model)}, pack)
    assert "iou" in table[0] and "depth_rmse" not in table[0]
    assert "-" in metrics.format_table(table)
    batch = pack.batch(np.arange(4))
    maps = predictor(run.model)(batch)
    show.samples(batch, 4)
    show.predictions(batch, *maps, title="masks")
    show.depths(batch, {"network": maps[1]}, "depth")
    show.row(batch, *maps, title="one")


def test_depth_is_not_learned_where_there_is_none(tmp_path, row):
    row(archive("A", with_depth=False).folder(tmp_path / "data"))
    with pytest.raises(ValueError, match='no depth to learn .* from: give depth_loss=""'):
        training.Learner(training.Config(**TINY), {32: build(tmp_path)}, device="cpu")


def test_the_command_trains_on_an_archive_and_on_its_masks(tmp_path, row, monkeypatch):
    monkeypatch.chdir(tmp_path)
    steps = ["--sizes", "32", "--steps", "2", "--batch-size", "4"]
    row(archive("G").zip(tmp_path / "data.zip"))
    assert main(["train", "mine", *steps, "--run", "deep"]) == 0
    row(tmp_path / "data.zip", depth="none")
    assert main(["train", "mine", *steps, "--run", "flat", "--packs", "others"]) == 0
    known = [json.loads((tmp_path / run / "config.json").read_text()) for run in ("deep", "flat")]
    assert known[0]["depth_loss"] and not known[1]["depth_loss"]


def test_large_pictures_of_an_archive_are_augmented_one_by_one(tmp_path, row):
    from evalib import __main__ as cli

    def way(line, tier):
        args = cli.parser().parse_args(["train", tier.name, *line.split()])
        return cli._config(args, sources.open_source(tier, ""), False).way

    tier = row(archive("A").folder(tmp_path / "data"))
    assert way("--sizes 224", tier) == "albumentations"
    assert way("--sizes 64 128", tier) == "batch"
    assert way("--sizes 224 --way batch", tier) == "batch"
    assert way("--sizes 224", manifest.find("mid-1000")) == "batch"


def test_an_address_is_told_from_the_name_of_a_tier(tmp_path, row):
    row("/data")
    (tmp_path / "photos" / "bg").mkdir(parents=True)
    (tmp_path / "photos" / "fg").mkdir()
    archive("A").folder(tmp_path / "data")
    told = {
        "mine": "folder",
        "mid-1000": "rooms",
        str(tmp_path / "photos"): "photos",
        str(tmp_path / "data"): "folder",
        "drive:1zvkjI7s4fi1Q6HH6d0NiimFO": "drive",
        "https://drive.google.com/file/d/1xN6ytCpX_KTm/view": "drive",
        "https://example.org/data.zip": "url",
    }
    assert {text: sources.guess(text).source for text in told} == told
    one, other = (sources.guess(str(tmp_path / "data"), depth) for depth in ("", "none"))
    assert one.name != other.name and other.depth == "none"
    (tmp_path / "photos" / ".DS_Store").write_bytes(b"")
    assert sources.guess(str(tmp_path / "photos")).source == "photos"
    with pytest.raises(ValueError, match="mine is the name of a tier: its row says"):
        sources.guess("mine", "teacher")
    with pytest.raises(ValueError, match="'mnie' is no tier, no path here and no link"):
        sources.guess("mnie")


def test_a_pack_is_built_of_an_address_alone(tmp_path):
    path = archive("A").zip(tmp_path / "data.zip")
    tier = sources.guess(str(path))
    pack = dataset.build(tier, SIZE, root=tmp_path, progress=False)
    assert len(pack) == 16 and pack.tier == tier.name


def test_a_picture_that_was_mended_makes_another_pack(tmp_path, row):
    made = archive("G")
    row(made.zip(tmp_path / "data.zip"))
    build(tmp_path)
    damaged(made, "mask", 3, png(np.zeros((SIZE, SIZE), np.uint8)))
    made.zip(tmp_path / "data.zip")
    with pytest.raises(ValueError, match="holds other samples than mine has today"):
        build(tmp_path)
