"""Our network: two photographs in, mask and depth logits out, under half a million parameters.

Source: U-Net, Ronneberger et al. 2015; one encoder for two shots, FC-Siam-diff, Daudt et al. 2018;
PixelShuffle, Shi et al. 2016.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalib.layers import (
    MIN_SIZE,
    block,
    check,
    crop,
    double,
    halved,
    head,
    joined,
    normal,
    pad,
    resized,
)

TYPICAL_MASK = 0.08  # mean of 5,000 rooms, which the untrained network answers; of depth it is .5


class Coarse(nn.Module):
    """Both shots through one encoder; what differs between them is the main evidence.

    Scales 1/2, 1/4 and 1/8 are encoded per shot and mixed from [f_fg_bg, |f_fg_bg - f_bg|]; the
    trunk at 1/16 sees the mixture only, which halves its work. The decoder adds, finest last.
    Both maps are answered at 1/2 and unfolded to pixels by PixelShuffle.
    The difference of the images, equally lit, enters at 1/2, its 2x2 pixels folded into channels.
    """

    STRIDE = 16

    def __init__(self) -> None:
        super().__init__()
        scales = [block(3, 16, stride=2), block(16, 32, stride=2), block(32, 64, stride=2)]
        self.encoder = nn.ModuleList(scales)
        # 24: the images' difference, 2x2 pixels of 3 colours, absolute and signed
        self.mix = nn.ModuleList([block(32 + 24, 16, 1), block(64, 32, 1), block(128, 64, 1)])
        blocks = [block(96, 96), block(96, 96)]
        self.trunk = nn.Sequential(block(64, 96, stride=2), *blocks)
        self.context = nn.Linear(96, 96)
        laterals = [nn.Conv2d(32, 16, 1), nn.Conv2d(64, 32, 1), nn.Conv2d(96, 64, 1)]
        self.lateral = nn.ModuleList(laterals)
        self.smooth = nn.ModuleList([nn.Identity(), block(32, 32), block(64, 64)])
        self.mask_head = head(16, TYPICAL_MASK)
        self.depth_head = head(16)

    def forward(self, bg, fg_bg, light, bg_features) -> tuple[Tensor, dict[str, Tensor]]:
        """Features (B, 16, h / 2, w / 2) and the logits of both maps, of shots (B, 3, h, w)."""
        parts = _evidence(self.encoder, self.STRIDE, bg, fg_bg, light, bg_features)
        mixed = [mix(joined(part)) for mix, part in zip(self.mix, parts, strict=True)]
        y = self.trunk(mixed[-1])  # (B, 96, H / 16, W / 16) of the padded size
        y = y + self.context(y.mean((2, 3)))[:, :, None, None]  # the room as a whole, for depth
        for i in (2, 1, 0):
            y = self.smooth[i](mixed[i] + double(self.lateral[i](y)))  # twice the size each time
        h, w = fg_bg.shape[2:]
        out = crop(self.mask_head(y), self.depth_head(y), h, w)
        return y[..., : (h + 1) // 2, : (w + 1) // 2], out


class Small(nn.Module):
    """The whole picture, made small, tells what is new and how far; a shallow second stage looks at
    all pixels and tells where exactly.

    A network that was trained on small pictures is lost in large ones: things are larger there
    than all it ever saw. So `Coarse` always gets the picture at COARSE pixels on its long side, and
    only edges are left to full size: two strided scales per shot, mixed with what `Coarse` found,
    which answer with corrections to its maps. One set of weights serves 64 to 448 pixels.
    Pictures of up to COARSE pixels are answered by `Coarse` alone.
    Source: coarse network and refinement, BackgroundMattingV2 (Lin et al. 2021); the rest is ours.
    """

    STRIDE, COARSE = 8, 64

    def __init__(self) -> None:
        super().__init__()
        self.coarse = Coarse()
        known = 16 + 2  # the first stage's features and both maps
        self.encoder = nn.ModuleList([block(3, 16, stride=2), block(16, 24, stride=2)])
        self.mix = nn.ModuleList([block(32 + 24 + known, 16, 1), block(48 + known, 24, 1)])
        self.at_quarter = nn.Sequential(block(24, 24), block(24, 24))
        self.lateral = nn.Conv2d(24, 16, 1)
        self.at_half = block(16, 16)
        self.mask_head = head(16)
        self.depth_head = head(16)

    def encode(self, bg: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """What a background (B, 3, H, W) costs, to keep where many `fg_bg` share it."""
        small = self._shrunk(bg)
        kept = {"small": small, "coarse": _encode(self.coarse.encoder, pad(small, Coarse.STRIDE))}
        if max(bg.shape[2:]) > self.COARSE:
            kept["fine"] = _encode(self.encoder, pad(bg, self.STRIDE))
        return kept

    def forward(
        self, bg: Tensor, fg_bg: Tensor, bg_features: dict[str, Tensor | list[Tensor]] | None = None
    ) -> dict[str, Tensor | dict[str, Tensor]]:
        """Logits of both maps.

        Input:
            bg, fg_bg:   (B, 3, H, W) in 0..1; any H, W from MIN_SIZE.
            bg_features: `encode(bg)` where it is at hand; `bg` and it may then have batch 1.
        Returns: mask_logits, depth_logits, (B, 1, H, W), whose sigmoids are the maps; for pictures
            above COARSE also `coarse`, the first stage's two at its own size, for the loss.
        Raises: ValueError: not such images, two different sizes, or smaller than MIN_SIZE.
        """
        check(bg, fg_bg, same_batch=bg_features is None)
        kept = bg_features or {"small": self._shrunk(bg)}
        small = self._shrunk(fg_bg)
        light = _lighting(kept["small"], small)
        y, coarse = self.coarse(kept["small"], small, light, kept.get("coarse"))
        if max(fg_bg.shape[2:]) <= self.COARSE:
            return coarse
        parts = _evidence(self.encoder, self.STRIDE, bg, fg_bg, light, kept.get("fine"))
        return self._corrected(coarse, y, parts, *fg_bg.shape[2:])

    def _corrected(self, coarse: dict[str, Tensor], y: Tensor, parts: list, h: int, w: int) -> dict:
        """The first stage's maps at full size, corrected at 1/2 from both scales of the second."""
        maps = resized(torch.cat([coarse["mask_logits"], coarse["depth_logits"]], 1), h, w)
        y = resized(y, (h + 1) // 2, (w + 1) // 2)
        known = pad(torch.cat([y, halved(maps)], 1), self.STRIDE // 2)  # (B, 18, H / 2, W / 2)
        half = self.mix[0](joined([*parts[0], known]))  # (B, 16, H / 2, W / 2)
        quarter = self.mix[1](joined([*parts[1], F.avg_pool2d(known, 2)]))
        quarter = self.at_quarter(quarter)  # (B, 24, H / 4, W / 4)
        half = self.at_half(half + double(self.lateral(quarter)))
        mask = self.mask_head(half)[..., :h, :w] + maps[:, :1]  # (B, 1, h, w)
        depth = self.depth_head(half)[..., :h, :w] + maps[:, 1:]
        return {"mask_logits": mask, "depth_logits": depth, "coarse": coarse}

    def _shrunk(self, image: Tensor) -> Tensor:
        """The whole image at COARSE pixels on its long side; a smaller one as it is."""
        h, w = image.shape[2:]
        if max(h, w) <= self.COARSE:
            return image
        scale = self.COARSE / max(h, w)
        return resized(image, *(max(MIN_SIZE, round(side * scale)) for side in (h, w)))


def _encode(encoder: nn.ModuleList, image: Tensor) -> list[Tensor]:
    """A padded shot (B, 3, H, W) at each scale of `encoder`, 1/2 and coarser."""
    x = normal(image)
    features = []
    for scale in encoder:
        x = scale(x)
        features.append(x)
    return features


def _evidence(encoder, stride: int, bg, fg_bg, light, bg_features) -> list[list[Tensor]]:
    """[f_fg_bg, |f_fg_bg - f_bg|] of each scale; of the finest, 1/2, the images' difference too."""
    bg, fg_bg = pad(bg, stride), pad(fg_bg, stride)  # (B, 3, H, W)
    if bg_features is None:  # one pass, so that BatchNorm sees both shots as one set
        both = _encode(encoder, torch.cat([fg_bg, bg]))
        pairs = [f.split(len(fg_bg)) for f in both]
    else:
        pairs = zip(_encode(encoder, fg_bg), bg_features, strict=True)
    parts = [[f, (f - f_bg).abs()] for f, f_bg in pairs]
    difference = normal(_difference(bg, fg_bg, *light))
    parts[0].append(F.pixel_unshuffle(difference, 2))  # (B, 24, H / 2, W / 2)
    return parts


def _difference(bg: Tensor, fg_bg: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """(B, 6, H, W): how much each colour differs from the background as lit now; then signed."""
    change = fg_bg - (bg * gain + offset).clamp(0, 1)
    return torch.cat([change.abs(), change], 1)


@torch.no_grad()
def _lighting(bg: Tensor, fg_bg: Tensor) -> tuple[Tensor, Tensor]:
    """Gain and offset (B, 3, 1, 1) of each colour that light `bg` as `fg_bg` is lit.

    Least squares over means of 4x4 pixels; then, twice, with small weights where that does not fit:
    what is new must not count. Source: Holland & Welsch 1977, iteratively reweighted least squares.
    """
    with torch.autocast(bg.device.type, enabled=False):
        b, f = (F.avg_pool2d(x, 4, ceil_mode=True).flatten(2) for x in (bg, fg_bg))  # (B, 3, n)
        gain = f.mean(2, keepdim=True) / b.mean(2, keepdim=True).clamp(min=1e-3)
        offset = torch.zeros_like(gain)
        for _ in range(2):
            miss = (f - gain * b - offset).abs().amax(1, keepdim=True)  # (B, 1, n)
            middle = (miss.shape[2] - 1) // 2  # the median, in operations that ONNX has, too
            usual = miss.sort(2).values[..., middle, None].clamp(min=0.01)  # (B, 1, 1)
            weight = 1 / (1 + (miss / (2 * usual)) ** 2) ** 2
            weight = weight / weight.sum(2, keepdim=True)
            b_mean = (weight * b).sum(2, keepdim=True)  # (B, 3, 1)
            f_mean = (weight * f).sum(2, keepdim=True)
            spread = (weight * (b - b_mean) ** 2).sum(2, keepdim=True)
            together = (weight * (b - b_mean) * (f - f_mean)).sum(2, keepdim=True)
            plain = f_mean / b_mean.clamp(min=0.02)  # what an even wall gives no evidence against
            gain = ((together + 1e-3 * plain) / (spread + 1e-3)).clamp(min=0.3).clamp(max=3.0)
            offset = f_mean - gain * b_mean
        return gain[..., None], offset[..., None]


@torch.no_grad()
def encode(model: nn.Module, bg: Tensor) -> dict | None:
    """The features of `bg`, (1, 3, H, W) in 0..1, for each `predict` with it; None if `model` is a
    network that has none to keep."""
    if not hasattr(model, "encode"):
        return None
    with _evaluating(model):
        return model.encode(bg.to(_device(model, bg)))


@torch.no_grad()
def predict(
    model: nn.Module, bg: Tensor, fg_bg: Tensor, bg_features: dict | None = None
) -> tuple[Tensor, Tensor]:
    """mask_pred, depth_pred, (B, 1, H, W) in 0..1, of `bg` and `fg_bg`, (B, 3, H, W) in 0..1.

    Works in evaluation mode and puts the mode the model was in back. The images go to the device
    of the model, the maps come back to theirs. bg_features: `encode(model, bg)`, to save that.
    """
    home = bg.device
    device = _device(model, bg)
    images = bg.to(device), fg_bg.to(device)
    with _evaluating(model):
        # only networks that have features know the third argument
        logits = model(*images) if bg_features is None else model(*images, bg_features)
    mask_pred = logits["mask_logits"].float().sigmoid()
    depth_pred = logits["depth_logits"].float().sigmoid()
    return mask_pred.to(home), depth_pred.to(home)


def _device(model: nn.Module, image: Tensor) -> torch.device:
    """Where the model is; it may have no parameters."""
    return next((p.device for p in model.parameters()), image.device)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    if any(layer.training for layer in model.modules()):  # to set it takes a tenth of a frame
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()


def predictor(model: nn.Module) -> Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]]:
    """`model` as `metrics.evaluate` asks for it: batch -> (mask_pred, depth_pred)."""
    return lambda batch: predict(model, batch["bg"], batch["fg_bg"])
