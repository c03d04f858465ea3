"""The ResNet table of seed document 002: a U-Net on ResNet-18 per task, from `fg_bg` alone.

Source: U-Net, Ronneberger et al. 2015; ResNet-18, He et al. 2015 (torchvision's, untrained).
"""

from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from evalib import layers
from evalib.layers import double
from evalib.recipes import lean

SETTINGS = lean.SETTINGS | {
    "network": "resnet",
    "lr": 1e-3,  # not tuned; the document names .01, but no optimizer
}


class ResNetUNet(nn.Module):
    """17,799,809 parameters, one map (B, 1, H, W) from an image (B, 3, H, W), or two in 6 channels.

    Every skip passes a 1x1 convolution; the decoder has no BatchNorm. How the original upsampled
    is not in the table (nothing to count); here it is nearest.
    """

    PAD = 32, 2

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        conv = partial(layers.block, bias=True, norm=False)
        net = resnet18(weights=None)
        if channels != 3:
            net.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        stem = nn.Sequential(net.conv1, net.bn1, net.relu)
        # Its windows overlap. Their gradient is deterministic all the same: on CUDA each pixel sums
        # over its windows, in both memory layouts, unlike that of MaxPool3d and adaptive pools.
        first = nn.Sequential(net.maxpool, net.layer1)
        self.full = nn.Sequential(conv(channels, 64), conv(64, 64))
        self.encoder = nn.ModuleList([stem, first, net.layer2, net.layer3, net.layer4])
        self.skips = nn.ModuleList(conv(c, c, 1) for c in (64, 64, 128, 256, 512))
        # (from below, from the skip, out), coarse to fine
        plan = (512, 256, 512), (512, 128, 256), (256, 64, 256), (256, 64, 128), (128, 64, 64)
        self.decoder = nn.ModuleList(conv(up + skip, out) for up, skip, out in plan)
        self.last = nn.Conv2d(64, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.full(x)]  # (B, 64, H, W)
        for stage, skip in zip(self.encoder, self.skips, strict=True):
            x = stage(x)
            skips.append(skip(x))  # at 1/2, 1/4, ... 1/32
        y = skips.pop()
        for block in self.decoder:
            y = block(torch.cat([double(y), skips.pop()], 1))
        return self.last(y)
