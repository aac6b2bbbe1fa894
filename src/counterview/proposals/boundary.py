"""A small network that says where one body ends and the next begins, and which pixels belong to things.

An encoder and decoder of 3x3 convolutions (a small U-Net, Ronneberger et al. 2015) at a half, a quarter, an eighth and
a sixteenth of the picture's size, with its answer at full size. Learned boundaries instead of colour edges, then
regions merged along them, is the way of Arbelaez et al. (2014) and Maninis et al. (2018).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

WIDTHS = (16, 32, 64, 96)
"""Channels at a half, a quarter, an eighth and a sixteenth of the size."""
STRIDE = 16
"""Height and width of what goes in are multiples of this."""
OUTPUTS = 2
"""Boundary, thing."""


class _Block(nn.Sequential):
    """Convolution, batch norm while training (folded into the convolution for use), ReLU."""

    def __init__(self, inputs: int, outputs: int, dilation: int, train: bool) -> None:
        layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, 1, dilation, dilation, bias=not train)]
        if train:
            layers.append(nn.BatchNorm2d(outputs))
        super().__init__(*layers, nn.ReLU(inplace=True))


class BoundaryNet(nn.Module):
    """Pictures to logits of boundary and thing.

    Args:
        train: with batch norms, to be trained; :func:`folded` turns such a network into one without.
        widths: channels of the four levels.
    """

    def __init__(self, train: bool = False, widths: tuple[int, int, int, int] = WIDTHS) -> None:
        super().__init__()
        a, b, c, d = widths
        self.level1 = nn.Sequential(_Block(12, a, 1, train), _Block(a, a, 1, train))
        self.level2 = nn.Sequential(_Block(a, b, 1, train), _Block(b, b, 1, train))
        self.level3 = nn.Sequential(_Block(b, c, 1, train), _Block(c, c, 1, train))
        self.level4 = nn.Sequential(_Block(c, d, 1, train), _Block(d, d, 2, train), _Block(d, d, 4, train))
        self.up = nn.ModuleList([nn.Conv2d(d, c, 1), nn.Conv2d(c, b, 1), nn.Conv2d(b, a, 1)])
        self.mix = nn.ModuleList([_Block(c, c, 1, train), _Block(b, b, 1, train), _Block(a, a, 1, train)])
        self.out = nn.Conv2d(a, 4 * OUTPUTS, 3, padding=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """``(B, 3, H, W)`` RGB from -1 to 1, sides multiples of :data:`STRIDE`, to logits ``(B, 2, H, W)``."""
        x1 = self.level1(F.pixel_unshuffle(image, 2))
        x2 = self.level2(F.avg_pool2d(x1, 2))
        x3 = self.level3(F.avg_pool2d(x2, 2))
        x = self.level4(F.avg_pool2d(x3, 2))
        for up, mix, skip in zip(self.up, self.mix, (x3, x2, x1), strict=True):
            x = mix(skip + F.interpolate(up(x), scale_factor=2.0, mode="nearest"))
        return F.pixel_shuffle(self.out(x), 2)


def folded(trained: BoundaryNet) -> dict[str, torch.Tensor]:
    """Weights for ``BoundaryNet()`` that answer as a trained network with batch norms does, once it is at rest."""
    weights: dict[str, torch.Tensor] = {}
    for name, module in trained.named_modules():
        if isinstance(module, _Block):
            conv, norm = module[0], module[1]
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            weights[f"{name}.0.weight"] = (conv.weight * scale[:, None, None, None]).detach()
            weights[f"{name}.0.bias"] = (norm.bias - norm.running_mean * scale).detach()
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            weights[f"{name}.weight"] = module.weight.detach()
            weights[f"{name}.bias"] = module.bias.detach()
    return weights
