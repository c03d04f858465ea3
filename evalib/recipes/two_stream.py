"""The network of seed document 004: each shot has two encoder blocks of its own, then one trunk.

10,343,490 parameters, exact. The features of both streams skip to the last layers, which may see
the two shots apart. Its depth weighs twice, as does Dice, in the code it follows.
Source: the document; U-Net, Ronneberger et al. 2015, of residual blocks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalib.layers import Sum, double
from evalib.recipes.system import System

SETTINGS = {
    "network": "two_stream",
    "mask_loss": "bce+2*dice",
    "depth_loss": "2*rmse",
    "optimizer": "sgd",
    "lr": 0.1,
    "weight_decay": 0.0,
    "schedule": "step:.265",  # where the larger pictures begin
    "sizes": ((96, 3), (160, 3)),
}


def block(c_in: int, c_out: int) -> Sum:
    """Two convolutions, each followed by ReLU, then BatchNorm; a 1x1 convolution beside them."""
    layers = []
    for c in (c_in, c_out):
        layers += [nn.Conv2d(c, c_out, 3, padding=1), nn.ReLU(True), nn.BatchNorm2d(c_out)]
    return Sum(nn.Sequential(*layers), nn.Conv2d(c_in, c_out, 1))


class Decoder(nn.Module):
    """One map (B, 1, H, W) from features at all scales, coarsest first."""

    def __init__(self) -> None:
        super().__init__()
        widths = [(512, 256), (256, 128), (128, 64), (64, 32), (32, 16)]
        self.narrow = nn.ModuleList(nn.Conv2d(i, o, 1) for i, o in widths)
        # of the two finest scales both streams come, twice as wide as the decoder wants
        skips = [nn.Identity() if o > 32 else nn.Conv2d(i, o, 1) for i, o in widths]
        self.skips = nn.ModuleList(skips)
        self.blocks = nn.ModuleList(block(i, o) for i, o in widths)
        self.last = nn.Conv2d(16, 1, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        y = features[0]
        for i, feature in enumerate(features[1:]):
            skip = self.skips[i](feature)
            y = self.blocks[i](torch.cat([double(self.narrow[i](y)), skip], 1))
        return self.last(y)


class TwoStream(System):
    """Mask and depth logits; with one stream, both shots enter it as six channels."""

    def __init__(self, streams: int = 2) -> None:
        super().__init__()
        self.streams = nn.ModuleList()
        for _ in range(streams):
            c = 6 // streams
            wide = 32 // streams  # as many features at each scale, however they are split
            self.streams.append(nn.ModuleList([block(c, wide), block(wide, 2 * wide)]))
        self.merge = nn.Conv2d(64, 32, 1)
        widths = (32, 64), (64, 128), (128, 256), (256, 512)
        self.trunk = nn.ModuleList(block(i, o) for i, o in widths)
        self.mask, self.depth = Decoder(), Decoder()

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inputs = x.chunk(len(self.streams), 1)
        full = [stream[0](x) for stream, x in zip(self.streams, inputs, strict=True)]
        halves = [F.max_pool2d(x, 2) for x in full]
        half = [stream[1](x) for stream, x in zip(self.streams, halves, strict=True)]
        features = [torch.cat(full, 1), torch.cat(half, 1)]  # (B, 32, H, W), (B, 64, H / 2, W / 2)
        y = self.merge(F.max_pool2d(features[-1], 2))
        for i, scale in enumerate(self.trunk):
            y = scale(F.max_pool2d(y, 2) if i else y)
            features.append(y)  # at 1/4, 1/8, 1/16, 1/32
        features.reverse()
        return self.mask(features), self.depth(features)
