"""Depth where the empty scene's depth is known."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from evalib import metrics
from evalib.camera import anchor
from evalib.camera.anchor import anchored, predictor

H, W = 40, 60
FLOOR = np.broadcast_to(np.linspace(0.8, 0.2, H)[:, None], (H, W))  # far above, near below


def scene(top=10, bottom=30, left=20, right=32):
    """A thing that stands upright where the floor hides its feet, and its mask."""
    mask, depth = np.zeros((H, W)), FLOOR.copy()
    mask[top:bottom, left:right] = 1
    depth[top:bottom, left:right] = FLOOR[bottom - 1, 0]
    return mask, depth


@pytest.mark.parametrize("wrong", [0.3, 1.0, 1.2])
def test_a_network_that_is_wrong_by_a_factor_gives_the_true_depth(wrong):
    mask, depth = scene()
    found = anchored(mask, depth * wrong, FLOOR)
    assert np.array_equal(found[mask == 0], FLOOR[mask == 0])
    np.testing.assert_allclose(found, depth, rtol=0.03)


def test_the_feet_tell_how_far_a_thing_is_even_if_the_network_has_no_idea():
    mask, depth = scene()
    wrong = np.where(mask > 0, 0.5 * depth, FLOOR)  # a thing half as far as it is
    found = anchored(mask, wrong, FLOOR)
    error = np.log(found[mask > 0] / depth[mask > 0])
    assert np.all(np.abs(error) < 0.35 * np.log(2))  # most of the factor of 2 is gone


def test_nothing_new_is_behind_what_it_hides():
    mask, depth = scene(bottom=H)  # cut off by the lower edge: no feet
    found = anchored(mask, np.where(mask > 0, 0.95, FLOOR), FLOOR)
    assert np.all(found <= FLOOR + 1e-9)


def test_a_thing_that_the_lower_edge_cuts_off_may_be_nearer_than_the_ground_above_it():
    mask, depth = scene(top=5, bottom=H)
    near = np.where(mask > 0, 0.1, FLOOR)
    np.testing.assert_allclose(anchored(mask, near, FLOOR)[mask > 0], 0.1, rtol=1e-3)


@pytest.mark.parametrize("hole", [0.0, np.nan, np.inf])
def test_where_the_empty_depth_is_not_known_the_networks_stays_times_the_factor(hole):
    mask, depth = scene()
    bg_depth = FLOOR.copy()
    bg_depth[:, 45:] = hole
    found = anchored(mask, depth / 2, bg_depth)
    np.testing.assert_allclose(found, depth, rtol=0.03)


def test_a_picture_without_known_ground_keeps_the_networks_depth():
    mask, depth = np.ones((H, W)), np.full((H, W), 0.15)
    np.testing.assert_allclose(anchored(mask, depth, FLOOR), 0.15, rtol=0.01)
    np.testing.assert_allclose(anchored(mask, depth, np.zeros((H, W))), 0.15, rtol=1e-6)


def test_a_dot_of_false_alarm_is_harmless():
    mask, depth = np.zeros((H, W)), FLOOR.copy()
    mask[3, 3] = 1
    np.testing.assert_allclose(anchored(mask, depth, FLOOR), FLOOR, rtol=1e-6)


def test_two_things_each_have_their_own_feet():
    near, depth = scene(5, 36, 5, 15)
    far, far_depth = scene(5, 18, 40, 50)
    depth = np.where(far > 0, far_depth, depth)
    found = anchored(near + far, depth * 0.5, FLOOR)
    np.testing.assert_allclose(found, depth, rtol=0.05)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"empty scene \(5, 60\): needed one size"):
        anchored(np.zeros((H, W)), np.ones((H, W)), FLOOR[:5])


def plain(mask_pred, depth_pred, bg_depth):
    """The same rule with whole pictures for each thing: slow, and plain to see."""
    known = np.isfinite(bg_depth) & (bg_depth > 0)
    new = mask_pred > 0.5
    ground = known & ~new
    behind = np.where(known, bg_depth, np.inf)
    depth_pred = np.maximum(depth_pred, 1e-3)
    factor = np.log(np.where(ground, bg_depth, depth_pred) / depth_pred)
    weight = ground * np.where(depth_pred < anchor.FAR, 1.0, 0.05) + 1e-9
    depth = depth_pred * np.exp(np.average(factor, weights=weight))
    n, things = cv2.connectedComponents(new.astype(np.uint8))
    for thing in range(1, n):
        here = things == thing
        blurred = cv2.blur(here.astype(np.float32), (max(new.shape) // 4 | 1,) * 2)
        local = np.average(factor, weights=weight * (blurred + anchor.AFAR))
        z = np.minimum(depth_pred[here] * np.exp(local), behind[here])
        foot = np.quantile(behind[here], anchor.FOOT, method="lower")
        standing = not here[-1].any() or foot < np.median(z)
        if standing and here.sum() >= anchor.SMALL and np.isfinite(foot):
            z = z * (foot / np.median(z)) ** anchor.TRUST
        depth[here] = np.minimum(z, behind[here])
    return np.where(ground, behind, depth)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(40, 60), (61, 90), (200, 130), (5, 120), (1, 30)])
def test_looking_only_around_a_thing_gives_what_whole_pictures_give(shape, dtype):
    rng = np.random.default_rng(0)
    for n in range(6):
        mask, depth, bg_depth = rng.random((3, *shape)).astype(dtype)
        for _ in range(2):  # some things of all shapes, at every edge
            mask = cv2.blur(mask, (9, 9))
        mask = np.where(mask > np.quantile(mask, 0.8), 0.9, 0.1)
        bg_depth[rng.random(shape) < 0.1 * n] = [0, np.nan, np.inf][n % 3]
        found, expected = (f(mask, depth, bg_depth) for f in (anchored, plain))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_noisy_mask_costs_no_more_than_its_largest_things(monkeypatch):
    """Of twelve megapixels it has 190,000 specks, and each costs more there."""
    mask = np.zeros((300, 400), np.float32)
    mask[::8, ::8] = 1  # 1,900 specks
    mask[100:200, 100:150] = 1
    depth = np.full(mask.shape, 0.5, np.float32)
    bg_depth = np.full(mask.shape, 0.6, np.float32)
    blurred, blur = [], cv2.blur
    monkeypatch.setattr(cv2, "blur", lambda x, size: blurred.append(x.size) or blur(x, size))
    found = anchored(mask, depth, bg_depth)
    assert len(blurred) == anchor.MOST
    assert sum(blurred) < mask.size * anchor.MOST / 4  # around each, not the whole picture
    np.testing.assert_allclose(found, 0.6, rtol=1e-3)


def test_specks_beyond_the_largest_things_take_the_factor_of_the_whole_picture(monkeypatch):
    mask, depth = scene()
    mask[3, 3::4] = 1
    full = anchored(mask, depth * 1.2, FLOOR)
    monkeypatch.setattr(anchor, "MOST", 1)
    found = anchored(mask, depth * 1.2, FLOOR)
    large = scene()[0] > 0
    assert np.array_equal(found[large], full[large])
    np.testing.assert_allclose(found, depth, rtol=0.03)
    assert np.all(found <= FLOOR + 1e-9)


def test_opencv_is_not_imported_before_a_video_or_a_known_depth_asks_for_it():
    code = "import sys, evalib.__main__; assert 'cv2' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_predictor_is_scored_like_any_other():
    mask, depth = (torch.from_numpy(np.stack([x] * 2))[:, None].float() for x in scene())
    bg_depth = torch.from_numpy(np.stack([FLOOR] * 2))[:, None].float()
    batch = {
        "bg": torch.zeros(2, 3, H, W),
        "fg_bg": torch.zeros(2, 3, H, W),
        "row": torch.arange(2),
    }
    batch |= {"mask": mask, "depth": depth, "bg_depth": bg_depth}

    class Half(torch.nn.Module):
        def forward(self, bg, fg_bg):
            return {"mask_logits": 20 * mask - 10, "depth_logits": (depth / 2).logit()}

    scores = metrics.evaluate(predictor(Half()), [batch])
    assert scores["iou"].min() == 1 and scores["depth_rmse"].max() < 0.02
