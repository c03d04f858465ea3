"""The systems of earlier write-ups, rebuilt: networks from their layer tables, and recipes.

`lean` and `resnet` are the two tables of seed document 002: one network per task, from `fg_bg`
alone; `lean-both` and `resnet-both` are the same with `bg` beside it, for a fair comparison.
A recipe holds what differs from the defaults of `Config`; ours is the first.

Source: U-Net, Ronneberger et al. 2015; ResNet-18, He et al. 2015 (torchvision's, untrained).
"""

from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from evalib import layers
from evalib.layers import check, double, finish, prepare

RESNET_NOTE = "; its document prints 28,976,321: torchsummary lists the encoder's 11,176,512 twice"
RECIPES: dict[str, dict] = {
    # Our small network, both inputs, both heads.
    "small": {"network": "small"},
    # Seed 002: Dice won for the mask, L1 beat Huber and MSE for the depth; rate .01, then StepLR.
    "lean": {
        "network": "lean",
        "mask_loss": "dice",
        "depth_loss": "l1",
        "optimizer": "adam",
        "lr": 1e-2,
        "schedule": "step",
        "augment": "none",
    },
    "resnet": {
        "network": "resnet",
        "mask_loss": "dice",
        "depth_loss": "l1",
        "optimizer": "adam",
        "lr": 1e-3,  # not tuned; the document names .01, but no optimizer
        "schedule": "step",
        "augment": "none",
    },
}


def recipe(name: str) -> dict:
    """The settings of a named recipe.

    Raises: ValueError listing the known names.
    """
    if name not in RECIPES:
        raise ValueError(f"recipe {name!r} is unknown; choose one of {', '.join(RECIPES)}")
    return dict(RECIPES[name])


class Lean(nn.Module):
    """The lean table of seed 002: 507,203 parameters, one map from one image of 3 channels.

    The table lists no pooling or upsampling, so only its shapes speak: strides of 2 and nearest
    upsampling fit them, and the channel counts leave room for two skips (128 at 1/4, 32 at 1/2).
    It ends with BatchNorm and ReLU on the single output channel. That ReLU is left out: a logit
    that cannot be negative cannot say "background", its sigmoid never falls below one half.
    """

    STRIDE = 8

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        block = partial(layers.block, bias=True)  # as the table counts; BatchNorm undoes a bias
        self.to_half = nn.Sequential(block(channels, 16), block(16, 32, stride=2))
        self.to_quarter = nn.Sequential(block(32, 64, stride=2), block(64, 128))
        self.to_eighth = block(128, 128, 1, stride=2)
        self.at_quarter = nn.Sequential(block(256, 128), block(128, 32))
        self.at_half = nn.Sequential(block(64, 64), block(64, 32))
        self.at_full = block(32, 16)
        self.last = nn.Sequential(nn.Conv2d(16, 1, 1), nn.BatchNorm2d(1))

    def forward(self, x: Tensor) -> Tensor:
        half = self.to_half(x)
        quarter = self.to_quarter(half)
        y = self.at_quarter(torch.cat([double(self.to_eighth(quarter)), quarter], 1))
        y = self.at_half(torch.cat([double(y), half], 1))
        return self.last(self.at_full(double(y)))


class ResNetUNet(nn.Module):
    """The ResNet table of seed 002: 17,799,809 parameters, one map from one image of 3 channels.

    Every skip passes a 1x1 convolution; the decoder has no BatchNorm. How the original upsampled
    is not in the table (nothing to count); here it is nearest.
    """

    STRIDE = 32

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        conv = partial(layers.block, bias=True, norm=False)
        net = resnet18(weights=None)
        if channels != 3:
            net.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        stem = nn.Sequential(net.conv1, net.bn1, net.relu)
        first = nn.Sequential(net.maxpool, net.layer1)
        self.full = nn.Sequential(conv(channels, 64), conv(64, 64))
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
            y = block(torch.cat([double(y), skips.pop()], 1))
        return self.last(y)


class PerTask(nn.Module):
    """Two separate networks, `mask` and `depth`, each from `fg_bg` alone, or from `both` shots."""

    def __init__(self, network: type[Lean] | type[ResNetUNet], both: bool = False) -> None:
        super().__init__()
        channels, self.both = 6 if both else 3, both
        self.mask, self.depth = network(channels), network(channels)

    def forward(self, bg: Tensor, fg_bg: Tensor) -> dict[str, Tensor]:
        """As `Small.forward`."""
        check(bg, fg_bg)
        shots = [fg_bg, bg] if self.both else [fg_bg]
        x = torch.cat([prepare(shot, self.mask.STRIDE) for shot in shots], 1)
        return finish(self.mask(x), self.depth(x), fg_bg)
