import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from evalib import manifest, rooms
from evalib.rooms import objects, places, sensor, staging
from evalib.rooms.backdrop import backdrop
from evalib.rooms.builder import Builder, chance, paint
from evalib.rooms.rays import BALL, BOX, NOTHING, TUBE, Pinhole, View, depth_of, raster, span
from evalib.rooms.shadows import Tiles, opacity

# two rooms, a yard and a street, twelve samples of each
IDS = np.concatenate([bg * 4000 + np.arange(12) * 331 for bg in (0, 5, 10, 20)])


@pytest.fixture(scope="module")
def shots() -> dict:
    """IDS at 64 px, with the empty shots of their places."""
    bg = IDS // 4000
    empty = rooms.render_backgrounds(np.unique(bg), 64)
    at = torch.from_numpy(np.searchsorted(np.unique(bg), bg))
    return rooms.render(IDS, 64) | {name: maps[at] for name, maps in empty.items()}


def test_a_sample_does_not_depend_on_its_batch(shots):
    order = np.random.default_rng(0).permutation(len(IDS))[:20]
    mixed = rooms.render(IDS[order], 64)
    alone = rooms.render(IDS[order[:1]], 64)
    for name, maps in mixed.items():
        assert torch.equal(maps, shots[name][torch.from_numpy(order)]), name
        assert torch.equal(alone[name][0], maps[0]), name


def test_another_seed_is_another_world(shots):
    other = rooms.render(IDS[:2], 64, seed=1)
    assert (other["fg_bg"].int() - shots["fg_bg"][:2].int()).abs().float().mean() > 10


def test_two_sizes_show_the_same_scene(shots):
    some = np.arange(0, len(IDS), 6)
    fine, coarse = rooms.render(IDS[some], 128), {k: v[some] for k, v in shots.items()}
    colour = F.avg_pool2d(fine["fg_bg"].permute(0, 3, 1, 2).float(), 2)
    apart = (colour - coarse["fg_bg"].permute(0, 3, 1, 2).float()).abs().mean((1, 2, 3))
    assert apart.max() < 14, "noise and JPEG are a few levels; another scene would be dozens"
    a, b = F.avg_pool2d(fine["mask"].float()[:, None], 2)[:, 0] > 127, coarse["mask"] > 0
    assert ((a & b).sum() / (a | b).sum()) > 0.93
    depth = F.avg_pool2d(fine["depth"].float()[:, None], 2)[:, 0]
    assert (depth - coarse["depth"].float()).abs().mean() < 2


def test_only_the_samples_meant_to_be_empty_are():
    ids = np.concatenate([bg * 4000 + np.arange(0, 4000, 9) for bg in (0, 22)])
    mask = rooms.render(ids, 64)["mask"]
    assert set(mask.unique().tolist()) == {0, 255}
    meant = chance(0, ids, "empty", 1)[:, 0] < rooms.EMPTY_SHARE
    np.testing.assert_array_equal((mask == 0).all(2).all(1).numpy(), meant)
    assert 0.005 < meant.mean() < 0.04


def test_objects_stand_in_front_of_the_background(shots):
    mask = shots["mask"] > 0
    deeper = shots["depth"].int() > shots["bg_depth"].int() + 1
    assert deeper[mask].float().mean() < 0.01  # only where the shaking camera shows another edge


def test_a_shadow_has_no_mask_and_no_depth(shots):
    still = torch.tensor([torch.equal(*pair) for pair in _outside(shots)])
    assert still.sum() > len(IDS) / 2, "most cameras stand still, and nothing else moves depth"
    darker = shots["bg"].int().amin(-1) - shots["fg_bg"].int().amin(-1) > 25
    assert (darker & (shots["mask"] == 0))[still].sum() > 100, "but shadows do fall"


def _outside(shots: dict) -> list:
    """Depth and empty depth of each sample where there is no object and none next to it."""
    near = F.max_pool2d(shots["mask"].float()[:, None], 3, 1, 1)[:, 0] > 0
    return [(d[~n], b[~n]) for d, b, n in zip(shots["depth"], shots["bg_depth"], near, strict=True)]


@pytest.mark.parametrize(
    ("kind", "o", "d", "near", "far"),
    [
        (BALL, (0, 0, -3), (0, 0, 1), 2, 4),
        (BALL, (0, 0.6, -3), (0, 0, 2), 1.1, 1.9),  # half chord .8, two units a step
        (BOX, (0, 0.5, -3), (0.001, 0.001, 1), 2, 4),
        (BOX, (-2, -2, 0.3), (1, 1, 1e-6), 1, 3),  # along the diagonal
        (TUBE, (-3, 0.9, 0), (1, 0.001, 0), 2, 4),
        (TUBE, (0.5, -4, 0), (1e-6, 1, 1e-6), 3, 5),  # through both caps
    ],
)
def test_rays_meet_unit_parts_where_geometry_says(kind, o, d, near, far):
    rays = [torch.tensor([float(x)]) for x in o], [torch.tensor([float(x)]) for x in d]
    assert torch.cat(span(kind, *rays)).tolist() == pytest.approx([near, far], abs=1e-3)


@pytest.mark.parametrize("kind", [BALL, BOX, TUBE])
def test_rays_beside_a_part_miss_it(kind):
    o, d = (
        [torch.tensor([x]) for x in (1.2, 0.1, -3.0)],
        [torch.tensor([x]) for x in (0.0, 0.01, 1.0)],
    )
    near, far = span(kind, o, d)
    assert not (near < far)


def _view(add) -> View:
    """Parts seen by a camera at the origin that looks along +z, 90 degrees wide."""
    s = Builder(np.random.default_rng(0))
    add(s)
    return View(s.parts(), Pinhole.aim((0, 0, 0), 0, 0, 0, 1.0), "cpu")


def _depth(view: View, n: int = 32) -> torch.Tensor:
    key = torch.full((n * n,), NOTHING, dtype=torch.int64)
    raster(view, torch.zeros_like(view.kind), torch.zeros(1, 2, dtype=torch.int64), n, n, key)
    return depth_of(key).view(n, n)


def test_depth_is_along_the_axis_and_the_nearest_part_wins():
    grey = paint(np.full(3, 0.5))

    def wall_and_ball(s):
        s.box((0, 0, 6), (9, 9, 1), grey)  # its face is at z = 5 on every ray, however oblique
        s.ball((0, 0, 4), (1, 1, 1), grey)

    z = _depth(_view(wall_and_ball))
    assert z[0, 0].item() == pytest.approx(5) and z[31, 16].item() == pytest.approx(5)
    assert z[16, 16].item() == pytest.approx(3, abs=0.01)
    # the ball's outline is a circle of radius 1 / sqrt(4**2 - 1) on the plane z = 1
    assert (z < 4.9).sum().item() == pytest.approx(np.pi * 256 / 15, rel=0.05)


def test_parts_behind_the_camera_are_not_seen():
    assert _depth(_view(lambda s: s.ball((0, 0, -3), (1, 1, 1), paint(np.ones(3))))).isinf().all()


def test_a_shadow_is_full_in_the_middle_and_ends_at_the_side():
    view = _view(lambda s: s.ball((0, 1, 5), (0.5, 0.5, 0.5), paint(np.ones(3))))
    x = torch.tensor([0.0, 0.45, 0.7])
    point = torch.stack([x, torch.zeros(3), torch.full((3,), 5.0)])[:, :, None]
    some, lamp = torch.zeros(1, dtype=torch.int64), torch.tensor([0.0, 50.0, 5.0])
    dark = opacity(view, BALL, some, lamp, 0.3, point)[:, 0]
    assert dark[0] == 1 and 0 < dark[1] <= 1 and dark[2] == 0


def test_no_shadow_is_lost_between_tiles():
    def things(s):
        for x in range(-3, 4):
            s.pick(s.ball, s.box, s.tube)((x, s.u(0, 1), s.u(3, 6)), (0.1, 0.3, 0.2), paint(0.5))

    view = _view(things)
    spread = np.random.default_rng(1).random((3, 640)) * [[8], [1], [8]] - [[4], [1], [0]]
    point = torch.from_numpy(spread.astype(np.float32))
    order = point[0].argsort()  # neighbours share a tile
    lamp = torch.tensor([1.0, 4.0, 5.0])
    tiles = Tiles(point, torch.ones(640, dtype=torch.bool), order.view(40, 16).T, lamp, 0.2)
    found = tiles.shadows(view, torch.zeros_like(view.kind), 1)
    wanted = torch.zeros(640)
    for part in range(len(view.kind)):
        some = torch.tensor([part])
        share = opacity(view, int(view.kind[part]), some, lamp, 0.2, point[:, :, None])
        wanted = torch.maximum(wanted, share[:, 0])
    assert torch.equal(found[0], wanted)
    assert 0.02 < (wanted > 0).float().mean() < 0.9


def test_jpeg_is_what_a_codec_does():
    x = np.random.default_rng(0).random((6, 6, 3)) * 255
    image = np.asarray(Image.fromarray(x.astype(np.uint8)).resize((48, 48), Image.BICUBIC))
    ours = sensor.jpeg(
        torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float(), np.array([60.0])
    )
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=60)
    theirs = np.asarray(Image.open(file)).astype(float)
    ours = ours[0].permute(1, 2, 0).numpy()
    assert np.abs(ours - theirs).mean() < 0.25 * np.abs(image - theirs).mean()
    flat = torch.full((1, 3, 20, 20), 77.0)
    assert (sensor.jpeg(flat, np.array([90.0])) - flat).abs().max() <= 1


def test_every_family_and_every_kind_of_place_is_on_both_sides_of_the_split():
    for n, size in ((manifest.N_FG, len(objects.FAMILIES)), (manifest.N_BG, len(places.KINDS))):
        sides = {(manifest.held_out(i), (i // 5) % size) for i in range(n)}
        assert len(sides) == 2 * size
        assert sum(manifest.held_out(i) for i in range(n)) == 20


def test_companions_stay_on_their_side_of_the_split():
    fg, r = np.tile(np.arange(100), 50), np.random.default_rng(0).random(5000)
    other = staging._companion(fg, r)
    np.testing.assert_array_equal(manifest.held_out(other), manifest.held_out(fg))
    assert set(other) == set(range(100))


def test_backgrounds_reach_no_further_than_the_byte(shots):
    drop = backdrop(0, 0, 64, "cpu")
    assert drop.place.indoors and drop.z.isfinite().all()
    assert (shots["bg_depth"][0] > 0).all()


@pytest.mark.parametrize("call", [rooms.render, rooms.render_backgrounds])
def test_wrong_questions_are_refused(call):
    with pytest.raises(ValueError, match="size 8 is too small"):
        call([0], 8)
    with pytest.raises(ValueError, match="-3 is not a sample"):
        call([4, -3], 64)
    assert all(len(maps) == 0 for maps in call([], 16).values())
