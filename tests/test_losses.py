import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)
from torchvision.ops import sigmoid_focal_loss

from evalib.config import Config
from evalib.losses import DEPTH, MASK, Loss, ssim_map

BIG = 40.0  # a logit whose sigmoid is 0 or 1 in float32


def image(*rows: list[float]) -> torch.Tensor:
    """(1, 1, H, W)."""
    return torch.tensor([[rows]], dtype=torch.float32)


def logit(p: torch.Tensor) -> torch.Tensor:
    return torch.special.logit(p.double()).clamp(-BIG, BIG).float()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


HAND_WORKED_MASK = [  # name, probabilities, mask, answer
    ("bce", image([0.5, 0.5]), image([0, 1]), math.log(2)),
    ("bce", image([0.25, 0.5]), image([0, 1]), (math.log(4 / 3) + math.log(2)) / 2),
    ("dice", image([0, 0]), image([0, 0]), 0),  # nothing there, nothing predicted
    ("dice", image([1, 1]), image([0, 0]), 1 - 1 / 3),
    ("dice", image([0, 0]), image([1, 1]), 1 - 1 / 3),
    ("dice", image([1, 1]), image([1, 1]), 0),
    ("dice", image([0.5, 0.5]), image([1, 0]), 1 - 2 / 3),
    ("edge", image([1, 1], [1, 1]), image([0, 0], [0, 0]), 0),  # no edge in either
    ("edge", image([0, 0, 0, 0]), image([0, 0, 1, 1]), 0.5),  # 2 of 4 pixels see the step
    ("edge", image([0, 0, 0], [0, 1, 0], [0, 0, 0]), torch.zeros(1, 1, 3, 3), (2 + 2**0.5) / 9),
    ("outline", image([0.5, 0.5]), image([1, 1]), math.log(2)),  # no outline: bce
    ("outline", image([0.5] * 8), image([0, 0, 0, 0, 0, 0, 1, 1]), (4 * 5 + 4) / 8 * math.log(2)),
    ("tversky", image([0, 0]), image([0, 0]), 0),
    ("tversky", image([1, 1]), image([0, 0]), 1 - 1 / (2 * 0.3 + 1)),
    ("tversky", image([0, 0]), image([1, 1]), 1 - 1 / (2 * 0.7 + 1)),  # misses cost more
    ("tversky", image([0.5, 0.5]), image([1, 0]), 1 - 1.5 / (0.5 + 0.5 * (0.3 + 0.7) + 1)),
    ("focal", image([0.5, 0.5]), image([0, 1]), math.log(2) / 4),
    ("focal", image([0.25, 0.5]), image([0, 1]), (math.log(4 / 3) / 16 + math.log(2) / 4) / 2),
    ("lovasz", image([0, 0]), image([0, 0]), 0),
    ("lovasz", image([0.3, 0.8]), image([0, 0]), 0.8),  # the first wrong pixel makes the IoU 0
    ("lovasz", image([1, 0, 1]), image([1, 1, 0]), 1 - 1 / 3),
    ("lovasz", image([0.4, 0.3, 0.1]), image([1, 0, 0]), 0.6),  # likewise, with all there is missed
    ("lovasz", image([0.9, 0.2]), image([0.5, 0.4]), 0.2 / 2 + 0.1 / 2),  # foreground from .5 on
    # wrong from worst to best, 1 - IoU: 1 - 1/2, 1 - 1/3, 1 - 0/3
    ("lovasz", image([0.9, 0.3, 0.2]), image([1, 0, 0]), 0.3 / 2 + 0.2 * (2 / 3 - 1 / 2) + 0.1 / 3),
]
FLAT = torch.ones(1, 1, 22, 22, dtype=torch.float64)
LUMINANCE = (2 * 0.5 + 1e-4) / (1 + 0.5**2 + 1e-4)  # of 1 beside .5
HAND_WORKED_DEPTH = [  # name, depth_pred, depth, answer
    ("l1", image([0.1, 0.5]), image([0.3, 0.2]), 0.25),
    ("l2", image([0.1, 0.5]), image([0.3, 0.2]), (0.04 + 0.09) / 2),
    ("huber", image([0.05, 0.5]), image([0, 0]), (0.05**2 / 2 + 0.1 * 0.45) / 2),
    ("rmse", image([0.3, 0.4]), image([0, 0]), math.sqrt(0.125)),
    ("rmse", image([0, 0]), image([0, 0]), 0),
    ("berhu", image([0.1, 1]), image([0, 0]), (0.1 + (1 + 0.04) / 0.4) / 2),  # c = .2
    ("berhu", image([0, 0]), image([0, 0]), 0),
    ("gradient", image([0.7, 0.7]), image([0.2, 0.2]), 0),  # an offset is not seen
    ("gradient", image([0, 0.5]), image([0, 0]), 0.5 / 2),  # strides 2.. leave one pixel: 0
    ("gradient", image([0, 0, 1, 1, 0]), image([0] * 5), 2 / 5 + 2 / 3 + 0 / 2 + 0),
    ("gradient", image([0] * 8 + [1]), image([0] * 9), 1 / 9 + 1 / 5 + 1 / 3 + 1 / 2),
    ("gradient", image([1]), image([0]), 0),  # a single pixel has no gradient
    ("ssim", image([1, 1]), image([1, 1]), 0),
    (
        "ssim",
        image([1, 1]),
        image([0, 0]),
        (1 - 1e-4 / (1 + 1e-4)) / 2,
    ),  # constants: luminance only
    ("ms_ssim", FLAT[..., :21], 0.5 * FLAT[..., :21], 1 - LUMINANCE),  # one scale
    ("ms_ssim", FLAT, 0.5 * FLAT, 1 - LUMINANCE ** (0.2856 / (0.0448 + 0.2856))),  # at the second
    ("ms_ssim", noise(1, 1, 22, 22), 1 - noise(1, 1, 22, 22), 1 - 1e-4),  # negative at each scale
    ("bce", image([0.5, 0.5]), image([0, 1]), math.log(2)),
    ("bce", image([0.25, 0.25]), image([0.25, 0.25]), 0),
    ("bce", image([0.5]), image([0.25]), math.log(2) - math.log(4) / 4 - 3 * math.log(4 / 3) / 4),
    ("log", image([0.55, 0.1]), image([0.5, 0.2]), (math.log(2) + math.log(3)) / 2),  # .5 m, 1 m
    ("log_gradient", image([0.7, 0.7]), image([0.2, 0.2]), 0),
    # each of two pixels sees (1 + 2 + 1) * .05 = 2 m: ln(2 / .5 + 1)
    ("log_gradient", image([0, 0, 0.05, 0.05]), image([0] * 4), 2 * math.log(5) / 4),
    ("log_gradient", image([0], [0.05]), image([0], [0]), math.log(5)),
    ("normals", image([0.7, 0.7]), image([0.2, 0.2]), 0),
    ("normals", image([0, 0, 0.025, 0.025]), image([0] * 4), 2 * (1 - 0.5**0.5) / 4),  # 1 m: 45 deg
    ("normals", image([0.025], [0]), image([0], [0.025]), 1),  # the other way: 90 degrees
    ("scale_invariant", image([0, 0]), image([1, 1]) - 1 / 255, math.log(255) ** 2 / 2),
    ("scale_invariant", image([0, 1]), image([254 / 255, 1]), 3 * math.log(255) ** 2 / 8),
]


@pytest.mark.parametrize(("name", "p", "mask", "answer"), HAND_WORKED_MASK)
def test_mask_term_gives_the_answer_worked_by_hand(name, p, mask, answer):
    assert MASK[name](logit(p), mask).item() == pytest.approx(answer, abs=1e-6)


@pytest.mark.parametrize(("name", "depth_pred", "depth", "answer"), HAND_WORKED_DEPTH)
def test_depth_term_gives_the_answer_worked_by_hand(name, depth_pred, depth, answer):
    assert DEPTH[name](depth_pred, depth).item() == pytest.approx(answer, abs=1e-6)


def test_the_tables_leave_no_term_out():
    assert {row[0] for row in HAND_WORKED_MASK} == set(MASK)
    assert {row[0] for row in HAND_WORKED_DEPTH} == set(DEPTH)


TERMS = {f"mask/{name}": term for name, term in MASK.items()}
TERMS |= {f"depth/{name}": term for name, term in DEPTH.items()}


def score(name: str, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A term of probabilities, whichever task it is of."""
    return TERMS[name](logit(pred) if name.startswith("mask/") else pred, target)


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (16, 16), (23, 45)])
def test_no_empty_or_extreme_case_gives_nan(name, size):
    halves = (torch.arange(size[1]) * 2 >= size[1]).float().expand(1, 1, *size)
    specks = noise(1, 1, *size).round()
    targets = [torch.zeros(1, 1, *size), torch.ones(1, 1, *size), halves, specks]
    logits = [torch.full((1, 1, *size), x) for x in (-6e4, -100.0, -BIG, 0.0, BIG, 100.0, 6e4)]
    logits += [(noise(1, 1, *size) - 0.5) * 10, (halves - 0.5) * 2 * BIG, (0.5 - specks) * 2 * BIG]
    for target in targets:
        for start in logits:
            leaf = start.clone().requires_grad_()
            value = TERMS[name](leaf if name.startswith("mask/") else leaf.sigmoid(), target)
            value.backward()
            assert value.isfinite() and value >= -1e-6, (target, start)
            assert leaf.grad.isfinite().all(), (target, start)


@pytest.mark.parametrize("name", DEPTH)
def test_gradient_at_a_perfect_depth_map_is_finite(name):
    depth = noise(2, 1, 16, 16)
    leaf = depth.clone().requires_grad_()
    DEPTH[name](leaf, depth).backward()
    assert leaf.grad.abs().max() < 1e-5


@pytest.mark.parametrize("name", TERMS)
def test_perfect_is_0_and_closer_is_better(name):
    target = noise(1, 1, 16, 16)
    target = target.round() if name.startswith("mask/") else target
    values = []
    for wrong in (0.0, 0.1, 0.4):
        pred = (1 - wrong) * target + wrong * noise(1, 1, 16, 16, seed=1)
        values.append(score(name, pred, target))
    assert values[0].item() == pytest.approx(0, abs=1e-6)
    assert values[0] < values[1] < values[2]


@pytest.mark.parametrize("name", TERMS)
def test_a_batch_is_the_mean_of_its_images(name):
    pred, target = noise(3, 1, 12, 9), noise(3, 1, 12, 9, seed=1).round()
    pred[1], target[1] = pred[1] * 0.1, 0  # very different images
    each = torch.stack([score(name, pred[i : i + 1], target[i : i + 1]) for i in range(3)])
    assert score(name, pred, target).item() == pytest.approx(each.mean().item(), rel=1e-5)


@pytest.mark.parametrize("name", [n for n in TERMS if n != "depth/berhu"])  # c is a constant
@pytest.mark.parametrize("size", [(4, 5), (22, 23)])
def test_backward_is_the_derivative(name, size):
    pred = noise(1, 1, *size).double().requires_grad_()
    target = (noise(1, 1, *size, seed=1) + pred.detach()) / 2  # alike, or some would be clamped
    assert torch.autograd.gradcheck(lambda x: TERMS[name](x, target), pred, fast_mode=size[0] > 4)


@pytest.mark.parametrize("size", [(6, 6), (13, 32), (64, 64)])
def test_ssim_is_that_of_torchmetrics(size):
    depth = noise(2, 1, *size)
    pred = (depth + 0.3 * noise(2, 1, *size, seed=1)) / 1.3
    theirs = structural_similarity_index_measure(pred, depth, data_range=1.0, reduction="none")
    assert torch.allclose(ssim_map(pred, depth).mean((1, 2, 3)), theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "n"), [((21, 30), 1), ((22, 41), 2), ((97, 90), 4), ((176, 181), 5)]
)
def test_ms_ssim_is_made_of_the_ssim_of_torchmetrics(size, n):
    depth = noise(1, 1, *size).double()
    pred = at_scale = (depth + 0.3 * noise(1, 1, *size, seed=1)) / 1.3
    weights = torch.tensor([0.0448, 0.2856, 0.3001, 0.2363, 0.1333][:n]).double()
    product, true = 1.0, depth
    for k, weight in enumerate(weights / weights.sum()):
        k1 = 0.01 if k == n - 1 else 1e6  # with a large one luminance is 1
        how = {"data_range": 1.0, "k1": k1}
        product *= structural_similarity_index_measure(at_scale, true, **how) ** weight
        at_scale, true = F.avg_pool2d(at_scale, 2), F.avg_pool2d(true, 2)
    assert DEPTH["ms_ssim"](pred, depth).item() == pytest.approx(1 - product.item(), abs=1e-6)


def test_ms_ssim_is_nearly_that_of_torchmetrics_which_leaves_out_the_frame_of_a_scale():
    depth = F.interpolate(noise(2, 1, 12, 12), (256, 256), mode="bicubic").clamp(0, 1)
    pred = (depth + 0.3 * noise(2, 1, 256, 256, seed=1)) / 1.3
    theirs = multiscale_structural_similarity_index_measure(pred, depth, data_range=1.0)
    assert DEPTH["ms_ssim"](pred, depth).item() == pytest.approx(1 - theirs.item(), abs=0.01)


def test_focal_is_that_of_torchvision():
    logits, mask = 8 * noise(2, 1, 9, 7) - 4, noise(2, 1, 9, 7, seed=1).round()
    theirs = sigmoid_focal_loss(logits, mask, alpha=-1, gamma=2, reduction="mean")
    assert MASK["focal"](logits, mask).item() == pytest.approx(theirs.item(), rel=1e-5)


def test_lovasz_of_zeros_and_ones_is_1_minus_iou():
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))).view(-1, 1, 2, 2)
    for pred, mask in itertools.product(every, every):
        union = torch.maximum(pred, mask).sum()
        answer = 1 - (pred * mask).sum() / union if union else torch.zeros(())
        assert MASK["lovasz"](logit(pred)[None], mask[None]).item() == pytest.approx(answer.item())


@pytest.mark.parametrize("share", [0, 0.2, 0.7, 1])
def test_lovasz_is_the_integral_of_1_minus_iou_over_the_error_from_which_a_pixel_is_wrong(share):
    p, mask = (20 * noise(1, 1, 5, 6)).round() / 20, (noise(1, 1, 5, 6, seed=1) < share).float()
    answer = 0.0
    for level in range(20):  # all errors are multiples of 1 / 20
        wrong = (p - mask).abs() > (level + 0.5) / 20
        union = (mask.bool() | wrong).sum()
        answer += (wrong.sum() / union.clamp_min(1)).item() / 20
    assert MASK["lovasz"](logit(p), mask).item() == pytest.approx(answer, abs=1e-6)


def test_bce_of_depth_is_that_of_torch_less_its_least():
    pred, depth = noise(2, 1, 9, 7), noise(2, 1, 9, 7, seed=1)
    theirs = F.binary_cross_entropy(pred, depth) - F.binary_cross_entropy(depth, depth)
    assert DEPTH["bce"](pred, depth).item() == pytest.approx(theirs.item(), rel=1e-5)


def test_log_its_gradient_and_normals_are_those_of_hu_up_to_a_constant():
    pred, depth = noise(2, 1, 9, 7), noise(2, 1, 9, 7, seed=1)
    x = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    both = torch.stack((x, x.T))[:, None]

    def slopes(metres):
        return F.conv2d(F.pad(metres, (1, 1, 1, 1), mode="replicate"), both)

    def normal(metres):
        return torch.cat((-slopes(metres), torch.ones_like(metres)), 1)

    error = 10 * (pred - depth)
    theirs = {
        "log": (error.abs() + 0.5).log().mean() - math.log(0.5),
        "log_gradient": (slopes(error).abs() + 0.5).log().mean((0, 2, 3)).sum() - 2 * math.log(0.5),
        "normals": 1 - F.cosine_similarity(normal(10 * pred), normal(10 * depth)).mean(),
    }
    for name, answer in theirs.items():
        assert DEPTH[name](pred, depth).item() == pytest.approx(answer.item(), rel=1e-5), name


def test_a_term_of_ones_own_is_known_to_loss_and_config_once_it_is_in_the_table(monkeypatch):
    def means(mask_logits, mask):
        return (mask_logits.sigmoid().mean((1, 2, 3)) - mask.mean((1, 2, 3))).abs().mean()

    with pytest.raises(ValueError, match="'means' is not"):
        Config(mask_loss="means")
    monkeypatch.setitem(MASK, "means", means)
    loss = Loss(Config(mask_loss="bce+2*means", depth_loss="").mask_loss, "")
    logits = {"mask_logits": torch.zeros(1, 1, 2, 2, dtype=torch.bfloat16)}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, parts = loss(logits, {"mask": torch.zeros(1, 1, 2, 2)})
    assert parts["mask/means"].item() == 0.5 and parts["mask/means"].dtype == torch.float32
    assert total.item() == pytest.approx(math.log(2) + 2 * 0.5)


def test_depth_of_what_is_new_counts_as_much_in_a_small_thing_as_in_a_large_one():
    depth, mask = torch.zeros(3, 1, 10, 10), torch.zeros(3, 1, 10, 10)
    mask[0, :, :2] = 1  # 20 pixels; of the second picture 80, of the third none
    mask[1, :, 2:] = 1
    pred = 0.3 * mask + 0.2 * (1 - mask)  # what is not new does not count
    total, parts = Loss("", "new")({"depth_logits": logit(pred)}, {"mask": mask, "depth": depth})
    answer = 0.3 * (20 / 21 + 80 / 81 + 0) / 3
    assert total.item() == parts["depth/new"].item() == pytest.approx(answer, rel=1e-5)
    with pytest.raises(ValueError, match="'new' is not a name or weight"):
        Loss("new", "l1")


def test_half_precision_outputs_are_scored_in_float32_even_under_autocast():
    logits, depth = 4 * noise(2, 1, 32, 32) - 2, noise(2, 1, 32, 32, seed=1)
    batch = {"mask": depth.round(), "depth": depth}
    loss = Loss("+".join(MASK), "+".join([*DEPTH, "new"]))
    out = {"mask_logits": logits.bfloat16(), "depth_logits": logits.bfloat16()}
    expected, _ = loss({k: v.float() for k, v in out.items()}, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = loss(out, batch)
    assert total.dtype == torch.float32 and torch.equal(total, expected)


def test_the_total_is_the_weighted_sum_of_its_parts():
    out = {"mask_logits": noise(2, 1, 8, 8), "depth_logits": noise(2, 1, 8, 8, seed=1)}
    batch = {"mask": noise(2, 1, 8, 8, seed=2).round(), "depth": noise(2, 1, 8, 8, seed=3)}
    out["mask_logits"].requires_grad_()
    total, parts = Loss(" 2*bce + dice", "l1+0.5 * gradient")(out, batch)
    assert list(parts) == ["mask/bce", "mask/dice", "depth/l1", "depth/gradient"]
    bce, dice, l1, gradient = parts.values()
    assert total.item() == pytest.approx((2 * bce + dice + l1 + 0.5 * gradient).item())
    assert total.requires_grad and not any(part.requires_grad for part in parts.values())
    assert torch.equal(l1, DEPTH["l1"](out["depth_logits"].sigmoid(), batch["depth"]))


def test_one_task_alone_needs_nothing_of_the_other():
    maps = noise(2, 1, 8, 8)
    _, parts = Loss(depth="")({"mask_logits": maps}, {"mask": maps})
    assert list(parts) == ["mask/bce", "mask/dice"]
    _, parts = Loss(mask="")({"depth_logits": maps}, {"depth": maps})
    assert list(parts) == ["depth/l1", "depth/gradient"]


@pytest.mark.parametrize(
    "terms", ["bse", "bce+", "bce+bce", "-1*bce", "x*bce", "bce*2", "2bce", "l1"]
)
def test_terms_that_cannot_be_meant_are_refused_with_the_known_names(terms):
    with pytest.raises(ValueError, match="mask loss .* of bce, dice, edge"):
        Loss(mask=terms)


def test_training_nothing_is_refused():
    with pytest.raises(ValueError, match="train nothing"):
        Loss("", " ")


@pytest.mark.parametrize("shape", [(2, 8, 8), (2, 1, 8, 1), (0, 1, 8, 8)])
@pytest.mark.parametrize("name", TERMS)
def test_shapes_that_would_broadcast_are_refused(name, shape):
    task, term = name.split("/")
    loss = Loss(**{"mask": "", "depth": "", task: term})
    pred = torch.zeros(shape if not shape[0] else (2, 1, 8, 8))
    out = {"mask_logits": pred, "depth_logits": pred}
    target = torch.zeros(shape)
    with pytest.raises(ValueError, match=r"got a prediction \(.*\) and a target \(.*\); needed"):
        loss(out, {"mask": target, "depth": target})


def test_the_first_stage_is_scored_at_its_own_size_for_half_as_much():
    coarse, fine = noise(2, 1, 8, 8), noise(2, 1, 16, 16, seed=1)
    mask = noise(2, 1, 16, 16, seed=2).round()
    loss = Loss("bce", "")  # and no depth: neither stage needs any
    total, parts = loss({"mask_logits": fine, "coarse": {"mask_logits": coarse}}, {"mask": mask})
    half = loss({"mask_logits": coarse}, {"mask": torch.nn.functional.avg_pool2d(mask, 2)})[0]
    assert total.item() == pytest.approx((parts["mask/bce"] + 0.5 * half).item())


def test_uncertainty_is_the_least_over_the_weights_that_kendall_learns():
    logits = {"mask_logits": noise(2, 1, 8, 8), "depth_logits": noise(2, 1, 8, 8, seed=1)}
    leaves = [x.requires_grad_() for x in logits.values()]
    half = {name: x[..., ::2, ::2] for name, x in logits.items()}
    batch = {"mask": noise(2, 1, 8, 8, seed=2).round(), "depth": noise(2, 1, 8, 8, seed=3)}
    tasks = Loss("bce+2*dice", ""), Loss("", "0.3*l1")
    each = torch.stack([task(logits | {"coarse": half}, batch)[0] for task in tasks])
    s = torch.linspace(-5, 5, 100_001).double()  # (n,)
    learned = each.detach()[:, None] * (-s).exp() + s  # (2, n)
    best = s[learned.argmin(1)].float()
    loss = Loss("bce+2*dice", "0.3*l1", "uncertainty")
    total, parts = loss(logits | {"coarse": half}, batch)
    assert total.item() == pytest.approx(learned.amin(1).sum().item() - 2, abs=1e-6)
    ours = torch.autograd.grad(total, leaves, retain_graph=True)
    theirs = torch.autograd.grad((each * (-best).exp()).sum(), leaves)
    assert all(torch.allclose(a, b, rtol=1e-3) for a, b in zip(ours, theirs, strict=True))
    _, plain = Loss("bce+2*dice", "0.3*l1")(logits | {"coarse": half}, batch)
    assert list(parts) == list(plain) and all(torch.equal(parts[k], plain[k]) for k in plain)


def test_uncertainty_of_a_task_alone_or_perfect_is_finite():
    mask = noise(2, 1, 8, 8).round()
    leaf = logit(mask).requires_grad_()
    total, parts = Loss("dice", "", "uncertainty")({"mask_logits": leaf}, {"mask": mask})
    total.backward()
    assert list(parts) == ["mask/dice"] and total.isfinite() and leaf.grad.isfinite().all()


def test_a_weighting_not_known_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match='\'best\': choose "" or "uncertainty"'):
        Loss(weighting="best")
