"""The network of seed document 001: both shots side by side in grouped convolutions.

By its printed count the last layer is grouped, too: nothing ever joins the two shots. The mask is
made from `fg_bg`, the depth from `bg`. "-joined" has the last layer of its public code, which joins
them; "-plain" has no groups.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from evalib.layers import resized
from evalib.recipes.system import System

SETTINGS = {
    "network": "mde_bs",
    "mask_loss": "dice",
    "depth_loss": "ms_ssim",
    "optimizer": "adam",
    "lr": 1e-3,  # not given
    "schedule": "constant",
    "augment": ("flip", "crop"),
}


class Grouped(System):
    """Mask and depth logits of both shots in `groups` groups, `last` in the last layer."""

    PAD = 1, 1
    SIZE = 64  # pixels: its layers do not pad, so only this size comes out as it went in

    def __init__(self, groups: int = 2, last: int = 2) -> None:
        super().__init__()

        def layer(conv: type[nn.Module], i: int, o: int, kernel: int = 3, stride: int = 1):
            conv = conv(i, o, kernel, stride, bias=False, groups=groups)
            return nn.Sequential(conv, nn.BatchNorm2d(o), nn.ReLU(inplace=True))

        conv, up = nn.Conv2d, nn.ConvTranspose2d
        self.first = layer(conv, 6, 32)
        wide = layer(conv, 32, 64), layer(conv, 64, 128), layer(conv, 128, 256)
        self.down = nn.Sequential(*wide, layer(conv, 256, 32, 1), nn.MaxPool2d(2))
        wide = layer(up, 32, 64), layer(up, 64, 128), layer(up, 128, 64)
        self.up = nn.Sequential(*wide, layer(up, 64, 32, 1))  # six pixels more
        self.wider = layer(up, 32, 32, 1, 2)  # 2 n - 1 pixels
        self.last = nn.Conv2d(32, 2, 1, bias=False, groups=last)

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h, w = x.shape[2:]
        x = resized(x, self.SIZE, self.SIZE)
        y = self.down(self.down(self.down(self.first(x))))  # (B, 32, 2, 2)
        y = self.up(self.up(self.up(self.wider(y))))  # 21
        y = self.up(self.up(self.up(self.wider(y))))  # 59
        y = self.up(F.avg_pool2d(self.wider(y), 2))  # 117, 58, 64
        mask, depth = resized(self.last(y), h, w).split(1, 1)  # of fg_bg, and of bg
        return mask, depth
