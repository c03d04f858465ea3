"""Pictures of data, runs and predictions.

Every figure has a title, units and the same fixed ranges: masks 0..1, depth 0..10 m in viridis
(near dark, far bright), depth errors -2..2 m in blue and red. Each function draws and returns the
figure, closed, so that a notebook shows it once.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor, nn

from evalib import camera, timing
from evalib.camera import METRES

GREY = {"cmap": "gray", "vmin": 0, "vmax": 1}
DEPTH = {"cmap": "viridis", "vmin": 0, "vmax": METRES}
DEPTH_ERROR = {"cmap": "RdBu_r", "vmin": -2, "vmax": 2}
FOUND, INVENTED, MISSED = (0.2, 0.75, 0.3), (0.9, 0.2, 0.2), (0.25, 0.45, 1.0)


def samples(batch: dict[str, Tensor], n: int = 6, title: str = "") -> Figure:
    """bg, fg_bg, mask, and depth in grey and in colour of the first `n` samples, one a column."""
    rows = {name: batch[name][:n] for name in ("bg", "fg_bg", "mask")}
    if "depth" in batch:
        rows |= dict.fromkeys(("depth, grey", "depth, m"), batch["depth"][:n])
    return grid(rows, title)


def predictions(
    batch: dict[str, Tensor],
    mask_pred: Tensor,
    depth_pred: Tensor,
    captions: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """Inputs, truth, prediction and error of each sample, one a column."""
    rows = {
        "bg": batch["bg"],
        "fg_bg": batch["fg_bg"],
        "mask predicted": mask_pred,
        "mask error": mask_error(mask_pred, batch["mask"]),
    } | _depth_rows(batch, depth_pred)
    return grid(rows, title, captions)


def masks(batch: dict[str, Tensor], preds: dict[str, Tensor], title: str) -> Figure:
    """fg_bg, the true mask and each named prediction (B, 1, H, W) below one another."""
    return grid({"fg_bg": batch["fg_bg"], "mask": batch["mask"], **preds}, title)


def depths(batch: dict[str, Tensor], preds: dict[str, Tensor], title: str) -> Figure:
    """fg_bg, the true depth and each named prediction (B, 1, H, W) below one another, in metres."""
    rows = {"fg_bg": batch["fg_bg"]} | _depth_rows(batch)
    return grid(rows | {f"{name}, m": pred for name, pred in preds.items()}, title)


def row(batch: dict[str, Tensor], mask_pred: Tensor, depth_pred: Tensor, title: str = "") -> Figure:
    """The first sample of a batch, large: inputs, mask error, true and predicted depth."""
    columns = {
        "bg": batch["bg"],
        "fg_bg": batch["fg_bg"],
        "mask error": mask_error(mask_pred, batch["mask"]),
    } | _depth_rows(batch, depth_pred)
    columns.pop("depth error, m", None)
    return grid({name: images[:1] for name, images in columns.items()}, title, large=True)


def pair(model: nn.Module, bg: np.ndarray, img: np.ndarray, *, align: bool = False) -> Figure:
    """Two photographs (H, W, 3) uint8, the predicted mask and the predicted depth, in a row.

    align: the camera may have moved between them, as one in a hand does.
    """
    mask_pred, depth_pred = camera.predict_pair(model, bg, img, align=align)  # (H, W) each
    columns = {
        "empty scene": torch.from_numpy(bg).permute(2, 0, 1) / 255,
        "with something new": torch.from_numpy(img).permute(2, 0, 1) / 255,
        "new, probability": torch.from_numpy(mask_pred)[None],
        "depth, m": torch.from_numpy(depth_pred)[None],
    }
    return grid({name: image[None] for name, image in columns.items()}, large=True)


def grid(
    rows: dict[str, Tensor], title: str = "", captions: Sequence[str] = (), *, large: bool = False
) -> Figure:
    """A row of pictures, with captions above, for each name; `large`: one each, side by side.

    Images are (B, 3, H, W), maps (B, 1, H, W), in 0..1. Maps whose names end in "error, m" or
    ", m" are drawn as errors or depth in metres beside a colour bar, others in grey.
    """
    n = len(next(iter(rows.values())))
    down, right = (1, len(rows)) if large else (len(rows), n)
    inches = 2.9 if large else 1.3
    shape = {"figsize": (inches * right + 1.6, inches * down + 0.4), "layout": "constrained"}
    figure, panels = plt.subplots(down, right, squeeze=False, **shape)
    figure.get_layout_engine().set(w_pad=0.04, h_pad=0.04, wspace=0, hspace=0)
    for line, (name, images) in zip(panels.T if large else panels, rows.items(), strict=True):
        pictures = images.detach().float().cpu().permute(0, 2, 3, 1).numpy()  # (B, H, W, C)
        style = GREY
        if name.endswith(", m"):
            pictures = pictures * METRES
            style = DEPTH_ERROR if name.endswith("error, m") else DEPTH
        for axes, picture in zip(line, pictures, strict=True):
            drawn = axes.imshow(picture, **style)  # which has no effect on colours
            axes.set(xticks=[], yticks=[])
        if large:
            line[0].set_title(name, fontsize=10)
        else:
            line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        if style is not GREY:
            figure.colorbar(drawn, cax=line[-1].inset_axes([1.06, 0, 0.07, 1]))
    for axes, caption in zip(panels[0], captions, strict=False):
        axes.set_title(caption, fontsize=8)
    figure.suptitle(title, fontsize=11)
    plt.close(figure)
    return figure


def _depth_rows(batch: dict[str, Tensor], depth_pred: Tensor | None = None) -> dict[str, Tensor]:
    """What is known of depth: true, predicted, and the difference."""
    rows = {"depth true, m": batch["depth"]} if "depth" in batch else {}
    if depth_pred is not None:
        rows["depth predicted, m"] = depth_pred
        if "depth" in batch:
            rows["depth error, m"] = depth_pred - batch["depth"]
    return rows


def mask_error(mask_pred: Tensor, mask: Tensor) -> Tensor:
    """(B, 1, H, W) twice -> (B, 3, H, W): green where found, red where invented, blue if missed."""
    pred, true = mask_pred > 0.5, mask > 0.5
    colours = torch.full_like(mask, 0.1).repeat(1, 3, 1, 1)
    for where, colour in ((pred & true, FOUND), (pred & ~true, INVENTED), (~pred & true, MISSED)):
        colours = torch.where(where, colours.new_tensor(colour).view(3, 1, 1), colours)
    return colours


def histograms(values: dict[str, np.ndarray], x_label: str, title: str, **style) -> Figure:
    """One histogram of each named array over the same x, as shares of its own total."""
    figure, axes = plt.subplots(figsize=(6.5, 3))
    for name, array in values.items():
        array = np.asarray(array, dtype=float).ravel()
        weights = np.full(len(array), 100 / max(1, len(array)))
        axes.hist(array, bins=40, weights=weights, histtype="step", lw=1.6, label=name, **style)
    axes.set(xlabel=x_label, ylabel="share, %", title=title)
    axes.legend(frameon=False)
    return _done(figure)


def heat(mean: np.ndarray, title: str, label: str, top: float | None = None) -> Figure:
    """The mean of maps over samples, (H, W), from 0 to `top`, or to the largest."""
    figure, axes = plt.subplots(figsize=(4.2, 3.4))
    image = axes.imshow(mean, cmap="magma", vmin=0, vmax=top)
    axes.set(title=title, xlabel="x, pixels", ylabel="y, pixels")
    figure.colorbar(image, label=label)
    return _done(figure)


def curves(
    history: dict[str, np.ndarray],
    groups: dict[str, Sequence[str]],
    title: str,
    begins: Sequence[int] = (),
) -> Figure:
    """Columns of a history over the step, a panel per group; `begins` are dotted lines."""
    figure, panels = plt.subplots(1, len(groups), figsize=(4.2 * len(groups), 3), squeeze=False)
    for axes, (y_label, names) in zip(panels[0], groups.items(), strict=True):
        for name in names:
            there = np.isfinite(history[name])
            style = {"marker": "." if there.sum() < 8 else None}  # one point makes no line
            axes.plot(history["step"][there], history[name][there], label=name, lw=1.4, **style)
        for step in begins:
            axes.axvline(step, color="gray", ls=":", lw=1)
        axes.set(xlabel="step", ylabel=y_label)
        axes.legend(frameon=False, fontsize=8)
    figure.suptitle(title)
    return _done(figure)


def training_curves(history: list[dict], title: str) -> Figure:
    """Loss, mask IoU and depth RMSE of the rows logged so far; what no row has gets no panel."""
    names = sorted({name for row in history for name in row})
    panels = {
        "loss": ["loss"],
        "mask IoU": [n for n in names if n.endswith("_iou")],
        "depth RMSE, m": [n for n in names if n.endswith("_depth_rmse") and "_fg_" not in n],
    }
    panels = {label: group for label, group in panels.items() if group}
    drawn = [name for group in panels.values() for name in group]
    columns = {
        n: np.array([row.get(n, np.nan) for row in history], float) for n in ["step", *drawn]
    }
    columns |= {n: columns[n] * METRES for n in drawn if n.endswith("_depth_rmse")}
    return curves(columns, panels, title)


def range_test(results: dict[str, tuple[np.ndarray, np.ndarray]], chosen: float) -> Figure:
    """Smoothed loss over the learning rate for each named test, and the rate we take."""
    figure, axes = plt.subplots(figsize=(6, 3.2))
    for name, (rates, losses) in results.items():
        axes.semilogx(rates, losses, label=name)
    axes.axvline(chosen, color="gray", ls="--", lw=1, label=f"taken: {chosen:g}")
    lowest = min(float(np.min(losses)) for _, losses in results.values())
    if axes.get_ylim()[1] > 4 * lowest > 0:  # a last step may be millions
        axes.set_ylim(0, 4 * lowest)
    axes.set(xlabel="learning rate", ylabel="loss, smoothed", title="Learning rate range test")
    axes.legend(frameon=False)
    return _done(figure)


def ranking(scores: dict[str, Sequence[float]], x_label: str, title: str) -> Figure:
    """Mean of each entry, a dot per seed, best on top; less than the spread of dots is noise."""
    names = sorted(scores, key=lambda name: np.mean(scores[name]))
    figure, axes = plt.subplots(figsize=(6.5, 0.8 + 0.34 * len(names)))
    axes.barh(names, [np.mean(scores[name]) for name in names], color="#bcd0e5")
    for row, name in enumerate(names):
        axes.plot(scores[name], [row] * len(scores[name]), "o", color="#1f4e79", ms=4)
    axes.set(xlabel=x_label, title=title)
    return _done(figure)


def scatter(
    points: dict[str, tuple[float, float]], x_label: str, title: str, line: tuple[str, float]
) -> Figure:
    """Mask IoU of each named (x, IoU), x as powers of ten, and a level that needs no training."""
    figure, axes = plt.subplots(figsize=(7, 4))
    axes.axhline(line[1], color="gray", ls="--", lw=1)
    at_left = axes.get_yaxis_transform()
    axes.text(0.01, line[1], line[0], fontsize=8, va="bottom", transform=at_left)
    taken: list[float] = []  # heights of labels: none may lie on another
    for name, (x, y) in sorted(points.items(), key=lambda item: item[1][1]):
        axes.semilogx(x, y, "o", color="#c0392b" if name == "small" else "#1f4e79", ms=5)
        height = max([y, *(t + 0.05 for t in taken if abs(t - y) < 0.05)])
        taken.append(height)
        beside = {"xytext": (6, 0), "textcoords": "offset points"}
        axes.annotate(name, (x, height), **beside, fontsize=8, va="center")
    axes.set(xlabel=x_label, ylabel="mask IoU", title=title, ylim=(-0.03, 1))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.25)
    return _done(figure)


def time_bar(history: list[dict], title: str) -> Figure:
    """Where the time of a run went, by its logged rows: the share of each block, largest on top,
    and its seconds."""
    seconds = timing.blocks(history)
    names = sorted(seconds, key=seconds.get)
    total = sum(seconds.values())
    shares = [100 * seconds[name] / total for name in names]
    figure, axes = plt.subplots(figsize=(6.5, 0.8 + 0.3 * len(names)))
    bars = axes.barh(names, shares, color="#bcd0e5")
    labels = [f" {s:.1f} %, {seconds[n]:.1f} s" for n, s in zip(names, shares, strict=True)]
    axes.bar_label(bars, labels)
    axes.set(xlabel="share of the time, %", title=title, xlim=(0, 125), xticks=range(0, 101, 20))
    return _done(figure)


def _done(figure: Figure) -> Figure:
    figure.tight_layout()
    plt.close(figure)
    return figure
