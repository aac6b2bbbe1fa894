"""The network that draws a proposed mask again: a small U-Net of 3 x 3 convolutions (Ronneberger et al. 2015)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from counterview.proposals.boundary import ConvBlock
from counterview.refinement.evidence import CHANNELS, PROPOSAL

WIDTHS = (24, 40, 64, 96)
"""Channels at full size, a half, a quarter and an eighth."""

JUDGED = 48
"""Width of the layer from which the two IoUs are predicted."""


class RefinerNet(nn.Module):
    """Maps of a window to mask logits, and to logits of the IoU of the mask that is drawn and of the proposed one.

    Args:
        train: with batch norms, for training; :func:`counterview.proposals.boundary.folded` makes the weights of a
            network without.
    """

    def __init__(self, train: bool = False) -> None:
        super().__init__()
        a, b, c, d = WIDTHS

        def block(inputs: int, outputs: int, dilation: int = 1) -> ConvBlock:
            return ConvBlock(inputs, outputs, dilation, train)

        self.level1 = nn.Sequential(block(len(CHANNELS), a), block(a, a))
        self.level2 = nn.Sequential(block(a, b), block(b, b))
        self.level3 = nn.Sequential(block(b, c), block(c, c))
        self.level4 = nn.Sequential(block(c, d), block(d, d, 2), block(d, d))
        self.up = nn.ModuleList([nn.Conv2d(d, c, 1), nn.Conv2d(c, b, 1), nn.Conv2d(b, a, 1)])
        self.mix = nn.ModuleList([block(c, c), block(b, b), block(a, a)])
        self.out = nn.Conv2d(a, 1, 3, padding=1)
        self.judge = nn.Sequential(nn.Linear(d, JUDGED), nn.ReLU(), nn.Linear(JUDGED, 2))

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Draw.

        Args:
            maps: ``(B, 11, S, S)`` from 0 to 1, of :data:`~counterview.refinement.evidence.CHANNELS`.

        Returns:
            ``(B, S, S)`` logits of the mask, and ``(B, 2)`` logits of the IoUs.
        """
        x1 = self.level1(2 * maps - 1)
        x2 = self.level2(functional.avg_pool2d(x1, 2))
        x3 = self.level3(functional.avg_pool2d(x2, 2))
        x4 = self.level4(functional.avg_pool2d(x3, 2))
        x = x4
        for up, mix, skip in zip(self.up, self.mix, (x3, x2, x1), strict=True):
            enlarged = functional.interpolate(up(x), scale_factor=2.0, mode="bilinear", align_corners=False)
            x = mix(skip + enlarged)
        # It begins with the mask that is proposed, and learns what to change.
        logits = self.out(x)[:, 0] + 2 * maps[:, PROPOSAL] - 1
        return logits, self.judge(x4.mean(dim=(2, 3)))
