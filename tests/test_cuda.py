"""What only a GPU can show: `pytest -m cuda`. Where there is none, the same is tried on the CPU."""

import numpy as np
import pytest
import torch

import evalib
from evalib import checkpoint, config, dataset, recipes, timing, training, unet
from evalib.training import ranks, session

pytestmark = pytest.mark.cuda
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SETTINGS = config.Config(sizes=((32, 8),), batch_size=8, n_valid=8)
needs_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="no GPU")


@pytest.fixture
def exactly():
    """The kernels that repeat themselves, as in training."""
    with session.repeating_exactly(torch.device(DEVICE)):
        yield


def learned(pack, n_steps):
    ours = training.Learner(SETTINGS, {pack.size: pack}, device=DEVICE)
    batches = ours.to_come()
    losses = [float(ours.train_step(batches)) for _ in range(n_steps)]
    batches.close()
    return ours, losses


@pytest.mark.parametrize("size", [(64, 64), (224, 224), (97, 130)])
def test_the_networks_handed_out_answer_as_on_the_cpu(size):
    torch.manual_seed(0)
    bg, fg_bg = torch.rand(2, 2, 3, *size)
    bg, fg_bg = dataset.floats({"bg": bg, "fg_bg": fg_bg}).values()
    ours, theirs = (
        unet.predict(evalib.load(device=device), bg, fg_bg) for device in (DEVICE, "cpu")
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=5e-3, rtol=0)  # TF32 has 10 bits
    assert (ours[0].gt(0.5) != theirs[0].gt(0.5)).float().mean() < 1e-3


@pytest.mark.parametrize("network", recipes.NETWORKS)
def test_every_network_trains_a_step(network, playground):
    settings = config.Config(network=network, sizes=((32, 2),), batch_size=4, lr=1e-3)
    ours = training.Learner(settings, {32: playground}, device=DEVICE)
    before = [p.detach().clone() for p in ours.network.parameters()]
    batches = ours.to_come()
    for _ in range(2):  # with fp16 the first may be left out
        assert np.isfinite(float(ours.train_step(batches)))
    after = list(ours.network.parameters())
    assert {p.device.type for p in after} == {DEVICE}
    assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True))


def test_a_few_steps_learn(playground):
    settings = config.Config(sizes=((32, 60),), batch_size=16, augment=(), n_valid=8)
    ours = training.Learner(settings, {32: playground}, device=DEVICE)
    batches = ours.to_come()
    losses = [float(ours.train_step(batches)) for _ in range(60)]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_a_resumed_run_is_the_run_that_was_never_stopped(playground, tmp_path, exactly):
    straight, losses = learned(playground, 8)
    half, first = learned(playground, 4)
    checkpoint.write(tmp_path, *checkpoint.serialise(half.state()))
    resumed = training.Learner(SETTINGS, {32: playground}, device=DEVICE)
    resumed.restore(checkpoint.newest([tmp_path])[1])
    batches = resumed.to_come()
    assert first + [float(resumed.train_step(batches)) for _ in range(4)] == losses
    for name in ("model", "ema"):
        for key, value in straight.state()[name].items():
            assert torch.equal(resumed.state()[name][key], value), key


@needs_gpu
def test_the_timer_measures_what_the_device_does():
    x = torch.rand(2048, 2048, device=DEVICE)
    x @ x
    timer = timing.Timer()
    for name, n in (("few", 2), ("many", 50)):
        with timer(name):
            for _ in range(n):
                x @ x
    assert timer.seconds["many"] > 5 * timer.seconds["few"] > 0


@needs_gpu
def test_what_scales_fp16_is_stored_and_taken_up(playground, tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "precision", lambda device: "fp16")
    ours, losses = learned(playground, 4)
    assert np.isfinite(losses).all()
    checkpoint.write(tmp_path, *checkpoint.serialise(ours.state()))
    state = checkpoint.newest([tmp_path])[1]
    assert state["scaler"]["scale"] > 0
    resumed = training.Learner(SETTINGS, {32: playground}, device=DEVICE)
    resumed.restore(state)
    assert resumed.accelerator.scaler.state_dict() == state["scaler"]
