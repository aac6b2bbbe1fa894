"""A small network that says where bodies end, which pixels are things, which belong together, and to how large a body.

An encoder and decoder of 3x3 convolutions (a small U-Net, Ronneberger et al. 2015) at a half, a quarter, an eighth and
a sixteenth of the image's size, with boundaries and things at full size. Learned boundaries instead of colour edges,
then regions merged along them, is the way of Arbelaez et al. (2014) and Maninis et al. (2018). For every second pixel
the network also gives an embedding, alike within a body and different between bodies (De Brabandere et al. 2017), part
of it relative to the pixel's own place (Neven et al. 2019): it joins what a hand or a bottle in front has cut in two.
And it says where the middle of the pixel's body is and how large the body, which tells a whole from a part.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

WIDTHS = (24, 48, 96, 128)
"""Channels at a half, a quarter, an eighth and a sixteenth of the size."""
STRIDE = 16
"""Height and width of what goes in are multiples of this."""
OUTPUTS = 2
"""Boundary; thing, which is learned beside it and not asked for: of what is no table it says little."""
EMBEDDING = 8
"""Numbers of the embedding, the first two of which count from the pixel's own place, x and y."""
PLACE_PX = 32
"""Pixels that are one unit of those two, and of the middle in the extent."""
EXTENT = 5
"""Numbers of the extent: from the pixel to the middle of its body, x and y; logarithms of the body's standard
deviations along x and y and of its area, in pixels."""


class _Block(nn.Sequential):
    """Convolution, batch norm while training (folded into the convolution for use), ReLU."""

    def __init__(self, inputs: int, outputs: int, dilation: int, train: bool) -> None:
        layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, 1, dilation, dilation, bias=not train)]
        if train:
            layers.append(nn.BatchNorm2d(outputs))
        super().__init__(*layers, nn.ReLU(inplace=True))


class BoundaryNet(nn.Module):
    """Images to logits of boundary and thing, to embeddings and to extents.

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
        self.embed = nn.Conv2d(a, EMBEDDING, 3, padding=1)
        self.extent = nn.Conv2d(a, EXTENT, 3, padding=1)
        if train:  # a body of usual size, so that training need not begin by finding that
            with torch.no_grad():
                self.extent.bias.copy_(torch.tensor([0.0, 0.0, 2.5, 2.5, 6.5]))  # type: ignore[union-attr]

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """From images to logits, embeddings and extents.

        Args:
            image: ``(B, 3, H, W)`` RGB from -1 to 1, sides multiples of :data:`STRIDE`.

        Returns:
            logits ``(B, 2, H, W)``; embeddings ``(B, 8, H / 2, W / 2)`` and extents ``(B, 5, H / 2, W / 2)``, places
            not added yet (:func:`placed`).
        """
        x1 = self.level1(F.pixel_unshuffle(image, 2))
        x2 = self.level2(F.avg_pool2d(x1, 2))
        x3 = self.level3(F.avg_pool2d(x2, 2))
        x = self.level4(F.avg_pool2d(x3, 2))
        for up, mix, skip in zip(self.up, self.mix, (x3, x2, x1), strict=True):
            x = mix(skip + F.interpolate(up(x), scale_factor=2.0, mode="nearest"))
        return F.pixel_shuffle(self.out(x), 2), self.embed(x), self.extent(x)


def placed(embedding: torch.Tensor) -> torch.Tensor:
    """Add to embeddings or extents ``(B, c, h, w)`` of every second pixel the places their first two count from."""
    height, width = embedding.shape[-2:]
    y = torch.arange(height, device=embedding.device, dtype=embedding.dtype)[:, None] * (2 / PLACE_PX)
    x = torch.arange(width, device=embedding.device, dtype=embedding.dtype)[None] * (2 / PLACE_PX)
    place = torch.stack([x.expand(height, width), y.expand(height, width)])
    return torch.cat([embedding[:, :2] + place, embedding[:, 2:]], 1)


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
