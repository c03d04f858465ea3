"""How gradients change the weights: torch's optimizers, and Muon for networks of convolutions."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95


class Muon(torch.optim.AdamW):
    """AdamW, but a convolution's weights all move alike: by the orthogonal matrix that is nearest
    to the momentum of their gradient, so what is seldom asked for is learnt as fast as the rest.

    Steps are as long as AdamW's usually are, so that one learning rate does for both. Never fused:
    then a float16 step whose gradients overflowed is left out before it comes here, while a fused
    AdamW is called all the same and told to leave it out itself.
    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; the length: Liu et al.
    2025, "Muon is scalable for LLM training".
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, lr, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Change the weights by their `.grad`; those of convolutions are gone afterwards."""
        for group in self.param_groups:
            alike = defaultdict(list)  # by shape: few large products instead of many small ones
            for p in group["params"]:
                if p.ndim == 4 and p.grad is not None:
                    alike[p.shape].append(p)
            for shape, convs in alike.items():
                moves = orthogonal(torch.stack([self._momentum(p).flatten(1) for p in convs]))
                length = 0.2 * max(moves.shape[1:]) ** 0.5  # root mean square .2
                for p, move in zip(convs, moves, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.sub_(move.reshape(shape), alpha=group["lr"] * length)
                    p.grad = None  # nothing is left for AdamW
        super().step()

    def _momentum(self, p: nn.Parameter) -> Tensor:
        """The mean gradient of p so far, and a little of what is to come (Nesterov)."""
        state = self.state[p]
        if not state:
            state["step"] = torch.tensor(0.0)  # without it AdamW does not go on from a saved state
            state["momentum"] = torch.zeros_like(p)
        state["step"] += 1
        return p.grad.lerp(state["momentum"].lerp_(p.grad, 1 - MOMENTUM), MOMENTUM)


def orthogonal(x: Tensor) -> Tensor:
    """(n, rows, columns) matrices -> the same with all singular values near 1, from .7 to 1.2.

    Newton and Schulz's iteration, five times, with the polynomial of Muon's source: products of
    matrices alone, no decomposition.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


OPTIMIZERS = {  # of parameters, rate, weight decay, and `fused` as torch's have it
    "adamw": lambda p, lr, decay, **how: torch.optim.AdamW(p, lr, weight_decay=decay, **how),
    "adam": lambda p, lr, decay, **how: torch.optim.Adam(p, lr, **how),
    "sgd": lambda p, lr, decay, **how: torch.optim.SGD(p, lr, 0.9, weight_decay=decay, **how),
    "muon": lambda p, lr, decay, **how: Muon(p, lr, decay),
}
