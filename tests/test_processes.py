"""Training in two processes on the CPU, over gloo, as either launcher starts them."""

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
from dataclasses import asdict
from pathlib import Path

import bench_resume
import numpy as np
import painter
import psutil
import pytest
import torch
from torch import nn

import evalib.__main__
from evalib import checkpoint, dataset, layers, runs, sources, training
from evalib.batches import Epochs
from evalib.config import Config
from evalib.training import ranks, session

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 300  # of a launch, which takes ten seconds on an idle machine
SHORT = dict(batch_size=8, log_every=10, evaluate_every=20, n_valid=8, ema=0.5)
N = 60  # steps: long enough to be killed on its way
LONG = Config(sizes=((32, N),), **SHORT)
LOSSES = {
    "small": Config(sizes=((32, 50),), **SHORT),
    # 32 px leave the second stage out, 96 px do not; one head is never used
    "parts": Config(sizes=(((32, 96), 6),), **SHORT | {"batch_size": 16, "depth_loss": ""}),
    "lean": Config(network="lean", mask_loss="", sizes=((32, 4),), **SHORT),
    "stream": Config(sizes=((32, 8),), window=256, **SHORT),
}


def packs(folder):
    """To train on, by size, and to evaluate as the command line does it."""
    options = dict(root=folder / "packs", progress=False)
    by_size = {size: dataset.build("playground-24", size, **options) for size in (32, 96)}
    return by_size, dataset.build("evaluation", 32, limit=32, **options)


@contextlib.contextmanager
def float64():
    """So exact that in fifty steps rounding grows to nothing: in float32 it grows to 1e-2, as it
    does in one process if one weight is changed by 1e-7. A stream's samples are painted."""
    weights, before = layers._weights, torch.get_default_dtype()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "_weights", lambda n, m: weights(n, m).astype(np.float64))
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        patch.setattr(ranks, "precision", lambda device: "no")
        patch.setattr(sources, "rooms", painter)
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def losses(folder):
    """Every term of every step, and the scores at the end, of each of LOSSES."""
    by_size, valid = packs(folder)
    found = {}
    with float64():
        for name, config in LOSSES.items():
            data = "wide-400k" if name == "stream" else by_size
            ours = training.Learner(config, data, valid, device="cpu")
            rows = []
            with contextlib.closing(ours.to_come()) as batches:
                for _ in range(config.n_steps):
                    ours.train_step(batches)
                    rows.append({k: v for k, v in ours.log({}).items() if not k.endswith("_s")})
            found[name] = {"rows": rows, "scores": ours.evaluate()[0]}
    return found


def stopped(folder, by_size, options):
    """A run that is stopped since the second process, and no other, gets a SIGTERM in its sixth
    step: the step at which each process stopped, and whether it then ended as it was asked to."""
    step, ended = training.Learner.train_step, []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))

    def terminated(self, *args):
        if self.ranks.rank == 1 and self.step == 5:
            signal.raise_signal(signal.SIGTERM)
        return step(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Learner, "train_step", terminated)
        run = training.train(LONG, by_size, folder / "stopped", **options)
    return ranks.Ranks().each([run.step, bool(ended)])


def refused(folder, by_size, options):
    """What each process says of a folder that the main one, and no other, cannot read."""

    def unmounted(folders):
        raise OSError(107, "Transport endpoint is not connected")

    ours = ranks.Ranks()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError) as told:
        if ours.main:
            patch.setattr(checkpoint, "newest", unmounted)
        training.train(LONG, by_size, folder / "refused", **options)
    return ours.each(str(told.value))


def child(folder):
    """What each process of `together` does; the main one writes what was found."""
    by_size, valid = packs(folder)
    options = dict(device="cpu", valid=valid, progress=False, checkpoint_every=0.05)
    found = {}
    try:
        training.Learner(Config(**SHORT | {"batch_size": 7}), {64: by_size[32]}, device="cpu")
    except ValueError as error:
        found["said"] = str(error)
    found["stopped"] = stopped(folder, by_size, options)
    found["saved"] = bench_resume.named_step(folder / "stopped")
    for name in ("straight", "killed", "stopped"):
        assert training.train(LONG, by_size, folder / name, **options).done
    found["refused"] = refused(folder, by_size, options)
    found["losses"] = losses(folder)
    if not int(os.environ["RANK"]):
        (folder / "found.json").write_text(json.dumps(found))
    ranks.leave()


def killed_child(folder):
    """The command line, of whose processes the second is killed before a step, while the first one
    waits for its share."""
    step = training.Learner.train_step

    def dies(self, *args):
        if self.ranks.rank == 1 and bench_resume.named_step(folder / "killed") >= 10:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *args)

    training.Learner.train_step = dies
    what = ["train", "playground-24", "--config", folder / "config.json"]
    what += ["--run-dir", folder / "killed", "--packs", folder / "packs"]
    sys.exit(evalib.__main__.main([*map(str, what), "--checkpoint-every", "0.05s"]))


def torchrun(*what):
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return [*run, *map(str, what)]


def accelerate(*what):
    """--multi_gpu means several processes; where there is no GPU they compute on the CPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    run = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    run += ["--num_processes", "2", "--num_machines", "1"]
    run += ["--mixed_precision", "no", "--dynamo_backend", "no"]  # its defaults, else it warns
    return [*run, "--main_process_port", port, *map(str, what)]


@contextlib.contextmanager
def launched(command, log):
    """The launcher, its output in the file `log`; whatever happens, it leaves no process."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    with open(log, "w") as file:
        process = psutil.Popen(command, env=env, cwd=ROOT, stdout=file, stderr=file)
    family = []
    try:
        yield process
        family = process.children(recursive=True)
        process.wait(LIMIT_S)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            family += process.children(recursive=True)
        for member in [process, *family]:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        process.wait(60)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A folder with a run of which one of two processes was killed, twice: `killed`, `alone`."""
    folder = tmp_path_factory.mktemp("processes")
    packs(folder)
    run = folder / "killed"
    (folder / "config.json").write_text(json.dumps(asdict(LONG)))
    with launched(accelerate(__file__, folder, "killed"), folder / "killed.txt") as launcher:
        pass
    said = (folder / "killed.txt").read_text()
    assert launcher.returncode != 0 and 10 <= bench_resume.named_step(run) < N, said
    shutil.copytree(run, folder / "alone")
    return folder


@pytest.fixture(scope="module")
def together(killed):
    """The same folder with what two processes found: a run never stopped, `straight`, one that was
    `stopped`, and both this and the killed one taken to their end."""
    with launched(torchrun(__file__, killed, "together"), killed / "log") as launcher:
        pass
    assert launcher.returncode == 0, (killed / "log").read_text()
    return killed


def test_each_sample_is_dealt_to_one_process(pack):
    data = {32: pack}, np.arange(40), Config(sizes=((32, 1),), batch_size=8, seed=3)
    shares = [Epochs(*data, slice(rank, None, 2)) for rank in (0, 1)]
    alone = Epochs(*data)
    epoch = []
    for step in range(alone.steps_per_epoch):
        rows = torch.cat([share.take(step, 32)["row"] for share in shares])
        assert set(rows.tolist()) == set(alone.take(step, 32)["row"].tolist())
        epoch += rows.tolist()
    assert sorted(epoch) == list(range(40))


@pytest.mark.parametrize("name", list(LOSSES))
def test_two_processes_have_the_losses_and_scores_of_one(together, name, monkeypatch):
    monkeypatch.setitem(globals(), "LOSSES", {name: LOSSES[name]})
    theirs = json.loads((together / "found.json").read_text())["losses"][name]
    ours = losses(together)[name]
    assert len(ours["rows"]) == LOSSES[name].n_steps
    for mine, other in zip(ours["rows"], theirs["rows"], strict=True):
        assert mine == pytest.approx(other, rel=0, abs=1e-9)
    assert ours["scores"] == pytest.approx(theirs["scores"], rel=0, abs=1e-9)


def test_a_step_that_cannot_be_dealt_out_alike_is_refused(together):
    said = json.loads((together / "found.json").read_text())["said"]
    assert "7 of 64 px" in said and "2 processes" in said and "another batch_size" in said


def test_statistics_of_the_whole_batch_are_those_of_torch(monkeypatch):
    theirs = nn.BatchNorm2d(5).double()
    nn.init.uniform_(theirs.weight, 0.5, 2)
    nn.init.uniform_(theirs.bias, -1, 1)
    network = nn.Sequential(nn.BatchNorm2d(5)).double()
    network[0].load_state_dict(theirs.state_dict())
    alone = ranks.Ranks()
    monkeypatch.setattr(alone, "world", 2)
    alone.share_statistics(network)
    monkeypatch.setattr(alone, "world", 1)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    x = torch.randn(4, 5, 6, 6, dtype=torch.float64) * 3 + 7
    grad = torch.randn_like(x)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    for layer, mine in zip((theirs, network[0]), inputs, strict=True):
        layer(mine).backward(grad)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(theirs.weight.grad, network[0].weight.grad)
    torch.testing.assert_close(theirs.bias.grad, network[0].bias.grad)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(value, network[0].state_dict()[name])
    torch.testing.assert_close(theirs.eval()(x), network.eval()(x))


@pytest.mark.parametrize("name", ["killed", "stopped"])
def test_a_run_goes_on_in_two_processes_bit_for_bit(together, name):
    assert len(runs.read_sessions(together / name)) == 2
    run, straight = bench_resume.final(together / name), bench_resume.final(together / "straight")
    same = bench_resume.same(run, straight)
    assert all(same.values()), same


def test_a_run_of_two_processes_goes_on_in_one(killed):
    by_size, valid = packs(killed)
    before = bench_resume.named_step(killed / "alone")
    with pytest.warns(UserWarning, match="began in 2 processes and goes on in 1"):
        options = dict(device="cpu", valid=valid, progress=False)
        run = training.train(LONG, by_size, killed / "alone", **options)
    assert run.done and [row["step"] for row in run.history] == [*range(10, N + 1, 10)]
    assert runs.read_sessions(run.folder)[-1]["first_step"] == str(before)


def test_what_the_main_process_cannot_do_ends_all(together):
    said = json.loads((together / "found.json").read_text())["refused"]
    assert len(said) == 2 and all("not connected" in text for text in said)


def test_all_stop_after_the_same_step_if_one_is_asked_to(together):
    found = json.loads((together / "found.json").read_text())
    assert found["stopped"] == [[6, True], [6, True]] and found["saved"] == 6
    log = (together / "log").read_text()
    assert log.count(f"Stopped at step 6 of {N}") == log.count(f"from step 6 of {N}") == 1
    assert json.loads((together / "stopped" / "lease.json").read_text()).keys() == {"turn"}


def test_a_launcher_that_starts_one_process_of_two_does_not_go_unnoticed(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.warns(UserWarning, match="started one: use torchrun, or add --multi_gpu"):
        assert ranks.accelerator("cpu").num_processes == 1


def test_a_launchers_second_signal_is_not_a_second_wish():
    with session.stop_signals(launched=True) as stop:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
            signal.raise_signal(number)
    assert stop.asked and stop.terminated


if __name__ == "__main__":
    {"killed": killed_child, "together": child}[sys.argv[2]](Path(sys.argv[1]))
