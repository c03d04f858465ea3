"""Depth where the empty scene's depth is known."""

import subprocess
import sys

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
def test_the_feet_tell_how_far_a_thing_is_even_if_the_network_has_no_idea(wrong):
    mask, depth = scene()
    found = anchored(mask, depth * wrong, FLOOR)
    assert np.array_equal(found[mask == 0], FLOOR[mask == 0])
    error = np.log(found[mask > 0] / depth[mask > 0])
    assert np.all(np.abs(error) <= 0.35 * abs(np.log(wrong)) + 0.01)  # most of it is gone


def test_half_of_what_a_things_edges_mix_in_is_taken_out():
    mask, depth = scene()
    seen = depth.copy()
    seen[10:30, 20] *= 1.44
    found = anchored(mask, seen, np.ones((H, W)))  # a wall far behind: no ground at its feet
    ratio = found[10:30, 20] / found[10:30, 25]
    np.testing.assert_allclose(ratio, 1.2)


def test_nothing_new_is_behind_what_it_hides():
    mask, depth = scene(bottom=H)  # cut off by the lower edge: no feet
    found = anchored(mask, np.where(mask > 0, 0.95, FLOOR), FLOOR)
    assert np.all(found <= FLOOR + 1e-9)


def test_a_thing_that_the_lower_edge_cuts_off_may_be_nearer_than_the_ground_above_it():
    mask, depth = scene(top=5, bottom=H)
    near = np.where(mask > 0, 0.1, FLOOR)
    np.testing.assert_allclose(anchored(mask, near, FLOOR)[mask > 0], 0.1, rtol=1e-3)


@pytest.mark.parametrize("hole", [0.0, np.nan, np.inf])
def test_where_the_empty_depth_is_not_known_the_networks_stays(hole):
    mask, depth = scene()
    bg_depth = FLOOR.copy()
    bg_depth[:, 45:] = hole
    found = anchored(mask, depth / 2, bg_depth)
    np.testing.assert_allclose(found[:, 45:], depth[:, 45:] / 2)
    assert np.all(np.isfinite(found) & (found > 0))


def test_a_thing_before_what_nobody_knows_keeps_the_networks_depth():
    mask, _ = scene()
    np.testing.assert_allclose(anchored(mask, FLOOR, np.zeros((H, W))), FLOOR, rtol=1e-6)


def test_a_dot_of_false_alarm_is_harmless():
    mask, depth = np.zeros((H, W)), FLOOR.copy()
    mask[3, 3] = 1
    depth[3, 3] *= 0.5  # feet would say otherwise
    np.testing.assert_allclose(anchored(mask, depth, FLOOR), depth, rtol=1e-6)


def test_two_things_each_have_their_own_feet():
    near, depth = scene(5, 36, 5, 15)
    far, far_depth = scene(5, 18, 40, 50)
    depth = np.where(far > 0, far_depth, depth)
    found = anchored(near + far, depth * 0.5, FLOOR)
    assert np.all(np.abs(np.log(found / depth)) <= 0.35 * np.log(2))


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"empty scene \(5, 60\): needed one size"):
        anchored(np.zeros((H, W)), np.ones((H, W)), FLOOR[:5])


def test_a_noisy_mask_costs_no_more_than_its_largest_things(monkeypatch):
    """Of twelve megapixels it has 190,000 specks."""
    mask = np.zeros((300, 400), np.float32)
    for row in range(3):
        mask[row::16] = mask[row::16] + (np.arange(400) % 16 < 3)  # specks of 9 pixels
    mask[100:200, 100:150] = 1
    depth = np.full(mask.shape, 0.5, np.float32)
    sizes, standing = [], anchor._standing
    monkeypatch.setattr(anchor, "_standing", lambda z, *a: sizes.append(z.size) or standing(z, *a))
    found = anchored(mask, depth, np.full(mask.shape, 0.6, np.float32))
    assert len(sizes) == anchor.MOST and sizes[0] == max(sizes) >= 5000
    assert np.all((found >= 0.5) & (found <= 0.6 + 1e-6))


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
    assert scores["iou"].min() == 1 and scores["depth_rmse"].max() < 0.03
