"""How good a mask and a depth map are: one value per image, from which tables take means.

A value that does not exist for an image is NaN there, says so below, and is left out of means,
which tell how many images they count. All else is defined: empty masks, depth 0. Maps are
(B, 1, H, W) in 0..1; anything else is a ValueError, so that logits, bytes of 0..255 or the NaN of
a training gone wrong are never scored. Columns are (B,), or (N,) over a whole evaluation.
"""

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evalib.losses import ssim_map

Batch = dict[str, Tensor]  # bg, fg_bg (B, 3, H, W); mask, depth, bg_depth (B, 1, H, W); row (B,)
Predictor = Callable[[Batch], tuple[Tensor, Tensor]]  # -> mask_pred, depth_pred (B, 1, H, W)

LARGE = 0.005  # of the picture: smaller masks are reported apart, where a pixel decides
FLOOR = 1 / 255  # stands for smaller depths in ratios and logarithms: one step of a byte, 4 cm
SHOWN = ("subset", "predictor", "n", "iou", "iou_small", "boundary_f", "false_area")
SHOWN += ("depth_rmse", "depth_rmse_over_std", "depth_delta1", "fg_depth_rmse")


def mask_metrics(mask_pred: Tensor, mask: Tensor, *, threshold: float = 0.5) -> dict[str, Tensor]:
    """Score the hard mask `mask_pred > threshold` against `mask > .5`, per image.

    iou, dice:  1 where both masks are empty, 0 where one is.
    boundary_f: see there; the same for empty masks.
    area_pred, area: share of the picture, 0..1. Area 0 marks images without foreground.
    """
    _check("mask", mask_pred, mask)
    pred, true = mask_pred > threshold, mask > 0.5  # (B, 1, H, W) bool
    n_both, n_pred, n_true = (m.flatten(1).sum(1).float() for m in (pred & true, pred, true))
    empty = n_pred + n_true == 0  # (B,)
    n_pixels = true[0].numel()
    return {
        "iou": torch.where(empty, 1, n_both / (n_pred + n_true - n_both)),
        "dice": torch.where(empty, 1, 2 * n_both / (n_pred + n_true)),
        "boundary_f": boundary_f(pred, true),
        "area_pred": n_pred / n_pixels,
        "area": n_true / n_pixels,
    }


def boundary_f(pred: Tensor, true: Tensor) -> Tensor:
    """F-score 2 P R / (P + R) of the outlines of two (B, 1, H, W) bool masks; 1 if both are empty.

    P is the share of pred's outline within reach of true's outline, R the reverse. An outline is
    the mask's pixels with a neighbour (of 8) off the mask; beyond the frame is off the mask. Reach
    is ceil(.008 diagonals) pixels in x and in y: 1 at 64 px, 3 at 224.
    Source: Perazzi et al. 2016 (DAVIS) and their code; their reach is a disk, ours a square.
    """
    reach = math.ceil(0.008 * math.hypot(*pred.shape[-2:]))
    off = [F.pad(1 - mask.float(), (1, 1, 1, 1), value=1) for mask in (pred, true)]
    a, b = ((1 - o[..., 1:-1, 1:-1]) * F.max_pool2d(o, 3, stride=1) for o in off)  # outlines
    near_a, near_b = (F.max_pool2d(o, 2 * reach + 1, stride=1, padding=reach) for o in (a, b))
    n_a, n_b, hits_a, hits_b = (x.sum((1, 2, 3)) for x in (a, b, a * near_b, b * near_a))  # (B,)
    p, r = hits_a / n_a.clamp_min(1), hits_b / n_b.clamp_min(1)
    return torch.where(n_a + n_b == 0, 1, 2 * p * r / (p + r).clamp_min(1e-12))


def depth_metrics(
    depth_pred: Tensor, depth: Tensor, *, where: Tensor | None = None
) -> dict[str, Tensor]:
    """Score depth over the pixels of `where`, (B, 1, H, W) bool; None means all of them.

    mse, rmse, mae: of the difference; 1 is 10 m.
    absrel, log10:  mean |pred - depth| / depth, mean |log10 pred - log10 depth|, and
    delta1..delta3: share of pixels with max(pred / depth, depth / pred) < 1.25, 1.25^2, 1.25^3;
                    in these five, whatever is divided by or taken the log of is at least FLOOR.
    ssim:           mean of `ssim_map`, whose window also sees 5 pixels around `where`.
    rmse_over_std:  rmse / standard deviation of the true depth; 1 is what predicting each image's
                    true mean would score. NaN where the true depth is constant.
    All are NaN for an image without a pixel in `where`. Source: Eigen et al. 2014, section 4.3.
    """
    _check("depth", depth_pred, depth)
    where = torch.ones_like(depth, dtype=torch.bool) if where is None else where
    pred, true = depth_pred.float(), depth.float()

    def mean(values: Tensor) -> Tensor:  # 0 / 0 is the NaN of an empty `where`
        return (values * where).sum((1, 2, 3)) / where.sum((1, 2, 3))

    mse = mean((pred - true).square())
    std = mean((true - mean(true).view(-1, 1, 1, 1)).square()).sqrt()
    p, t = pred.clamp_min(FLOOR), true.clamp_min(FLOOR)
    ratio = torch.maximum(p / t, t / p)
    return {
        "mse": mse,
        "rmse": mse.sqrt(),
        "absrel": mean((pred - true).abs() / t),
        "log10": mean((p.log10() - t.log10()).abs()),
        "mae": mean((pred - true).abs()),
        "delta1": mean(ratio < 1.25),
        "delta2": mean(ratio < 1.25**2),
        "delta3": mean(ratio < 1.25**3),
        "ssim": mean(ssim_map(pred, true)),
        "rmse_over_std": torch.where(std < 1e-6, torch.nan, mse.sqrt() / std),  # 1e-6: rounding
    }


def _check(name: str, pred: Tensor, true: Tensor) -> None:
    for role, x in ((f"{name}_pred", pred), (name, true)):
        if x.shape != true.shape or x.ndim != 4 or x.shape[1] != 1 or x.numel() == 0:
            shapes = f"{name}_pred {tuple(pred.shape)} and {name} {tuple(true.shape)}"
            raise ValueError(f"got {shapes}; needed: one shape (B, 1, H, W), B > 0")
        if not ((x >= 0) & (x <= 1)).all():  # NaN is neither
            found = f"{x.min().item():g}..{x.max().item():g}"
            raise ValueError(f"{role} holds {found}; needed: 0..1 (sigmoid of logits, bytes / 255)")


def subtraction(batch: Batch, threshold: float = 30 / 255) -> Tensor:
    """(B, 1, H, W) 0 or 1: where any colour differs by more than `threshold` between the shots."""
    change = (batch["fg_bg"] - batch["bg"]).abs().amax(1, keepdim=True)
    return (change > threshold).float()


def baseline(batch: Batch) -> tuple[Tensor, Tensor]:
    """What a network has to beat: `subtraction`, and the depth of the scene while it was empty,
    or, where nobody knows that, far off."""
    mask_pred = subtraction(batch)
    return mask_pred, batch.get("bg_depth", torch.ones_like(mask_pred))


@torch.no_grad()
def evaluate(predictor: Predictor, batches: Iterable[Batch]) -> dict[str, np.ndarray]:
    """Columns (N,) over all images: row, mask metrics, and, if batches have depth, depth_* of all
    pixels, fg_depth_* of mask.

    Input:
        predictor: batch -> (mask_pred, depth_pred).
        batches:   dicts of float maps 0..1 and `row` (B,), which says which image a line is.
    Raises ValueError: there is no batch, or what the metrics refuse.
    """
    # Each in one piece: many small tensors, kept, keep the large memory freed around them, too.
    rows = bytearray()
    lines = bytearray()
    for batch in batches:
        mask_pred, depth_pred = predictor(batch)
        columns = mask_metrics(mask_pred, batch["mask"])
        parts = {"depth_": None, "fg_depth_": batch["mask"] > 0.5} if "depth" in batch else {}
        for start, where in parts.items():
            scores = depth_metrics(depth_pred, batch["depth"], where=where)
            columns |= {start + name: values for name, values in scores.items()}
        rows += batch["row"].long().cpu().numpy().tobytes()
        line = torch.stack(list(columns.values()), dim=1).cpu().numpy()  # (B, columns)
        lines += line.tobytes()
    if not lines:
        raise ValueError("no batches to evaluate; the list of rows was empty")
    table = np.frombuffer(lines, line.dtype).reshape(-1, len(columns)).T.copy()  # (columns, N)
    row = np.frombuffer(rows, np.int64).copy()
    return {"row": row} | dict(zip(columns, table, strict=True))


def joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The columns of several `evaluate` as those of one; {} is a part without images."""
    parts = [columns for columns in parts if columns]
    return {name: np.concatenate([columns[name] for columns in parts]) for name in parts[0]}


def protocol(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The columns of `evaluate` as tables report them: iou, dice, boundary_f of masks of at least
    LARGE of the picture, iou_small of smaller ones, and false_area, what is claimed of a picture
    in which nothing is new; NaN for all others."""
    area = columns["area"]
    table = dict(columns)
    for name in ("iou", "dice", "boundary_f"):
        table[name] = np.where(area >= LARGE, columns[name], np.nan)
    table["iou_small"] = np.where((area > 0) & (area < LARGE), columns["iou"], np.nan)
    table["false_area"] = np.where(area == 0, columns["area_pred"], np.nan)
    return table


def summary(columns: dict[str, np.ndarray]) -> dict[str, float]:
    """Mean of every float column, and under n_<column> how many images it counts: NaN is left out,
    and the mean of nothing but NaN is NaN."""
    means = {}
    for name, values in columns.items():
        if values.dtype.kind == "f":
            known = values[~np.isnan(values)].astype(np.float64)
            means[name] = float(known.mean()) if known.size else math.nan
            means[f"n_{name}"] = known.size
    return means


def score(
    predictor: Predictor, pack, rows: np.ndarray, *, batch_size: int = 64, device: str = "cpu"
) -> dict[str, float]:
    """The `summary` of the `protocol` of what `evaluate` finds in these rows of a pack."""
    return summary(protocol(evaluate(predictor, pack.batches(rows, batch_size, device))))


def by_subset(
    predictors: dict[str, Predictor], pack, *, batch_size: int = 64, device: str = "cpu"
) -> list[dict]:
    """`score` of each predictor, `baseline` last, a row for each subset that the pack has."""
    table = []
    for subset, rows in pack.split().items():
        if not len(rows):
            continue
        for name, predictor in {**predictors, "baseline": baseline}.items():
            scores = score(predictor, pack, rows, batch_size=batch_size, device=device)
            table.append({"subset": subset, "predictor": name, "n": len(rows)} | scores)
    return table


def format_table(rows: list[dict], columns: Iterable[str] = SHOWN) -> str:
    """Plain text, a line per row: numbers with 3 decimals, "-" for what is missing or NaN."""
    lines = [list(columns)]
    for row in rows:
        cells = [row.get(name, math.nan) for name in lines[0]]
        cells = [f"{x:.3f}" if isinstance(x, float) else str(x) for x in cells]
        lines.append(["-" if cell == "nan" else cell for cell in cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, widths)) for line in lines)
