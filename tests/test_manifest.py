import hashlib

import numpy as np
import pytest

from evalib import manifest, rng
from evalib.manifest import SUBSETS

ROOMS = [name for name, tier in manifest.tiers().items() if tier.source == "rooms"]


def subsets(ids):
    return np.array(SUBSETS)[manifest.subset_of(manifest.index_of(ids))]


def test_the_tiers_are_there_with_their_counts():
    counts = {name: manifest.find(name).n_samples for name in ROOMS}
    assert counts == {
        "playground-24": 24,
        "mid-1000": 1000,
        "full-400k": 400_000,
        "evaluation": 2000,
        "wide-400k": 400_000,
        "broad-400k": 400_000,
        "broad-evaluation": 1000,
    }


@pytest.mark.parametrize("name", ROOMS)
def test_lists_are_the_same_on_every_machine(name):
    tier, ids = manifest.find(name), manifest.sample_ids(name)
    assert hashlib.sha256(ids.astype("<i8").tobytes()).hexdigest() == tier.sha256
    assert len(ids) == len(np.unique(ids)) == tier.n_samples
    assert set(subsets(ids)) == set(tier.subsets)


def test_lists_do_not_change_with_the_manifest():
    names = ("mid-1000", "evaluation", "wide-400k", "broad-400k")
    assert {name: manifest.sample_ids(name, 4).tolist() for name in names} == {
        "mid-1000": [350827, 115539, 49100, 189404],
        "evaluation": [228956, 198359, 173577, 58580],
        "wide-400k": [19770667, 16184087, 5109872, 17009938],
        "broad-400k": [262455675, 435972009, 75430270, 243471651],
    }


def test_ids_are_taken_apart_as_they_were_put_together():
    ids = [0, 39, 40, 399_999, (17 * 100 + 42) * 40 + 5, 400_000, (5099 * 100 + 4) * 40]
    index = manifest.index_of(np.array(ids))
    assert index[["bg", "fg", "placement"]].tolist() == [
        (0, 0, 0),
        (0, 0, 39),
        (0, 1, 0),
        (99, 99, 39),
        (17, 42, 5),
        (100, 100, 0),  # the second hundred of backgrounds meets the second hundred of objects
        (5099, 5004, 0),
    ]


@pytest.mark.parametrize(
    ("bg", "fg", "placement", "subset"),
    [
        (0, 0, 35, "train"),
        (0, 0, 36, "seen"),
        (4, 0, 0, "unseen_bg"),
        (4, 0, 39, "unseen_bg"),
        (0, 99, 0, "unseen_fg"),
        (99, 4, 39, "unseen_both"),
    ],
)
def test_held_out_backgrounds_objects_and_places_never_train(bg, fg, placement, subset):
    assert subsets(np.array([(bg * 100 + fg) * 40 + placement])) == [subset]


def test_subsets_have_the_sizes_that_the_rule_gives():
    counts = np.bincount(manifest.subset_of(manifest.index_of(np.arange(400_000))))
    assert counts.tolist() == [230_400, 25_600, 64_000, 64_000, 16_000]


def test_training_and_evaluation_share_no_held_out_thing():
    everything = manifest.index_of(np.arange(400_000))
    subset = manifest.subset_of(everything)
    train = everything[subset == 0]
    for name, fields in (
        ("seen", ["placement"]),
        ("unseen_bg", ["bg"]),
        ("unseen_fg", ["fg"]),
        ("unseen_both", ["bg", "fg"]),
    ):
        other = everything[subset == SUBSETS.index(name)]
        for field in fields:
            assert not np.intersect1d(train[field], other[field]).size, (name, field)


def test_no_tier_trains_on_an_evaluation_sample():
    evaluation = manifest.sample_ids("evaluation")
    for name in ROOMS:
        ids = manifest.sample_ids(name)
        assert not np.intersect1d(ids[subsets(ids) == "train"], evaluation).size, name


@pytest.mark.parametrize("name", ROOMS)
def test_a_limit_takes_a_prefix(name):
    assert np.array_equal(manifest.sample_ids(name, 20), manifest.sample_ids(name)[:20])


def test_a_limited_evaluation_keeps_its_four_equal_shares():
    names, counts = np.unique(subsets(manifest.sample_ids("evaluation", 40)), return_counts=True)
    assert sorted(names) == sorted(SUBSETS[1:]) and set(counts) == {10}


def test_unknown_tier_names_the_known_ones():
    with pytest.raises(ValueError, match="no tier 'mid'; there are playground-24, mid-1000"):
        manifest.find("mid")


def test_a_limit_of_nothing_is_refused():
    with pytest.raises(ValueError, match="limit=0; needed: 1 or more"):
        manifest.sample_ids("mid-1000", 0)


def write(folder, line):
    path = folder / "data_manifest.csv"
    path.write_text(
        "tier,source,n_samples,subsets,backgrounds,seed,bytes,sha256,license,note\n" + line,
        encoding="utf-8",
    )
    return path


def test_a_misspelt_subset_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"'mine' names the subsets \['trian'\]; use some of train"
    ):
        manifest.tiers(write(tmp_path, "mine,rooms,5,trian,0:100,0,0,,,\n"))


def test_more_samples_than_a_subset_has_are_refused(tmp_path, monkeypatch):
    path = write(tmp_path, "mine,rooms,200000,seen;unseen_both,0:100,0,0,,,\n")
    monkeypatch.setattr(manifest, "find", manifest.tiers(path).get)
    with pytest.raises(ValueError, match="mine: a subset has no 100000 samples"):
        manifest.sample_ids("mine")
    assert len(manifest.sample_ids("mine", 32_000)) == 32_000


def test_a_short_list_of_a_huge_tier_does_not_shuffle_the_whole_tier(monkeypatch):
    asked = []
    permuted = rng.permuted

    def counting(positions, n, seed, stream):
        asked.append(len(positions))
        return permuted(positions, n, seed, stream)

    monkeypatch.setattr(rng, "permuted", counting)
    assert len(manifest.sample_ids("wide-400k", 1000)) == 1000
    assert sum(asked) < 50_000  # of 20 million
    manifest.sample_ids("wide-400k")
    assert sum(asked) < 3_000_000


PUBLIC = [name for name in manifest.tiers() if name not in ROOMS]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_archive_says_where_it_is_and_that_nobody_verified_it(name):
    tier = manifest.find(name)
    assert tier.source == "drive" and "drive" in tier.address
    assert tier.sha256 == "" and "Not verified" in tier.note
    with pytest.raises(ValueError, match=f"what {name} holds is known where it lies"):
        manifest.sample_ids(name)


def own(tmp_path, monkeypatch, text):
    path = tmp_path / "mine.csv"
    path.write_text(text, encoding="utf-8-sig")  # as spreadsheets save it
    monkeypatch.setenv("EVALIB_MANIFEST", str(path))


def test_four_columns_are_enough_for_a_tier_of_ones_own(tmp_path, monkeypatch):
    own(tmp_path, monkeypatch, "tier,source,address,layout\ncats,folder,/data/cats,\n")
    tier = manifest.find("cats")
    assert (tier.source, tier.address, tier.layout) == ("folder", "/data/cats", "")
    assert (tier.depth, tier.scale, tier.n_samples, tier.sha256) == ("", 10.0, 0, "")
    assert manifest.find("mid-1000").source == "rooms"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("tier,source,address\nmid-1000,folder,/data\n", "names tiers as evalib does: mid-1000"),
        ("tier,source,address\na,folder,x\na,folder,y\n", "line 3: a second tier 'a'; rename it"),
        ("tier,address,layout\na,/data,\n", "line 2: nothing in the column 'source'; needed: tier"),
        ("tier,source,address\na,archive,/data\n", "line 2: tier 'a' has the source 'archive'"),
        ("tier,source,address\na,folder,\n", "line 2: tier 'a' has no address"),
        ("tier,source,address,n_samples\na,folder,x,many\n", "line 2: .*'many'"),
        ("tier,source,address,backgrounds\na,rooms,,5\n", "line 2: "),
        ("tier,source,address\na,folder,x,y{1,2}\n", "line 2: more fields than columns"),
        ("tier,source,address\n../a,folder,x\n", "line 2: tier '../a'; needed: a name of letters"),
    ],
)
def test_a_row_of_ones_own_that_is_no_tier_is_named(tmp_path, monkeypatch, text, error):
    own(tmp_path, monkeypatch, text)
    with pytest.raises(ValueError, match=f"mine.csv.*{error}"):
        manifest.find("a")


def test_a_manifest_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("EVALIB_MANIFEST", str(tmp_path / "nowhere.csv"))
    with pytest.raises(FileNotFoundError, match="nowhere.csv"):
        manifest.find("mid-1000")


def test_whoever_is_not_known_is_not_held_out():
    assert manifest.held_out(np.array([-1, 0, 4, 9])).tolist() == [False, False, True, True]
