"""Depth where the empty scene's depth is known."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from evalib import metrics
from evalib.camera.anchor import anchored, predictor

H, W = 40, 60
FLOOR = np.broadcast_to(np.linspace(0.8, 0.2, H)[:, None], (H, W))  # far above, near below


def scene(top=10, bottom=30, left=20, right=32):
    """A thing that stands upright where the floor hides its feet, and its mask."""
    mask, depth = np.zeros((H, W)), FLOOR.copy()
    mask[top:bottom, left:right] = 1
    depth[top:bottom, left:right] = FLOOR[bottom - 1, 0]
    return mask, depth


def test_where_nothing_is_new_the_known_depth_is_the_answer_and_nothing_new_is_behind_it():
    mask, depth = scene()
    found = anchored(mask, np.where(mask > 0, 0.95, 0.5), FLOOR)
    np.testing.assert_array_equal(found, FLOOR)
    np.testing.assert_allclose(anchored(mask, 0.1 * depth, FLOOR)[mask > 0], 0.1 * depth[mask > 0])


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


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"empty scene \(5, 60\): needed one size"):
        anchored(np.zeros((H, W)), np.ones((H, W)), FLOOR[:5])


def test_opencv_is_not_imported_before_a_video_or_a_moved_camera_asks_for_it():
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
    z = depth[mask > 0]
    assert scores["iou"].min() == 1
    assert scores["fg_depth_rmse"] == pytest.approx((z / 2).square().mean().sqrt().item())
    assert scores["depth_rmse"] == pytest.approx(
        (z / 2).mul(mask[0].sum() ** 0.5).mean().item() / (H * W) ** 0.5
    )
