"""The command line does what the functions do, and tells a mistake in one sentence."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from evalib import __main__ as cli
from evalib import config, manifest, sources
from evalib.camera import command as predicting
from evalib.camera import footage


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps on the playground, made by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cli.recipes.RECIPES, "small", {"n_valid": 4})
        assert cli.main(command("train", folder).split()) == 0
    return folder


def command(name, folder):
    packs, run = f"--packs {folder}/packs", f"--run {folder}/run"
    return {
        "build": f"build playground-24 {packs} --size 32",
        "train": f"train playground-24 {packs} --sizes 32 {run} --drive {folder}/drive --steps 2",
        "evaluate": f"evaluate {run} {packs} --size 32 --limit 16 --out {folder}/scores.csv",
    }[name]


def test_build_names_the_folder_it_made(tmp_path, capsys):
    assert cli.main(command("build", tmp_path).split()) == 0
    assert f"24 samples of 32 px in {tmp_path}" in capsys.readouterr().out


def test_train_writes_checkpoints_to_the_run_and_to_drive(trained):
    for folder in ("run", "drive"):
        assert list((trained / folder).glob("step-0000000002-*.pt"))


def test_train_again_with_the_same_folders_finds_nothing_left_to_do(trained, capsys, monkeypatch):
    monkeypatch.setitem(cli.recipes.RECIPES, "small", {"n_valid": 4})
    assert cli.main(command("train", trained).split()) == 0
    out = capsys.readouterr().out
    assert "Going on from step 2 of 2" in out and "finished at step 2" in out


def test_train_again_with_other_settings_is_refused_by_name(trained, capsys, monkeypatch):
    monkeypatch.setitem(cli.recipes.RECIPES, "small", {"n_valid": 4})
    assert cli.main([*command("train", trained).split(), "--seed", "7"]) == 2
    assert "a run with seed 0 instead of 7" in capsys.readouterr().err


def test_evaluate_prints_both_predictors_and_the_baseline_for_every_subset(trained, capsys):
    assert cli.main(command("evaluate", trained).split()) == 0
    out = capsys.readouterr().out
    for subset in ("seen", "unseen_bg", "unseen_fg", "unseen_both"):
        assert out.count(f" {subset} ") + out.count(f"\n{subset} ") == 3
    with open(trained / "scores.csv", encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 12


def test_the_config_of_a_run_trains_another_alike(trained, tmp_path, capsys):
    line = command("train", trained).replace("--sizes 32 ", "").replace(" --steps 2", "")
    line = line.replace("/run", "/twin").replace("/drive", "/twin-drive")
    assert cli.main([*line.split(), "--config", str(trained / "run" / "config.json")]) == 0
    ours, theirs = (cli.weights.load(trained / name).state_dict() for name in ("run", "twin"))
    assert all(ours[name].equal(theirs[name]) for name in ours)


@pytest.fixture
def scene(tmp_path):
    """A background of 90x60, a folder of two frames, and where results go."""
    rng, folder = np.random.default_rng(0), tmp_path / "frames"
    folder.mkdir()
    for path in (tmp_path / "bg.jpg", folder / "a.jpg", folder / "b.png"):
        Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(path)
    return tmp_path / "bg.jpg", folder, tmp_path / "out"


def predict(trained, bg, source, out, *options):
    line = ["predict", bg, source, "--out", out, "--run", trained / "run", *options]
    return cli.main([str(word) for word in line])


def test_predict_writes_four_pictures_at_the_size_of_the_photo(trained, scene):
    bg, folder, out = scene
    assert predict(trained, bg, folder / "a.jpg", out) == 0
    names = ["cutout.png", "depth.png", "depth_colour.png", "mask.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    for path in out.iterdir():
        with Image.open(path) as picture:
            assert picture.size == (90, 60)


def test_predict_takes_a_folder_with_its_first_frame_as_background_and_makes_a_video(
    trained, scene, tmp_path
):
    _, folder, out = scene
    video = tmp_path / "overlay.mp4"
    assert predict(trained, "first", folder, out, "--overlay", video) == 0
    for kind in ("mask", "depth", "depth_colour", "cutout"):
        assert sorted(path.name for path in (out / kind).iterdir()) == ["a.png", "b.png"]
    assert predict(trained, "first", video, tmp_path / "again", "--every", "2") == 0
    assert [path.name for path in (tmp_path / "again" / "mask").iterdir()] == ["000000.png"]


def test_predict_writes_what_it_was_asked_for_and_nothing_else(trained, scene, tmp_path, capsys):
    bg, folder, out = scene
    assert predict(trained, bg, folder, out, "--write", "mask", "cutout") == 0
    assert sorted(path.name for path in out.iterdir()) == ["cutout", "mask"]
    assert capsys.readouterr().out.split() == [str(out / "mask"), str(out / "cutout")]
    video = tmp_path / "seen.mp4"
    line = f"predict {bg} {folder} --overlay {video} --run {trained / 'run'}"
    assert cli.main(line.split()) == 0
    assert video.stat().st_size and capsys.readouterr().out.split() == [str(video)]
    assert cli.main(line.split()[:3]) == 2
    assert "needed where to write: --out FOLDER, --overlay" in capsys.readouterr().err


def test_predict_makes_an_empty_scene_of_a_film(trained, scene, tmp_path):
    bg, folder, out = scene
    for name in "cde":
        Image.open(bg).save(folder / f"{name}.png")  # most of the time nothing is new
    assert predict(trained, "median", folder, out, "--write", "depth") == 0
    assert predict(trained, bg, folder, tmp_path / "known", "--write", "depth") == 0
    assert (out / "depth" / "a.png").read_bytes() == (
        tmp_path / "known" / "depth" / "a.png"
    ).read_bytes()


def test_predict_hands_alignment_and_refresh_to_the_camera(trained, scene, monkeypatch, capsys):
    bg, folder, out = scene
    asked = []
    camera = predicting.Camera
    monkeypatch.setattr(predicting, "Camera", lambda *a, **k: asked.append(k) or camera(*a, **k))
    assert predict(trained, bg, folder / "a.png", out, "--align") == 2  # there is no a.png
    with pytest.warns(UserWarning, match="taken to be where it was"):
        assert predict(trained, bg, folder / "a.jpg", out, "--align") == 0
    with pytest.warns(UserWarning, match="--refresh 4 is longer than all 2 frames"):
        assert predict(trained, bg, folder, out, "--refresh", "4") == 0
    assert [(k["align"], k["refresh"]) for k in asked] == [(True, 0), (False, 4)]
    assert predict(trained, bg, folder, out, "--refresh", "3min") == 2
    assert "a folder tells no time; give a number of frames" in capsys.readouterr().err
    assert predict(trained, bg, bg, out, "--refresh", "soon") == 2
    assert "'soon' is no time" in capsys.readouterr().err
    film = footage.Film(iter(()), 5.0, 10_000)
    assert predicting._frames("3min", film) == 900


def test_predict_names_the_picture_that_does_not_fit_the_others(trained, scene, capsys):
    bg, folder, out = scene
    Image.new("RGB", (60, 90)).save(folder / "upright.png")
    assert predict(trained, bg, folder, out) == 2
    assert "evalib: upright: bg is 90x60, img is 60x90" in capsys.readouterr().err
    assert len([*(out / "mask").iterdir()]) == 2


def test_predict_uses_size_and_calibration(trained, scene, tmp_path, capsys):
    bg, folder, out = scene
    depths = []
    for options in ([], ["--size", "64"], ["--calibrate", "45,30,9.5"]):
        assert predict(trained, bg, bg, out, *options) == 0
        depths.append(np.asarray(Image.open(out / "depth.png")).astype(int))
    assert depths[0][30, 45] not in (9500, depths[1][30, 45])
    assert abs(depths[2][30, 45] - 9500) <= 190
    known = out / "depth.png"
    # by weights that are sure that nothing is new: those of two steps are not
    words = "predict", bg, bg, "--out", out / "again", "--bg-depth", known
    assert cli.main([str(word) for word in words]) == 0
    again = np.asarray(Image.open(out / "again" / "depth.png")).astype(int)
    assert np.median(np.abs(again - depths[2])) <= 1  # the empty scene's, handed back
    with pytest.raises(SystemExit):
        predict(trained, bg, bg, out, "--calibrate", "45,30,2", "--bg-depth", known)
    with pytest.raises(SystemExit):
        predict(trained, bg, bg, out, "--calibrate", "45,30")
    assert "'45,30' came, needed X,Y,METRES" in capsys.readouterr().err


def test_predict_prefers_the_weights_of_the_package_to_whatever_ran_last(
    trained, scene, tmp_path, monkeypatch, capsys
):
    bg, folder, out = scene
    path = cli.weights.export(trained / "run", tmp_path / "weights", {"data": "24 rooms"})[0]
    monkeypatch.setattr(cli.weights, "DEFAULT", path)
    assert cli.main(["predict", str(bg), str(folder), "--out", str(out)]) == 0
    assert f"network: {path}" in capsys.readouterr().err
    card = (path.parent / "README.md").read_text(encoding="utf-8")
    assert "24 rooms" in card and "Steps: 2 at 32 px, each of 64 samples" in card


def test_from_an_empty_folder_two_photographs_are_enough(scene, tmp_path, monkeypatch, capsys):
    bg, folder, out = scene
    monkeypatch.chdir(tmp_path)
    (folder / "a.jpg").rename("now.jpg")
    assert cli.main(["predict", "bg.jpg", "now.jpg", "--out", "out"]) == 0
    assert (out / "mask.png").is_file()
    assert "small.safetensors" in capsys.readouterr().err


def test_from_an_empty_folder_training_needs_no_more_than_a_tier(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(cli.recipes.RECIPES, "small", {"n_valid": 4})
    assert cli.main(["train", "playground-24", "--sizes", "32", "--steps", "2"]) == 0
    assert "finished at step 2" in capsys.readouterr().out
    assert list((tmp_path / "output" / "runs" / "playground-24").glob("step-0000000002-*.pt"))
    line = "evaluate --size 32 --limit 16 --device cpu"  # of the run that was trained last
    assert cli.main(line.split()) == 0
    assert "playground-24" in capsys.readouterr().err
    packs = {path.name for path in (tmp_path / "output" / "packs").iterdir()}
    assert packs == {"playground-24-24-32px", "evaluation-16-32px"}


def test_a_device_is_given_to_whatever_uses_a_network(scene, tmp_path, capsys):
    bg, folder, out = scene
    for line in (
        f"predict {bg} {folder} --out {out}",
        f"evaluate --run {tmp_path} --packs {tmp_path}",
        f"export --out {out}.onnx",
    ):
        assert cli.main([*line.split(), "--device", "cuda"]) == 2
        assert (
            "device 'cuda' is unknown or absent here; choose one of cpu" in capsys.readouterr().err
        )
    assert cli.main(["predict", str(bg), str(folder), "--out", str(out), "--device", "cpu"]) == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("build no-such-tier", "no tier 'no-such-tier'"),
        ("train playground-24 --sizes 32 --run {0}/r --recipe best --packs {0}", "is unknown"),
        ("evaluate --run {0}/nothing", "Train first"),
        ("predict {0}/a.jpg {0}/b.jpg --out {0}/o --run {0}/nothing", "Train first"),
        ("train playground-24 --run {0}/r --time-budget 50", "45s, 10min, 1.5h"),
        ("train playground-24 --run {0}/r --config {0}/none.json", "none.json"),
        (
            "predict first {0} --out {0}/o --weights {0}/none.safetensors",
            "none.safetensors is missing",
        ),
        ("export --out {0}/o.onnx --run {0}/nothing", "Train first"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_status_2(tmp_path, capsys, line, message):
    assert cli.main(line.format(tmp_path).split()) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err


def test_the_command_is_called_evalib_and_has_no_benchmarks(capsys):
    with pytest.raises(SystemExit):
        cli.main(["bench", "speed"])
    assert "usage: evalib " in capsys.readouterr().err


def test_epochs_are_counted_in_batches_of_the_training_samples():
    line = "train playground-24 --epochs 2.5 --batch-size 10"  # 24 samples, all to be trained on
    args = cli.parser().parse_args(line.split())
    source = sources.open_source(manifest.find("playground-24"), "")
    assert cli._config(args, source, False).n_steps == 5


def test_steps_and_epochs_contradict(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "playground-24", "--run", "x", "--steps", "5", "--epochs", "2"])
    assert "not allowed with" in capsys.readouterr().err


def settings(line, *kinds):
    source = SimpleNamespace(kinds=("bg", "fg_bg", "mask", *kinds))
    return cli._config(cli.parser().parse_args(f"train tier {line}".split()), source, True)


def test_a_recipe_brings_its_sizes_and_the_command_line_may_give_others():
    assert settings("--recipe small --steps 9", "depth").sizes == (((64, 128), 9),)
    stages = settings("--recipe two_stream --steps 90", "depth").sizes
    assert [size for size, _ in stages] == [(96,), (160,)] and sum(n for _, n in stages) == 90
    given = settings("--recipe two_stream --steps 90 --sizes 64 96", "depth")
    assert given.sizes == (((64, 96), 90),)


@pytest.mark.parametrize("name", cli.recipes.RECIPES)
def test_a_recipe_learns_masks_alone_where_there_is_no_depth(name):
    assert settings(f"--recipe {name}", "depth").depth_loss
    alone = settings(f"--recipe {name}")
    assert alone.depth_loss == "" and alone.phases == ()


def test_every_recipe_is_a_valid_config():
    for name in cli.recipes.RECIPES:
        config.Config(**cli.recipes.recipe(name))


def test_given_weights_are_trained_at_a_quarter_of_the_rate():
    source = sources.open_source(manifest.find("mid-1000"), "")
    anew, given = (
        cli._config(cli.parser().parse_args(["train", "mid-1000", *init]), source, False)
        for init in ([], ["--init", "shipped"])
    )
    assert given.init == "shipped" and given.lr == anew.lr / 4
