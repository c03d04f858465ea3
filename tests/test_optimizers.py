import pytest
import torch
from torch import nn

from evalib.optimizers import Muon, orthogonal


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 72), (2, 72, 8), (1, 1, 9)])
def test_a_move_is_the_nearest_orthogonal_matrix_but_for_a_quarter(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vt = torch.linalg.svd(x, full_matrices=False)
    scaled = u.mT @ orthogonal(x) @ vt.mT  # diagonal where the directions are x's
    strengths = torch.linalg.diagonal(scaled)
    assert strengths.min() > 0.65 and strengths.max() < 1.25
    assert torch.allclose(scaled, torch.diag_embed(strengths), atol=1e-4)


def test_a_weak_direction_moves_as_far_as_a_strong_one():
    conv = nn.Conv2d(2, 2, 1, bias=False)
    nn.init.zeros_(conv.weight)
    conv.weight.grad = torch.tensor([[100.0, 0.0], [0.0, 1.0]]).view(2, 2, 1, 1)
    Muon(conv.parameters(), 0.1, 0.0).step()
    moved = -conv.weight.detach().view(2, 2) / (0.1 * 0.2 * 2**0.5)
    assert moved[0, 1] == moved[1, 0] == 0
    assert 0.65 < moved[0, 0] < 1.25 and 0.65 < moved[1, 1] < 1.25


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="older torch")
@pytest.mark.parametrize("shape", [(8, 24), (24, 8)])
def test_a_convolution_of_one_pixel_moves_as_a_matrix_does_in_torch(shape):
    torch.manual_seed(0)
    conv = nn.Conv2d(shape[1], shape[0], 1, bias=False)
    matrix = nn.Parameter(conv.weight.detach().flatten(1).clone())
    ours = Muon(conv.parameters(), 0.01, 0.1)
    theirs = torch.optim.Muon([matrix], 0.01, 0.1, adjust_lr_fn="match_rms_adamw")
    start = matrix.detach().clone()
    for _ in range(10):
        gradient = torch.randn(shape)
        conv.weight.grad = gradient.view_as(conv.weight).clone()
        matrix.grad = gradient.clone()
        ours.step()
        theirs.step()
    apart = (conv.weight.flatten(1) - matrix).norm() / (matrix - start).norm()
    assert apart < 0.02  # theirs counts in bfloat16


def test_what_is_no_convolution_moves_as_in_adamw():
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    theirs = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    theirs.load_state_dict(ours.state_dict())
    adamw = torch.optim.AdamW(theirs.parameters(), 0.01, weight_decay=0.1)
    optimizers = Muon(ours.parameters(), 0.01, 0.1), adamw
    for _ in range(3):
        gradients = [torch.randn_like(p) for p in ours.parameters()]
        for network, optimizer in zip((ours, theirs), optimizers, strict=True):
            for p, gradient in zip(network.parameters(), gradients, strict=True):
                p.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(ours[0].bias, theirs[0].bias)
    assert torch.equal(ours[1].weight, theirs[1].weight)
    assert not torch.equal(ours[0].weight, theirs[0].weight)


def test_weights_without_a_gradient_stay_and_those_of_gradient_0_are_finite():
    frozen, idle = nn.Parameter(torch.ones(2, 2, 3, 3)), nn.Parameter(torch.ones(2, 2, 3, 3))
    optimizer = Muon([frozen, idle], 0.1, 0.5)
    idle.grad = torch.zeros_like(idle)
    optimizer.step()
    assert torch.equal(frozen, torch.ones_like(frozen))
    assert torch.equal(idle, torch.full_like(idle, 0.95))  # weight decay alone


def test_a_step_of_float16_that_overflowed_is_left_out():
    conv = nn.Conv2d(2, 2, 1)
    before = conv.weight.detach().clone()
    optimizer = Muon(conv.parameters(), 0.1, 0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    loss = conv(torch.full((1, 2, 1, 1), torch.inf)).sum()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    assert torch.equal(conv.weight, before)
