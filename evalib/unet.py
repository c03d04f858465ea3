"""The networks: two photographs in, mask and depth logits out.

`small` is ours: both inputs, both heads, under half a million parameters. `lean` and `resnet`
rebuild the two layer tables of seed document 002: `fg_bg` only, one network per task. All upsample
by nearest neighbour or PixelShuffle, whose CUDA gradients are deterministic where those of bilinear
upsampling are not, so that a resumed run can be bit for bit the same on a GPU too.

Source: U-Net, Ronneberger et al. 2015; one encoder for two shots, FC-Siam-diff, Daudt et al. 2018;
PixelShuffle, Shi et al. 2016; ResNet-18, He et al. 2015 (torchvision's, untrained).
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

MIN_SIZE = 16  # pixels, height and width: one cell of `small`'s coarsest features
MEAN, STD = 0.5, 0.25  # fixed, so that a network needs no statistics of the data it meets
TYPICAL_MASK, TYPICAL_DEPTH = 0.08, 0.5  # means of 5,000 rooms; an untrained `small` says these

_double = partial(F.interpolate, scale_factor=2.0, mode="nearest")


def _check(bg: Tensor, fg_bg: Tensor, same_batch: bool = True) -> None:
    for name, image in (("bg", bg), ("fg_bg", fg_bg)):
        if image.ndim != 4 or image.shape[1] != 3 or not image.is_floating_point():
            got = f"{image.dtype} {tuple(image.shape)}"
            raise ValueError(f"{name} is {got}, needed float (B, 3, H, W) in 0..1: bytes / 255")
    if bg.shape[2:] != fg_bg.shape[2:] or (same_batch and len(bg) != len(fg_bg)):
        got = f"bg is {tuple(bg.shape)}, fg_bg is {tuple(fg_bg.shape)}"
        raise ValueError(f"{got}, needed one size: resize or crop both photographs alike")
    if min(fg_bg.shape[2:]) < MIN_SIZE:
        got = "{}x{}".format(*fg_bg.shape[2:])
        raise ValueError(f"images are {got}, needed {MIN_SIZE}x{MIN_SIZE} or more: enlarge them")


def _prepare(image: Tensor, stride: int) -> Tensor:
    """Normalise, and repeat the last row and column up to a multiple of `stride`."""
    # Two multiples at least: BatchNorm in training needs more than one value per channel.
    down, right = (max(2, -(-side // stride)) * stride - side for side in image.shape[2:])
    if down or right:
        image = F.pad(image, (0, right, 0, down), mode="replicate")
    return ((image - MEAN) / STD).contiguous(memory_format=torch.channels_last)


def _finish(mask: Tensor, depth: Tensor, like: Tensor) -> dict[str, Tensor]:
    """Cut away what `_prepare` added."""
    h, w = like.shape[2:]
    return {"mask_logits": mask[..., :h, :w], "depth_logits": depth[..., :h, :w]}


def _block(c_in, c_out, kernel=3, *, stride=1, bias=False, norm=True) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU. (B, c_in, H, W) -> (B, c_out, H / stride, W / stride)."""
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=bias)
    layers = [conv, nn.BatchNorm2d(c_out)] if norm else [conv]
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


def _head(c: int, typical: float) -> nn.Sequential:
    """(B, c, H, W) -> (B, 1, 2H, 2W) logits, whose sigmoid starts at `typical`."""
    last = nn.Conv2d(c, 4, 3, padding=1)  # 4: a pixel of the half size becomes 2x2
    nn.init.constant_(last.bias, math.log(typical / (1 - typical)))
    return nn.Sequential(_block(c, c), last, nn.PixelShuffle(2))


class Small(nn.Module):
    """Both shots through one encoder; what differs between them is the main evidence.

    Scales 1/2, 1/4 and 1/8 are encoded per shot and mixed from [f_fg_bg, |f_fg_bg - f_bg|]; the
    trunk at 1/16 sees the mixture only, which halves its work. The decoder adds, finest last.
    Both maps are answered at 1/2 and unfolded to pixels by PixelShuffle (depth from 1/4 was worse).
    Convolutions at full resolution made training 1.4x slower for no gain in IoU. Instead the
    difference of the images enters at 1/2, its 2x2 pixels folded into channels: IoU .832 -> .857
    on crude synthetic scenes, .699 -> .701 on rooms (75-90 s of one core, one seed each).
    """

    STRIDE = 16

    def __init__(self, widths: Sequence[int] = (16, 32, 64), trunk: int = 96) -> None:
        super().__init__()
        finer, coarser = (3, *widths[:-1]), (*widths[1:], trunk)
        folded = (12, 0, 0)  # 3 colours x 2x2 pixels of |fg_bg - bg|, at 1/2 only
        scales = list(zip(finer, widths, coarser, folded, strict=True))
        self.encoder = nn.ModuleList(_block(fine, c, stride=2) for fine, c, _, _ in scales)
        self.mix = nn.ModuleList(_block(2 * c + extra, c, 1) for _, c, _, extra in scales)
        blocks = [_block(trunk, trunk) for _ in range(2)]
        self.trunk = nn.Sequential(_block(widths[-1], trunk, stride=2), *blocks)
        self.context = nn.Linear(trunk, trunk)
        self.lateral = nn.ModuleList(nn.Conv2d(coarse, c, 1) for _, c, coarse, _ in scales)
        self.smooth = nn.ModuleList([nn.Identity(), *(_block(c, c) for c in widths[1:])])
        self.mask_head = _head(widths[0], TYPICAL_MASK)
        self.depth_head = _head(widths[0], TYPICAL_DEPTH)

    def encode(self, image: Tensor) -> list[Tensor]:
        """Features of a shot (B, 3, H, W), to keep where many `fg_bg` share a background.

        Returns: (B, widths[i], h, w) at 1/2, 1/4 and 1/8 of the padded size.
        """
        x, features = _prepare(image, self.STRIDE), []
        for block in self.encoder:
            x = block(x)
            features.append(x)
        return features

    def forward(
        self, bg: Tensor, fg_bg: Tensor, bg_features: list[Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Logits of both maps.

        Input:
            bg, fg_bg:   (B, 3, H, W) in 0..1; any H, W from MIN_SIZE.
            bg_features: `encode(bg)` where it is at hand; `bg` and it may then have batch 1.
        Returns: mask_logits, depth_logits, (B, 1, H, W); their sigmoids are the maps.
        Raises: ValueError: not such images, two different sizes, or smaller than MIN_SIZE.
        """
        _check(bg, fg_bg, same_batch=bg_features is None)
        if bg_features is None:  # one pass, so that BatchNorm sees both shots as one set
            pairs = [f.chunk(2) for f in self.encode(torch.cat([fg_bg, bg]))]
        else:
            pairs = zip(self.encode(fg_bg), bg_features, strict=True)
        parts = [[f, (f - f_bg).abs()] for f, f_bg in pairs]
        parts[0].append(F.pixel_unshuffle(_prepare((fg_bg - bg).abs(), self.STRIDE), 2))
        mixed = [mix(torch.cat(p, 1)) for mix, p in zip(self.mix, parts, strict=True)]
        y = self.trunk(mixed[-1])
        y = y + self.context(y.mean((2, 3)))[:, :, None, None]  # the room as a whole, for depth
        for i in (2, 1, 0):
            y = self.smooth[i](mixed[i] + _double(self.lateral[i](y)))
        return _finish(self.mask_head(y), self.depth_head(y), fg_bg)


class Lean(nn.Module):
    """The lean table of seed 002: 507,203 parameters, one map from one image.

    The table lists no pooling or upsampling, so only its shapes speak: strides of 2 and nearest
    upsampling fit them, and the channel counts leave room for two skips (128 at 1/4, 32 at 1/2).
    It ends with BatchNorm and ReLU on the single output channel. That ReLU is left out: a logit
    that cannot be negative cannot say "background", its sigmoid never falls below one half.
    """

    STRIDE = 8

    def __init__(self) -> None:
        super().__init__()
        block = partial(_block, bias=True)  # as the table counts, though BatchNorm undoes a bias
        self.to_half = nn.Sequential(block(3, 16), block(16, 32, stride=2))
        self.to_quarter = nn.Sequential(block(32, 64, stride=2), block(64, 128))
        self.to_eighth = block(128, 128, 1, stride=2)
        self.at_quarter = nn.Sequential(block(256, 128), block(128, 32))
        self.at_half = nn.Sequential(block(64, 64), block(64, 32))
        self.at_full = block(32, 16)
        self.last = nn.Sequential(nn.Conv2d(16, 1, 1), nn.BatchNorm2d(1))

    def forward(self, x: Tensor) -> Tensor:
        half = self.to_half(x)
        quarter = self.to_quarter(half)
        y = self.at_quarter(torch.cat([_double(self.to_eighth(quarter)), quarter], 1))
        y = self.at_half(torch.cat([_double(y), half], 1))
        return self.last(self.at_full(_double(y)))


class ResNetUNet(nn.Module):
    """The ResNet table of seed 002: 17,799,809 parameters, one map from one image.

    Every skip passes a 1x1 convolution; the decoder has no BatchNorm. How the original upsampled
    is not in the table (nothing to count); here it is nearest.
    """

    STRIDE = 32

    def __init__(self) -> None:
        super().__init__()
        conv = partial(_block, bias=True, norm=False)
        net = resnet18(weights=None)
        stem = nn.Sequential(net.conv1, net.bn1, net.relu)
        first = nn.Sequential(net.maxpool, net.layer1)
        self.full = nn.Sequential(conv(3, 64), conv(64, 64))
        self.encoder = nn.ModuleList([stem, first, net.layer2, net.layer3, net.layer4])
        self.skips = nn.ModuleList(conv(c, c, 1) for c in (64, 64, 128, 256, 512))
        # (from below, from the skip, out), coarse to fine
        plan = (512, 256, 512), (512, 128, 256), (256, 64, 256), (256, 64, 128), (128, 64, 64)
        self.decoder = nn.ModuleList(conv(up + skip, out) for up, skip, out in plan)
        self.last = nn.Conv2d(64, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.full(x)]
        for stage, skip in zip(self.encoder, self.skips, strict=True):
            x = stage(x)
            skips.append(skip(x))
        y = skips.pop()
        for block in self.decoder:
            y = block(torch.cat([_double(y), skips.pop()], 1))
        return self.last(y)


class PerTask(nn.Module):
    """Two separate networks, `mask` and `depth`, each from `fg_bg` alone; `bg` is not looked at."""

    def __init__(self, network: type[Lean] | type[ResNetUNet]) -> None:
        super().__init__()
        self.mask, self.depth = network(), network()

    def forward(self, bg: Tensor, fg_bg: Tensor) -> dict[str, Tensor]:
        """As `Small.forward`."""
        _check(bg, fg_bg)
        x = _prepare(fg_bg, self.mask.STRIDE)
        return _finish(self.mask(x), self.depth(x), fg_bg)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "small": Small,
    "lean": partial(PerTask, Lean),
    "resnet": partial(PerTask, ResNetUNet),
}
RESNET_NOTE = "; its document prints 28,976,321: torchsummary lists the encoder's 11,176,512 twice"


def build(name: str) -> nn.Module:
    """A new network, called as `model(bg, fg_bg)`; its weights come from torch's global generator.

    Raises: ValueError listing the known names.
    """
    if name not in NETWORKS:
        raise ValueError(f"network {name!r} is unknown; choose one of {', '.join(NETWORKS)}")
    return NETWORKS[name]()


@torch.no_grad()
def predict(model: nn.Module, bg: Tensor, fg_bg: Tensor) -> tuple[Tensor, Tensor]:
    """mask_pred, depth_pred, (B, 1, H, W) in 0..1, of `bg` and `fg_bg`, (B, 3, H, W) in 0..1.

    Works in evaluation mode and puts the mode the model was in back. The images go to the device
    of the model, the maps come back to theirs.
    """
    was_training = model.training
    device = next((p.device for p in model.parameters()), bg.device)
    model.eval()
    try:
        logits = model(bg.to(device), fg_bg.to(device))
    finally:
        model.train(was_training)
    mask, depth = (logits[f"{task}_logits"].float().sigmoid() for task in ("mask", "depth"))
    return mask.to(bg.device), depth.to(bg.device)


def predictor(model: nn.Module) -> Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]]:
    """`model` as `metrics.evaluate` asks for it: batch -> (mask_pred, depth_pred)."""
    return lambda batch: predict(model, batch["bg"], batch["fg_bg"])


def measure(name: str, size: int = 64) -> dict[str, int | float | str]:
    """What a network costs: parameters, mb (as float32), multiply_adds of one sample, and a note.

    Convolutions and matrix products count; biases, normalisation and activations do not.
    """
    # On the meta device there are shapes only: nothing is computed or allocated.
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model, image = build(name).eval(), torch.empty(1, 3, size, size)
        model(image, image)
    n, note = sum(p.numel() for p in model.parameters()), "both inputs, both maps"
    if isinstance(model, PerTask):
        note = f"fg_bg only, 2 networks of {n // 2:,}" + RESNET_NOTE * (name == "resnet")
    row = {"network": name, "parameters": n, "mb": n * 4 / 2**20}
    return row | {"multiply_adds": counter.get_total_flops() // 2, "note": note}


def table(names: Sequence[str] = tuple(NETWORKS), size: int = 64) -> str:
    """`measure` of several networks as text, one line each."""
    lines = [f"network   parameters     MB  {f'Mmult-adds@{size}':>14}  note"]
    for row in (measure(name, size) for name in names):
        numbers = f"{row['parameters']:12,} {row['mb']:6.1f}  {row['multiply_adds'] / 1e6:14,.1f}"
        lines.append(f"{row['network']:8}{numbers}  {row['note']}")
    return "\n".join(lines)
