import numpy as np
import pytest

from evalib import rng

IDS = np.array([7, 399_999, 12])


def test_numbers_are_those_of_splitmix64():
    # First outputs of the reference code for the states 0 and 1234567.
    states = np.array([0, 1234567])
    assert [x % 2**64 for x in rng._hash(states).tolist()] == [
        0xE220A8397B1DCDAF,
        6457827717110365317,
    ]


def test_numbers_are_the_same_on_every_machine():
    keys = rng.sample_keys(3, 5, IDS)
    assert keys.tolist() == [
        1719786250890190160,
        -4326539991364540751,
        -4267169164329250555,
    ]
    assert rng.integers(keys, "flip", 1000, 2).tolist() == [[124, 411], [933, 225], [968, 281]]
    assert rng.permuted(np.arange(8), 8, 3, 5).tolist() == [0, 6, 2, 1, 3, 4, 7, 5]
    computed = rng.permuted(np.array([0, 1, 20_399_999]), 20_400_000, 3, 5)
    assert computed.tolist() == [18546046, 7099231, 11317209]


def test_numbers_are_uniform_and_independent():
    keys = rng.sample_keys(0, 0, np.arange(20_000))
    x = rng.uniform(keys, "a", -1, 1, 2)
    y = rng.uniform(keys, "b", -1, 1)
    z = rng.uniform(rng.sample_keys(0, 1, np.arange(20_000)), "b", -1, 1)
    both = np.concatenate([x, y, z], 1)
    assert both.dtype == np.float32
    assert both.min() >= -1 and both.max() < 1
    assert np.abs(both.mean(0)).max() < 0.02  # 5 standard errors
    assert np.abs(both.var(0) - 1 / 3).max() < 0.011
    assert np.abs(np.corrcoef(both.T) - np.eye(4)).max() < 0.036
    counts = np.bincount(rng.integers(keys, "c", 5)[:, 0])
    assert len(counts) == 5 and np.abs(counts - 4000).max() < 290


@pytest.fixture(params=["stored", "computed"])
def permuted(request, monkeypatch):
    """Both ways of shuffling: the short list that is stored, the long one that is computed."""
    if request.param == "computed":
        monkeypatch.setattr(rng, "STORED", 0)
    return rng.permuted


@pytest.mark.parametrize("n", [1, 2, 3, 9, 10, 99, 100, 101, 1000, 70_001])
def test_every_number_has_one_place(permuted, n):
    assert sorted(permuted(np.arange(n), n, 7, 0)) == list(range(n))


def test_every_epoch_and_seed_has_an_order_of_its_own(permuted):
    places = np.arange(1000)
    orders = [permuted(places, 1000, *which) for which in ((7, 0), (7, 1), (8, 0), (-1, 0))]
    for i, one in enumerate(orders):
        for other in [places, *orders[:i]]:
            assert (one == other).mean() < 0.01


def test_a_part_of_a_shuffled_list_is_what_stands_there_in_the_whole(permuted):
    whole = permuted(np.arange(5000), 5000, 0, 3)
    some = np.array([4999, 0, 17, 17, 2500])
    assert np.array_equal(permuted(some, 5000, 0, 3), whole[some])
    assert np.array_equal(permuted(some.astype(np.int32), 5000, 0, 3), whole[some])  # Windows


def test_numbers_of_a_huge_range_are_spread_evenly_and_follow_no_line():
    n = 20_400_000
    places = np.arange(100_000)
    values = rng.permuted(places, n, 0, 0)
    assert len(np.unique(values)) == len(values) and values.min() >= 0 and values.max() < n
    pairs = [values[:-1] * 10 // n * 10 + values[1:] * 10 // n, values * 100 // n, values % 100]
    for bins in pairs:  # neighbours in the list; coarse place; last digits
        counts = np.bincount(bins, minlength=100)
        expected = len(bins) / 100
        chi_square = ((counts - expected) ** 2 / expected).sum()
        assert 50 < chi_square < 160  # 99 degrees of freedom: mean 99, deviation 14
    assert abs(np.corrcoef(places, values)[0, 1]) < 0.015


def test_hashes_close_to_the_largest_number_do_not_let_two_numbers_meet(monkeypatch):
    """A sum that wraps round at 2^63 would be another remainder."""
    monkeypatch.setattr(rng, "STORED", 0)
    monkeypatch.setattr(rng, "_hash", lambda x: np.full_like(x, 2**63 - 50))
    assert sorted(rng.permuted(np.arange(10_000), 10_000, 0, 0)) == list(range(10_000))


def test_large_seeds_work_in_stored_lists():
    orders = {rng.permuted(np.arange(50), 50, seed, 0).tobytes() for seed in (-1, 1, 2**63)}
    assert len(orders) == 3
