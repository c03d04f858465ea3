import threading

import numpy as np
import pytest
import torch

from evalib import augment, rng
from evalib.batches import Batches, floats

GEOMETRY = ((), ("flip",), ("flip", "crop"))
COLOUR = ("colour_matrix", "exposure", "white_balance", "tone", "noise")
SOME = {
    "none": (),
    "flip": ("flip",),
    "flip+crop": ("flip", "crop"),
    "colour": COLOUR,
    "all": augment.ALL,
    "whole": tuple(name for name in augment.ALL if name != "crop"),
}
some = pytest.mark.parametrize("names", SOME.values(), ids=SOME)
SIZE = 32
IDS = np.array([7, 399_999, 12, 40_000, 5, 6, 123, 77, 1, 0, 222_222, 31_415])


class FakePack:
    """The part of a Pack that Batches needs, in memory; the id is written into the depth map."""

    def __init__(self, n=40, size=SIZE):
        numbers = np.random.Generator(np.random.Philox(1))
        self.path, self.size = f"{size}px", size
        self.index = np.zeros(n, [("id", "<i8")])
        self.index["id"] = numbers.permutation(400_000)[:n]
        shapes = {"bg": (3,), "fg_bg": (3,), "mask": (), "depth": (), "bg_depth": ()}
        self.images = {
            name: numbers.integers(0, 256, (n, size, size, *channels), dtype=np.uint8)
            for name, channels in shapes.items()
        }
        self.images["mask"] = (self.images["mask"] > 200).astype(np.uint8) * 255

    def __len__(self):
        return len(self.index)

    def gather(self, rows):
        raw = {name: torch.from_numpy(x[rows].copy()) for name, x in self.images.items()}
        return raw | {"row": torch.tensor(rows.copy())}

    def batch(self, rows, device="cpu"):
        return floats(self.gather(rows), device)


@pytest.fixture(scope="module")
def pack():
    return FakePack()


def augmented(names, pack, rows, epoch=0):
    keys = rng.sample_keys(0, epoch, pack.index["id"][rows])
    return augment.apply(names, floats(pack.gather(rows)), keys=keys)


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_numbers_are_those_of_splitmix64():
    # First outputs of the reference code for the states 0 and 1234567.
    states = torch.tensor([0, 1234567])
    assert [x % 2**64 for x in rng._hash(states).tolist()] == [
        0xE220A8397B1DCDAF,
        6457827717110365317,
    ]


def test_numbers_are_the_same_on_every_machine():
    keys = rng.sample_keys(3, 5, IDS[:3])
    assert keys.tolist() == [
        1719786250890190160,
        -4326539991364540751,
        -4267169164329250555,
    ]
    assert rng.integers(keys, "flip", 1000, 2).tolist() == [[124, 411], [933, 225], [968, 281]]
    assert rng.permutation(8, 3, 5).tolist() == [0, 6, 2, 1, 3, 4, 7, 5]


def test_numbers_are_uniform_and_independent():
    keys = rng.sample_keys(0, 0, np.arange(20_000))
    x = rng.uniform(keys, "a", -1, 1, 2)
    y = rng.uniform(keys, "b", -1, 1)
    both = torch.cat([x, y, rng.uniform(rng.sample_keys(0, 1, np.arange(20_000)), "b", -1, 1)], 1)
    assert both.min() >= -1 and both.max() < 1
    assert both.mean(0).abs().max() < 0.02  # 5 standard errors
    assert (both.var(0) - 1 / 3).abs().max() < 0.011
    assert (torch.corrcoef(both.T) - torch.eye(4)).abs().max() < 0.036
    counts = torch.bincount(rng.integers(keys, "c", 5)[:, 0])
    assert len(counts) == 5 and (counts - 4000).abs().max() < 290


def test_a_permutation_has_every_number_once_and_every_epoch_its_own():
    one, other = rng.permutation(1000, 7, 0), rng.permutation(1000, 7, 1)
    assert sorted(one) == sorted(other) == list(range(1000)) and (one == other).mean() < 0.01


def test_negative_and_large_seeds_work():
    assert len({rng.permutation(50, seed, 0).tobytes() for seed in (-1, 1, 2**63)}) == 3


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


@pytest.mark.parametrize("names", [names for names in SOME.values() if names])
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


@pytest.mark.parametrize("n", [3 * 24 * 24, 3 * 448 * 448, 3 * 900 * 900])
def test_noise_is_normal_and_there_is_enough_for_large_images(n):
    bank = rng._field(n, torch.device("cpu"))
    assert len(bank) >= 2 * n
    part = bank[: 1 << 20]
    assert abs(part.mean()) < 0.005 and abs(part.std() - 1) < 0.005
    assert abs(((part.abs() < 1).float().mean()) - 0.683) < 0.01


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


@pytest.mark.parametrize("names", GEOMETRY)
def test_albumentations_gives_the_same_pixels_as_the_batch_way(pack, names):
    ways = [
        Batches({SIZE: pack}, np.arange(40), batch_size=12, seed=2, augment=names, way=way)
        for way in ("batch", "albumentations")
    ]
    for step in (0, 4):
        assert equal(ways[0](step), ways[1](step))


def test_albumentations_full_keeps_masks_and_geometry(pack):
    args = ({SIZE: pack}, np.arange(40))
    one = Batches(*args, batch_size=40, augment=augment.ALL, way="albumentations")(0)
    other = Batches(*args, batch_size=40, augment=augment.ALL)(0)
    for name in ("mask", "depth", "bg_depth", "row"):
        assert torch.equal(one[name], other[name])
    assert not torch.equal(one["bg"], other["bg"])
    assert one["bg"].shape == other["bg"].shape


@pytest.mark.parametrize("way", ["batch", "albumentations"])
@pytest.mark.parametrize("names", [("flip", "crop"), augment.ALL])
def test_results_do_not_depend_on_the_number_of_workers(pack, names, way):
    batches = Batches({SIZE: pack}, np.arange(40), batch_size=9, augment=names, way=way)
    steps = [(step, None) for step in range(2, 11)]  # over the end of two epochs
    expected = [batches.prepare(raw) for raw in batches.ahead(steps)]
    for workers in (1, 2, 5):
        found = [batches.prepare(raw) for raw in batches.ahead(steps, workers)]
        assert len(found) == 9 and all(map(equal, found, expected))


def test_batches_prepared_ahead_are_dropped_when_a_session_ends(pack):
    batches = Batches({SIZE: pack}, np.arange(40), batch_size=9).ahead(
        ((k, None) for k in range(10**9)), 2
    )
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if "ThreadPool" in t.name]


@pytest.mark.parametrize("way", ["batch", "albumentations"])
def test_a_sample_is_augmented_alike_in_batches_of_any_size(pack, way):
    def epoch(size, number):
        batches = Batches(
            {SIZE: pack}, np.arange(40), batch_size=size, augment=augment.ALL, way=way, seed=9
        )
        first = number * batches.steps_per_epoch
        parts = [batches(first + i) for i in range(batches.steps_per_epoch)]
        return {k: torch.cat([part[k] for part in parts]) for k in parts[0]}

    assert equal(epoch(20, 1), epoch(5, 1))


def test_a_step_does_not_depend_on_the_steps_before(pack):
    def new():
        return Batches({SIZE: pack}, np.arange(40), batch_size=7, augment=augment.ALL, seed=4)

    straight = new()
    for step in range(12):
        last = straight(step)
    assert equal(last, new()(11))


def test_an_epoch_has_every_row_once_and_the_next_another_order(pack):
    batches = Batches({SIZE: pack}, np.arange(3, 33), batch_size=5)
    assert batches.steps_per_epoch == 6
    epochs = [torch.cat([batches(6 * e + i)["row"] for i in range(6)]).tolist() for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(3, 33))
    assert epochs[0] != epochs[1]


def test_another_seed_gives_another_order_and_other_pixels(pack):
    one, other = (
        Batches({SIZE: pack}, np.arange(40), batch_size=40, augment=augment.ALL, seed=s)(0)
        for s in (0, 1)
    )
    assert not torch.equal(one["row"], other["row"])
    back = [x["bg"][x["row"].argsort()] for x in (one, other)]
    assert not torch.equal(*back)


def test_a_batch_larger_than_all_rows_is_all_rows(pack):
    batches = Batches({SIZE: pack}, np.arange(6), batch_size=64)
    assert batches.steps_per_epoch == 1 and sorted(batches(3)["row"].tolist()) == list(range(6))


def test_processes_that_share_a_batch_see_the_same_samples_as_one(pack):
    batches = Batches({SIZE: pack}, np.arange(40), batch_size=8, augment=augment.ALL)
    raw, whole = batches.gather(2), batches(2)
    for rank in range(2):
        part = batches.prepare({k: v[rank::2] for k, v in raw.items()})
        assert equal(part, {k: v[rank::2] for k, v in whole.items()})


def test_sizes_share_order_and_unknown_sizes_are_refused(pack):
    large = FakePack(size=48)
    large.index = pack.index
    batches = Batches({32: pack, 48: large}, np.arange(40), batch_size=4)
    assert torch.equal(batches(5)["row"][:2], batches(5, size=48)["row"])  # as many pixels a step
    assert batches(5, size=48)["bg"].shape == (2, 3, 48, 48)
    with pytest.raises(ValueError, match=r"no pack of 64 px here; there are \[32, 48\]"):
        batches(0, size=64)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rows": []}, "batch_size=4, 0 rows; needed: at least 1"),
        ({"batch_size": 0}, "batch_size=0, 40 rows"),
        ({"rows": [0, 40]}, r"rows 0..40, but 32px has 40 samples; take rows from its `split"),
        ({"way": "fast"}, "way='fast'; known: batch, albumentations"),
        ({"augment": ("flop",)}, "no transforms flop"),
        ({"packs": {32: FakePack(), 8: FakePack(39, 8)}}, "8px holds other samples than 32px"),
    ],
)
def test_what_cannot_make_batches_is_refused(pack, change, says):
    args = {"packs": {SIZE: pack}, "rows": np.arange(40), "batch_size": 4} | change
    with pytest.raises(ValueError, match=says):
        Batches(**args)
