import csv

import numpy as np
import pytest
from PIL import Image

from evalib import __main__ as cli
from evalib import training


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps on the playground, made by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cli.seeds.RECIPES, "small", {"n_valid": 4})
        assert cli.main(command("train", folder).split()) == 0
    return folder


def command(name, folder):
    packs = f"--packs {folder}/packs --size 32"
    return {
        "build": f"build playground-24 {packs}",
        "train": f"train playground-24 {packs} --run {folder}/run --drive {folder}/drive --steps 2",
        "evaluate": f"evaluate --run {folder}/run {packs} --limit 16 --out {folder}/scores.csv",
    }[name]


def test_build_names_the_folder_it_made(tmp_path, capsys):
    assert cli.main(command("build", tmp_path).split()) == 0
    assert f"24 samples of 32 px in {tmp_path}" in capsys.readouterr().out


def test_train_writes_checkpoints_to_the_run_and_to_drive(trained):
    for folder in ("run", "drive"):
        assert list((trained / folder).glob("step-0000000002-*.pt"))


def test_train_again_with_the_same_folders_finds_nothing_left_to_do(trained, capsys, monkeypatch):
    monkeypatch.setitem(cli.seeds.RECIPES, "small", {"n_valid": 4})
    assert cli.main(command("train", trained).split()) == 0
    out = capsys.readouterr().out
    assert "Going on from step 2 of 2" in out and "finished at step 2" in out


def test_train_again_with_other_settings_is_refused_by_name(trained, capsys, monkeypatch):
    monkeypatch.setitem(cli.seeds.RECIPES, "small", {"n_valid": 4})
    assert cli.main([*command("train", trained).split(), "--seed", "7"]) == 2
    assert "another seed" in capsys.readouterr().err


def test_evaluate_prints_network_and_baseline_for_every_subset(trained, capsys):
    assert cli.main(command("evaluate", trained).split()) == 0
    out = capsys.readouterr().out
    for subset in ("seen", "unseen_bg", "unseen_fg", "unseen_both"):
        assert out.count(f" {subset} ") + out.count(f"\n{subset} ") == 2
    with open(trained / "scores.csv") as file:
        assert len(list(csv.DictReader(file))) == 8


def test_the_config_of_a_run_trains_another_alike(trained, tmp_path, capsys):
    line = command("train", trained).replace("--size 32 ", "").replace(" --steps 2", "")
    line = line.replace("/run", "/twin").replace("/drive", "/twin-drive")
    assert cli.main([*line.split(), "--config", str(trained / "run" / "config.json")]) == 0
    ours, theirs = (cli.runs.load(trained / name).state_dict() for name in ("run", "twin"))
    assert all(ours[name].equal(theirs[name]) for name in ours)


def test_predict_writes_three_pictures_at_the_size_of_the_photo(trained, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in ("bg", "img"):
        pixels = rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.jpg")
    pair = [str(tmp_path / "bg.jpg"), str(tmp_path / "img.jpg")]
    out = tmp_path / "out"
    assert cli.main(["predict", *pair, "--out", str(out), "--run", str(trained / "run")]) == 0
    assert len([*out.iterdir()]) == 3
    for path in out.iterdir():
        with Image.open(path) as picture:
            assert picture.size == (90, 60)
    weights = next((trained / "run").glob("best-*.pt"))
    assert cli.main(["predict", *pair, "--out", str(out), "--weights", str(weights)]) == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("build no-such-tier", "no tier 'no-such-tier'"),
        ("train playground-24 --size 32 --run {0}/r --recipe best --packs {0}", "is unknown"),
        ("evaluate --run {0}/nothing", "Train first"),
        ("predict {0}/a.jpg {0}/b.jpg --out {0}/o --run {0}/nothing", "Train first"),
        ("train playground-24 --run {0}/r --time-budget 50", "45s, 10min, 1.5h"),
        ("train playground-24 --run {0}/r --config {0}/none.json", "none.json"),
        ("bench speed", "no benchmark 'speed'"),
    ],
)
def test_a_users_mistake_is_one_sentence_and_status_2(tmp_path, capsys, line, message):
    assert cli.main(line.format(tmp_path).split()) == 2
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err


def test_steps_and_epochs_contradict(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "playground-24", "--run", "x", "--steps", "5", "--epochs", "2"])
    assert "not allowed with" in capsys.readouterr().err


def test_every_recipe_is_a_valid_config():
    for name in cli.seeds.RECIPES:
        training.Config(**cli.seeds.recipe(name))
