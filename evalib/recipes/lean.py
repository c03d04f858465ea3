"""The lean table of seed document 002: a small U-Net per task, from `fg_bg` alone.

Dice won there for the mask, L1 beat Huber and MSE for the depth; rate .01, then StepLR.
Source: U-Net, Ronneberger et al. 2015.
"""

from functools import partial

import torch
from torch import Tensor, nn

from evalib import layers
from evalib.layers import double

SETTINGS = {
    "network": "lean",
    "mask_loss": "dice",
    "depth_loss": "l1",
    "optimizer": "adam",
    "lr": 1e-2,
    "schedule": "step:.6666,.8333",
}


class Lean(nn.Module):
    """507,203 parameters, one map (B, 1, H, W) from one image (B, 3, H, W), or two in 6 channels.

    The table lists no pooling or upsampling, so only its shapes speak: strides of 2 and nearest
    upsampling fit them, and the channel counts leave room for two skips (128 at 1/4, 32 at 1/2).
    It ends with BatchNorm and ReLU on the single output channel. That ReLU is left out: a logit
    that cannot be negative cannot say "background", its sigmoid never falls below one half.
    """

    PAD = 8, 2

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
        half = self.to_half(x)  # (B, 32, H / 2, W / 2)
        quarter = self.to_quarter(half)  # (B, 128, H / 4, W / 4)
        y = double(self.to_eighth(quarter))
        y = self.at_quarter(torch.cat([y, quarter], 1))  # (B, 32, H / 4, W / 4)
        y = self.at_half(torch.cat([double(y), half], 1))  # (B, 32, H / 2, W / 2)
        return self.last(self.at_full(double(y)))
