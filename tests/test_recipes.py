"""The systems of the write-ups: their counts, their options, and that each can be trained."""

import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

from evalib import __main__ as cli
from evalib import config, recipes, schedule, weights
from evalib.recipes import eva15, mde_bs, two_stage
from evalib.training import heads


def pair(*shape):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(*shape, generator=generator) for _ in range(2)]


def n_parameters(model):
    return sum(p.numel() for p in model.parameters())


# --- the counts of the documents -------------------------------------------------------------


def test_lean_has_the_count_of_its_table():
    # (c_in, c_out, kernel) by hand from the table; convolution + bias + BatchNorm
    layers = [(3, 16, 3), (16, 32, 3), (32, 64, 3), (64, 128, 3), (128, 128, 1), (256, 128, 3)]
    layers += [(128, 32, 3), (64, 64, 3), (64, 32, 3), (32, 16, 3), (16, 1, 1)]
    by_hand = [i * o * k * k + o + 2 * o for i, o, k in layers]
    assert sum(by_hand) == 507_203
    model = recipes.build("lean")
    assert n_parameters(model.mask) == n_parameters(model.depth) == 507_203
    convolutions = [m for m in model.mask.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels, m.kernel_size[0]) for m in convolutions] == layers


def test_resnet_has_the_real_count_and_the_documents_count_is_explained():
    model = recipes.build("resnet")
    assert n_parameters(model.mask) == n_parameters(model.depth) == 17_799_809
    backbone = resnet18(weights=None)
    encoder = n_parameters(backbone) - n_parameters(backbone.fc)
    assert encoder == 11_176_512
    assert 17_799_809 + encoder == 28_976_321


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("eva15", 14_348_004),
        ("eva15-wide", 57_378_244),
        ("eva15-carvana", 57_188_044),
        ("two_stream", 10_343_490),
    ],
)
def test_a_network_has_the_count_that_its_document_prints(name, printed):
    assert n_parameters(recipes.build(name)) == printed


def test_mde_bs_has_the_count_that_torchsummary_prints_if_a_block_counts_each_time_it_is_used():
    model = recipes.build("mde_bs")
    times = dict.fromkeys(("first", "down", "up", "wider", "last"), 0)
    for name in times:
        model.get_submodule(name).register_forward_hook(
            lambda *_, name=name: times.__setitem__(name, times[name] + 1)
        )
    model(*pair(2, 3, 64, 64))
    assert times == {"first": 1, "down": 3, "up": 7, "wider": 3, "last": 1}
    counted = sum(n * n_parameters(model.get_submodule(name)) for name, n in times.items())
    assert counted == 1_190_272 and n_parameters(model) == 284_672


def test_two_stage_has_the_count_of_its_first_network_and_tells_what_was_counted_as_its_second():
    model = recipes.build("two_stage")
    assert n_parameters(model.mask) == 67_569_473
    classes = nn.Conv2d(512, 1000, 1)
    assert n_parameters(model.depth.encoder) + n_parameters(classes) == 16_393_752
    assert n_parameters(model.depth) == 25_259_761


def test_the_shots_never_meet_in_mde_bs_as_printed():
    (bg, fg_bg), other = pair(2, 3, 64, 64), torch.zeros(2, 3, 64, 64)
    model = mde_bs.Grouped().eval()
    out = model(bg, fg_bg)
    assert torch.equal(out["mask_logits"], model(other, fg_bg)["mask_logits"])
    assert torch.equal(out["depth_logits"], model(bg, other)["depth_logits"])
    joined = mde_bs.Grouped(last=1).eval()
    assert not torch.equal(joined(bg, fg_bg)["mask_logits"], joined(other, fg_bg)["mask_logits"])


def test_mde_bs_needs_no_resizing_at_64_px_only(monkeypatch):
    sizes = []
    monkeypatch.setattr(
        mde_bs, "resized", lambda x, h, w: sizes.append((*x.shape[2:], h, w)) or x[..., :h, :w]
    )
    mde_bs.Grouped().eval()(*pair(1, 3, 64, 64))
    assert sizes == [(64, 64, 64, 64)] * 2  # in, and out


def test_the_depth_of_eva15_is_the_mean_of_its_three_channels():
    model = eva15.TwoBranches().eval()
    bg, fg_bg = pair(1, 3, 32, 32)
    seen = []
    model.depth.register_forward_hook(lambda *args: seen.append(args[-1]))
    out = model(bg, fg_bg)["depth_logits"]
    assert seen[0].shape == (1, 3, 32, 32)
    torch.testing.assert_close(out[0, 0], seen[0][0].mean(0))


def test_the_dilated_network_keeps_an_eighth_of_the_size():
    assert two_stage.Depth().eval().encoder(torch.zeros(1, 3, 64, 40)).shape == (1, 512, 8, 5)


# --- guides: what the second network gets of the first ---------------------------------------


class Recorder(nn.Module):
    """A network that remembers what it was given."""

    PAD = 8, 2

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, x):
        self.given = x
        return x[:, :1] * 0 + 3.0


@pytest.mark.parametrize("both", [False, True])
def test_a_guided_network_sees_the_mask_beside_the_image_or_the_image_times_it(both):
    bg, fg_bg = pair(1, 3, 16, 16)
    channels = 6 if both else 3
    plain = recipes.PerTask(Recorder, Recorder, both=both)
    serial = recipes.PerTask(Recorder, Recorder, both=both, guide="mask")
    product = recipes.PerTask(Recorder, Recorder, both=both, guide="product")
    for model in (plain, serial, product):
        model(bg, fg_bg)
    image = plain.depth.given
    assert image.shape[1] == plain.depth.channels == channels
    mask = torch.tensor(3.0).sigmoid()
    assert serial.depth.channels == channels + 1
    assert torch.equal(serial.depth.given[:, :channels], image)
    assert (serial.depth.given[:, channels:] == mask).all()
    assert torch.equal(product.depth.given, image * mask)


# --- recipes as runs -------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipes.RECIPES)
@pytest.mark.parametrize("n_steps", [1, 7, 1000])
def test_the_sizes_of_a_recipe_fill_the_run_in_their_order(name, n_steps):
    settings = recipes.recipe(name, n_steps)
    assert config.Config(**settings)  # all its names are known
    stages = settings.get("sizes", ((64, n_steps),))
    assert sum(steps for _, steps in stages) == n_steps


def test_the_epochs_of_a_document_are_as_many_samples():
    """A step has fewer large pictures, so that it costs the same."""
    settings = recipes.recipe("two_stream", 10_000)
    run = config.Config(**settings)
    seen = [run.size_of_batch(size) * steps for size, steps in settings["sizes"]]
    assert seen[0] == pytest.approx(seen[1], rel=0.02)
    share = settings["sizes"][0][1] / 10_000
    assert settings["schedule"] == f"step:{share:.3f}".replace("0.", ".")  # falls with the change


def test_each_phase_of_two_stage_sees_all_its_sizes():
    settings = recipes.recipe("two_stage", 1000)
    run = config.Config(**settings)
    sizes = {"mask": [], "depth head": []}
    for step in range(1000):
        sizes[schedule.phase(run.phases, step, 1000)].append(run.size_at(step))
    assert sizes["mask"] == sizes["depth head"] and set(sizes["mask"]) == {38, 48, 56, 64}


def test_every_layer_of_every_network_is_shared_or_one_tasks_own():
    for name in recipes.NETWORKS:
        with torch.device("meta"):
            names = [key for key, _ in recipes.build(name).named_parameters()]
        mask, depth = ({key for key in names if heads.own(key, task)} for task in ("mask", "depth"))
        assert not mask & depth
        assert bool(mask) == bool(depth) == (not name.startswith("mde_bs"))  # which shares all


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    return tmp_path_factory.mktemp("packs")


CHILD = """
import os, signal, sys
import torch
from evalib import __main__ as cli
from evalib import recipes, training
recipes.RECIPES[sys.argv[1]]["n_valid"] = 4
step = training.Learner.train_step
def once(self, *args):
    if self.step:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *args)
training.Learner.train_step = once
cli.main(sys.argv[2:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("name", [name for name in recipes.RECIPES if name != "small"])
def test_a_recipe_that_was_killed_goes_on_as_if_it_had_not_been_and_is_used(
    name, packs, tmp_path, monkeypatch, capsys
):
    """Killed after its first step of two; a network in two stages learns the other task then."""
    monkeypatch.setitem(recipes.RECIPES, name, recipes.RECIPES[name] | {"n_valid": 4})
    line = f"train playground-24 --recipe {name} --sizes 32 --steps 2 --batch-size 2".split()
    line += ["--packs", str(packs), "--run-dir"]
    assert cli.main([*line, str(tmp_path / "straight")]) == 0
    straight = weights.load(tmp_path / "straight").state_dict()
    shutil.rmtree(tmp_path / "straight")  # 1.5 GB of a network of 93 million parameters
    line += [str(tmp_path / "killed"), "--checkpoint-every", "0.001s"]
    child = subprocess.run([sys.executable, "-c", CHILD, name, *line], capture_output=True)
    assert child.returncode == -9, child.stderr
    [saved] = (tmp_path / "killed").glob("step-*.pt")
    assert saved.name.startswith("step-0000000001-")
    assert cli.main(line) == 0
    killed = weights.load(tmp_path / "killed").state_dict()
    assert all(torch.equal(killed[key], straight[key]) for key in straight)
    given = f"--run {tmp_path}/killed --packs {packs} --size 32".split()
    assert cli.main(["evaluate", "playground-24", *given]) == 0
    assert " network " in capsys.readouterr().out
    for shot, image in zip(("bg", "now"), pair(40, 60, 3), strict=True):
        Image.fromarray((255 * image).byte().numpy()).save(tmp_path / f"{shot}.png")
    line = f"predict {tmp_path}/bg.png {tmp_path}/now.png --out {tmp_path} --size 64"
    assert cli.main([*line.split(), "--run", str(tmp_path / "killed")]) == 0
    assert list(tmp_path.glob("*mask*.png"))
    shutil.rmtree(tmp_path / "killed")


# --- costs -----------------------------------------------------------------------------------


def test_multiply_adds_agree_with_a_hand_count():
    # lean at 32 px: c_in * c_out * kernel^2 * height * width of every output in its table
    rows = [(3, 16, 9, 32), (16, 32, 9, 16), (32, 64, 9, 8), (64, 128, 9, 8), (128, 128, 1, 4)]
    rows += [(256, 128, 9, 8), (128, 32, 9, 8), (64, 64, 9, 16), (64, 32, 9, 16)]
    rows += [(32, 16, 9, 32), (16, 1, 1, 32)]
    by_hand = sum(c_in * c_out * k2 * side**2 for c_in, c_out, k2, side in rows)
    assert recipes.measure("lean", 32)["multiply_adds"] == 2 * by_hand  # two networks
    with FlopCounterMode(display=False) as counter:
        recipes.build("lean").mask.to_half[0](torch.rand(1, 3, 32, 32))
    assert counter.get_total_flops() == 2 * 3 * 16 * 9 * 32**2


def test_a_networks_cost_is_told_with_what_it_sees():
    row = recipes.measure("small", 64)
    assert row["parameters"] == n_parameters(recipes.build("small"))
    assert row["mb"] == pytest.approx(row["parameters"] * 4 / 1024 / 1024)
    assert row["sees"] == "both shots" and recipes.measure("lean", 16)["sees"] == "fg_bg only"


def test_small_pictures_cost_less_in_two_stages():
    small, large = (recipes.measure("two_stage", size)["multiply_adds"] for size in (38, 64))
    assert small < 0.5 * large
