"""Layers of Counterview's own convolutional networks."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


def conv(inputs: int, outputs: int, stride: int = 1, size: int = 3) -> nn.Sequential:
    """Convolution, batch normalisation and ReLU.

    Args:
        inputs: input channels.
        outputs: output channels.
        stride: ``(B, inputs, H, W)`` becomes ``(B, outputs, ceil(H / stride), ceil(W / stride))``.
        size: of the kernel, odd.
    """
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class ResidualBlock(nn.Module):
    """Two convolutions beside the identity (He et al. 2016).

    Args:
        channels: C of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = conv(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels))
        nn.init.zeros_(self.second[1].weight)  # type: ignore[arg-type]  # begins as the identity

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same shape."""
        return functional.relu(x + self.second(self.first(x)))
