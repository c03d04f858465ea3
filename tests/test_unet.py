import io
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from evalib import evidence, layers, losses, recipes, unet


@pytest.fixture(autouse=True)
def _same_weights_every_time():
    torch.manual_seed(0)


def pair(*shape):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(*shape, generator=generator) for _ in range(2)]


def n_parameters(model):
    return sum(p.numel() for p in model.parameters())


def settled(name):
    """A network whose BatchNorm statistics are not the initial zeros and ones."""
    model = recipes.build(name)
    model.train()(*pair(4, 3, 64, 64))
    return model.eval()


# --- what the networks are -------------------------------------------------------------------


def test_lean_can_answer_background():
    # The table's last ReLU would forbid it.
    out = recipes.build("lean")(*pair(2, 3, 64, 64))
    assert (out["mask_logits"] < 0).any()


def test_small_stays_below_half_a_million():
    assert n_parameters(recipes.build("small")) < 500_000
    widths = [m.out_channels for m in recipes.build("small").modules() if isinstance(m, nn.Conv2d)]
    odd = 4, 3 * unet.ASKED + 2  # 2x2 pixels of a map; what a cell asks
    assert all(width % 8 == 0 or width in odd for width in widths)


# --- gradients -------------------------------------------------------------------------------


NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
# One network of each design, and pictures that those of tens of millions of parameters can bear.
DESIGNS = ("small", "lean-serial", "resnet", "eva15", "eva15-carvana", "mde_bs", "two_stage")
DESIGNS += ("two_stream",)
LARGE = ("resnet", "eva15-carvana", "two_stage")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, NO_GPU])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", DESIGNS)
def test_a_training_step_has_deterministic_algorithms_only(name, device, monkeypatch):
    """With an odd size, so that gradients go through padding; each term of the loss at once."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    size = (33, 49) if name in LARGE else (71, 90)
    bg, fg_bg = (image.to(device) for image in pair(2, 3, *size))
    batch = {"mask": fg_bg[:, :1].round(), "depth": bg[:, :1]}
    loss = losses.Loss("+".join(losses.MASK), "+".join([*losses.DEPTH, "new"]))
    model = recipes.build(name).to(device).train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    steps = []
    torch.use_deterministic_algorithms(True)  # what has no deterministic gradient raises
    try:
        for _ in range(2):
            model.load_state_dict(state)
            model.zero_grad()
            loss(model(bg, fg_bg), batch)[0].backward()
            steps.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(*steps, strict=True))


def test_no_operation_with_a_gradient_is_one_of_those_that_cuda_adds_up_in_any_order():
    """Of those torch lists. MaxPool2d is none: on CUDA a pixel sums over its windows, in order."""
    chance = "Adaptive|Replication|Reflection|Upsample(Bilinear|Bicubic|Linear)|GridSampl|NllLoss"
    chance += "|Cumsum|Scatter|Gather|^Index|Median|Kthvalue|Embedding|AvgPool3D|MaxPool3D|Put"
    loss = losses.Loss("+".join(losses.MASK), "+".join([*losses.DEPTH, "new"]))
    for name in DESIGNS:
        bg, fg_bg = pair(2, 3, *((33, 49) if name in LARGE else (71, 90)))
        batch = {"mask": fg_bg[:, :1].round(), "depth": bg[:, :1]}
        total, _ = loss(recipes.build(name).train()(bg, fg_bg), batch)
        met, ahead = set(), [total.grad_fn]
        while ahead:
            node = ahead.pop()
            if node is not None and node not in met:
                met.add(node)
                ahead += [before for before, _ in node.next_functions]
        names = {node.name() for node in met}
        assert "ConvolutionBackward0" in names
        assert not [found for found in names if re.search(chance, found)]


@pytest.mark.parametrize("name", DESIGNS)
def test_every_parameter_receives_gradient(name):
    model = recipes.build(name).train()
    out = model(*pair(2, 3, *((80, 80) if name == "small" else (33, 33))))  # both stages of it
    (out["mask_logits"].square().mean() + out["depth_logits"].square().mean()).backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # A constant before BatchNorm is taken out again by it.
    before_norm = name.startswith("lean")
    assert [n for n in missing if not (before_norm and n.endswith("bias"))] == []


def test_one_batch_can_be_learnt_by_heart():
    bg, fg_bg = pair(3, 3, 32, 32)
    mask = torch.zeros(3, 1, 32, 32)
    mask[:, :, 8:20, 6:18] = 1
    fg_bg = torch.where(mask.bool(), fg_bg, bg)
    depth = torch.linspace(0.2, 0.8, 32).expand(3, 1, 32, 32) * (1 - 0.5 * mask)
    model = recipes.build("small").train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(80):
        out = model(bg, fg_bg)
        mask_loss = F.binary_cross_entropy_with_logits(out["mask_logits"], mask)
        depth_loss = F.l1_loss(out["depth_logits"].sigmoid(), depth)
        optimizer.zero_grad()
        (mask_loss + depth_loss).backward()
        optimizer.step()
    assert mask_loss < 0.03 and depth_loss < 0.03


def test_untrained_small_starts_at_typical_values():
    mask_pred, depth_pred = unet.predict(recipes.build("small"), *pair(2, 3, 64, 64))
    assert abs(mask_pred.mean() - unet.TYPICAL_MASK) < 0.05
    assert abs(depth_pred.mean() - 0.5) < 0.1


# --- sizes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, size",
    [("small", (63, 97)), ("lean", (63, 97)), ("resnet", (33, 49))]
    + [(name, (16, 16)) for name in DESIGNS]
    + [(name, (37, 50)) for name in DESIGNS],
)
def test_odd_sizes_come_back_at_their_size(name, size):
    model = recipes.build(name).train()
    n = 2 if name == "eva15-carvana" else 1  # one image of 16 px must also pass BatchNorm
    out = model(*pair(n, 3, *size))
    assert out["mask_logits"].shape == out["depth_logits"].shape == (n, 1, *size)


def test_padding_repeats_the_last_row_and_column_and_leaves_divisible_sizes_alone():
    x = torch.rand(2, 3, 21, 40)
    assert torch.equal(layers.pad(x, 16), F.pad(x, (0, 8, 0, 11), mode="replicate"))
    assert layers.pad(x[:, :, :16], 8).data_ptr() == x.data_ptr()
    assert layers.pad(x[:, :, :8], 8).shape == (2, 3, 16, 40)  # two multiples at least


def test_odd_size_is_the_crop_of_the_padded_image():
    model, images = settled("lean"), pair(1, 3, 50, 61)
    padded = [F.pad(image, (0, 3, 0, 6), mode="replicate") for image in images]
    odd, even = model(*images), model(*padded)
    for name in odd:
        assert torch.equal(odd[name], even[name][..., :50, :61])


def test_pictures_up_to_64_px_need_the_first_stage_only():
    model = settled("small")
    assert "coarse" not in model(*pair(1, 3, 64, 48))
    assert "fine" not in model.encode(pair(1, 3, 64, 48)[0])
    out = model(*pair(1, 3, 65, 40))
    assert out["coarse"]["mask_logits"].shape == (1, 1, 64, 39)


def test_an_even_change_of_light_is_no_difference():
    bg, _ = pair(2, 3, 64, 64)
    bg = F.avg_pool2d(bg, 9, 1, 4)
    gain = torch.tensor([0.7, 0.8, 1.1]).view(1, 3, 1, 1)
    fg_bg = bg * gain + 0.05
    fg_bg[:, :, 10:40, 20:40] = 0.9  # what is new, a seventh of the picture, does not count
    rest = evidence._difference(bg, fg_bg, *evidence.lighting(bg, fg_bg)).abs()
    assert rest[:, :, 44:].max() < 0.02 and (fg_bg - bg).abs()[:, :, 44:].max() > 0.1
    assert rest[:, :, 10:40, 20:40].mean() > 0.2


@pytest.mark.parametrize(("shape", "size"), [((64, 96), (32, 24)), ((31, 64), (62, 131))])
def test_resizing_by_matrices_is_torchs(shape, size):
    x = torch.rand(2, 3, *shape)
    mode = {"mode": "area"} if size < shape else {"mode": "bilinear", "align_corners": False}
    torch.testing.assert_close(layers.resized(x, *size), F.interpolate(x, size, **mode))


def test_answers_in_one_convolution_are_those_of_each_head_alone():
    heads = layers.answer(16), layers.answer(16, 2)
    x = torch.rand(2, 16, 5, 7)
    alone = torch.cat([head(x) for head in heads], 1)  # (2, 3, 10, 14)
    torch.testing.assert_close(layers.answers(x, *heads), alone)


def test_one_more_residual_block_changes_a_trained_network_little():
    x = torch.randn(4, 16, 8, 8).relu()
    added = layers.residual(16)(x) - x
    assert 0 < added.abs().mean() < 0.2  # of what BatchNorm makes, whose spread is 1


def test_parts_are_joined_in_order_and_in_the_precision_of_the_first():
    first, second = torch.rand(2, 3, 4, 5).bfloat16(), torch.rand(2, 8, 4, 5)[:, ::2]
    both = layers.joined([first, second])
    assert both.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(both, torch.cat([first, second.bfloat16()], 1))


@pytest.mark.parametrize("name", ["small", "lean"])
def test_wrong_images_are_refused_in_words(name):
    model = recipes.build(name)
    with pytest.raises(ValueError, match=r"15x64, needed 16x16 or more"):
        model(*pair(1, 3, 15, 64))
    with pytest.raises(ValueError, match="needed one size: resize or crop"):
        model(torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 80))
    with pytest.raises(ValueError, match="needed one size"):
        model(torch.rand(1, 3, 64, 64), torch.rand(2, 3, 64, 64))
    with pytest.raises(ValueError, match=r"bg is torch.uint8 .* bytes / 255"):
        model(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"needed float \(B, 3, H, W\)"):
        model(torch.rand(1, 1, 64, 64), torch.rand(1, 1, 64, 64))


def test_unknown_network_lists_the_known():
    with pytest.raises(ValueError, match="'big' is unknown; choose one of small, eva15, "):
        recipes.build("big")


# --- the two shots ---------------------------------------------------------------------------


def test_kept_background_features_change_nothing():
    model = settled("small")
    bg, fg_bg = pair(3, 3, 50, 64)
    bg = bg[:1].expand(3, -1, -1, -1)
    with torch.no_grad():
        expected = model(bg, fg_bg)
        kept = model(bg, fg_bg, bg_features=model.encode(bg))
        one = model(bg[:1], fg_bg, bg_features=model.encode(bg[:1]))
    for name, logits in expected.items():
        torch.testing.assert_close(kept[name], logits, rtol=0, atol=1e-5)
        torch.testing.assert_close(one[name], logits, rtol=0, atol=1e-5)


def test_features_of_a_network_in_training_are_those_of_evaluation_or_none():
    model, (bg, fg_bg) = settled("small").train(), pair(1, 3, 50, 64)
    features = unet.encode(model, bg)
    assert model.training
    expected = unet.predict(model, bg, fg_bg)
    for ours, theirs in zip(unet.predict(model, bg, fg_bg, features), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert model.training and unet.encode(recipes.build("lean"), bg) is None


def test_the_networks_of_earlier_write_ups_look_at_the_background_only_if_given_both():
    (bg, fg_bg), other = pair(1, 3, 32, 32), torch.zeros(1, 3, 32, 32)
    for name in recipes.NETWORKS:
        model = recipes.build(name).eval()
        same = torch.equal(model(bg, fg_bg)["mask_logits"], model(other, fg_bg)["mask_logits"])
        assert same == (recipes.measure(name, 16)["sees"] == "fg_bg only" or name == "mde_bs"), name


# --- told the empty scene's depth ------------------------------------------------------------


@pytest.mark.parametrize("size", [(50, 64), (90, 130)])
def test_to_be_told_nothing_is_to_know_nothing_and_what_is_told_counts(size):
    model, (bg, fg_bg) = settled("small"), pair(2, 3, *size)
    depth = torch.rand(2, 1, *size)
    with torch.no_grad():
        alone = model(bg, fg_bg)
        nothing = model(bg, fg_bg, bg_depth=torch.zeros_like(depth))
        told = model(bg, fg_bg, bg_depth=depth)
        kept = model(bg, fg_bg, bg_features=model.encode(bg), bg_depth=depth)
    torch.testing.assert_close(nothing["depth_logits"], alone["depth_logits"], rtol=0, atol=0)
    assert (told["mask_logits"] - alone["mask_logits"]).abs().max() > 1e-4  # not only pasted
    torch.testing.assert_close(kept["depth_logits"], told["depth_logits"], rtol=0, atol=1e-5)


def test_a_depth_that_is_nan_or_out_of_range_is_harmless_and_other_sizes_are_refused():
    model, (bg, fg_bg) = settled("small"), pair(2, 3, 90, 130)
    depth = torch.full((1, 1, 90, 130), 0.5)
    depth[..., :30] = 0
    expected = unet.predict(model, bg, fg_bg, bg_depth=depth)
    for nothing in (torch.nan, -1.0):
        depth[..., :30] = nothing
        found = unet.predict(model, bg, fg_bg, bg_depth=depth)
        assert all(map(torch.equal, found, expected))
    for wrong in (depth[..., 1:], depth[0], depth.expand(3, -1, -1, -1)):
        with pytest.raises(ValueError, match=r"bg_depth is .* needed \(2, 1, 90, 130\)"):
            unet.predict(model, bg, fg_bg, bg_depth=wrong)


def test_a_cell_copies_the_depth_of_the_cell_it_asks_for_known_or_answered():
    network = unet.Coarse()
    offers = 20 * torch.eye(unet.ASKED)[:4].T  # (16, 4 cells), each something else
    behind, new = offers[:, [3] * 4], offers[:, [0] * 4]  # all ask for the last; for the first
    gates = torch.tensor([[30.0] * 4, [30.0, 30, -30, -30]])  # of what is new, the upper two
    asking = torch.cat([offers, behind, new, gates]).view(1, -1, 2, 2)
    depths = torch.full((1, 2, 8, 8), 0.5)
    depths[0, 0, 4:, 4:] = 0.8
    depths[0, 1] = 0.6
    given = torch.zeros(1, evidence.GIVEN, 2, 2)
    given[0, :2, 0, 0] = torch.tensor([0.3, 1.0])
    found = network._copied(depths.logit(), asking, given).sigmoid()[0]
    torch.testing.assert_close(found[0], torch.full((8, 8), 0.8))
    torch.testing.assert_close(found[1, :2], torch.full((2, 8), 0.3))
    torch.testing.assert_close(found[1, 6:], torch.full((2, 8), 0.6))


def test_of_one_known_point_the_mean_is_that_point():
    known = torch.zeros(1, 2, 8, 8)
    known[0, :, 2, 5] = torch.tensor([0.3, 1.0])
    given = evidence._given(F.avg_pool2d(known, 4), known)
    depth, is_known, across, down = given[0]
    torch.testing.assert_close(depth, torch.tensor([[0, 0.3], [0, 0]]))
    torch.testing.assert_close(is_known, torch.tensor([[0, 1.0], [0, 0]]))
    assert across[0].tolist() == [-1, 1] and down[:, 0].tolist() == [-1, 1]


def test_what_is_known_is_the_answer_where_nothing_is_new_and_nothing_new_is_behind_it():
    mask = torch.tensor([-20.0, -20, 20, 20])
    behind, new = torch.tensor([0.2, 0.2, 0.2, 0.2]), torch.tensor([0.5, 0.5, 0.5, 0.5])
    maps = torch.stack([mask, behind.logit(), new.logit()])[None, :, None]
    known = torch.tensor([[0.0, 0.3, 0.3, 0.9], [0, 1, 1, 1]])[None, :, None]
    answer = unet._answer(maps, known)
    assert torch.equal(answer["mask_logits"].flatten(), mask)
    depth = answer["depth_logits"].sigmoid().flatten()
    torch.testing.assert_close(depth, torch.tensor([0.2, 0.3, 0.3, 0.5]))


def test_a_wrong_depth_is_no_reason_for_another_mask():
    maps = torch.zeros(1, 3, 2, 2, requires_grad=True)
    unet._answer(maps, torch.zeros(1, 2, 2, 2))["depth_logits"].sum().backward()
    assert not maps.grad[:, 0].any() and maps.grad[:, 1:].all()


@pytest.mark.parametrize("name", ["lean", "two_stream"])
def test_a_network_that_is_not_made_for_it_is_not_told(name):
    model, (bg, fg_bg) = settled(name), pair(1, 3, 64, 64)
    told = unet.predict(model, bg, fg_bg, bg_depth=torch.full((1, 1, 64, 64), 0.3))
    assert all(map(torch.equal, told, unet.predict(model, bg, fg_bg)))


@pytest.mark.parametrize("name", ["small", "lean", "resnet", "eva15-norm", "two_stream"])
def test_a_folded_network_answers_the_same_and_leaves_the_other_alone(name):
    model, images = settled(name).train(), pair(1, 3, 70, 100)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded = layers.folded(model)
    both = unet.predict(folded, *images), unet.predict(model, *images)
    for ours, theirs in zip(*both, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    if name == "small":
        assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())


@pytest.mark.parametrize("name", ["small", "lean", "eva15-carvana", "mde_bs", "two_stream"])
def test_a_sample_does_not_depend_on_its_batch(name):
    model, (bg, fg_bg) = settled(name), pair(5, 3, 64, 64)
    together = unet.predict(model, bg, fg_bg)
    alone = unet.predict(model, bg[2:3], fg_bg[2:3])
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[2:3], b, rtol=0, atol=1e-5)


def test_predict_puts_the_mode_back_and_leaves_statistics_alone():
    model = recipes.build("small").train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    bg, fg_bg = pair(2, 3, 32, 32)
    mask_pred, depth_pred = unet.predictor(model)({"bg": bg, "fg_bg": fg_bg})
    assert model.training and not mask_pred.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    for pred in (mask_pred, depth_pred):
        assert pred.shape == (2, 1, 32, 32) and pred.min() >= 0 and pred.max() <= 1
    assert not unet.predict(model.eval(), bg, fg_bg)[0].isnan().any() and not model.training


# --- weights ---------------------------------------------------------------------------------


def test_weights_load_as_data_not_code():
    model, images = settled("small"), pair(1, 3, 48, 48)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh = recipes.build("small").eval()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for a, b in zip(unet.predict(model, *images), unet.predict(fresh, *images), strict=True):
        assert torch.equal(a, b)
