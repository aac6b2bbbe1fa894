"""Cross-attention of descriptors of one view with the feature map of the other (paper: Ego-Exo Cross Attention)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class PositionEmbedding(nn.Module):
    """A learned embedding per cell of a map, bilinearly interpolated to maps of another grid.

    Args:
        channels: channels C.
        grid_hw: grid on which it is learned; maps of this grid get the parameters themselves.
    """

    def __init__(self, channels: int, grid_hw: tuple[int, int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(*grid_hw, channels))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, grid_hw: tuple[int, int]) -> Tensor:
        """The embedding of a map of ``grid_hw``: ``(1, h * w, C)``, row by row.

        It covers every map from corner to corner, whatever the shape of the image; the image is not stretched for it.
        """
        weight: Tensor = self.weight
        # An exported graph has to serve every grid; for its own the interpolation is the identity.
        if torch.compiler.is_exporting() or tuple(grid_hw) != tuple(weight.shape[:2]):
            weight = functional.interpolate(
                weight.permute(2, 0, 1)[None], size=grid_hw, mode="bilinear", align_corners=False
            )[0].permute(1, 2, 0)
        return weight.reshape(1, -1, weight.shape[-1])


class CrossViewAttention(nn.Module):
    """Multi-head attention of descriptors over a map, followed by ``y + MLP(norm(y))``.

    One LayerNorm serves descriptors and map; descriptors are not added to the result. The same module
    serves both uses: candidates attend to the query image, the query object attends to the target image.

    Args:
        channels: channels C of descriptors and map.
        heads: number of heads; divides C.
        query_channels: channels D of the descriptors; C if not given. Descriptors of another width than C have their
            own LayerNorm.
    """

    def __init__(self, channels: int, heads: int, query_channels: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.input_norm = nn.LayerNorm(channels)
        query_channels = channels if query_channels is None else query_channels
        self.query_norm = nn.LayerNorm(query_channels) if query_channels != channels else None
        self.query = nn.Linear(query_channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.project = nn.Linear(channels, channels)
        self.output_norm = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, channels))

    def forward(self, descriptors: Tensor, tokens: Tensor) -> Tensor:
        """Attend to a map.

        Args:
            descriptors: ``(B, N, D)``.
            tokens: ``(B, T, C)``, a map with its position embedding added, row by row.

        Returns:
            ``(B, N, C)``.
        """
        norm = self.input_norm if self.query_norm is None else self.query_norm
        queries = self._split_heads(self.query(norm(descriptors)))
        tokens = self.input_norm(tokens)
        attended = functional.scaled_dot_product_attention(
            queries, self._split_heads(self.key(tokens)), self._split_heads(self.value(tokens))
        )
        projected = self.project(attended.transpose(1, 2).flatten(2))
        return projected + self.mlp(self.output_norm(projected))

    def _split_heads(self, values: Tensor) -> Tensor:
        """``(B, N, C)`` to ``(B, heads, N, C / heads)``."""
        batch, count, channels = values.shape
        return values.view(batch, count, self.heads, channels // self.heads).transpose(1, 2)
