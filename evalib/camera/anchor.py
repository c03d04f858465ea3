"""Depth where the empty scene's depth is known: from a depth camera, or worked out once.

A fixed camera's background stays where it is, so one measurement serves for ever: where nothing is
new, it is the answer. What may be new gets the depth of the network, best of one that was told the
measured one; but nothing is behind what it hides.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from evalib import unet

NEAREST = 1e-3  # z / 10 m: nothing is nearer
SURE = 0.05  # that nothing is new: below this probability; chosen on the subset `seen`


def anchored(mask_pred: np.ndarray, depth_pred: np.ndarray, bg_depth: np.ndarray) -> np.ndarray:
    """(..., H, W) depth, z / 10 m, which is that of `bg_depth` where surely nothing is new, and
    elsewhere the network's, but nowhere behind.

    Input:
        mask_pred:  (..., H, W) in 0..1, the probability of new.
        depth_pred: (..., H, W), the network's, best of one that was told `bg_depth`.
        bg_depth:   (..., H, W) of the empty scene, z / 10 m; 0, nan or inf where it is not known:
                    there the network's depth stays.
    Raises: ValueError: different shapes.
    """
    if not mask_pred.shape == depth_pred.shape == bg_depth.shape:
        shapes = f"mask {mask_pred.shape}, depth {depth_pred.shape}, empty scene {bg_depth.shape}"
        raise ValueError(f"{shapes}: needed one size; resize the empty scene's depth")
    known = np.isfinite(bg_depth) & (bg_depth > 0)
    behind = np.where(known, bg_depth, np.inf)
    nearer = np.minimum(np.maximum(depth_pred, NEAREST), behind)
    return np.where(known & (mask_pred < SURE), behind, nearer)


def predictor(model: nn.Module) -> Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]]:
    """`model` for `metrics.evaluate`, told the empty scene's depth as `metrics.baseline` is."""

    def predict(batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        told = batch["bg_depth"]
        mask_pred, depth_pred = unet.predict(model, batch["bg"], batch["fg_bg"], bg_depth=told)
        depth = anchored(*(x.cpu().numpy() for x in (mask_pred, depth_pred, told)))
        return mask_pred, torch.from_numpy(depth).to(depth_pred)

    return predict
