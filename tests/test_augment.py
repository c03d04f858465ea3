import numpy as np
import pytest
import torch

from evalib import augment, rng
from evalib.dataset import floats

COLOUR = ("colour_matrix", "exposure", "white_balance", "tone", "noise")
SOME = {
    "none": (),
    "flip": ("flip",),
    "flip+crop": ("flip", "crop"),
    "colour": COLOUR,
    "all": augment.ALL,
    "cutout": ("flip", "cutout"),
    "move": ("flip", "move"),
    "whole": tuple(name for name in augment.ALL if name != "crop"),
}
some = pytest.mark.parametrize("names", SOME.values(), ids=SOME)
SIZE = 32
IDS = np.array([7, 399_999, 12, 40_000, 5, 6, 123, 77, 1, 0, 222_222, 31_415])


def augmented(names, pack, rows, epoch=0):
    keys = rng.sample_keys(0, epoch, pack.index["id"][rows])
    return augment.apply(names, floats(pack.gather(rows)), keys=keys)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@some
def test_a_sample_comes_out_the_same_in_any_batch(pack, names):
    rows = np.arange(40)
    whole = augmented(names, pack, rows)
    for some in (rows[:1], rows[17:24], rows[::-3].copy(), rows[5:38]):
        assert equal(augmented(names, pack, some), {k: v[some] for k, v in whole.items()})


def test_a_sample_comes_out_the_same_for_any_number_of_torch_threads(pack):
    n = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(augmented(augment.ALL, pack, np.arange(40)))
    finally:
        torch.set_num_threads(n)
    assert equal(*results)


@some
def test_images_stay_in_range_and_masks_stay_0_and_1(pack, names):
    batch = augmented(names, pack, np.arange(40))
    size = 16 if "crop" in names else SIZE
    for name in ("bg", "fg_bg", "mask", "depth", "bg_depth"):
        assert batch[name].shape == (40, 3 if "bg" in name[-2:] else 1, size, size)
        assert batch[name].min() >= 0 and batch[name].max() <= 1
        assert batch[name].dtype == torch.float32
    assert set(batch["mask"].unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("names", [n for n in SOME.values() if n and not {"cutout", "move"} & {*n}])
def test_every_image_of_a_sample_moves_together(names):
    """The same coordinates go in five times, and come out alike, but for colour."""
    grid = torch.arange(64 * 64).view(1, 1, 64, 64).expand(12, 1, -1, -1) / 64**2
    batch = {name: grid.clone() for name in augment.MAPS}
    batch |= {name: grid.expand(-1, 3, -1, -1).clone() for name in augment.SHOTS}
    out = augment.apply(names, batch, keys=rng.sample_keys(0, 0, IDS))
    assert torch.equal(out["mask"], out["depth"]) and torch.equal(out["mask"], out["bg_depth"])
    if "flip" in names:
        mirrored = out["depth"][:, 0, 0, 1] < out["depth"][:, 0, 0, 0]
        assert 0 < mirrored.sum() < 12
    if "noise" not in names:
        for shot in augment.SHOTS:
            assert torch.equal(out[shot], out["depth"].expand(-1, 3, -1, -1))
    else:  # colour is left over: still each shot goes the way that depth goes
        for shot in augment.SHOTS:
            pair = torch.stack([out[shot].mean(1), out["depth"][:, 0]], 1).flatten(2)
            assert min(torch.corrcoef(p)[0, 1] for p in pair) > 0.9


def test_cutout_hides_one_rectangle_of_both_shots_and_nothing_is_new_behind_it(pack):
    rows = np.arange(12)
    keys = rng.sample_keys(0, 0, pack.index["id"][rows])
    plain, out = (augmented(names, pack, rows) for names in ((), ("cutout",)))
    one = augment.albumentations(("cutout",))
    for row in rows:
        grey = (out["bg"][row] == 128 / 255).all(0) & (out["fg_bg"][row] == 128 / 255).all(0)
        down, across = (int(n.item()) for n in (grey.any(1).sum(), grey.any(0).sum()))
        assert grey.sum() == down * across  # a rectangle
        assert min(down, across) >= SIZE / 4 - 1 and max(down, across) <= SIZE / 2 + 1
        for shot in augment.SHOTS:
            assert torch.equal(out[shot][row][:, ~grey], plain[shot][row][:, ~grey])
        assert torch.equal(out["mask"][row, 0], plain["mask"][row, 0] * ~grey)
        assert torch.equal(out["depth"][row], plain["depth"][row])
        raw = {name: x[row] for name, x in pack.images.items()}
        before = {name: x.copy() for name, x in raw.items()}
        alone = one(raw, int(keys[row]))
        assert all((raw[name] == x).all() for name, x in before.items())
        assert (alone["fg_bg"][grey.numpy()] == 128).all() and not alone["mask"][grey].any()


def test_a_touched_camera_is_the_same_sample_by_sample(pack):
    rows = np.arange(12)
    keys = rng.sample_keys(0, 0, pack.index["id"][rows])
    plain, out = (augmented(names, pack, rows) for names in ((), ("move",)))
    assert not torch.equal(out["bg"], plain["bg"])
    for row in rows:
        raw = {name: x[row] for name, x in pack.images.items()}
        alone = augment.albumentations(("move",))(raw, int(keys[row]))
        bg = torch.from_numpy(alone["bg"]).permute(2, 0, 1) / 255
        torch.testing.assert_close(bg, out["bg"][row], rtol=0, atol=0.51 / 255)
        bg_depth = torch.from_numpy(alone["bg_depth"]) / 255
        torch.testing.assert_close(bg_depth, out["bg_depth"][row, 0], rtol=0, atol=1e-6)
        assert all((alone[name] == raw[name]).all() for name in ("fg_bg", "mask", "depth"))


def test_flip_and_crop_are_what_a_loop_does(pack):
    rows = np.arange(12)
    keys = rng.sample_keys(0, 0, pack.index["id"][rows])
    flipped = rng.integers(keys, "flip", 2)[:, 0].tolist()
    tops = rng.integers(keys, "crop/top", SIZE - 16 + 1)[:, 0].tolist()
    lefts = rng.integers(keys, "crop/left", SIZE - 16 + 1)[:, 0].tolist()
    out = augmented(("flip", "crop"), pack, rows)
    assert len(set(tops)) > 3 and set(flipped) == {0, 1}
    for row, flip, top, left in zip(rows, flipped, tops, lefts, strict=True):
        for name in ("fg_bg", "depth"):
            x = pack.images[name][row][:, :: -1 if flip else 1][top : top + 16, left : left + 16]
            x = torch.from_numpy(x.copy()).view(16, 16, -1).permute(2, 0, 1) / 255
            assert torch.equal(out[name][row], x)


def test_none_changes_nothing_and_nothing_is_changed_in_place(pack):
    batch = floats(pack.gather(np.arange(12)))
    before = {name: x.clone() for name, x in batch.items()}
    assert equal(augment.apply((), batch, keys=rng.sample_keys(0, 0, IDS)), before)
    augment.apply(augment.ALL, batch, keys=rng.sample_keys(0, 0, IDS))
    assert equal(batch, before)


def test_colour_differs_between_the_shots_and_between_epochs():
    grey = {name: torch.full((12, 3, SIZE, SIZE), 0.5) for name in augment.SHOTS}
    first, second = (
        augment.apply(COLOUR, grey, keys=rng.sample_keys(0, epoch, IDS)) for epoch in (0, 1)
    )
    levels = [x[name].mean((2, 3)) for x in (first, second) for name in augment.SHOTS]
    for i, one in enumerate(levels):
        for other in levels[:i]:
            assert (one - other).abs().amax(1).min() > 1e-3
    assert 0.4 < levels[0].mean() < 0.6  # no drift on the whole
    noise = first["bg"] - first["bg"].mean((2, 3), keepdim=True)
    other = first["fg_bg"] - first["fg_bg"].mean((2, 3), keepdim=True)
    pairs = torch.stack([noise.flatten(1), other.flatten(1)], 1)
    assert max(abs(torch.corrcoef(pair)[0, 1]) for pair in pairs) < 0.1


def test_a_colour_matrix_hits_both_shots_alike():
    keys = rng.sample_keys(0, 0, IDS)
    matrix = augment._colour_matrix(keys)
    gain = matrix.sum(2)
    assert gain.min() >= 0.79 and gain.max() <= 1.21 and (matrix < 0).any()
    red = {name: torch.zeros(12, 3, 8, 8) for name in augment.SHOTS}
    for x in red.values():
        x[:, 0] = 0.6
    out = augment.apply(COLOUR, red, keys=keys)
    hue = [out[name].mean((2, 3)) for name in augment.SHOTS]  # both lean to the same side
    assert torch.corrcoef(torch.stack([(h[:, 1] - h[:, 2]) for h in hue]))[0, 1] > 0.8


def test_a_shadow_darkens_the_second_shot_only_smoothly_and_in_three_of_ten():
    x = torch.ones(1000, 1, SIZE, SIZE)
    shadow = augment._shadow(rng.sample_keys(0, 0, np.arange(1000)), x)
    assert shadow.max() == 1 and shadow.min() >= 0.29
    assert (shadow[:, :, 1:] - shadow[:, :, :-1]).abs().max() < 0.45
    assert 250 < (shadow.amin((1, 2, 3)) < 0.999).sum() < 350


def test_blur_keeps_flat_images_and_spreads_a_dot_by_the_binomial_weights():
    assert torch.allclose(augment._binomial(torch.full((1, 3, 5, 7), 0.3)), torch.tensor(0.3))
    dot = torch.zeros(1, 1, 5, 5)
    dot[0, 0, 2, 2] = 16
    expected = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]])
    assert torch.equal(augment._binomial(dot)[0, 0, 1:4, 1:4], expected)


@pytest.mark.parametrize(("size", "cropped"), [(64, 48), (96, 80), (128, 112), (224, 192), (8, 8)])
def test_cropped_sizes_need_no_padding_in_the_network(size, cropped):
    x = {"mask": torch.zeros(2, 1, size, size)}
    out = augment.apply(("flip", "crop"), x, keys=rng.sample_keys(0, 0, [1, 2]))
    assert out["mask"].shape == (2, 1, cropped, cropped)


@pytest.mark.parametrize(
    "use",
    [
        augment.check,
        lambda names: augment.apply(names, {}, keys=torch.empty(0)),
        augment.albumentations,
    ],
)
def test_an_unknown_transform_names_the_known_ones(use):
    with pytest.raises(ValueError, match="no transforms flop, pad; known.*: flip, crop, shadow"):
        use(("flip", "flop", "pad"))


def test_each_transform_works_alone_and_the_order_of_names_does_not_matter(pack):
    rows = np.arange(12)
    plain = floats(pack.gather(rows))
    for name in augment.ALL:
        assert not equal(augmented((name,), pack, rows), plain), name
    backwards = tuple(reversed(augment.ALL))
    assert equal(augmented(backwards, pack, rows), augmented(augment.ALL, pack, rows))


@pytest.mark.parametrize("n", [3 * 24 * 24, 3 * 448 * 448, 3 * 900 * 900])
def test_noise_is_normal_and_there_is_enough_for_large_images(n):
    bank = augment._field(n, torch.device("cpu"))
    assert len(bank) >= 2 * n
    part = bank[: 1 << 20]
    assert abs(part.mean()) < 0.005 and abs(part.std() - 1) < 0.005
    assert abs(((part.abs() < 1).float().mean()) - 0.683) < 0.01


def test_a_camera_that_was_touched_leaves_another_empty_shot_and_its_depth():
    size, n = 64, 400
    v, u = (x / size for x in np.mgrid[:size, :size])
    both = np.stack([u, v]) * 0.6 + 0.2  # what a pixel shows is where it is
    batch = {"bg": torch.tensor(np.stack([*both, u]), dtype=torch.float32).expand(n, -1, -1, -1)}
    batch["bg_depth"] = torch.tensor(both[:1], dtype=torch.float32).expand(n, -1, -1, -1)
    batch |= {"fg_bg": batch["bg"], "mask": batch["bg_depth"].round(), "depth": batch["bg_depth"]}
    out = augment.apply(("move",), dict(batch), keys=rng.sample_keys(0, 0, np.arange(n)))
    assert all(torch.equal(out[name], batch[name]) for name in ("fg_bg", "mask", "depth"))
    way = ((out["bg"] - batch["bg"])[:, :2] / 0.6).abs()  # of the picture
    moved = way.flatten(1).amax(1) > 1e-4
    assert abs(moved.float().mean() - 0.25) < 0.06
    middle = way[moved, :, 31:33, 31:33].mean((2, 3))  # neither roll nor zoom
    assert 0.018 < middle.max() <= 0.0205 and 0.008 < middle.mean() < 0.012
    corner = way[moved, :, 4:60:55, 4:60:55].amax((1, 2, 3))
    assert 0.028 < corner.max() < 0.02 + 0.5 * (np.radians(1) + 0.02) + 0.005
    assert np.isin(out["bg_depth"].numpy(), batch["bg_depth"][0].numpy()).all()  # nothing mixed
    apart = (out["bg"][:, 0] - out["bg_depth"][:, 0]).abs()[:, 4:60, 4:60]
    assert apart.max() <= 0.51 / size * 0.6 + 1e-6


def test_a_network_is_told_all_some_or_nothing_of_the_empty_scene():
    depth = torch.rand(3000, 1, 32, 32) * 0.9 + 0.05
    depth[:, :, :4] = 1.0  # far
    keys = rng.sample_keys(0, 0, np.arange(3000))
    told = augment.told(depth, 0.6, keys=keys)
    assert ((told == depth) | (told == 0)).all()
    share = (told[:, :, 4:] > 0).float().mean((1, 2, 3))
    assert abs((share == 0).float().mean() - 0.4) < 0.03
    assert abs((share == 1).float().mean() - 0.4) < 0.03
    holed = (share > 0) & (share < 1)
    assert share[holed].min() > 0.7 and share[holed].max() < 0.97  # 1/16 to 1/4 of the picture
    far = (told[:, :, :4] > 0).any(1).any(1).any(1)
    assert abs(far[share == 1].float().mean() - 0.5) < 0.05  # depth cameras do not see as far
    torch.testing.assert_close(augment.told(depth[7:9], 0.6, keys=keys[7:9]), told[7:9])
    assert not augment.told(depth, 0.0, keys=keys).any()
