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
    answer,
    block,
    check,
    check_depth,
    double,
    halved,
    joined,
    normal,
    pad,
    resized,
)

GIVEN = 4  # channels of `_given`
ASKED = 16  # numbers in which a cell says what it looks for, and what it is
TYPICAL_MASK = 0.08  # mean of 5,000 rooms, which the untrained network answers; of depth it is .5


class Coarse(nn.Module):
    """Both shots through one encoder; what differs between them is the main evidence.

    Scales 1/2, 1/4 and 1/8 are encoded per shot and mixed from [f_fg_bg, |f_fg_bg - f_bg|]; the
    trunk at 1/16 sees the mixture only, which halves its work. The decoder adds, finest last.
    Answered at 1/2 and unfolded to pixels by PixelShuffle are three maps: the mask, the depth of
    the empty scene and that of what is new; both depths may also be copied from elsewhere in the
    picture (`_copied`).
    The difference of the images, equally lit, enters at 1/2, its 2x2 pixels folded into channels.
    """

    STRIDE = 16

    def __init__(self) -> None:
        super().__init__()
        scales = [block(3, 16, stride=2), block(16, 32, stride=2), block(32, 64, stride=2)]
        self.encoder = nn.ModuleList(scales)
        # 24: the images' difference, 2x2 pixels of 3 colours, absolute and signed
        ins = 32 + 24 + GIVEN, 64 + GIVEN, 128 + GIVEN
        self.mix = nn.ModuleList(block(i, o, 1) for i, o in zip(ins, (16, 32, 64), strict=True))
        blocks = [block(96, 96), block(96, 96)]
        self.trunk = nn.Sequential(block(64, 96, stride=2), *blocks)
        self.context = nn.Linear(96, 96)
        laterals = [nn.Conv2d(32, 16, 1), nn.Conv2d(64, 32, 1), nn.Conv2d(96, 64, 1)]
        self.lateral = nn.ModuleList(laterals)
        self.smooth = nn.ModuleList([nn.Identity(), block(32, 32), block(64, 64)])
        self.mask_head = nn.Sequential(block(16, 16), *answer(16, 1, TYPICAL_MASK))
        self.depth_head = nn.Sequential(block(16, 16), *answer(16, 2))
        self.depth_ask = nn.Conv2d(32, 3 * ASKED + 2, 1)
        nn.init.constant_(self.depth_ask.bias[-2:], -2.0)  # copies little at first

    def forward(self, bg, fg_bg, light, bg_features, known) -> tuple[Tensor, Tensor]:
        """Features (B, 16, h / 2, w / 2) and the logits of three maps (B, 3, h, w), of shots
        (B, 3, h, w)."""
        parts = _evidence(self.encoder, self.STRIDE, bg, fg_bg, light, bg_features, known)
        mixed = [mix(joined(part)) for mix, part in zip(self.mix, parts, strict=True)]
        y = self.trunk(mixed[-1])  # (B, 96, H / 16, W / 16) of the padded size
        y = y + self.context(y.mean((2, 3)))[:, :, None, None]  # the room as a whole, for depth
        for i in (2, 1, 0):
            y = self.smooth[i](mixed[i] + double(self.lateral[i](y)))  # twice the size each time
            if i == 1:
                asking = self.depth_ask(y)  # (B, 50, H / 4, W / 4)
        depths = self._copied(self.depth_head(y), asking, parts[1][-1])
        h, w = fg_bg.shape[2:]
        maps = torch.cat([self.mask_head(y), depths], 1)[..., :h, :w]
        return y[..., : (h + 1) // 2, : (w + 1) // 2], maps

    def _copied(self, depths: Tensor, asking: Tensor, given: Tensor) -> Tensor:
        """Logits (B, 2, H, W) of both depths, in which each cell of 4x4 pixels may have taken over,
        as far as its gates say, the empty scene's depth of other cells: known there, or answered.
        A thing is as far away as the ground on which it stands, which may be anywhere below; a wall
        as its other end.

        asking: (B, 50, H / 4, W / 4), what a cell offers, both questions and gates;
        given:  `_given` of those cells.
        Source: scaled dot-product attention, Vaswani et al. 2017; copying, Vinyals et al. 2015.
        """
        with torch.autocast(depths.device.type, enabled=False):
            depths, asking, given = depths.float(), asking.float(), given.float()
            offers, questions, gates = asking.flatten(2).split([ASKED, 2 * ASKED, 2], 1)
            there = F.avg_pool2d(depths[:, :1].sigmoid(), 4)
            there = given[:, :1].where(given[:, 1:2] > 0, there).flatten(2)  # (B, 1, cells)
            questions = questions.unflatten(1, (2, ASKED))
            fits = questions.mT @ offers[:, None] / ASKED**0.5  # (B, 2, cells, cells)
            copied = fits.softmax(3) @ there[:, None].mT  # (B, 2, cells, 1)
            copied = copied[..., 0].clamp(1e-3, 1 - 1e-3).logit()
            both = torch.cat([copied, gates.sigmoid()], 1).unflatten(2, asking.shape[2:])
            copied, gates = resized(both, *depths.shape[2:]).split(2, 1)
            return depths + gates * (copied - depths)


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
        found = 16 + 3  # the first stage's features and its maps
        self.encoder = nn.ModuleList([block(3, 16, stride=2), block(16, 24, stride=2)])
        ins = 32 + 24 + GIVEN + found, 48 + GIVEN + found
        self.mix = nn.ModuleList(block(i, 24, 1) for i in ins)
        self.at_quarter = nn.Sequential(block(24, 24), block(24, 24))
        self.lateral = nn.Conv2d(24, 24, 1)
        self.at_half = block(24, 24)
        self.mask_head = answer(24)
        self.depth_head = answer(24, 2)

    def encode(self, bg: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """What a background (B, 3, H, W) costs, to keep where many `fg_bg` share it."""
        small = self._shrunk(bg)
        kept = {"small": small, "coarse": _encode(self.coarse.encoder, pad(small, Coarse.STRIDE))}
        if max(bg.shape[2:]) > self.COARSE:
            kept["fine"] = _encode(self.encoder, pad(bg, self.STRIDE))
        return kept

    def forward(
        self,
        bg: Tensor,
        fg_bg: Tensor,
        bg_features: dict[str, Tensor | list[Tensor]] | None = None,
        bg_depth: Tensor | None = None,
    ) -> dict[str, Tensor | dict[str, Tensor]]:
        """Logits of both maps.

        Input:
            bg, fg_bg:   (B, 3, H, W) in 0..1; any H, W from MIN_SIZE.
            bg_features: `encode(bg)` where it is at hand; `bg` and it may then have batch 1.
            bg_depth:    (B or 1, 1, H, W) of the empty scene in 0..1, z / 10 m, 0 or nan where it
                         is not known; None where none of it is. Where it is known and nothing is
                         new, it is the answer, and nothing new is behind it.
        Returns: mask_logits, depth_logits, (B, 1, H, W), whose sigmoids are the maps; for pictures
            above COARSE also `coarse`, the first stage's two at its own size, for the loss.
        Raises: ValueError: not such images or depth, two different sizes, or smaller than MIN_SIZE.
        """
        check(bg, fg_bg, same_batch=bg_features is None)
        if bg_depth is not None:
            check_depth(bg_depth, fg_bg)
        kept = bg_features or {"small": self._shrunk(bg)}
        small = self._shrunk(fg_bg)
        light = _lighting(kept["small"], small)
        known = _known(bg_depth, fg_bg)  # (B, 2, H, W)
        fewer = resized(known, *small.shape[2:])
        y, maps = self.coarse(kept["small"], small, light, kept.get("coarse"), fewer)
        coarse = _answer(maps, fewer)
        if max(fg_bg.shape[2:]) <= self.COARSE:
            return coarse
        parts = _evidence(self.encoder, self.STRIDE, bg, fg_bg, light, kept.get("fine"), known)
        maps = self._corrected(maps, y, parts, *fg_bg.shape[2:])
        return _answer(maps, known) | {"coarse": coarse}

    def _corrected(self, maps: Tensor, y: Tensor, parts: list, h: int, w: int) -> Tensor:
        """The first stage's maps at full size, corrected at 1/2 from both scales of the second."""
        maps = resized(maps, h, w)
        y = resized(y, (h + 1) // 2, (w + 1) // 2)
        found = pad(torch.cat([y, halved(maps)], 1), self.STRIDE // 2)  # (B, 19, H / 2, W / 2)
        half = self.mix[0](joined([*parts[0], found]))  # (B, 24, H / 2, W / 2)
        quarter = self.mix[1](joined([*parts[1], F.avg_pool2d(found, 2)]))
        quarter = self.at_quarter(quarter)  # (B, 24, H / 4, W / 4)
        half = self.at_half(half + double(self.lateral(quarter)))
        corrections = torch.cat([self.mask_head(half), self.depth_head(half)], 1)
        return maps + corrections[..., :h, :w]

    def _shrunk(self, image: Tensor) -> Tensor:
        """The whole image at COARSE pixels on its long side; a smaller one as it is."""
        h, w = image.shape[2:]
        scale = min(1, self.COARSE / max(h, w))
        return resized(image, *(max(MIN_SIZE, round(side * scale)) for side in (h, w)))


def _answer(maps: Tensor, known: Tensor) -> dict[str, Tensor]:
    """One depth of both, as far as the mask says that something new is before the empty scene.

    A depth that has edges of its own has them beside the mask's, and between two distances lies
    nothing. What stood in the empty scene and has left keeps the depth that was told of it.
    Source: layered depth images, Shade et al. 1998.
    maps: (B, 3, H, W) logits; known: `_known`.
    """
    mask, depths = maps.float().split([1, 2], 1)
    told = _mean_known(known)
    is_told = known[:, 1:] > 0.5
    behind, new = depths.sigmoid().split(1, 1)
    new = torch.where(is_told, torch.minimum(new, told), new)
    behind = torch.where(is_told, told, behind)
    share = mask.detach().sigmoid()  # a wrong depth is no reason for another mask
    depth = behind + share * (new - behind)
    return {"mask_logits": mask, "depth_logits": depth.clamp(1e-4, 1 - 1e-4).logit()}


def _encode(encoder: nn.ModuleList, image: Tensor) -> list[Tensor]:
    """A padded shot (B, 3, H, W) at each scale of `encoder`, 1/2 and coarser."""
    x = normal(image)
    features = []
    for scale in encoder:
        x = scale(x)
        features.append(x)
    return features


def _known(bg_depth: Tensor | None, like: Tensor) -> Tensor:
    """(B, 2, H, W): depth where it is known, else 0, and whether it is; means of both tell a mean
    of what is known."""
    if bg_depth is None:
        return like.new_zeros(len(like), 2, *like.shape[2:])
    bg_depth = bg_depth.nan_to_num(0.0).clamp(0, 1).expand(len(like), -1, -1, -1)
    return torch.cat([bg_depth, (bg_depth > 0).to(bg_depth.dtype)], 1)


def _mean_known(known: Tensor) -> Tensor:
    """(B, 1, h, w): the mean of what is known in each pixel; 0 where nothing is."""
    depth, share = known.split(1, 1)
    return depth / share.clamp(min=1e-6)


def _evidence(encoder, stride: int, bg, fg_bg, light, bg_features, known) -> list[list[Tensor]]:
    """[f_fg_bg, |f_fg_bg - f_bg|, known depth] of each scale, 1/2 and coarser; of the finest the
    images' difference too."""
    bg, fg_bg = pad(bg, stride), pad(fg_bg, stride)  # (B, 3, H, W)
    if bg_features is None:  # one pass, so that BatchNorm sees both shots as one set
        both = _encode(encoder, torch.cat([fg_bg, bg]))
        pairs = [f.split(len(fg_bg)) for f in both]
    else:
        pairs = zip(_encode(encoder, fg_bg), bg_features, strict=True)
    parts = []
    known = pad(known, stride)
    for f, f_bg in pairs:
        known = F.avg_pool2d(known, 2)  # (B, 2, h, w) of this scale
        parts.append([f, (f - f_bg).abs(), _given(known)])
    difference = normal(_difference(bg, fg_bg, *light))
    parts[0].append(F.pixel_unshuffle(difference, 2))  # (B, 24, H / 2, W / 2)
    return parts


def _given(known: Tensor) -> Tensor:
    """(B, 4, h, w), what a convolution cannot see: the mean of the empty scene's depth that is
    known around each pixel, whether any is, and where in the padded picture it is, x and y in
    -1..1: how far up the picture tells much of how far away (CoordConv, Liu et al. 2018)."""
    across, down = (torch.linspace(-1, 1, n, device=known.device) for n in known.shape[:1:-1])
    places = torch.stack(torch.meshgrid(across, down, indexing="xy"))  # (2, h, w)
    places = places.to(known.dtype).expand(len(known), -1, -1, -1)
    is_known = (known[:, 1:] > 0).to(known.dtype)
    return torch.cat([_mean_known(known), is_known, places], 1)


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
    model: nn.Module,
    bg: Tensor,
    fg_bg: Tensor,
    bg_features: dict | None = None,
    bg_depth: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """mask_pred, depth_pred, (B, 1, H, W) in 0..1, of `bg` and `fg_bg`, (B, 3, H, W) in 0..1.

    Works in evaluation mode and puts the mode the model was in back. The images go to the device
    of the model, the maps come back to theirs.

    Input:
        bg_features: `encode(model, bg)`, to save that.
        bg_depth:    of the empty scene, as `Small.forward` has it. A network that is not made to be
                     told is not told.
    """
    home = bg.device
    device = _device(model, bg)
    images = bg.to(device), fg_bg.to(device)
    known = {}
    if bg_features is not None:  # only networks that have features know the argument
        known["bg_features"] = bg_features
    if bg_depth is not None and takes_depth(model):
        known["bg_depth"] = bg_depth.to(device)
    with _evaluating(model):
        logits = model(*images, **known)
    mask_pred = logits["mask_logits"].float().sigmoid().to(home)
    depth_pred = logits["depth_logits"].float().sigmoid().to(home)
    return mask_pred, depth_pred


def takes_depth(model: nn.Module) -> bool:
    """Whether it can be told the depth of the empty scene."""
    return hasattr(model, "encode")


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
