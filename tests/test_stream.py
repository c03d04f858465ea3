import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import painter as painting
import psutil
import pytest
import torch

from evalib import manifest, sources, stream, training
from evalib.__main__ import main
from evalib.batches import Batches
from evalib.config import BLOCKS, Config
from evalib.stream import Stream

TIER = "wide-400k"
CONFIG = Config(sizes=(((16, 32), 90),), batch_size=32, window=256, reuse=4)


@pytest.fixture(autouse=True)
def painter(monkeypatch):
    """Samples are painted, not ray-traced."""
    monkeypatch.setattr(sources, "rooms", painting)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def read(config=CONFIG, first=0, tier=TIER, workers=1, threads=0, share=slice(None)):
    """The batches of all steps from `first` on."""
    batches = Batches(Stream(tier, config, share, workers=workers), config)
    steps = [(step, config.size_at(step)) for step in range(first, config.n_steps)]
    return list(batches.ahead(steps, threads))


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a
    )


def test_what_a_step_sees_follows_from_its_number_alone():
    straight = read()
    assert same(straight[37:], read(first=37))  # a new machine, in mid window
    assert same(straight, read(workers=3, threads=1))
    other = read(replace(CONFIG, seed=1))
    assert not torch.equal(straight[0]["row"], other[0]["row"])


def test_pictures_are_those_of_the_samples_named():
    for raw in read()[::7]:
        ids = raw["row"].numpy()
        bg = manifest.index_of(ids)["bg"]
        assert np.array_equal(raw["fg_bg"][:, 0, 0, 0], ids % 256)
        assert np.array_equal(raw["mask"][:, 0, 0], ids // 256 % 256)
        assert np.array_equal(raw["bg"][:, 3, 2, 1], bg % 256)
        assert np.array_equal(raw["bg_depth"][:, 0, 0], bg % 256)


def test_nothing_held_out_is_streamed():
    ids = torch.cat([raw["row"] for raw in read()]).numpy()
    subsets = manifest.subset_of(manifest.index_of(ids))
    assert (subsets == manifest.SUBSETS.index("train")).all()


@pytest.mark.parametrize("reuse", [1, 2, 4, 8, 16])
def test_every_sample_is_seen_as_often_as_the_config_says(reuse):
    config = Config(sizes=((16, 320),), batch_size=32, window=256, reuse=reuse)
    belt = Stream(TIER, config).belts[16]
    seen = Counter()
    for step in range(320):  # a round is 8 steps
        _, first, (block, lane, i) = belt.places(step)
        assert first <= min(first + block) and belt.needed_at(max(first + block)) <= step
        seen.update(zip((first + block).tolist(), lane.tolist(), i.tolist(), strict=True))
    last = belt.end - BLOCKS  # from here on blocks are still in the window
    assert {n for (block, *_), n in seen.items() if BLOCKS <= block < last} == {reuse}
    ids = np.concatenate([belt.ids_of(block).ravel() for block in range(BLOCKS, last)])
    assert len(np.unique(ids)) == len(ids)


def test_a_step_sees_many_backgrounds():
    for raw in read(Config(sizes=((16, 8),), batch_size=64, window=2048)):
        bg = raw["row"].numpy() // (manifest.N_FG * manifest.N_PLACEMENTS)
        assert len(np.unique(bg)) > 2 * CONFIG.lanes


def test_processes_share_a_step_and_render_only_their_share():
    whole = read()
    parts = [read(share=slice(rank, None, 4)) for rank in range(4)]
    for step, raw in enumerate(whole):
        for rank in range(4):
            assert same([{k: v[rank::4] for k, v in raw.items()}], [parts[rank][step]])
    belts = [Stream(TIER, CONFIG, slice(rank, None, 4)).belts[16] for rank in range(4)]
    assert all(belt.ids_of(3).shape == (CONFIG.lanes // 4, belt.n) for belt in belts)


def test_three_processes_are_refused():
    with pytest.raises(ValueError, match="3 processes came; a stream needs a divisor of its 16"):
        Stream(TIER, CONFIG, slice(0, None, 3))


def test_a_tier_of_few_backgrounds_comes_round_with_other_samples():
    belt = Stream("mid-1000", CONFIG).belts[16]  # 80 backgrounds, 16 a block
    visits = np.stack([belt.ids_of(block) for block in range(10)]).reshape(2, 80, -1)
    bg = visits[:, :, 0] // (manifest.N_FG * manifest.N_PLACEMENTS)
    assert all(len(set(visit)) == 80 for visit in bg) and not np.array_equal(*bg)
    assert len(np.unique(visits)) == visits.size


def test_memory_is_bounded():
    config = Config(sizes=(((64, 128), 100_000),), reuse=1)
    arrays = [x for belt in Stream(TIER, config).belts.values() for x in belt.arrays.values()]
    assert sum(x.nbytes for x in arrays) < 2 * 2**30


def test_a_batch_larger_than_the_window_makes_a_larger_window():
    config = Config(sizes=((16, 4),), batch_size=1000, window=128)
    assert [len(raw["row"]) for raw in read(config)] == [1000] * 4


def test_a_worker_that_was_killed_is_started_again(monkeypatch, tmp_path):
    straight = read()
    monkeypatch.setenv("PAINTER", f"die-once {tmp_path / 'died'}")
    assert same(straight, read())
    assert (tmp_path / "died").exists()


def test_a_worker_that_always_dies_is_told(monkeypatch):
    monkeypatch.setenv("PAINTER", "die")
    with pytest.raises(ChildProcessError, match="ended 3 times .exit status 9.*fewer workers"):
        read()


def test_whatever_ends_a_worker_is_heard_by_who_waits(monkeypatch):
    def full(*_):
        raise MemoryError("no more")

    monkeypatch.setattr(stream.Belt, "ids_of", full)
    with pytest.raises(ChildProcessError, match="no more"):
        read()


def test_a_size_that_has_no_turn_stops_nothing():
    config = Config(sizes=(((16, 32), 2),), batch_size=8, window=128, seed=0)
    assert len(set(config.turns)) == 1  # as chance has it
    assert len(read(config)) == 2


def test_a_step_behind_another_is_refused():
    config = Config(sizes=((16, 90),), batch_size=32, window=256, reuse=1)
    source = Stream(TIER, config)
    source.take(40, 16)
    with pytest.raises(ValueError, match="steps that go up"):
        source.take(0, 16)
    source.close()


def test_speeds_are_of_whole_blocks(monkeypatch):
    monkeypatch.setenv("PAINTER", "sleep 0.05")
    source = Stream(TIER, CONFIG)
    source.take(0, CONFIG.size_at(0))
    source.close()
    n_block = CONFIG.window / BLOCKS
    assert 0 < source.speeds()[CONFIG.size_at(0)] <= n_block / 0.05


def test_training_waits_for_slow_workers(monkeypatch):
    straight = read()
    monkeypatch.setenv("PAINTER", "sleep 0.02")
    assert same(straight, read())


def test_no_process_is_left():
    batches = Batches(Stream(TIER, CONFIG, workers=2), CONFIG)
    ahead = batches.ahead([(step, CONFIG.size_at(step)) for step in range(90)], 1)
    next(ahead)
    assert psutil.Process().children()
    ahead.close()
    assert not psutil.Process().children()


def test_workers_end_when_whoever_asked_is_killed():
    code = f"""
import time
import painter
from evalib import sources, stream
from tests.test_stream import CONFIG
sources.rooms = painter
s = stream.Stream({TIER!r}, CONFIG, workers=2)
s.take(0, CONFIG.size_at(0))
print("ready", flush=True)
time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[1]
    ) as parent:
        assert parent.stdout.readline() == b"ready\n"
        workers = psutil.Process(parent.pid).children()
        assert len(workers) == 2
        os.kill(parent.pid, signal.SIGKILL)
        gone, alive = psutil.wait_procs(workers, timeout=60)
        assert not alive


def test_the_stop_button_is_not_for_workers():
    source = Stream(TIER, CONFIG)
    source.take(0, CONFIG.size_at(0))
    (worker,) = psutil.Process().children()
    worker.send_signal(signal.SIGINT)
    time.sleep(0.2)
    assert worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE
    source.close()


def test_a_run_on_a_stream_goes_on_from_drive_bit_for_bit(playground, tmp_path):
    config = replace(CONFIG, sizes=(((16, 32), 12),), log_every=2, evaluate_every=4, n_valid=8)

    def train(name, **options):
        folders = tmp_path / name, tmp_path / f"{name}-drive"
        options |= {"valid": playground, "drive_dir": folders[1], "progress": False}
        return training.train(config, TIER, folders[0], **options)

    straight = train("straight", workers=2)
    first = train("killed", time_budget=1e-3)  # one step
    assert first.step < 12 and not first.done
    shutil.rmtree(tmp_path / "killed")  # the machine is gone, with its disk
    second = train("killed")
    assert second.done and second.step == 12
    for one, other in zip(straight.history, second.history, strict=True):
        assert one["loss"] == other["loss"]
    weights = [run.model.state_dict() for run in (straight, second)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    with pytest.raises(ValueError, match="a run with data .*wide-400k.* instead of .*full-400k"):
        training.train(config, "full-400k", tmp_path / "killed", valid=playground)


def test_a_stream_needs_something_to_be_scored_on(tmp_path):
    with pytest.raises(ValueError, match="give `valid`"):
        training.train(CONFIG, TIER, tmp_path)


def test_the_command_renders_a_large_tier_while_it_trains(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    sizes = ["--sizes", "16", "--steps", "3", "--batch-size", "16"]
    assert main(["train", TIER, *sizes]) == 0
    assert [path.name for path in (tmp_path / "output/packs").iterdir()] == ["evaluation-512-16px"]
