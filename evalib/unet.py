"""Our network: two photographs in, mask and depth logits out, under half a million parameters.

Source: U-Net, Ronneberger et al. 2015; one encoder for two shots, FC-Siam-diff, Daudt et al. 2018;
PixelShuffle, Shi et al. 2016.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalib.evidence import GIVEN, encoded, evidence, known_depth, lighting, mean_known
from evalib.layers import (
    MIN_SIZE,
    answer,
    answers,
    block,
    check,
    check_depth,
    double,
    joined,
    pad,
    residual,
    resized,
)

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
        scales = [
            block(3, 16, stride=2),
            block(16, 32, stride=2).append(residual(32)),
            block(32, 64, stride=2).append(residual(64)),
        ]
        self.encoder = nn.ModuleList(scales)
        # 24: the images' difference, 2x2 pixels of 3 colours, absolute and signed
        ins = 32 + 24 + GIVEN, 64 + GIVEN, 128 + GIVEN
        self.mix = nn.ModuleList(block(i, o, 1) for i, o in zip(ins, (16, 32, 64), strict=True))
        blocks = [block(96, 96), block(96, 96)]
        self.trunk = nn.Sequential(block(64, 96, stride=2), *blocks, residual(96))
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
        parts = evidence(self.encoder, self.STRIDE, bg, fg_bg, light, bg_features, known)
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
        given:  what is given of those cells.
        Source: scaled dot-product attention, Vaswani et al. 2017; copying, Vinyals et al. 2015.
        """
        with torch.autocast(depths.device.type, enabled=False):
            depths, asking, given = depths.float(), asking.float(), given.float()
            offers, questions, gates = asking.flatten(2).split([ASKED, 2 * ASKED, 2], 1)
            there = F.avg_pool2d(depths[:, :1].sigmoid(), 4)
            there = given[:, :1].where(given[:, 1:2] > 0, there).flatten(2)  # (B, 1, cells)
            questions = questions.unflatten(1, (2, ASKED)) / ASKED**0.5
            fits = questions.mT @ offers[:, None]  # (B, 2, cells, cells)
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
    takes_depth = True  # of the empty scene, as `bg_depth`

    def __init__(self) -> None:
        super().__init__()
        self.coarse = Coarse()
        found = 16 + 3  # the first stage's features and its maps
        self.encoder = nn.ModuleList([block(3, 16, stride=2), block(16, 24, stride=2)])
        ins = 32 + 24 + GIVEN + found, 48 + GIVEN + found
        self.mix = nn.ModuleList(block(i, o, 1) for i, o in zip(ins, (16, 24), strict=True))
        self.at_quarter = nn.Sequential(block(24, 24), block(24, 24))
        self.lateral = nn.Conv2d(24, 16, 1)
        self.at_half = block(16, 16)
        self.mask_head = answer(16)
        self.depth_head = answer(16, 2)

    def encode(self, bg: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """What a background (B, 3, H, W) costs, to keep where many `fg_bg` share it."""
        small = self._shrunk(bg)
        kept = {"small": small, "coarse": encoded(self.coarse.encoder, pad(small, Coarse.STRIDE))}
        if max(bg.shape[2:]) > self.COARSE:
            kept["fine"] = encoded(self.encoder, pad(bg, self.STRIDE))
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
        light = lighting(kept["small"], small)
        known = fewer = None
        if bg_depth is not None:
            known = known_depth(bg_depth, len(fg_bg))  # (B, 2, H, W)
            fewer = resized(known, *small.shape[2:])
        y, maps = self.coarse(kept["small"], small, light, kept.get("coarse"), fewer)
        coarse = _answer(maps, fewer)
        if max(fg_bg.shape[2:]) <= self.COARSE:
            return coarse
        parts = evidence(self.encoder, self.STRIDE, bg, fg_bg, light, kept.get("fine"), known)
        maps = self._corrected(maps, y, parts, *fg_bg.shape[2:])
        return _answer(maps, known) | {"coarse": coarse}

    def _corrected(self, maps: Tensor, y: Tensor, parts: list, h: int, w: int) -> Tensor:
        """The first stage's maps at full size, corrected at 1/2 from both scales of the second."""
        mixed = []
        for mix, part, scale in zip(self.mix, parts, (2, 4), strict=True):
            sides = math.ceil(h / scale), math.ceil(w / scale)
            found = (pad(resized(x, *sides), self.STRIDE // scale) for x in (y, maps))
            mixed.append(mix(joined([*part, *found])))
        half, quarter = mixed  # (B, 16, H / 2, W / 2), (B, 24, H / 4, W / 4)
        half = self.at_half(half + double(self.lateral(self.at_quarter(quarter))))
        corrections = answers(half, self.mask_head, self.depth_head)
        return resized(maps, h, w) + corrections[..., :h, :w]

    def _shrunk(self, image: Tensor) -> Tensor:
        """The whole image at COARSE pixels on its long side; a smaller one as it is."""
        h, w = image.shape[2:]
        scale = min(1, self.COARSE / max(h, w))
        return resized(image, *(max(MIN_SIZE, round(side * scale)) for side in (h, w)))


def _answer(maps: Tensor, known: Tensor | None) -> dict[str, Tensor]:
    """One depth of both, as far as the mask says that something new is before the empty scene.

    A depth that has edges of its own has them beside the mask's, and between two distances lies
    nothing. What stood in the empty scene and has left keeps the depth that was told of it.
    Source: layered depth images, Shade et al. 1998.
    maps: (B, 3, H, W) logits; known: `known_depth`.
    """
    mask, depths = maps.float().split([1, 2], 1)
    behind, new = depths.sigmoid().split(1, 1)
    if known is not None:
        told = mean_known(known)
        is_told = known[:, 1:] > 0.5
        new = torch.where(is_told, torch.minimum(new, told), new)
        behind = torch.where(is_told, told, behind)
    share = mask.detach().sigmoid()  # a wrong depth is no reason for another mask
    depth = behind + share * (new - behind)
    return {"mask_logits": mask, "depth_logits": depth.clamp(1e-4, 1 - 1e-4).logit()}


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
    return getattr(model, "takes_depth", False)


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
