"""What training minimises: the terms in MASK and DEPTH, and Loss, a weighted sum of them.

A term is the mean over images of one value per image. Terms and their gradients are finite for
all finite input: empty or full masks, zero or constant depth, saturated logits. No gradient is
non-deterministic on CUDA (hence no padding layers).
"""

import math
import re
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from evalib.layers import resized

Maps = dict[str, Tensor]
Term = Callable[[Tensor, Tensor], Tensor]  # logits or depth, target: (B, 1, H, W) each -> ()


def dice(mask_logits: Tensor, mask: Tensor) -> Tensor:
    """Soft Dice loss, 0..1: 1 - (2 sum(p m) + 1) / (sum(p) + sum(m) + 1) for each image.

    The added 1 defines the empty case: no foreground and none predicted costs 0.
    Source: Milletari et al. 2016 (V-Net), section 3, without their squares.
    """
    p, m = mask_logits.sigmoid().flatten(1), mask.flatten(1)  # (B, H*W)
    return (1 - (2 * (p * m).sum(1) + 1) / (p.sum(1) + m.sum(1) + 1)).mean()


def tversky(mask_logits: Tensor, mask: Tensor) -> Tensor:
    """1 - (hits + 1) / (hits + .3 false alarms + .7 misses + 1), 0..1. Salehi et al. 2017."""
    p, m = mask_logits.sigmoid().flatten(1), mask.flatten(1)  # (B, H*W)
    return (1 - ((p * m).sum(1) + 1) / (0.3 * p.sum(1) + 0.7 * m.sum(1) + 1)).mean()


def focal(mask_logits: Tensor, mask: Tensor) -> Tensor:
    """Mean of `bce` times (p - m)^2 a pixel: Lin et al. 2017 with gamma 2 and without alpha."""
    loss = F.binary_cross_entropy_with_logits(mask_logits, mask, reduction="none")
    return (loss * (mask_logits.sigmoid() - mask).square()).mean()


def lovasz(mask_logits: Tensor, mask: Tensor) -> Tensor:
    """Lovasz extension of 1 - IoU, 0..1: an error |p - m| weighs what its pixel, joining the worse
    ones, adds to 1 - IoU. Foreground: mask from .5 on; where there is none, the highest p counts.
    Source: Berman et al. 2018, their softmax version for one class; a hinge has no upper end.
    """
    p, m = mask_logits.sigmoid().flatten(1), mask.flatten(1) >= 0.5  # (B, H*W)
    error = torch.where(m, 1 - p, p)
    order = error.detach().argsort(dim=1, descending=True, stable=True)
    wrong = torch.arange(1, p.shape[1] + 1, device=p.device)  # so many pixels,
    missed = m.gather(1, order).cumsum(1)  # so many of them foreground
    loss = wrong / (m.sum(1, keepdim=True) + wrong - missed)  # 1 - IoU; the union is never empty
    added = torch.cat((loss[:, :1], loss.diff(dim=1)), 1)
    return (error * added.gather(1, order.argsort(1))).sum(1).mean()  # no gradient through gather


def edge(mask_logits: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference of two edge maps, in which 1 is a straight, sharp step from 0 to 1.

    A constant prediction has no edges and so no gradient: use it beside another term.
    Source: document 000, thought 25: the edge map of my mask must be equal to the ground truth's.
    """
    return (_sobel(mask_logits.sigmoid()) - _sobel(mask)).abs().mean()


def outline(mask_logits: Tensor, mask: Tensor) -> Tensor:
    """Binary cross-entropy in which pixels within 2 of the mask's outline weigh five times as much.

    Most of what a trained network gets wrong lies there. Source: the weight map of U-Net
    (Ronneberger et al. 2015), reduced to one step.
    """
    near = F.max_pool2d(mask, 5, 1, 2) + F.max_pool2d(1 - mask, 5, 1, 2) - 1  # 1 by the outline
    loss = F.binary_cross_entropy_with_logits(mask_logits, mask, reduction="none")
    return (loss * (1 + 4 * near)).mean()


def _sobel(image: Tensor) -> Tensor:
    """Sobel magnitude / 4, same shape."""
    return (sum(x.square() for x in _slopes(image)) + 1e-12).sqrt() / 4  # sqrt(0): gradient NaN


def _slopes(image: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel's sums along x and y, 8 times the slope; beyond the frame its pixels are repeated."""
    image = torch.cat((image[..., :1], image, image[..., -1:]), -1)
    image = torch.cat((image[..., :1, :], image, image[..., -1:, :]), -2)  # (B, 1, H+2, W+2)
    x = image[..., 2:] - image[..., :-2]  # (B, 1, H+2, W)
    x = x[..., :-2, :] + 2 * x[..., 1:-1, :] + x[..., 2:, :]  # (B, 1, H, W)
    y = image[..., 2:, :] - image[..., :-2, :]  # (B, 1, H, W+2)
    return x, y[..., :-2] + 2 * y[..., 1:-1] + y[..., 2:]  # (B, 1, H, W) each


def bce(depth_pred: Tensor, depth: Tensor) -> Tensor:
    """Binary cross-entropy less the target's own: 0 for a perfect map. Documents 000 and 001."""
    # By logits, as far as float32's last step below 1: torch's own stops CUDA at the first NaN.
    logits = (torch.logit(x, 6e-8) for x in (depth_pred, depth))
    loss, own = (F.binary_cross_entropy_with_logits(x, depth) for x in logits)
    return loss - own


def huber(depth_pred: Tensor, depth: Tensor) -> Tensor:
    """x^2 / 2 up to .1 (a metre; not tuned), .1 (|x| - .05) beyond; torch's 1 would be l2 / 2."""
    return F.huber_loss(depth_pred, depth, delta=0.1)


def rmse(depth_pred: Tensor, depth: Tensor) -> Tensor:
    """Root mean square of each image's differences; the gradient at a perfect map is 0."""
    x = (depth_pred - depth).flatten(1)  # (B, H*W)
    return (torch.linalg.vector_norm(x, dim=1) / math.sqrt(x.shape[1])).mean()


def berhu(depth_pred: Tensor, depth: Tensor) -> Tensor:
    """Reverse Huber: |x| up to c, (x^2 + c^2) / 2c beyond; c is a fifth of the image's top |x|.

    Source: Laina et al. 2016, section 3.2 (with c over the batch; our images stay independent).
    """
    x = (depth_pred - depth).abs()
    c = 0.2 * x.detach().amax((1, 2, 3), keepdim=True).clamp_min(1e-6)  # a perfect map: no 0 / 0
    return torch.where(x <= c, x, (x.square() + c.square()) / (2 * c)).mean()


def gradient(depth_pred: Tensor, depth: Tensor) -> Tensor:
    """|dR/dx| + |dR/dy| a pixel, R = depth_pred - depth, summed over strides 1, 2, 4 and 8.

    Blind to a constant offset: use it beside `l1`. A stride larger than the image adds 0.
    Source: MegaDepth (Li & Snavely 2018), on log depth; MiDaS (Ranftl et al. 2020), as here.
    """
    scales = [(depth_pred - depth)[..., ::stride, ::stride] for stride in (1, 2, 4, 8)]
    return sum((r.diff(dim=3).abs().sum() + r.diff(dim=2).abs().sum()) / r.numel() for r in scales)


def log(depth_pred: Tensor, depth: Tensor) -> Tensor:
    """Mean ln(|e| + .5) - ln .5, e in metres (depth 1 is 10). Source: Hu et al. 2019, l_depth."""
    return torch.log1p(20 * (depth_pred - depth).abs()).mean()


def log_gradient(depth_pred: Tensor, depth: Tensor) -> Tensor:
    """`log` of e's Sobel sums along x and along y, added. Source: Hu et al. 2019, l_grad."""
    return sum(torch.log1p(20 * e.abs()).mean() for e in _slopes(depth_pred - depth))


def normals(depth_pred: Tensor, depth: Tensor) -> Tensor:
    """1 - cosine between normals (-x, -y, 1), Sobel's sums in metres. Hu et al. 2019, l_normal."""
    (x, y), (u, v) = _slopes(10 * depth_pred), _slopes(10 * depth)
    lengths = ((x * x + y * y + 1) * (u * u + v * v + 1)).sqrt()
    return (1 - (x * u + y * v + 1) / lengths).mean()


def scale_invariant(depth_pred: Tensor, depth: Tensor) -> Tensor:
    """Mean x^2 - (mean x)^2 / 2, x the difference in ln(depth + 1/255). Eigen et al. 2014."""
    x = torch.log((depth_pred + 1 / 255) / (depth + 1 / 255)).flatten(1)  # (B, H*W)
    return (x.square().mean(1) - x.mean(1).square() / 2).mean()


def new(depth_pred: Tensor, depth: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference where something is new: a few hundredths of most pictures, of which
    `l1` takes little notice. Their number is raised by a hundredth of the picture, so that a few
    pixels do not decide, and 0 is what an empty mask gives."""
    missed = ((depth_pred - depth).abs() * mask).flatten(1).sum(1)
    return (missed / (mask.flatten(1).sum(1) + 0.01 * mask[0].numel())).mean()


def ssim(depth_pred: Tensor, depth: Tensor) -> Tensor:
    """(1 - mean SSIM) / 2, 0..1. Source: Alhashim & Wonka 2018 (DenseDepth), eq. 4."""
    return (1 - ssim_map(depth_pred, depth).mean()) / 2


def ms_ssim(depth_pred: Tensor, depth: Tensor) -> Tensor:
    """1 - MS-SSIM, 0..1, of five scales; below 176 pixels a side of as many as SSIM's 11 fit into
    (below 22 one: 1 - SSIM), with the weights of these over their sum. A score below 1e-4 counts as
    that: powers are too steep there, NaN below 0. Source: Wang et al. 2003; Zhao et al. 2017.
    """
    weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
    weights = [w for k, w in enumerate(weights) if k == 0 or min(depth.shape[2:]) >> k >= 11]
    product = 1.0
    for k, weight in enumerate(weights):
        if k:
            depth_pred, depth = F.avg_pool2d(depth_pred, 2), F.avg_pool2d(depth, 2)
        score = ssim_map(depth_pred, depth, luminance=k == len(weights) - 1).mean((1, 2, 3))
        product = product * score.clamp_min(1e-4) ** (weight / sum(weights))
    return (1 - product).mean()


def ssim_map(pred: Tensor, target: Tensor, *, luminance: bool = True) -> Tensor:
    """Structural similarity, -1..1, a pixel of two (B, 1, H, W) in 0..1; same shape, any size.

    Gaussian of 11 x 11 pixels, sigma 1.5; k1 .01, k2 .03, range 1; mirrored at the frame, so that
    the mean is torchmetrics' (which wants 6 pixels a side). Source: Wang et al. 2004, eq. 13.
    """
    rows, columns = (_gaussian(side, pred) for side in pred.shape[-2:])  # (H, H), (W, W)
    middle = target.mean((1, 2, 3), keepdim=True)  # E[x^2] - E[x]^2 loses fewer digits near x = 0
    x, y = pred - middle, target - middle
    mx, my, xx, yy, xy = (rows @ image @ columns.mT for image in (x, y, x * x, y * y, x * y))
    structure = (2 * (xy - mx * my) + 0.03**2) / (xx - mx * mx + yy - my * my + 0.03**2)
    if not luminance:  # contrast and structure alone
        return structure
    mx, my = mx + middle, my + middle
    return structure * (2 * mx * my + 0.01**2) / (mx * mx + my * my + 0.01**2)


def _gaussian(side: int, like: Tensor) -> Tensor:
    """(side, side), row i: the Gaussian around pixel i. 27 x faster than convolving, 64 px, CPU."""
    offset = torch.arange(-5, 6, device=like.device)
    pixel = torch.arange(side, device=like.device)
    weight = torch.softmax(-(offset.to(like.dtype) ** 2) / (2 * 1.5**2), 0)
    period = max(2 * (side - 1), 1)
    seen = (pixel[:, None] + offset) % period  # (side, 11)
    seen = torch.minimum(seen, period - seen)  # mirrored: pixel -1 is pixel 1
    return ((seen[:, :, None] == pixel) * weight[:, None]).sum(1)


MASK: dict[str, Term] = {"bce": F.binary_cross_entropy_with_logits}  # log 2 where all logits are 0
MASK |= {f.__name__: f for f in (dice, edge, outline, tversky, focal, lovasz)}
DEPTH: dict[str, Term] = {"l1": F.l1_loss, "l2": F.mse_loss, "huber": huber, "rmse": rmse}
DEPTH |= {f.__name__: f for f in (berhu, gradient, ssim, ms_ssim, bce, scale_invariant)}
DEPTH |= {f.__name__: f for f in (log, log_gradient, normals)}  # added, document 003's loss
DEPTH_OF_NEW = {"new": new}  # terms that are given the mask, too


class Loss:
    """Weighted sum of terms, as mask="bce+dice", depth="l1+0.5*gradient"; "" trains no such task.

    A term of your own is a function like those above: `losses.MASK["mine"] = mine`, then name it.
    Called with {"mask_logits", "depth_logits"} and {"mask", "depth"}, all (B, 1, H, W); those of
    an untrained task may be missing. Returns the total () and its parts, unweighted and detached,
    keyed "mask/bce", "depth/l1"...; all in float32, under autocast too. Depth's "new" asks for the
    mask even if that is not trained.
    weighting="uncertainty": the total is the sum of ln L, L being a task's weighted sum.
    Kendall et al. 2018 learn s in exp(-s) L + s; at the best s, ln L, that is ln L + 1.
    ValueError: a term or weighting not known, repeated, misspelt; no term; shapes that differ.
    """

    def __init__(
        self, mask: str = "bce+dice", depth: str = "l1+0.5*gradient", weighting: str = ""
    ) -> None:
        known = DEPTH | DEPTH_OF_NEW
        self.mask, self.depth = _parse(mask, MASK, "mask"), _parse(depth, known, "depth")
        if not (self.mask or self.depth):
            raise ValueError('mask="" and depth="" train nothing; name a term for one of them')
        if weighting not in ("", "uncertainty"):
            raise ValueError(f'weighting {weighting!r}: choose "" or "uncertainty"')
        alone = ((mask, ""), ("", depth)) if weighting else ()
        self.tasks = [Loss(*terms) for terms in alone if "".join(terms).strip()]

    def __call__(self, out: Maps, batch: Maps) -> tuple[Tensor, Maps]:
        if self.tasks:  # each with its coarse half; a perfect one is no minus infinity
            totals, parts = zip(*(task(out, batch) for task in self.tasks), strict=True)
            return sum(x.clamp_min(1e-6).log() for x in totals), {**parts[0], **parts[-1]}
        total = 0.0
        if "coarse" in out:  # the first stage's own answer counts half, at its own size
            h, w = out["coarse"]["mask_logits"].shape[2:]
            maps = {k: resized(batch[k], h, w) for k in ("mask", "depth") if k in batch}
            total = 0.5 * self(out["coarse"], maps)[0]
        parts = {}
        for name, weight in self.mask.items():
            part = _value(name, MASK[name], out["mask_logits"].float(), batch["mask"])
            parts[f"mask/{name}"] = part.detach()
            total = total + weight * part
        for name, weight in self.depth.items():
            depth_pred = out["depth_logits"].float().sigmoid()
            if name in DEPTH_OF_NEW:
                term = partial(DEPTH_OF_NEW[name], mask=batch["mask"])
            else:
                term = DEPTH[name]
            part = _value(name, term, depth_pred, batch["depth"])
            parts[f"depth/{name}"] = part.detach()
            total = total + weight * part
        return total, parts


def _value(name: str, term: Term, pred: Tensor, target: Tensor) -> Tensor:
    """`term` in float32; shapes that would broadcast are refused."""
    if pred.shape != target.shape or pred.ndim != 4 or pred.numel() == 0:
        shapes = f"a prediction {tuple(pred.shape)} and a target {tuple(target.shape)}"
        raise ValueError(f"{name} got {shapes}; needed: one (B, 1, H, W), B > 0")
    with torch.autocast(pred.device.type, enabled=False):
        return term(pred, target)


def _parse(terms: str, known: dict[str, Term], task: str) -> dict[str, float]:
    """{"l1": 1.0, "gradient": 0.5} from "l1 + 0.5*gradient"."""
    weights: dict[str, float] = {}
    for term in terms.split("+") if terms.strip() else ():
        parts = re.fullmatch(r"\s*(?:(\d+\.?\d*|\.\d+)\s*\*)?\s*(\w+)\s*", term)
        if parts is None or parts[2] not in known or parts[2] in weights:
            names = f"name or weight*name, each name once, of {', '.join(known)}"
            raise ValueError(f"{task} loss {terms!r}: {term.strip()!r} is not a {names}")
        weights[parts[2]] = float(parts[1] or 1)
    return weights
