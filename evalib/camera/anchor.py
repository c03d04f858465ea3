"""Depth where the empty scene's depth is known: from a depth camera, or worked out once.

A fixed camera's background stays where it is, so one measurement serves for ever: where nothing is
new, it is the answer. What is new gets the depth of the network, best of one that was told the
measured one, made to agree with it by three rules that need no training: nothing is behind what it
hides; a thing stands where the ground is that its feet hide, unless the lower edge of the picture
cuts it off; and it is flatter than the network sees it.
Constants chosen on the subset `seen` of the evaluation tier.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from evalib import unet

FOOT = 0.02  # a thing's foot: so large a share of its pixels hides nearer ground
TRUST = 0.7  # in the foot, against the network, of the logarithm of distance
SHAPE = 0.5  # of a thing's own, in logarithms of distance
SMALL = 6  # pixels: below, a foot is a matter of luck
MOST = 100  # things, the largest: a noisy mask has 100,000


def anchored(mask_pred: np.ndarray, depth_pred: np.ndarray, bg_depth: np.ndarray) -> np.ndarray:
    """(H, W) depth, z / 10 m, which is that of `bg_depth` where nothing is new.

    Input:
        mask_pred:  (H, W) in 0..1, the probability of new.
        depth_pred: (H, W) in 0..1, the network's, best of one that was told `bg_depth`.
        bg_depth:   (H, W) of the empty scene, z / 10 m; 0, nan or inf where it is not known: there
                    the network's depth stays, and that of a thing that hides nothing known.
    Raises: ValueError: different shapes.
    """
    import cv2  # here, because few commands need it

    if not mask_pred.shape == depth_pred.shape == bg_depth.shape:
        shapes = f"mask {mask_pred.shape}, depth {depth_pred.shape}, empty scene {bg_depth.shape}"
        raise ValueError(f"{shapes}: needed one size; resize the empty scene's depth")
    known = np.isfinite(bg_depth) & (bg_depth > 0)
    new = mask_pred > 0.5
    behind = np.where(known, bg_depth, np.inf)
    nearer = np.minimum(np.maximum(depth_pred, 1e-3), behind)
    depth = np.where(known & ~new, behind, nearer)
    _, things, boxes, _ = cv2.connectedComponentsWithStats(new.astype(np.uint8))
    by_area = np.argsort(-boxes[1:, cv2.CC_STAT_AREA], kind="stable") + 1  # 0: nothing new
    for thing in by_area[:MOST]:
        left, top, width, height, area = boxes[thing]
        if area < SMALL:
            break
        box = np.s_[top : top + height, left : left + width]
        here = things[box] == thing
        if not known[box][here].any():
            continue
        cut_off = top + height == len(new)
        depth[box][here] = _standing(nearer[box][here], behind[box][here], cut_off)
    return depth


def _standing(z: np.ndarray, hidden: np.ndarray, cut_off: bool) -> np.ndarray:
    """(N,) depth of one thing's pixels: `z` as the network sees it, `hidden` what it is before, inf
    where that is not known."""
    middle = np.median(z)
    foot = np.quantile(hidden, FOOT, method="lower")
    at = middle
    if np.isfinite(foot) and (foot < middle or not cut_off):  # a cut off thing's feet are nearer
        at = middle * (foot / middle) ** TRUST
    return np.minimum(at * (z / middle) ** SHAPE, hidden)


def predictor(model: nn.Module) -> Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]]:
    """`model` for `metrics.evaluate`, told the empty scene's depth as `metrics.baseline` is."""

    def predict(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        told = batch["bg_depth"]
        mask_pred, depth_pred = unet.predict(model, batch["bg"], batch["fg_bg"], bg_depth=told)
        maps = (x[:, 0].cpu().numpy() for x in (mask_pred, depth_pred, told))
        depth = np.stack([anchored(*three) for three in zip(*maps, strict=True)])
        return mask_pred, torch.from_numpy(depth).clamp(0, 1).to(depth_pred)[:, None]

    return predict
