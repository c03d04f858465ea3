import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evalib import manifest, rooms
from evalib.rooms import kernels, objects, places, sensor, shadows, staging
from evalib.rooms.backdrop import Backdrop, backdrop, probe
from evalib.rooms.builder import Builder, chance, paint
from evalib.rooms.rays import BALL, BOX, TUBE, Frame, Pinhole, raster, span, view

PACKAGE = Path(rooms.__file__).parents[1]
# two rooms, a yard and a street, twelve samples of each
IDS = np.concatenate([bg * 4000 + np.arange(12) * 331 for bg in (0, 5, 10, 20)])


@pytest.fixture(scope="module")
def shots() -> dict:
    """IDS at 64 px, with the empty shots of their places."""
    bg, at = np.unique(IDS // 4000, return_inverse=True)
    empty = rooms.render_backgrounds(bg, 64)
    return rooms.render(IDS, 64) | {name: maps[at] for name, maps in empty.items()}


def test_a_sample_does_not_depend_on_its_batch(shots):
    order = np.random.default_rng(0).permutation(len(IDS))[:20]
    mixed = rooms.render(IDS[order], 64)
    alone = rooms.render(IDS[order[:1]], 64)
    for name, maps in mixed.items():
        np.testing.assert_array_equal(maps, shots[name][order])
        np.testing.assert_array_equal(alone[name][0], maps[0])


def test_a_backdrop_that_was_forgotten_comes_back_the_same(shots, monkeypatch):
    monkeypatch.setattr("evalib.rooms.backdrop.KEPT_BYTES", 0)
    for name, maps in rooms.render(IDS[::-5], 64).items():
        np.testing.assert_array_equal(maps, shots[name][::-5])


def _mean_of_four(maps):
    n, height, width = maps.shape[:3]
    return maps.reshape(n, height // 2, 2, width // 2, 2, -1).mean((2, 4)).squeeze()


def test_another_seed_is_another_world(shots):
    other = rooms.render(IDS[:2], 64, seed=1)
    assert np.abs(other["fg_bg"] - shots["fg_bg"][:2].astype(float)).mean() > 10


def test_two_sizes_show_the_same_scene(shots):
    some = np.arange(0, len(IDS), 6)
    fine, coarse = rooms.render(IDS[some], 128), {k: v[some] for k, v in shots.items()}
    apart = np.abs(_mean_of_four(fine["fg_bg"]) - coarse["fg_bg"]).mean((1, 2, 3))
    assert apart.max() < 14, "noise and JPEG are a few levels; another scene would be dozens"
    a, b = _mean_of_four(fine["mask"]) > 127, coarse["mask"] > 0
    assert (a & b).sum() / (a | b).sum() > 0.93
    assert np.abs(_mean_of_four(fine["depth"]) - coarse["depth"]).mean() < 2


def test_only_the_samples_meant_to_be_empty_are():
    ids = np.concatenate([bg * 4000 + np.arange(0, 4000, 9) for bg in (0, 22)])
    mask = rooms.render(ids, 64)["mask"]
    assert set(np.unique(mask)) == {0, 255}
    meant = chance(0, ids, "empty", 1)[:, 0] < rooms.EMPTY_SHARE
    np.testing.assert_array_equal((mask == 0).all((1, 2)), meant)
    assert 0.005 < meant.mean() < 0.04


def test_objects_stand_in_front_of_the_background(shots):
    mask = shots["mask"] > 0
    deeper = shots["depth"] > shots["bg_depth"].astype(int) + 1
    assert deeper[mask].mean() < 0.01  # only where the shaking camera shows another edge


def test_a_shadow_has_no_mask_and_no_depth(shots):
    near = np.pad(shots["mask"] > 0, ((0, 0), (1, 1), (1, 1)))
    near = np.lib.stride_tricks.sliding_window_view(near, (3, 3), (1, 2)).any((3, 4))
    still = ((shots["depth"] == shots["bg_depth"]) | near).all((1, 2))
    assert still.sum() > len(IDS) / 2, "most cameras stand still, and nothing else moves depth"
    darker = shots["bg"].min(-1) - shots["fg_bg"].min(-1).astype(int) > 25
    assert (darker & (shots["mask"] == 0))[still].sum() > 100, "but shadows do fall"


def _span(kind, o, d) -> tuple[float, float]:
    return span(kind, tuple(map(np.float32, o)), tuple(map(np.float32, d)))


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
    assert _span(kind, o, d) == pytest.approx([near, far], abs=1e-3)


@pytest.mark.parametrize("kind", [BALL, BOX, TUBE])
@pytest.mark.parametrize(
    ("o", "d"),
    [
        ((1.2, 0.1, -3), (0, 0.01, 1)),  # beside it
        ((0.1, 0.2, 0.3), (0, 0, 0)),  # no direction: from inside
        ((0.0, 0.0, -3), (np.nan, 0.1, 1)),
        ((0.0, 0.0, -3), (0.1, np.nan, 1)),
        ((0.0, np.nan, -3), (0.1, 0.1, 1)),
    ],
)
def test_other_rays_miss(kind, o, d):
    near, far = _span(kind, o, d)
    assert not near < far


def test_a_ray_along_a_face_misses():
    near, far = _span(BOX, (1, 0, -3), (0, 0.1, 1))
    assert not near < far


def plain_span(part, o, d):
    """The same written for arrays: o (3,), d (3, n) float32 -> near, far (n,)."""
    near, far = np.full(d.shape[1], -np.inf, np.float32), np.full(d.shape[1], np.inf, np.float32)
    ranges = []
    for i in {BALL: (), BOX: (0, 1, 2), TUBE: (1,)}[int(part["kind"])]:
        inverse = 1 / d[i]
        ranges.append((-o[i] * inverse - np.abs(inverse), -o[i] * inverse + np.abs(inverse)))
    axes = {BALL: (0, 1, 2), BOX: (), TUBE: (0, 2)}[int(part["kind"])]
    if axes:
        a = sum(d[i] * d[i] for i in axes)
        b = sum(o[i] * d[i] for i in axes)
        c = sum(o[i] * o[i] for i in axes) - np.float32(1)
        root = np.sqrt(np.maximum(b * b - a * c, 0))
        ranges.append(((-b - root) / a, (root - b) / a))
    for enter, leave in ranges:
        near, far = np.maximum(near, enter), np.minimum(far, leave)
    return near, far


def test_the_raster_is_what_plain_arrays_give_to_the_last_bit():
    def things(s):
        for _ in range(60):
            centre = (s.u(-3, 3), s.u(-3, 3), s.u(0.5, 9))
            half = (s.u(0.1, 0.9), s.u(0.1, 0.9), s.u(0.1, 0.9))
            yaw = s.u(0, 6)
            s.pick(s.ball, s.box, s.tube)(centre, half, paint(0.5), _about_y(yaw))

    parts, camera = _seen(things)
    z, part = _picture(parts, camera, 40)
    at = (np.arange(40, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / 40) - np.float32(1)
    u, v = np.tile(at, 40), np.repeat(-at, 40)
    wanted = np.full(1600, np.inf, np.float32)
    which = np.full(1600, -1)
    for number, seen in enumerate(parts):
        o, a, b, c = seen["ray"]
        d = a[:, None] * u + (b[:, None] * v + c[:, None])
        near, far = plain_span(seen, o, d)
        hit = (near < far) & (near > np.float32(0.05)) & (near < wanted)
        wanted[hit] = near[hit]
        which[hit] = number
    assert len(np.unique(which)) > 20
    np.testing.assert_array_equal(part.ravel(), which)
    np.testing.assert_array_equal(z.ravel(), wanted)


def _about_y(angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def _seen(add) -> tuple[np.ndarray, Pinhole]:
    """Parts seen by a camera at the origin that looks along +z, 90 degrees wide."""
    s = Builder(np.random.default_rng(0))
    add(s)
    camera = Pinhole.aim((0, 0, 0), 0, 0, 0, 1.0)
    return view(s.parts(), camera), camera


def _picture(parts, camera, n: int = 32) -> tuple[np.ndarray, np.ndarray]:
    z = np.full((n, n), np.inf, np.float32)
    part = np.full((n, n), -1, np.int32)
    raster(parts, 0, len(parts), Frame.of(camera, n, 0), z, part)
    return z, part


def test_depth_is_along_the_axis_and_the_nearest_part_wins():
    grey = paint(np.full(3, 0.5))

    def wall_and_ball(s):
        s.box((0, 0, 6), (9, 9, 1), grey)  # its face is at z = 5 on every ray, however oblique
        s.ball((0, 0, 4), (1, 1, 1), grey)

    z, part = _picture(*_seen(wall_and_ball))
    assert part[0, 0] == 0 and part[16, 16] == 1
    assert z[0, 0] == pytest.approx(5) and z[31, 16] == pytest.approx(5)
    assert z[16, 16] == pytest.approx(3, abs=0.01)
    # the ball's outline is a circle of radius 1 / sqrt(4**2 - 1) on the plane z = 1
    assert (z < 4.9).sum() == pytest.approx(np.pi * 256 / 15, rel=0.05)


def test_parts_behind_the_camera_are_not_seen():
    behind = _seen(lambda s: s.ball((0, 0, -3), (1, 1, 1), paint(np.ones(3))))
    assert np.isinf(_picture(*behind)[0]).all()


def _opacity(part, lamp, soft, points):
    """(n,) how much of the lamp (3,) a part hides from points (n, 3)."""
    shade = shadows.shade_of(part, lamp)
    return np.array([shadows.opacity(shade, np.float32(soft), tuple(p)) for p in points])


def test_a_shadow_is_full_in_the_middle_and_ends_at_the_side():
    parts, _ = _seen(lambda s: s.ball((0, 1, 5), (0.5, 0.5, 0.5), paint(np.ones(3))))
    points = np.array([[0, 0, 5], [0.45, 0, 5], [0.7, 0, 5]], np.float32)
    dark = _opacity(parts[0], np.array([0, 50, 5], np.float32), 0.3, points)
    assert dark[0] == 1 and 0 < dark[1] <= 1 and dark[2] == 0


def test_no_shadow_is_lost_between_tiles():
    def things(s):
        s.box((0, -1, 5), (9, 0.5, 9), paint(0.5))  # a floor, which throws none
        for x in range(-3, 4):
            s.pick(s.ball, s.box, s.tube)((x, s.u(0, 1), s.u(3, 6)), (0.3, 0.4, 0.3), paint(0.5))

    parts, camera = _seen(things)
    z, _ = _picture(parts, camera)
    frame = Frame.of(camera, 32, 0)
    lamp = np.array([1, 4, 5], np.float32)
    light = probe(0, 0).lamp._replace(lamp=lamp, soft=np.float32(0.2))
    found = np.empty((32, 32), np.float32)
    shadows.shadows(parts, 1, len(parts), light, *shadows.enclose(frame, z), found)
    at = (np.arange(32) + 0.5) / 16 - 1
    points = np.stack([at * z, -at[:, None] * z, z], 2).astype(np.float32)
    met = np.isfinite(z)
    wanted = np.zeros((32, 32), np.float32)
    for part in parts[1:]:
        wanted[met] = np.maximum(wanted[met], _opacity(part, lamp, 0.2, points[met]))
    np.testing.assert_allclose(found[met], wanted[met], atol=1e-3)
    assert 0.02 < (wanted > 0).mean() < 0.9


def test_jpeg_is_what_a_codec_does():
    x = np.random.default_rng(0).random((6, 6, 3)) * 255
    image = np.asarray(Image.fromarray(x.astype(np.uint8)).resize((48, 48), Image.BICUBIC))
    ours = np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
    sensor.jpeg(ours, 60.0)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=60)
    theirs = np.asarray(Image.open(file)).astype(float)
    assert np.abs(ours.transpose(1, 2, 0) - theirs).mean() < 0.25 * np.abs(image - theirs).mean()
    flat = np.full((3, 20, 20), 77, np.float32)
    sensor.jpeg(flat, 90.0)
    assert np.abs(flat - 77).max() <= 1


def test_every_family_and_every_kind_of_place_is_on_both_sides_of_the_split():
    for n, size in ((manifest.N_FG, len(objects.FAMILIES)), (manifest.N_BG, len(places.KINDS))):
        sides = {(manifest.held_out(i), (i // 5) % size) for i in range(n)}
        assert len(sides) == 2 * size
        assert sum(manifest.held_out(i) for i in range(n)) == 20


def test_companions_stay_on_their_side_of_the_split():
    fg, r = np.tile(np.arange(300), 50), np.random.default_rng(0).random(15_000)
    other = staging._companion(fg, r)
    np.testing.assert_array_equal(manifest.held_out(other), manifest.held_out(fg))
    np.testing.assert_array_equal(other // 100, fg // 100)  # and in their hundred
    assert set(other) == set(range(300))


MORE = [places.MORE + 5 * i for i in range(len(places.MORE_KINDS))]  # one of each kind


@pytest.fixture(scope="module")
def more() -> dict:
    """Four samples of each kind of place there is from MORE on, at 64 px, and the empty shots."""
    ids = np.array([(bg * 100 + fg) * 40 + 7 for bg in MORE for fg in (3, 17, 31, 53)])
    empty = rooms.render_backgrounds(MORE, 64)
    return rooms.render(ids, 64) | {name: maps.repeat(4, 0) for name, maps in empty.items()}


def test_every_kind_of_place_shows_what_stands_in_it(more):
    assert {places.kind_of(bg) for bg in MORE} == set(places.MORE_KINDS)
    area = (more["mask"] > 0).mean((1, 2)).reshape(-1, 4)
    assert (area.max(1) > 0.002).all() and np.median(area) > 0.01
    still = np.abs(more["fg_bg"].astype(int) - more["bg"]).mean((1, 2, 3)).reshape(-1, 4)
    assert (still.min(1) < 40).all()  # the same place


def test_a_table_top_is_seen_from_nearby(more):
    near = [i for i, bg in enumerate(MORE) if places.kind_of(bg) == "table"]
    depth = more["bg_depth"][::4][near].reshape(len(near), -1) / 25.5
    assert (np.median(depth, 1) < 2.5).all() and depth.min() < 1
    assert depth.min() > 0.1


def test_what_was_in_the_empty_shot_and_left_is_not_new():
    gone = [bg for bg in range(places.MORE, places.MORE + 60) if len(staging.leaving(0, bg, 1).at)]
    assert gone and all(bg not in range(places.MORE) for bg in gone)
    held = [staging.leaving(0, bg, 1) for bg in range(200)]
    assert not any(len(cast.at) for cast in held)  # never in the places before
    bg = gone[0]
    left = rooms.render_backgrounds([bg], 64)["bg_depth"][0].astype(int)
    sample = rooms.render([(bg * 100 + 3) * 40], 64)
    behind = (sample["depth"][0] - left > 8) & (sample["mask"][0] == 0)
    assert behind.sum() > 10


def test_some_cameras_see_no_colours_some_are_soft_and_some_write_blocks():
    bg = np.arange(places.MORE, places.MORE + 400)
    shots = sensor.settings(0, bg, None, 64)
    for share, few in ((shots["grey"] > 0, 0.08), (shots["soft"] > 0, 0.2)):
        assert abs(share.mean() - few) < 0.05
    assert abs(((shots["quality"] > 0) & (shots["quality"] < 40)).mean() - 0.2) < 0.07
    grey = int(bg[shots["grey"] > 0][0])
    image = rooms.render_backgrounds([grey], 64)["bg"][0].astype(int)
    assert np.abs(image - image.mean(2, keepdims=True)).mean() < 12  # but for white balance
    before = sensor.settings(0, np.arange(200), None, 64)
    assert not before["grey"].any() and not before["soft"].any()


def test_a_camera_that_looks_down_sees_things_all_over_its_picture():
    camera = Pinhole.aim((0, 3, 0), 0, 1.5, 0, 0.8)
    place = places.build(0, 0)._replace(camera=camera, reach=9.0)
    place = place._replace(light=place.light._replace(floor=np.array([-4.0, 4, -4, 4])))
    size = np.tile([0.2, 0.4, 0.2], (60, 1))
    drop = Backdrop.of(place, 32)
    r = np.random.default_rng(0).random((60, 3 + 2 * staging.TRIES))
    area, wanted = np.full((60, staging.TRIES), 0.02), np.full(60, 3.0)
    room = camera, place.light.floor, place.light.blocks[:0], 0.5, 9.0, drop
    at = staging._choose(*room, size, np.zeros(60), area, wanted, r, 0.95)
    assert (at[:, 1] == 0).all() and np.ptp(at[:, 0]) > 2 and np.ptp(at[:, 2]) > 2


def test_backgrounds_reach_no_further_than_the_byte(shots):
    assert places.build(0, 0).light.indoors and np.isfinite(backdrop(0, 0, 64).z).all()
    assert (shots["bg_depth"][0] > 0).all()


@pytest.mark.parametrize(("size", "n"), [(64, 64), (224, 16)])  # 16: a block of a stream
def test_backdrops_are_computed_once_for_empty_places_and_samples(monkeypatch, size, n):
    made = []
    of = Backdrop.of
    monkeypatch.setattr(Backdrop, "of", lambda *how: made.append(how[1]) or of(*how))
    bgs = np.arange(500, 500 + n)
    rooms.render_backgrounds(bgs, size)
    rooms.render(bgs * 4000, size)
    assert made.count(2 * size) == n


@pytest.mark.parametrize("call", [rooms.render, rooms.render_backgrounds])
def test_wrong_questions_are_refused(call):
    with pytest.raises(ValueError, match="size 8 is too small"):
        call([0], 8)
    with pytest.raises(ValueError, match="-3 is not a sample"):
        call([4, -3], 64)
    assert all(len(maps) == 0 for maps in call([], 16).values())


def test_every_kernel_is_compiled_for_one_kind_of_arguments_only(shots):
    """Two kinds would be compiled twice; and processes that compile at once could mix them up."""
    names = [name for name in sys.modules if name.startswith("evalib.rooms.")]
    found = {d for name in names for d in vars(sys.modules[name]).values() if _is_kernel(d)}
    assert len(found) > 10
    for kernel in found:
        assert len(kernel.signatures) <= 1, kernel


def _is_kernel(thing) -> bool:
    return hasattr(thing, "signatures") and not thing.targetoptions.get("forceinline")


WITHOUT_TORCH = """
import sys, types
sys.modules["evalib"] = types.ModuleType("evalib")  # its own __init__ imports torch, for others
sys.modules["evalib"].__path__ = [sys.argv[1]]
"""
RENDER = (
    "from evalib import rooms; print(rooms.render([5], 16)['fg_bg'].sum(), 'torch' in sys.modules)"
)
# one kernel only, as all take ten seconds to compile
MOVE = """
import numpy as np
from evalib.rooms import kernels, objects, staging
parts = objects.build(0, 3)[0]
one = np.ones(len(parts))
staging._move(parts, np.arange(len(parts)), one.repeat(3).reshape(-1, 3), one, one > 0)
hits = staging._move.stats.cache_hits
print(kernels.FOLDER, hash(parts.tobytes()), sum(hits.values()), sep="|")
"""


LIGHT = """
from evalib.rooms.backdrop import probe
print(hash(probe(0, 5).light.tobytes()))
"""


def start(code: str, package: Path, home: Path | str, **environment: str) -> subprocess.Popen:
    environment = os.environ | {"HOME": str(home), "PYTHONHASHSEED": "0"} | environment
    command = [sys.executable, "-B", "-c", WITHOUT_TORCH + code, str(package)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_rooms_are_rendered_without_torch(tmp_path):
    done = start(RENDER, PACKAGE, tmp_path)
    assert done.communicate()[0].split() == [str(rooms.render([5], 16)["fg_bg"].sum()), "False"]


@pytest.fixture
def copied(tmp_path):
    """A package that nobody has compiled yet."""
    shutil.copytree(PACKAGE, tmp_path / "evalib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(manifest.MANIFEST, tmp_path)
    return tmp_path / "evalib"


def test_two_processes_that_compile_at_once_leave_a_third_nothing_to_do(copied, tmp_path):
    pair = [start(MOVE, copied, tmp_path) for _ in range(2)]
    one, other = (process.communicate()[0].split("|") for process in pair)
    third = start(MOVE, copied, tmp_path).communicate()[0].split("|")
    assert one[:2] == other[:2] == third[:2] and third[2] == "1\n"
    assert Path(one[0]).parent == tmp_path / ".cache" / "evalib"


def test_a_folder_that_another_process_makes_first_is_used_as_well(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    make = Path.mkdir

    def late(path, **how):
        os.makedirs(path)
        make(path, **how)

    monkeypatch.setattr(Path, "mkdir", late)
    assert kernels._folder().parent == tmp_path


def test_a_torn_file_of_a_kernel_is_compiled_anew(copied, tmp_path):
    expected = start(MOVE, copied, tmp_path).communicate()[0].split("|")
    for path in Path(expected[0]).rglob("*.nb?"):
        path.write_bytes(path.read_bytes()[:9])
    found = start(MOVE, copied, tmp_path).communicate()[0].split("|")
    again = start(MOVE, copied, tmp_path).communicate()[0].split("|")
    assert expected[:2] == found[:2] == again[:2]
    assert (expected[2], found[2], again[2]) == ("0\n", "0\n", "1\n")


def test_without_a_folder_to_write_to_kernels_are_compiled_each_time(copied):
    said = start(MOVE, copied, "/dev/null").communicate()[0].split("|")
    assert (said[0], said[2]) == ("None", "0\n")


def test_a_simple_processor_gives_the_same_bits_as_this_one(tmp_path):
    pair = [start(LIGHT, PACKAGE, tmp_path, **cpu) for cpu in ({}, {"NUMBA_CPU_NAME": "generic"})]
    one, other = (process.communicate()[0] for process in pair)
    assert one == other != ""
