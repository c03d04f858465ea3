"""Our network: two photographs in, mask and depth logits out, under half a million parameters.

Those of earlier write-ups are in `recipes`.

Source: U-Net, Ronneberger et al. 2015; one encoder for two shots, FC-Siam-diff, Daudt et al. 2018;
PixelShuffle, Shi et al. 2016.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalib.layers import (
    MIN_SIZE,
    TYPICAL_DEPTH,
    TYPICAL_MASK,
    block,
    check,
    double,
    fill,
    finish,
    halved,
    head,
    prepare,
    resized,
)


class Coarse(nn.Module):
    """Both shots through one encoder; what differs between them is the main evidence.

    Scales 1/2, 1/4 and 1/8 are encoded per shot and mixed from [f_fg_bg, |f_fg_bg - f_bg|]; the
    trunk at 1/16 sees the mixture only, which halves its work. The decoder adds, finest last.
    Both maps are answered at 1/2 and unfolded to pixels by PixelShuffle (depth from 1/4 was worse).
    The difference of the images, equally lit, enters at 1/2, its 2x2 pixels folded into channels.
    """

    STRIDE = 16

    def __init__(self, widths: Sequence[int] = (16, 32, 64), trunk: int = 96) -> None:
        super().__init__()
        finer, coarser = (3, *widths[:-1]), (*widths[1:], trunk)
        folded = (24, 0, 0)  # 2x2 pixels of 3 colours, absolute and signed, at 1/2 only
        scales = list(zip(finer, widths, coarser, folded, strict=True))
        self.width = widths[0]
        self.encoder = nn.ModuleList(block(fine, c, stride=2) for fine, c, _, _ in scales)
        self.mix = nn.ModuleList(block(2 * c + extra, c, 1) for _, c, _, extra in scales)
        blocks = [block(trunk, trunk) for _ in range(2)]
        self.trunk = nn.Sequential(block(widths[-1], trunk, stride=2), *blocks)
        self.context = nn.Linear(trunk, trunk)
        self.lateral = nn.ModuleList(nn.Conv2d(coarse, c, 1) for _, c, coarse, _ in scales)
        self.smooth = nn.ModuleList([nn.Identity(), *(block(c, c) for c in widths[1:])])
        self.mask_head = head(widths[0], TYPICAL_MASK)
        self.depth_head = head(widths[0], TYPICAL_DEPTH)

    def encode(self, image: Tensor) -> list[Tensor]:
        """(B, widths[i], h, w) at 1/2, 1/4 and 1/8 of the padded size, of a shot (B, 3, H, W)."""
        x, features = prepare(image, self.STRIDE), []
        for scale in self.encoder:
            x = scale(x)
            features.append(x)
        return features

    def forward(
        self, difference: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Features at 1/2, and the logits of both maps, from what `encode` gave for both shots."""
        parts = [[f, (f - f_bg).abs()] for f, f_bg in pairs]
        parts[0].append(F.pixel_unshuffle(prepare(difference, self.STRIDE), 2))
        mixed = [mix(torch.cat(p, 1)) for mix, p in zip(self.mix, parts, strict=True)]
        y = self.trunk(mixed[-1])
        y = y + self.context(y.mean((2, 3)))[:, :, None, None]  # the room as a whole, for depth
        for i in (2, 1, 0):
            y = self.smooth[i](mixed[i] + double(self.lateral[i](y)))
        return y, finish(self.mask_head(y), self.depth_head(y), difference)


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

    def __init__(self, widths: Sequence[int] = (16, 24)) -> None:
        super().__init__()
        a, b = widths
        self.coarse = Coarse()
        known = self.coarse.width + 2  # its features and both maps
        self.encoder = nn.ModuleList([block(3, a, stride=2), block(a, b, stride=2)])
        self.mix = nn.ModuleList([block(2 * a + 24 + known, a, 1), block(2 * b + known, b, 1)])
        self.at_quarter = nn.Sequential(block(b, b), block(b, b))
        self.lateral = nn.Conv2d(b, a, 1)
        self.at_half = block(a, a)
        self.mask_head, self.depth_head = head(a), head(a)

    def encode(self, bg: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """What a background (B, 3, H, W) costs, to keep where many `fg_bg` share it."""
        small = self._shrunk(bg)
        features = {"small": small, "coarse": self.coarse.encode(small)}
        return features | {"fine": self._fine(bg) if small is not bg else []}

    def forward(
        self,
        bg: Tensor,
        fg_bg: Tensor,
        bg_features: dict[str, Tensor | list[Tensor]] | None = None,
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
        small, n = self._shrunk(fg_bg), len(fg_bg)
        if bg_features is None:  # one pass, so that BatchNorm sees both shots as one set
            small_bg = self._shrunk(bg)
            pairs = [f.split(n) for f in self.coarse.encode(torch.cat([small, small_bg]))]
        else:
            small_bg = bg_features["small"]
            pairs = zip(self.coarse.encode(small), bg_features["coarse"], strict=True)
        gain, offset = _lighting(small_bg, small)
        y, out = self.coarse(_difference(small_bg, small, gain, offset), pairs)
        if small is fg_bg:
            return out
        if bg_features is None:
            pairs = [f.split(n) for f in self._fine(torch.cat([fg_bg, bg]))]
        else:
            pairs = zip(self._fine(fg_bg), bg_features["fine"], strict=True)
        return self._refine(_difference(bg, fg_bg, gain, offset), pairs, y, out)

    def _refine(self, difference, pairs, y: Tensor, coarse: dict[str, Tensor]) -> dict:
        """Corrections to the first stage's maps, at 1/2 from both scales of the second."""
        h, w = difference.shape[2:]
        maps = resized(torch.cat([coarse["mask_logits"], coarse["depth_logits"]], 1), h, w)
        rows, columns = (-(-side // 2) for side in coarse["mask_logits"].shape[2:])
        known = resized(y[..., :rows, :columns], -(-h // 2), -(-w // 2))
        folded = F.pixel_unshuffle(prepare(difference, self.STRIDE), 2)
        known = fill(torch.cat([known, halved(maps)], 1), *folded.shape[2:])
        (half, half_bg), (quarter, quarter_bg) = pairs
        parts = [quarter, (quarter - quarter_bg).abs(), F.avg_pool2d(known, 2)]
        z = self.at_quarter(self.mix[1](torch.cat(parts, 1)))
        parts = [half, (half - half_bg).abs(), folded, known]
        x = self.at_half(self.mix[0](torch.cat(parts, 1)) + double(self.lateral(z)))
        out = finish(self.mask_head(x), self.depth_head(x), difference)
        mask, depth = out["mask_logits"] + maps[:, :1], out["depth_logits"] + maps[:, 1:]
        return {"mask_logits": mask, "depth_logits": depth, "coarse": coarse}

    def _fine(self, image: Tensor) -> list[Tensor]:
        half = self.encoder[0](prepare(image, self.STRIDE))
        return [half, self.encoder[1](half)]

    def _shrunk(self, image: Tensor) -> Tensor:
        """The whole image at COARSE pixels on its long side; a smaller one as it is."""
        h, w = image.shape[2:]
        if max(h, w) <= self.COARSE:
            return image
        scale = self.COARSE / max(h, w)
        rows, columns = (min(side, max(MIN_SIZE, round(side * scale))) for side in (h, w))
        return resized(image, rows, columns)


def _difference(bg: Tensor, fg_bg: Tensor, gain: Tensor, offset: Tensor) -> Tensor:
    """(B, 6, H, W): how much each colour differs from the background as lit now; then signed."""
    change = fg_bg - (bg * gain + offset).clamp(0, 1)
    return torch.cat([change.abs(), change], 1)


@torch.no_grad()
def _lighting(bg: Tensor, fg_bg: Tensor, rounds: int = 2) -> tuple[Tensor, Tensor]:
    """Gain and offset (B, 3, 1, 1) of each colour that light `bg` as `fg_bg` is lit.

    Least squares over means of 4x4 pixels; then, twice, with small weights where that does not fit:
    what is new must not count. Source: Holland & Welsch 1977, iteratively reweighted least squares.
    """
    with torch.autocast(bg.device.type, enabled=False):
        b, f = (F.avg_pool2d(x, 4, ceil_mode=True).flatten(2) for x in (bg, fg_bg))
        gain = f.mean(2, keepdim=True) / b.mean(2, keepdim=True).clamp(min=1e-3)
        offset = torch.zeros_like(gain)
        for _ in range(rounds):
            miss = (f - gain * b - offset).abs().amax(1, keepdim=True)  # (B, 1, n)
            middle = (miss.shape[2] - 1) // 2  # the median, in operations that ONNX has, too
            usual = miss.sort(2).values[..., middle, None].clamp(min=0.01)
            weight = 1 / (1 + (miss / (2 * usual)) ** 2) ** 2
            weight = weight / weight.sum(2, keepdim=True)
            b_mean, f_mean = ((weight * x).sum(2, keepdim=True) for x in (b, f))
            spread = (weight * (b - b_mean) ** 2).sum(2, keepdim=True)
            together = (weight * (b - b_mean) * (f - f_mean)).sum(2, keepdim=True)
            plain = f_mean / b_mean.clamp(min=0.02)  # what an even wall gives no evidence against
            gain = ((together + 1e-3 * plain) / (spread + 1e-3)).clamp(min=0.3).clamp(max=3.0)
            offset = f_mean - gain * b_mean
        return gain[..., None], offset[..., None]


@torch.no_grad()
def predict(
    model: nn.Module, bg: Tensor, fg_bg: Tensor, kept: dict | None = None
) -> tuple[Tensor, Tensor]:
    """mask_pred, depth_pred, (B, 1, H, W) in 0..1, of `bg` and `fg_bg`, (B, 3, H, W) in 0..1.

    Works in evaluation mode and puts the mode the model was in back. The images go to the device
    of the model, the maps come back to theirs. `kept`, empty at first, stays with one `bg`: its
    features are put there, if the network has any, and used again.
    """
    was_training, home = model.training, bg.device
    device = next((p.device for p in model.parameters()), home)
    bg, fg_bg = bg.to(device), fg_bg.to(device)
    model.eval()
    try:
        if kept == {} and hasattr(model, "encode"):
            kept["bg_features"] = model.encode(bg)
        logits = model(bg, fg_bg, **(kept or {}))
    finally:
        model.train(was_training)
    mask, depth = (logits[f"{task}_logits"].float().sigmoid() for task in ("mask", "depth"))
    return mask.to(home), depth.to(home)


def predictor(model: nn.Module) -> Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]]:
    """`model` as `metrics.evaluate` asks for it: batch -> (mask_pred, depth_pred)."""
    return lambda batch: predict(model, batch["bg"], batch["fg_bg"])
