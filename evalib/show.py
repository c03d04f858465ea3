"""Pictures of data, runs and predictions.

Every figure has a title, units and the same fixed ranges: masks 0..1, depth 0..10 m in viridis
(near dark, far bright), depth errors -2..2 m in blue and red. Each function draws and returns the
figure, closed, so that a notebook shows it once.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor, nn

from evalib import camera
from evalib.camera import METRES

RGB, GREY = {}, {"cmap": "gray", "vmin": 0, "vmax": 1}
DEPTH = {"cmap": "viridis", "vmin": 0, "vmax": METRES}
DEPTH_ERROR = {"cmap": "RdBu_r", "vmin": -2, "vmax": 2}


def samples(batch: dict[str, Tensor], n: int = 6, title: str = "") -> Figure:
    """bg, fg_bg, mask, and depth in grey and in colour of the first `n` samples, one a column."""
    rows = [
        ("bg", _rgb(batch["bg"]), RGB),
        ("fg_bg", _rgb(batch["fg_bg"]), RGB),
        ("mask", _map(batch["mask"]), GREY),
        ("depth, grey", _map(batch["depth"]), GREY),
        ("depth, m", _map(batch["depth"]) * METRES, DEPTH),
    ]
    return _grid([(name, images[:n], style) for name, images, style in rows], title)


def predictions(
    batch: dict[str, Tensor],
    mask_pred: Tensor,
    depth_pred: Tensor,
    captions: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """Inputs, truth, prediction and error of each sample, one a column.

    The mask error is green where found, red where invented, blue where missed.
    """
    depth, pred = _map(batch["depth"]) * METRES, _map(depth_pred) * METRES
    rows = [
        ("bg", _rgb(batch["bg"]), RGB),
        ("fg_bg", _rgb(batch["fg_bg"]), RGB),
        ("mask predicted", _map(mask_pred), GREY),
        ("mask error", mask_error(_map(mask_pred) > 0.5, _map(batch["mask"]) > 0.5), RGB),
        ("depth true, m", depth, DEPTH),
        ("depth predicted, m", pred, DEPTH),
        ("depth error, m", pred - depth, DEPTH_ERROR),
    ]
    return _grid(rows, title, captions)


def masks(batch: dict[str, Tensor], preds: dict[str, Tensor], title: str) -> Figure:
    """fg_bg, the true mask and each named prediction (B, 1, H, W) below one another."""
    rows = [("fg_bg", _rgb(batch["fg_bg"]), RGB), ("mask", _map(batch["mask"]), GREY)]
    return _grid(rows + [(name, _map(pred), GREY) for name, pred in preds.items()], title)


def depths(batch: dict[str, Tensor], preds: dict[str, Tensor], title: str) -> Figure:
    """fg_bg, the true depth and each named prediction (B, 1, H, W) below one another, in metres."""
    maps = {"depth true, m": batch["depth"], **preds}
    rows = [(name, _map(depth) * METRES, DEPTH) for name, depth in maps.items()]
    return _grid([("fg_bg", _rgb(batch["fg_bg"]), RGB), *rows], title)


def mask_error(pred: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(..., H, W) bool, twice -> (..., H, W, 3): green found, red invented, blue missed."""
    colour = np.full((*pred.shape, 3), 0.1)
    colour[pred & true] = (0.2, 0.75, 0.3)
    colour[pred & ~true] = (0.9, 0.2, 0.2)
    colour[~pred & true] = (0.25, 0.45, 1.0)
    return colour


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


def heat(masks: np.ndarray, title: str) -> Figure:
    """Where objects stand: the share of samples (B, H, W) in which a pixel is foreground."""
    figure, axes = plt.subplots(figsize=(4.2, 3.4))
    image = axes.imshow(100 * masks.mean(0), cmap="magma", vmin=0)
    axes.set(title=title, xlabel="x, pixels", ylabel="y, pixels")
    figure.colorbar(image, label="foreground in, % of samples")
    return _done(figure)


def curves(
    history: dict[str, np.ndarray],
    groups: dict[str, Sequence[str]],
    title: str,
    begins: Sequence[int] = (),
) -> Figure:
    """Columns of a run's history over the step, a panel per group; a dotted line at each step of
    `begins`, where a session began."""
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


def range_test(results: dict[str, tuple[np.ndarray, np.ndarray]], chosen: float) -> Figure:
    """Smoothed loss over the learning rate for each named test, and the rate we take."""
    figure, axes = plt.subplots(figsize=(6, 3.2))
    for name, (rates, losses) in results.items():
        axes.semilogx(rates, losses, label=name)
    axes.axvline(chosen, color="gray", ls="--", lw=1, label=f"taken: {chosen:g}")
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


def time_shares(seconds: dict[str, float], title: str) -> Figure:
    """Where the time goes: seconds of each block as a share of their sum, largest first."""
    names = sorted(seconds, key=seconds.get)
    total = sum(seconds.values())
    figure, axes = plt.subplots(figsize=(6.5, 0.8 + 0.3 * len(names)))
    bars = axes.barh(names, [100 * seconds[name] / total for name in names], color="#bcd0e5")
    axes.bar_label(bars, [f" {seconds[name]:.1f} s" for name in names])
    axes.set(xlabel="share of the time, %", title=title, xlim=(0, 108))
    return _done(figure)


def pair(model: nn.Module, bg: np.ndarray, img: np.ndarray) -> Figure:
    """Two photographs (H, W, 3) uint8, the predicted mask and the predicted depth, in a row."""
    mask_pred, depth_pred = camera.predict_pair(model, bg, img)
    columns = [("empty scene", bg, RGB), ("with something new", img, RGB)]
    columns += [("new, probability", mask_pred, GREY), ("depth, m", depth_pred * METRES, DEPTH)]
    return _row(columns, "")


def row(batch: dict[str, Tensor], mask_pred: Tensor, depth_pred: Tensor, title: str = "") -> Figure:
    """The first sample of a batch, large: inputs, mask error, true and predicted depth."""
    error = mask_error(_map(mask_pred) > 0.5, _map(batch["mask"]) > 0.5)
    columns = [("bg", _rgb(batch["bg"])[0], RGB), ("fg_bg", _rgb(batch["fg_bg"])[0], RGB)]
    columns += [("mask error", error[0], RGB)]
    columns += [("depth true, m", _map(batch["depth"])[0] * METRES, DEPTH)]
    columns += [("depth predicted, m", _map(depth_pred)[0] * METRES, DEPTH)]
    return _row(columns, title)


def _row(columns: list, title: str) -> Figure:
    figure, axes = plt.subplots(1, len(columns), figsize=(2.9 * len(columns), 3))
    for ax, (name, image, style) in zip(axes, columns, strict=True):
        drawn = ax.imshow(image, **style)
        ax.set_title(name, fontsize=10)
        ax.axis("off")
        if style is DEPTH:
            figure.colorbar(drawn, cax=ax.inset_axes([1.04, 0, 0.05, 1]))
    figure.suptitle(title)
    return _done(figure)


def _rgb(images: Tensor) -> np.ndarray:
    return images.detach().float().cpu().permute(0, 2, 3, 1).clamp(0, 1).numpy()


def _map(maps: Tensor) -> np.ndarray:
    return maps.detach().float().cpu()[:, 0].numpy()


def _grid(rows: list, title: str, captions: Sequence[str] = ()) -> Figure:
    """One row of pictures for each (name, images, style), with a colour bar for metres."""
    n = len(rows[0][1])
    shape = {"figsize": (1.3 * n + 1.6, 1.3 * len(rows) + 0.4), "squeeze": False}
    figure, grid = plt.subplots(len(rows), n, layout="constrained", **shape)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for axes, (name, images, style) in zip(grid, rows, strict=True):
        for ax, image in zip(axes, images, strict=True):
            drawn = ax.imshow(image, **style)
            ax.set(xticks=[], yticks=[])
        axes[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
        if style in (DEPTH, DEPTH_ERROR):
            figure.colorbar(drawn, cax=axes[-1].inset_axes([1.06, 0, 0.07, 1]))
    for ax, caption in zip(grid[0], captions, strict=False):
        ax.set_title(caption, fontsize=8)
    figure.suptitle(title, fontsize=11)
    plt.close(figure)
    return figure


def _done(figure: Figure) -> Figure:
    figure.tight_layout()
    plt.close(figure)
    return figure
