import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchmetrics.functional import (
    mean_absolute_error,
    mean_absolute_percentage_error,
    mean_squared_error,
    relative_squared_error,
)
from torchmetrics.functional.classification import binary_f1_score, binary_jaccard_index
from torchmetrics.functional.image import structural_similarity_index_measure

from evalib import metrics


def image(*rows: list[float]) -> torch.Tensor:
    """(1, 1, H, W)."""
    return torch.tensor([[rows]], dtype=torch.float32)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def blobs(n: int, size: int, seed: int) -> torch.Tensor:
    """(n, 1, size, size) smooth random maps around .5, so that masks have outlines."""
    coarse = noise(n, 1, size // 8 + 2, size // 8 + 2, seed=seed)
    return torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)


NAN = math.nan
NOTHING, ALL = image(*[[0] * 4] * 4), image(*[[1] * 4] * 4)
HALF = image(*[[1, 1, 0, 0]] * 4)
PIXEL = image([1, 0, 0, 0], *[[0] * 4] * 3)
FAR_PIXEL = image(*[[0] * 4] * 3, [0, 0, 0, 1])
HAND_WORKED_MASK = [  # mask_pred, mask, iou, dice, boundary_f
    (NOTHING, NOTHING, 1, 1, 1),
    (ALL, NOTHING, 0, 0, 0),
    (NOTHING, ALL, 0, 0, 0),
    (ALL, ALL, 1, 1, 1),
    (PIXEL, PIXEL, 1, 1, 1),
    (PIXEL, FAR_PIXEL, 0, 0, 0),
    (PIXEL, NOTHING, 0, 0, 0),
    (PIXEL, HALF, 1 / 8, 2 / 9, 2 * 1 * (4 / 8) / (1 + 4 / 8)),  # the pixel reaches 4 of 8
    (HALF, ALL, 1 / 2, 2 / 3, 2 * 1 * (8 / 12) / (1 + 8 / 12)),  # 3 columns reach 8 of 12
    (HALF * 0.5, HALF, 0, 0, 0),  # .5 is not above the threshold
    (NOTHING, HALF * 0.5, 1, 1, 1),  # nor is it foreground
]


@pytest.mark.parametrize(("pred", "mask", "iou", "dice", "boundary_f"), HAND_WORKED_MASK)
def test_mask_metrics_give_the_answers_worked_by_hand(pred, mask, iou, dice, boundary_f):
    found = metrics.mask_metrics(pred, mask)
    expected = {"iou": iou, "dice": dice, "boundary_f": boundary_f}
    expected |= {
        "area_pred": (pred > 0.5).sum().item() / 16,
        "area": (mask > 0.5).sum().item() / 16,
    }
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected)


def test_a_false_positive_on_an_empty_mask_is_not_averaged_away():
    found = metrics.mask_metrics(torch.cat((PIXEL, HALF)), torch.cat((NOTHING, HALF)))
    assert found["iou"].tolist() == [0, 1]


def test_iou_and_dice_are_those_of_torchmetrics():
    pred, mask = blobs(6, 24, seed=0), (blobs(6, 24, seed=1) > 0.5).float()
    found = metrics.mask_metrics(pred, mask, threshold=0.4)
    for i in range(6):
        theirs = binary_jaccard_index(pred[i], mask[i].int(), threshold=0.4)
        assert found["iou"][i].item() == pytest.approx(theirs.item(), abs=1e-6)
        theirs = binary_f1_score(pred[i], mask[i].int(), threshold=0.4)
        assert found["dice"][i].item() == pytest.approx(theirs.item(), abs=1e-6)


def slow_boundary_f(pred: np.ndarray, true: np.ndarray) -> float:
    """One pixel at a time."""
    height, width = pred.shape
    reach = math.ceil(0.008 * math.hypot(height, width))

    def outline(mask):
        mask = np.pad(mask, 1)
        box = [(y, x) for y in range(height) for x in range(width) if mask[y + 1, x + 1]]
        return [(y, x) for y, x in box if not mask[y : y + 3, x : x + 3].all()]

    def share(some, others):
        def near(y, x):
            return any(max(abs(y - v), abs(x - u)) <= reach for v, u in others)

        return sum(near(y, x) for y, x in some) / max(len(some), 1)

    a, b = outline(pred), outline(true)
    p, r = share(a, b), share(b, a)
    if not a and not b:
        return 1.0
    return 2 * p * r / (p + r) if p + r else 0.0


@pytest.mark.parametrize(("height", "width"), [(24, 24), (17, 40), (8, 140)])  # reach 1, 1, 2
def test_boundary_f_is_that_of_a_loop_over_pixels(height, width):
    size = max(height, width)
    pred = blobs(3, size, seed=0)[..., :height, :width] > 0.5
    true = blobs(3, size, seed=1)[..., :height, :width] > 0.5
    found = metrics.boundary_f(pred, true)
    for i in range(3):
        slow = slow_boundary_f(pred[i, 0].numpy(), true[i, 0].numpy())
        assert 0 < slow < 1 and found[i].item() == pytest.approx(slow, abs=1e-6)


def test_boundary_f_forgives_a_pixel_and_not_two():
    square = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    square[..., 20:40, 20:40] = True
    assert metrics.boundary_f(square.roll(1, -1), square).item() == 1
    assert metrics.boundary_f(square.roll(2, -1), square).item() < 0.8


HAND_WORKED_DEPTH = [  # depth_pred, depth, {name: answer}
    (
        image([0.3, 0.4]),
        image([0.2, 0.8]),
        {
            "mse": (0.01 + 0.16) / 2,
            "rmse": math.sqrt(0.085),
            "absrel": (0.1 / 0.2 + 0.4 / 0.8) / 2,
            "log10": (math.log10(1.5) + math.log10(2)) / 2,
            "mae": 0.25,
            "delta1": 0,
            "delta2": 0.5,  # 1.5 < 1.5625
            "delta3": 0.5,  # 2 > 1.953
            "rmse_over_std": math.sqrt(0.085) / 0.3,
        },
    ),
    (  # zero depth, predicted zero: right, and nothing is infinite
        image([0, 0]),
        image([0, 0]),
        {
            "mse": 0, "rmse": 0, "absrel": 0, "log10": 0, "mae": 0, "delta1": 1, "delta2": 1,
            "delta3": 1, "ssim": 1, "rmse_over_std": NAN,
        },
    ),
    (  # zero depth, predicted one
        image([1, 1]),
        image([0, 0]),
        {"mse": 1, "absrel": 255, "log10": math.log10(255), "delta3": 0, "rmse_over_std": NAN},
    ),
    (image([0, 0.5]), image([1, 0.5]), {"absrel": 0.5, "log10": math.log10(255) / 2}),
    (image([0.25, 0.5]), image([0.2, 0.5]), {"delta1": 0.5}),  # 1.25 is not < 1.25
    (image([0.79]), image([0.5]), {"delta2": 0, "delta3": 1}),  # 1.5625 < 1.58
    (image([0.4, 0.4]), image([0.2, 0.6]), {"rmse_over_std": 1}),  # the mean of the truth
]  # fmt: skip


@pytest.mark.parametrize(("pred", "depth", "expected"), HAND_WORKED_DEPTH)
def test_depth_metrics_give_the_answers_worked_by_hand(pred, depth, expected):
    found = {name: value.item() for name, value in metrics.depth_metrics(pred, depth).items()}
    found = {name: found[name] for name in expected}
    assert found == pytest.approx(expected, nan_ok=True, rel=1e-6, abs=1e-6)


def test_depth_metrics_are_those_of_torchmetrics():
    depth = 0.1 + 0.8 * noise(4, 1, 24, 20)
    pred = 0.1 + 0.8 * noise(4, 1, 24, 20, seed=1)
    found = metrics.depth_metrics(pred, depth)
    theirs = {
        "mse": mean_squared_error,
        "rmse": lambda p, t: mean_squared_error(p, t, squared=False),
        "mae": mean_absolute_error,
        "absrel": mean_absolute_percentage_error,
        "rmse_over_std": lambda p, t: relative_squared_error(p, t, squared=False),
        "ssim": lambda p, t: structural_similarity_index_measure(
            p.view(1, 1, 24, 20), t.view(1, 1, 24, 20), data_range=1.0
        ),
    }
    for name, function in theirs.items():
        each = torch.stack([function(pred[i].flatten(), depth[i].flatten()) for i in range(4)])
        assert torch.allclose(found[name], each, atol=1e-5), name


def test_foreground_scores_see_only_the_foreground():
    depth, pred = noise(2, 1, 16, 16), noise(2, 1, 16, 16, seed=1)
    where = noise(2, 1, 16, 16, seed=2) > 0.7
    found = metrics.depth_metrics(pred, depth, where=where)
    for i in range(2):
        inside = pred[i][where[i]].view(1, 1, 1, -1), depth[i][where[i]].view(1, 1, 1, -1)
        for name, value in metrics.depth_metrics(*inside).items():
            if name != "ssim":  # its window is about neighbours
                assert found[name][i].item() == pytest.approx(value.item(), rel=1e-4), name
    window = metrics.ssim_map(pred, depth)[1][where[1]].mean()
    assert found["ssim"][1].item() == pytest.approx(window.item(), abs=1e-6)


def test_without_foreground_every_depth_score_is_nan_and_one_pixel_is_enough():
    depth = noise(3, 1, 12, 12)
    where = torch.zeros(3, 1, 12, 12, dtype=torch.bool)
    where[1, 0, 0, 0] = where[2] = True
    found = metrics.depth_metrics(depth.roll(1, 0), depth, where=where)
    known = {name: (~value.isnan()).tolist() for name, value in found.items()}
    assert known.pop("rmse_over_std") == [False, False, True]  # one pixel has no spread
    assert all(value == [False, True, True] for value in known.values())


@pytest.mark.parametrize(
    ("pred", "found"), [(4.0, "0..4"), (-0.1, "-0.1..0"), (NAN, "nan..nan"), (255, "0..255")]
)
def test_logits_bytes_and_nan_are_refused(pred, found):
    maps = torch.zeros(2, 1, 4, 4)
    wrong = maps.clone()
    wrong[1, 0, 2, 2] = pred
    with pytest.raises(ValueError, match=f"mask_pred holds {found}; needed: 0..1"):
        metrics.mask_metrics(wrong, maps)
    with pytest.raises(ValueError, match=f"depth holds {found}; needed: 0..1"):
        metrics.depth_metrics(maps, wrong)


@pytest.mark.parametrize("shape", [(2, 4, 4), (1, 1, 4, 4), (2, 3, 4, 4), (0, 1, 4, 4)])
def test_shapes_that_would_broadcast_are_refused(shape):
    with pytest.raises(ValueError, match=r"mask_pred \(.*\) and mask \(2, 1, 4, 4\); needed"):
        metrics.mask_metrics(torch.zeros(shape), torch.zeros(2, 1, 4, 4))
    if shape[1] != 1:
        with pytest.raises(ValueError, match="needed: one shape"):
            metrics.mask_metrics(torch.zeros(shape), torch.zeros(shape))


def batch(rows: list[int], **maps: torch.Tensor) -> dict[str, torch.Tensor]:
    size = (len(rows), 1, 12, 12)
    shots = {"bg": torch.full((len(rows), 3, 12, 12), 0.5), "row": torch.tensor(rows)}
    truth = {"mask": torch.zeros(size), "depth": noise(*size), "bg_depth": noise(*size)}
    return {**shots, "fg_bg": shots["bg"].clone(), **truth, **maps}


def test_subtraction_marks_a_change_in_any_colour():
    shots = batch([0])
    shots["fg_bg"][0, 2, 3, 4] -= 31 / 255
    shots["fg_bg"][0, :, 5, 5] += 29 / 255
    assert metrics.subtraction(shots).nonzero().tolist() == [[0, 0, 3, 4]]


def test_the_baseline_is_right_where_nothing_was_put():
    empty = batch([0, 1])
    empty["bg_depth"] = empty["depth"]
    columns = metrics.evaluate(metrics.baseline, [empty])
    assert columns["iou"].tolist() == [1, 1] and columns["depth_rmse"].tolist() == [0, 0]


def test_columns_do_not_depend_on_how_images_are_batched():
    a, b = batch([7, 3]), batch([5])
    a["mask"][1, :, 2:5, 2:9] = 1
    joined = {name: torch.cat((a[name], b[name])) for name in a}
    parts = metrics.evaluate(metrics.baseline, [a, b])
    whole = metrics.evaluate(metrics.baseline, [joined])
    assert parts["row"].tolist() == [7, 3, 5]
    for name, values in parts.items():
        assert values.shape == (3,) and np.allclose(values, whole[name], equal_nan=True), name
    assert np.isnan(parts["fg_depth_rmse"]).tolist() == [True, False, True]
    assert (parts["area"] == 0).tolist() == [True, False, True]


def test_a_network_is_evaluated_without_building_its_graph():
    weight = torch.ones(1, requires_grad=True)
    columns = metrics.evaluate(lambda b: (b["mask"] * weight, b["depth"] * weight), [batch([0])])
    assert columns["depth_rmse"].tolist() == [0]


def test_evaluating_nothing_is_refused():
    with pytest.raises(ValueError, match="no batches"):
        metrics.evaluate(metrics.baseline, [])


def test_a_mean_tells_how_many_images_it_counts():
    columns = {"row": np.arange(3), "a": np.float32([1, NAN, 2]), "b": np.float32([NAN] * 3)}
    found = metrics.summary(columns)
    assert found == pytest.approx({"a": 1.5, "n_a": 2, "b": NAN, "n_b": 0}, nan_ok=True)


def test_small_masks_and_empty_pairs_are_reported_apart():
    columns = {"area": [0.0, 0.004, 0.005, 0.2], "area_pred": [0.01, 0.0, 0.1, 0.1]}
    columns |= {name: [0.0, 0.2, 0.6, 0.8] for name in ("iou", "dice", "boundary_f")}
    columns = {name: np.array(values) for name, values in columns.items()}
    found = metrics.summary(metrics.protocol(columns))
    assert found["iou"] == pytest.approx(0.7) and found["n_iou"] == 2
    assert found["iou_small"] == 0.2 and found["false_area"] == 0.01
    assert found["n_false_area"] == found["n_iou_small"] == 1


def test_a_table_by_subset_scores_every_row_once_beside_the_baseline():
    seen = []
    subsets = {"train": np.arange(0), "seen": np.arange(5), "unseen_bg": np.array([7])}

    def batches(rows, n, device):
        for start in range(0, len(rows), n):
            seen.extend(rows[start : start + n])
            yield batch(list(rows[start : start + n]))

    pack = SimpleNamespace(batches=batches, split=lambda: subsets)

    def perfect(shots):
        return shots["mask"], shots["depth"]

    table = metrics.by_subset({"perfect": perfect}, pack, batch_size=2)
    names = [(line["subset"], line["predictor"], line["n"]) for line in table]
    assert names == [
        ("seen", "perfect", 5), ("seen", "baseline", 5),
        ("unseen_bg", "perfect", 1), ("unseen_bg", "baseline", 1),
    ]  # fmt: skip
    assert seen == [0, 1, 2, 3, 4] * 2 + [7] * 2
    assert table[0]["depth_rmse"] == 0 and table[0]["n_fg_depth_rmse"] == 0
    assert "perfect" in metrics.format_table(table)


def test_a_table_is_aligned_and_shows_missing_values_as_dashes():
    rows = [{"subset": "seen", "n": 500, "iou": 0.91234}, {"subset": "unseen_bg", "iou": NAN}]
    lines = metrics.format_table(rows, ("subset", "n", "iou")).split("\n")
    assert lines == ["   subset    n    iou", "     seen  500  0.912", "unseen_bg    -      -"]
