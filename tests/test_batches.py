import threading

import numpy as np
import pytest
import torch

from evalib import augment
from evalib.batches import Batches, Epochs
from evalib.config import Config

SIZE = 32


def of(packs, rows, batch_size, *, augment=(), way="batch", seed=0, share=slice(None)):
    """Batches of some rows of packs."""
    sizes = ((tuple(packs), 1),)
    config = Config(sizes=sizes, batch_size=batch_size, augment=augment, way=way, seed=seed)
    return Batches(Epochs(packs, rows, config, share), config)


def batch(batches, step, size=SIZE):
    return batches.prepare(batches.gather(step, size))


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("names", [(), ("flip",), ("flip", "crop")])
def test_albumentations_gives_the_same_pixels_as_the_batch_way(pack, names):
    ways = [
        of({SIZE: pack}, np.arange(40), 12, seed=2, augment=names, way=way)
        for way in ("batch", "albumentations")
    ]
    for step in (0, 4):
        assert equal(batch(ways[0], step), batch(ways[1], step))


def test_albumentations_full_keeps_masks_and_geometry(pack):
    args = ({SIZE: pack}, np.arange(40))
    one = batch(of(*args, 40, augment=augment.ALL, way="albumentations"), 0)
    other = batch(of(*args, 40, augment=augment.ALL), 0)
    for name in ("mask", "depth", "bg_depth", "row"):
        assert torch.equal(one[name], other[name])
    assert not torch.equal(one["bg"], other["bg"])
    assert one["bg"].shape == other["bg"].shape


@pytest.mark.parametrize("way", ["batch", "albumentations"])
@pytest.mark.parametrize("names", [("flip", "crop"), augment.ALL])
def test_results_do_not_depend_on_the_number_of_workers(pack, names, way):
    batches = of({SIZE: pack}, np.arange(40), 9, augment=names, way=way)
    steps = [(step, SIZE) for step in range(2, 11)]  # over the end of two epochs
    expected = [batches.prepare(raw) for raw in batches.ahead(steps)]
    for workers in (1, 2, 5):
        found = [batches.prepare(raw) for raw in batches.ahead(steps, workers)]
        assert len(found) == 9 and all(map(equal, found, expected))


def test_batches_prepared_ahead_are_dropped_when_a_session_ends(pack):
    batches = of({SIZE: pack}, np.arange(40), 9).ahead(((k, SIZE) for k in range(10**9)), 2)
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if "ThreadPool" in t.name]


@pytest.mark.parametrize("way", ["batch", "albumentations"])
def test_a_sample_is_augmented_alike_in_batches_of_any_size(pack, way):
    def epoch(size, number):
        batches = of({SIZE: pack}, np.arange(40), size, augment=augment.ALL, way=way, seed=9)
        first = number * batches.steps_per_epoch
        parts = [batch(batches, first + i) for i in range(batches.steps_per_epoch)]
        return {k: torch.cat([part[k] for part in parts]) for k in parts[0]}

    assert equal(epoch(20, 1), epoch(5, 1))


def test_a_step_does_not_depend_on_the_steps_before(pack):
    def new():
        return of({SIZE: pack}, np.arange(40), 7, augment=augment.ALL, seed=4)

    straight = new()
    for step in range(12):
        last = batch(straight, step)
    assert equal(last, batch(new(), 11))


def test_an_epoch_has_every_row_once_and_the_next_another_order(pack):
    batches = of({SIZE: pack}, np.arange(3, 33), 5)
    assert batches.steps_per_epoch == 6
    epochs = [
        torch.cat([batches.gather(6 * e + i, SIZE)["row"] for i in range(6)]).tolist()
        for e in (0, 1)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(3, 33))
    assert epochs[0] != epochs[1]


def test_another_seed_gives_another_order_and_other_pixels(pack):
    one, other = (
        batch(of({SIZE: pack}, np.arange(40), 40, augment=augment.ALL, seed=s), 0) for s in (0, 1)
    )
    assert not torch.equal(one["row"], other["row"])
    back = [x["bg"][x["row"].argsort()] for x in (one, other)]
    assert not torch.equal(*back)


def test_a_batch_larger_than_all_rows_is_all_rows(pack):
    batches = of({SIZE: pack}, np.arange(6), 64)
    assert batches.steps_per_epoch == 1 and sorted(batches.gather(3, SIZE)["row"].tolist()) == list(
        range(6)
    )


def test_processes_that_share_a_batch_see_the_same_samples_as_one(pack):
    def new(share=slice(None)):
        return of({SIZE: pack}, np.arange(40), 8, augment=augment.ALL, share=share)

    whole = batch(new(), 2)
    for rank in range(2):
        part = batch(new(slice(rank, None, 2)), 2)
        assert equal(part, {k: v[rank::2] for k, v in whole.items()})


def test_sizes_share_order(pack, fake_pack):
    big = fake_pack(size=48)
    big.index = pack.index
    batches = of({32: pack, 48: big}, np.arange(40), 4)
    small, large = batch(batches, 5), batch(batches, 5, 48)
    assert torch.equal(small["row"][:2], large["row"])  # as many pixels a step
    assert large["bg"].shape == (2, 3, 48, 48)


def test_a_tier_without_training_samples_is_refused(pack):
    with pytest.raises(ValueError, match="no rows to draw from"):
        of({SIZE: pack}, [], 4)


def test_packs_of_other_samples_are_refused(pack, fake_pack):
    packs = {SIZE: pack, 8: fake_pack(39, 8)}
    with pytest.raises(ValueError, match="8px holds other samples than 32px"):
        of(packs, np.arange(39), 4)
