"""A small network for instance boundaries, foreground, instance embeddings and instance extents.

A small U-Net of 3x3 convolutions (Ronneberger et al. 2015) at a half, a quarter, an eighth and a sixteenth of the
image's size, with boundaries and foreground at full size. Merging regions along learned boundaries instead of colour
edges follows Arbelaez et al. (2014) and Maninis et al. (2018). For every second pixel the network also predicts

- an embedding, similar within an instance and different between instances (De Brabandere et al. 2017), two numbers of
  it relative to the pixel's position (Neven et al. 2019): it joins the parts of an occluded object;
- the extent of the pixel's instance, its centre and its size: it distinguishes an object from a part of it.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

WIDTHS = (24, 48, 96, 128)
"""Channels at a half, a quarter, an eighth and a sixteenth of the size."""
STRIDE = 16
"""Height and width of the input are multiples of this."""
OUTPUTS = 2
"""Boundary, and foreground (an object on a table). The second is an auxiliary task and is not used."""
EMBEDDING = 8
"""Channels of the embedding, the first two of which count from the pixel's position, x and y."""
PLACE_PX = 32
"""Pixels in one unit of those two, and of the centre in the extent."""
EXTENT = 5
"""Channels of the extent: from the pixel to the centre of its instance, x and y; logarithms of the instance's standard
deviations along x and y and of its area, in pixels."""


class ConvBlock(nn.Sequential):
    """Convolution, batch norm while training (folded into the convolution for use), ReLU."""

    def __init__(self, inputs: int, outputs: int, dilation: int, train: bool) -> None:
        layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, 1, dilation, dilation, bias=not train)]
        if train:
            layers.append(nn.BatchNorm2d(outputs))
        super().__init__(*layers, nn.ReLU(inplace=True))


class BoundaryNet(nn.Module):
    """Images to logits of boundary and foreground, to embeddings and to extents.

    Args:
        train: with batch norms, for training; :func:`folded` makes the weights of a network without.
        widths: channels of the four levels.
    """

    def __init__(self, train: bool = False, widths: tuple[int, int, int, int] = WIDTHS) -> None:
        super().__init__()
        a, b, c, d = widths
        self.level1 = nn.Sequential(ConvBlock(12, a, 1, train), ConvBlock(a, a, 1, train))
        self.level2 = nn.Sequential(ConvBlock(a, b, 1, train), ConvBlock(b, b, 1, train))
        self.level3 = nn.Sequential(ConvBlock(b, c, 1, train), ConvBlock(c, c, 1, train))
        self.level4 = nn.Sequential(ConvBlock(c, d, 1, train), ConvBlock(d, d, 2, train), ConvBlock(d, d, 4, train))
        self.up = nn.ModuleList([nn.Conv2d(d, c, 1), nn.Conv2d(c, b, 1), nn.Conv2d(b, a, 1)])
        self.mix = nn.ModuleList([ConvBlock(c, c, 1, train), ConvBlock(b, b, 1, train), ConvBlock(a, a, 1, train)])
        self.out = nn.Conv2d(a, 4 * OUTPUTS, 3, padding=1)
        self.embed = nn.Conv2d(a, EMBEDDING, 3, padding=1)
        self.extent = nn.Conv2d(a, EXTENT, 3, padding=1)
        if train:  # start from an instance of average size
            with torch.no_grad():
                self.extent.bias.copy_(torch.tensor([0.0, 0.0, 2.5, 2.5, 6.5]))  # type: ignore[union-attr]

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Predict boundaries, embeddings and extents.

        Args:
            image: ``(B, 3, H, W)`` RGB from -1 to 1, sides multiples of :data:`STRIDE`.

        Returns:
            logits ``(B, 2, H, W)``; embeddings ``(B, 8, H / 2, W / 2)`` and extents ``(B, 5, H / 2, W / 2)``, positions
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
    """Add to the first two channels of embeddings or extents ``(B, c, h, w)`` the position that they count from."""
    height, width = embedding.shape[-2:]
    y = torch.arange(height, device=embedding.device, dtype=embedding.dtype)[:, None] * (2 / PLACE_PX)
    x = torch.arange(width, device=embedding.device, dtype=embedding.dtype)[None] * (2 / PLACE_PX)
    place = torch.stack([x.expand(height, width), y.expand(height, width)])
    return torch.cat([embedding[:, :2] + place, embedding[:, 2:]], 1)


def folded(trained: nn.Module) -> dict[str, torch.Tensor]:
    """Weights for the same network without batch norms, which are folded into the convolutions before them.

    The outputs are those of the trained network in evaluation mode. Shapes are those of ``BoundaryNet().state_dict()``,
    ``(outputs, inputs, 3, 3)`` and ``(outputs,)`` of a convolution.

    Args:
        trained: of :class:`ConvBlock` layers, convolutions and linear layers, as a :class:`BoundaryNet` is.
    """
    weights: dict[str, torch.Tensor] = {}
    for name, module in trained.named_modules():
        if isinstance(module, ConvBlock):
            conv, norm = module[0], module[1]
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            weights[f"{name}.0.weight"] = (conv.weight * scale[:, None, None, None]).detach()
            weights[f"{name}.0.bias"] = (norm.bias - norm.running_mean * scale).detach()
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            weights[f"{name}.weight"] = module.weight.detach()
            weights[f"{name}.bias"] = module.bias.detach()
    return weights
