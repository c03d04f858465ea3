"""Depth from a teacher: a tiny network of the real class, with random weights, saved to disk."""

import numpy as np
import pytest
from archive_fixtures import archive

from evalib import dataset, manifest, sources, training
from evalib.__main__ import main
from evalib.sources import teacher

pytestmark = pytest.mark.filterwarnings("ignore")  # of a library that changes quickly


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """model(kind): the folder of a teacher that says relative depth, or metric depth."""
    from transformers import (
        DepthAnythingConfig,
        DepthAnythingForDepthEstimation,
        Dinov2Config,
        DPTImageProcessor,
    )

    def saved(kind):
        folder = tmp_path_factory.mktemp(kind)
        backbone = Dinov2Config(
            image_size=56,
            patch_size=14,
            hidden_size=16,
            num_hidden_layers=4,
            num_attention_heads=2,
            out_indices=[1, 2, 3, 4],
            reshape_hidden_states=False,
            apply_layernorm=True,
        )
        settings = DepthAnythingConfig(
            backbone_config=backbone,
            patch_size=14,
            reassemble_hidden_size=16,
            neck_hidden_sizes=[8, 8, 8, 8],
            reassemble_factors=[4, 2, 1, 0.5],
            fusion_hidden_size=8,
            head_hidden_size=8,
            depth_estimation_type=kind,
            max_depth=20 if kind == "metric" else 1,
        )
        DepthAnythingForDepthEstimation(settings).save_pretrained(folder)
        size = {"height": 56, "width": 56}
        DPTImageProcessor(size=size, ensure_multiple_of=14).save_pretrained(folder)
        return folder

    return {kind: saved(kind) for kind in ("relative", "metric")}


@pytest.fixture
def taught(model, tmp_path, monkeypatch):
    """taught(kind): the tier `mine`, whose pictures are an archive's and whose depth is seen."""
    data = archive("A").folder(tmp_path / "data")
    monkeypatch.setattr(teacher, "LOOKED_AT", 48)

    def opened(kind):
        row = f"mine,folder,{data},A,teacher:{model[kind]}\n"
        (tmp_path / "mine.csv").write_text("tier,source,address,layout,depth\n" + row)
        monkeypatch.setenv("EVALIB_MANIFEST", str(tmp_path / "mine.csv"))
        return sources.open_source(manifest.find("mine"), "")

    return opened


def test_what_a_teacher_says_is_predicted_depth_not_what_is_stretched(taught):
    source = taught("metric")
    images = source.source.render([3], 48)["fg_bg"]
    (seen,) = source.teacher(images)
    (answer,) = source.teacher.pipeline([teacher.pictures.Image.fromarray(images[0])])
    told = answer["predicted_depth"].float().numpy().squeeze()
    assert seen.shape == (48, 48) and seen.mean() == pytest.approx(told.mean(), rel=1e-2)
    assert np.asarray(answer["depth"]).max() == 255 and seen.max() < 25  # metres


def test_metres_are_taken_as_they_are(taught):
    source = taught("metric")
    shots = source.render([3, 9], 16)
    (seen, _) = source.teacher(source.source.render([3, 9], 48)["fg_bg"])
    expected = np.rint(255 * np.minimum(teacher.pictures.square(seen, 16) / 10, 1))
    assert np.abs(shots["depth"][0] - expected).max() <= 1
    assert "metres" in source.report()


def test_relative_depth_becomes_one_to_ten_metres(taught):
    source = taught("relative")
    assert source.kinds == ("bg", "bg_depth", "fg_bg", "mask", "depth")
    empty = source.render_backgrounds([0, 1], 48)["bg_depth"] / 25.5
    assert empty.min() >= 0.98 and empty.max() <= 10.0
    assert "relative, 1 to 10 m a scene" in source.report()


def test_a_pack_with_seen_depth_is_trained_on_and_not_streamed(taught, tmp_path):
    taught("relative")
    pack = dataset.build("mine", 32, root=tmp_path / "packs", progress=False)
    assert pack.kinds == ["bg", "bg_depth", "fg_bg", "mask", "depth"]
    config = training.Config(sizes=((32, 2),), batch_size=4, log_every=2, evaluate_every=2)
    run = training.train(config, {32: pack}, tmp_path / "run", device="cpu", progress=False)
    assert run.done
    with pytest.raises(ValueError, match="mine .*has its depth from a teacher"):
        training.train(config, "mine", tmp_path / "other", valid=pack)


def test_another_teacher_makes_another_pack(taught, tmp_path):
    taught("relative")
    dataset.build("mine", 32, root=tmp_path / "packs", progress=False)
    taught("metric")
    with pytest.raises(ValueError, match="holds other samples than mine has today"):
        dataset.build("mine", 32, root=tmp_path / "packs", progress=False)


def test_without_the_library_the_way_to_it_is_named(taught, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ImportError, match="pip install transformers"):
        taught("relative")


def test_the_rule_by_hand():
    empty = np.linspace(0, 100, 101)  # 2nd and 98th percentile: 2 and 98
    z = teacher.metres(np.array([2.0, 50.0, 98.0, -5.0, 200.0]), empty)
    middle = 1 / (0.1 + 0.5 * 0.9)  # half of the way in inverse depth
    np.testing.assert_allclose(z, [10, middle, 1, 10, 1])


def test_a_flat_scene_is_far_and_not_a_division_by_nothing():
    assert (teacher.metres(np.full(4, 3.0), np.full(50, 3.0)) == 10).all()


def test_scale_and_shift_of_a_picture_are_taken_out():
    empty = np.random.Generator(np.random.Philox(1)).uniform(size=(16, 16))
    mask = np.zeros((16, 16), np.uint8)
    mask[4:8, 4:8] = 255
    nearer = empty + (mask > 0) * 0.5
    np.testing.assert_allclose(teacher.aligned(3 * nearer - 7, empty, mask), nearer)
    everything = np.full_like(mask, 255)
    assert (teacher.aligned(3 * nearer, empty, everything) == 3 * nearer).all()


def test_in_the_scale_of_a_network_a_teachers_shape_becomes_metres():
    z = np.linspace(1, 8, 50).reshape(5, 10)
    seen = 40 / z - 3  # relative inverse depth, of some scale and shift
    np.testing.assert_allclose(teacher.fitted(seen, z), z)
    z_far = z.copy()
    z_far[:, 8:] = 10  # the network knows no more than "10 m or beyond"
    np.testing.assert_allclose(teacher.fitted(seen, z_far), z)


@pytest.mark.parametrize("z", [np.full((5, 10), 10.0), np.linspace(8, 1, 50).reshape(5, 10)])
def test_a_network_that_knows_no_scale_or_the_opposite_leaves_one_to_ten_metres(z):
    seen = 1 / np.linspace(1, 8, 50).reshape(5, 10)
    found = teacher.fitted(seen, z)
    np.testing.assert_allclose(found, teacher.metres(seen, seen))
    assert found.min() == 1 and found.max() == 10


@pytest.mark.parametrize("kind", ["relative", "metric"])
def test_predict_asks_a_teacher_once_for_the_empty_scene(kind, model, tmp_path, monkeypatch):
    rng = np.random.Generator(np.random.Philox(2))
    for name in ("empty.png", "a.png", "b.png"):
        shot = rng.integers(0, 255, (40, 60, 3), np.uint8)
        teacher.pictures.Image.fromarray(shot).save(tmp_path / name)
    (tmp_path / "shots").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / name).rename(tmp_path / "shots" / name)
    asked = []
    seeing = teacher.Teacher.__call__
    monkeypatch.setattr(
        teacher.Teacher, "__call__", lambda self, x: asked.append(len(x)) or seeing(self, x)
    )
    given = ["--out", str(tmp_path / "out"), "--bg-depth", f"teacher:{model[kind]}"]
    shots = [str(tmp_path / "empty.png"), str(tmp_path / "shots")]
    assert main(["predict", *shots, *given]) == 0
    assert asked == [1]
    assert sorted(p.name for p in (tmp_path / "out" / "depth").iterdir()) == ["a.png", "b.png"]
