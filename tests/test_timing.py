import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evalib import dataset, sources, stream, timing, training
from evalib.config import Config
from evalib.training import trial


def test_seconds_add_up_per_block_in_order_of_first_use(monkeypatch):
    clock = iter([0.0, 1.0, 10.0, 12.0, 20.0, 24.0])
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    timer = timing.Timer()
    for block in ("data", "forward", "data"):
        with timer(block):
            pass
    assert timer.seconds == {"data": 5.0, "forward": 2.0}
    timer.reset()
    assert timer.seconds == {}


def test_the_blocks_of_a_run_are_the_sums_of_its_rows():
    rows = [{"step": 1, "data_s": 1.5, "loss": 9.0}, {"data_s": 2.0, "evaluate_s": 0.5}]
    assert timing.blocks(rows) == {"data": 3.5, "evaluate": 0.5}


@pytest.mark.parametrize(
    ("text", "s"), [("45s", 45), ("10min", 600), ("1.5h", 5400), (2, 2), (0.5, 0.5)]
)
def test_times_are_read_with_their_unit(text, s):
    assert timing.seconds(text) == s


@pytest.mark.parametrize(
    ("s", "text"), [(0.5, "0.5 s"), (45, "45 s"), (600, "10 min"), (5400, "1.5 h"), (41400, "12 h")]
)
def test_times_are_said_in_their_unit(s, text):
    assert timing.text(s) == text


@pytest.mark.parametrize("text", ["50", "min", "-5s", "1 h", "1d", ""])
def test_a_time_without_a_unit_is_refused(text):
    with pytest.raises(ValueError, match="45s, 10min, 1.5h, or colab"):
        timing.seconds(text)


def test_colabs_budget_counts_from_the_setup_cell(monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr(timing, "STARTED", now - 3600)
    assert timing.seconds("colab") == pytest.approx(10.5 * 3600, abs=5)


@pytest.mark.parametrize(
    ("rate", "minutes", "n"),
    [
        (11.3, 2, 1300),  # 1,356, in two digits
        (1.0, 1, 60),
        (0.999, 2.0, 110),
        (0.02, 10, 12),
        (0.5, 0.1, 10),  # 3 would show nothing
        (0.0, 60, 10),
        (1e4, 10, 7500),  # as many as in the stored outputs
    ],
)
def test_a_budget_buys_what_the_machine_can_do_in_it(rate, minutes, n):
    assert timing.n_within(rate, minutes, least=10, most=7500) == n


def test_half_the_speed_buys_half_the_steps_and_never_breaks_the_budget():
    for rate in (0.7, 3.1, 9.0, 18.0, 44.4, 251.0):
        n = timing.n_within(rate, 3, least=1, most=10**9)
        assert 0.9 * 180 * rate < n <= 180 * rate
        assert timing.n_within(rate / 2, 6, least=1, most=10**9) == n


def test_a_rate_leaves_out_the_first_call(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    takes = iter([30.0, *[0.25] * 8])

    def call():
        clock.now += next(takes)

    assert timing.rate(call, seconds=2) == 4.0


def test_a_rate_of_something_slow_needs_two_calls(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    calls = []

    def call():
        calls.append(clock.now)
        clock.now += 5.0

    assert timing.rate(call, seconds=2) == 0.2 and len(calls) == 2


def test_on_cuda_a_rate_counts_what_was_queued_only_when_it_is_done(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)

    def call():
        clock.now += 0.5

    def finish():
        clock.now += 2.0

    monkeypatch.setattr(torch.cuda, "synchronize", finish)
    assert timing.rate(call, seconds=2) == 1.0  # 4 calls in 4 seconds


def test_the_pace_of_a_run_counts_each_size_as_often_as_it_occurs(
    playground, tmp_path, monkeypatch
):
    packs = {32: playground}
    packs[48] = dataset.build("playground-24", 48, root=tmp_path, progress=False)
    steps = []

    def rate(call):
        steps.append(call())  # a real step
        return [10.0, 2.0][len(steps) - 1]

    monkeypatch.setattr(timing, "rate", rate)
    config = Config(sizes=(((32, 48, 48), 60), (48, 40)), batch_size=8)
    n_small = (config.turns == 32).sum()
    wanted = 100 / (n_small / 10 + (100 - n_small) / 2)
    assert training.pace(config, packs) == {"per_s": pytest.approx(wanted)} and len(steps) == 2


def test_the_pace_of_a_stream_is_measured_beside_rendering_and_without(playground, monkeypatch):
    rates = iter([40.0, 50.0])
    monkeypatch.setattr(timing, "rate", lambda call: next(rates))
    monkeypatch.setattr(stream.Stream, "take", lambda *_: {"key": torch.zeros(8)})
    monkeypatch.setattr(stream.Stream, "speeds", lambda _: {32: 100.0})
    config = Config(sizes=((32, 60),), batch_size=8)
    # 8 samples take .08 s to render, a step .02 s alone and .025 s beside
    assert training.pace(config, "wide-400k", valid=playground) == {
        "per_s": pytest.approx(1 / 0.02125),  # of a sixteenth of the samples, a quarter of a step
        "reuse": 16,
    }


@pytest.mark.parametrize(
    "alone_s, beside_s, rendering_s, times, step_s",
    [
        (1.0, 1.0, 0.1, 1, 1.0),  # a core of its own, and quick
        (1.0, 1.0, 1.05, 1, 1.05),
        (1.0, 1.0, 3.0, 4, 1.0),
        (1.0, 2.0, 0.8, 8, 1.1),  # on the other half of a core, all it does costs training
        (1.0, 2.0, 3.0, 16, 1.1875),
        (1.0, 1.0, 32.0, 16, 2.0),  # training waits
        (1.0, 0.9, 0.5, 1, 1.0),
    ],
)
def test_samples_are_reused_as_little_as_training_allows(
    alone_s, beside_s, rendering_s, times, step_s
):
    assert trial.reuse(alone_s, beside_s, rendering_s) == (times, pytest.approx(step_s))


def test_the_speed_of_rendering_is_that_of_samples_not_of_calls(monkeypatch):
    rendered = []
    monkeypatch.setattr(
        sources.rooms, "render", lambda ids, size, seed: rendered.append((ids, size))
    )
    monkeypatch.setattr(timing, "rate", lambda call: [call() for _ in range(101)] and 3.0)
    assert dataset.speed("evaluation", 48) == 60.0
    assert {(len(ids), size) for ids, size in rendered} == {(20, 48)}
    assert (rendered[0][0] == rendered[100][0]).all()  # from the start again
    assert all(np.diff(np.concatenate([ids for ids, _ in rendered[:100]])) > 0)


def test_a_block_lasts_as_long_as_its_code():
    timer = timing.Timer()
    with timer("sleep"):
        time.sleep(0.02)
    assert timer.seconds["sleep"] > 0.015


def test_a_block_that_raises_counts_and_does_not_hide_the_error():
    timer = timing.Timer()
    with pytest.raises(KeyError), timer("loss"):
        raise KeyError
    assert list(timer.seconds) == ["loss"]


class Event:
    """A CUDA event of a device that finishes its work only when somebody waits for it."""

    now, waits, done = 0.0, 0, False

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        Event.now += 1
        self.at_ms = 1000 * Event.now

    def query(self) -> bool:
        return Event.done

    def synchronize(self) -> None:
        Event.waits, Event.done = Event.waits + 1, True

    def elapsed_time(self, stop: "Event") -> float:
        return stop.at_ms - self.at_ms


def test_on_cuda_nothing_waits_before_seconds_are_read(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(Event, "done", False)
    timer = timing.Timer()
    for _ in range(3):
        with timer("forward"):
            pass
    assert Event.waits == 0
    assert timer.seconds == {"forward": 3.0} and Event.waits == 1
    with timer("forward"):  # the device has caught up: folded in without waiting
        pass
    assert not timer._pending and timer.seconds == {"forward": 4.0} and Event.waits == 1


def test_machine_names_what_a_result_depends_on():
    line = timing.machine()
    assert re.match(r"Python 3\.\d+\.\d+.*, torch \d.*, \d+ CPU cores, .*GPU|GiB", line)
    assert f"torch threads: {torch.get_num_threads()}" in line
