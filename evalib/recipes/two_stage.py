"""The two networks of seed document 003: a mask, then depth from image x mask, from `fg_bg` alone.

In its public code the first predicts depth, the second a mask of what the first has to see, and
the score is of the first against itself. Here it is as the document says.
Sources: Hu et al. 2019, Revisiting single image depth estimation, and Visualization of CNNs for
monocular depth estimation; dilated residual networks, Yu et al. 2017.
"""

import torch
from torch import Tensor, nn
from torchvision.models import resnet50

from evalib.layers import Sum, block, resized

SETTINGS = {
    "network": "two_stage",
    "mask_loss": "bce",
    "depth_loss": "log+log_gradient+normals",
    "optimizer": "adam",
    "lr": 1e-4,
    "schedule": "constant",
    "sizes": ((38, 4), (48, 6), (56, 2), (64, 2)) * 2,  # once for each of the phases
    "phases": (("mask", 1), ("depth head", 1)),
}


class UpProjection(nn.Module):
    """(B, c_in, h, w) -> (B, c_out, rows, columns)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        last = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        deep = nn.Sequential(block(c_in, c_out, 5), last, nn.BatchNorm2d(c_out))
        beside = nn.Conv2d(c_in, c_out, 5, padding=2, bias=False)
        self.sum = Sum(deep, nn.Sequential(beside, nn.BatchNorm2d(c_out)))

    def forward(self, x: Tensor, rows: int, columns: int) -> Tensor:
        return self.sum(resized(x, rows, columns)).relu()


class Mask(nn.Module):
    """ResNet-50, a decoder, and once more all its scales side by side. (B, 1, H, W)."""

    PAD = 1, 33  # any size that leaves BatchNorm two pixels at 1/32

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        net = resnet50(weights=None)
        net.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
        first = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1)
        self.encoder = nn.ModuleList([first, net.layer2, net.layer3, net.layer4])
        self.bottom = block(2048, 1024, 1)
        widths = (1024, 512, 256, 128, 64)
        self.decoder = nn.ModuleList(map(UpProjection, widths[:-1], widths[1:]))
        self.scales = nn.ModuleList(UpProjection(c, 16) for c in (256, 512, 1024, 2048))
        self.joined = block(64, 64, 5)
        last = nn.Conv2d(128, 1, 5, padding=2)
        self.last = nn.Sequential(block(128, 128, 5), block(128, 128, 5), last)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        features = []
        y = x
        for stage in self.encoder:
            y = stage(y)
            features.append(y)  # at 1/4, 1/8, 1/16, 1/32
        y = self.bottom(y)
        for k, up in zip((16, 8, 4, 2), self.decoder, strict=True):
            y = up(y, -(-h // k), -(-w // k))  # rounded up, as strides do
        half = y.shape[2:]
        halves = [up(f, *half) for up, f in zip(self.scales, features, strict=True)]
        y = torch.cat([y, self.joined(torch.cat(halves, 1))], 1)  # (B, 128, H / 2, W / 2)
        return resized(self.last(y), h, w)


def residual(c_in: int, c_out: int, stride: int, dilation: int) -> nn.Sequential:
    """Two 3x3 convolutions beside the identity, or beside a 1x1 convolution where width changes."""
    last = nn.Conv2d(c_out, c_out, 3, padding=dilation, dilation=dilation, bias=False)
    first = block(c_in, c_out, stride=stride, dilation=dilation)
    flat = nn.Identity()
    if c_in != c_out:
        beside = nn.Conv2d(c_in, c_out, 1, stride, bias=False)
        flat = nn.Sequential(beside, nn.BatchNorm2d(c_out))
    deep = nn.Sequential(first, last, nn.BatchNorm2d(c_out))
    return nn.Sequential(Sum(deep, flat), nn.ReLU(inplace=True))


class Depth(nn.Module):
    """DRN-D-22, whose dilations keep 1/8 of the size, and three steps up. (B, 1, H, W)."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        layers = [block(channels, 16, 7), block(16, 16), block(16, 32, stride=2)]
        plan = (32, 64, 2, 1), (64, 128, 2, 1), (128, 256, 1, 2), (256, 512, 1, 4)
        for i, o, stride, dilation in plan:
            layers += [residual(i, o, stride, dilation), residual(o, o, 1, dilation)]
        self.encoder = nn.Sequential(*layers, block(512, 512, dilation=2), block(512, 512))
        widths = (512, 256, 128, 64)
        self.decoder = nn.ModuleList(map(UpProjection, widths[:-1], widths[1:]))
        self.last = nn.Conv2d(64, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        y = self.encoder(x)
        for k, up in zip((4, 2, 1), self.decoder, strict=True):
            y = up(y, -(-h // k), -(-w // k))
        return self.last(y)
