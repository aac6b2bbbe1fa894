"""The network that weighs the evidence: which candidate is the object, and whether it is visible. Ours."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from counterview.config import out_of_range
from counterview.errors import ConfigError
from counterview.nn.calibration import Calibration
from counterview.tracking.evidence import Evidence

_STATISTICS = 4


@dataclass(frozen=True)
class WeighingConfig:
    """Size of the network.

    Raises:
        ConfigError: a value out of range.
    """

    hidden: int = field(default=64, metadata={"help": "width of its layers"})

    def __post_init__(self) -> None:
        problems = out_of_range(self, "hidden", at_least=2, at_most=1024)
        if problems:
            raise ConfigError("; ".join(problems))


class EvidenceWeighing(nn.Module):
    """Scores candidates by their evidence, and predicts the visibility from the best one's and the rest.

    Args:
        config: its size.
    """

    def __init__(self, config: WeighingConfig) -> None:
        super().__init__()
        self.config = config
        columns, hidden = len(Evidence), config.hidden
        self.linear = nn.Linear(columns, 1, bias=False)
        self.ranking = nn.Sequential(
            nn.Linear(columns, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, 1)
        )
        self.visibility = nn.Sequential(
            nn.Linear(2 * columns + _STATISTICS, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(),
            nn.Linear(hidden, 1),
        )  # fmt: skip
        self.calibration = Calibration()
        with torch.no_grad():  # before training: likeness, the match, and place count, each by itself
            self.linear.weight.zero_()
            for column, weight in _INITIAL.items():
                self.linear.weight[0, column] = weight
            self.ranking[-1].weight.zero_()  # type: ignore[operator]
            self.ranking[-1].bias.zero_()  # type: ignore[operator]

    def forward(self, evidence: Tensor, is_candidate: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Weigh evidence.

        Args:
            evidence: ``(B, N, 24)`` in the order of :class:`~counterview.tracking.evidence.Evidence`, N at least 1.
            is_candidate: ``(B, N)`` bool, false for padding.

        Returns:
            ``(B, N)`` scores, minus infinity for padding: their softmax is the probability that each candidate is the
            object, given that one is; ``(B,)`` logits of the object being visible, before calibration.
        """
        scores = (self.linear(evidence) + self.ranking(evidence))[..., 0]
        if is_candidate is not None:
            scores = scores.masked_fill(~is_candidate, -torch.inf)
        fixed = scores.detach()
        best = fixed.argmax(-1)[:, None, None]
        chosen = evidence.gather(1, best.expand(-1, 1, evidence.shape[-1]))[:, 0]
        largest = (
            evidence if is_candidate is None else evidence.masked_fill(~is_candidate[..., None], -torch.inf)
        ).amax(1)
        probability = torch.softmax(fixed, -1)
        # Padded, so that an exported graph serves any number of candidates; a lead over nothing is cut to 10 below.
        top = functional.pad(fixed, (0, 1), value=-torch.inf).topk(2, -1).values
        lead = top[:, 0] - top[:, 1]
        entropy = -(probability * probability.clamp(min=1e-9).log()).sum(-1)
        statistics = torch.stack(
            [probability.amax(-1), lead.clamp(max=10.0) / 5, entropy / 3, top[:, 0].clamp(-20, 20) / 10], -1
        )
        return scores, self.visibility(torch.cat([chosen, largest, statistics], -1))[..., 0]

    @torch.inference_mode()
    def weigh(self, evidence: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """:meth:`forward` for arrays, in eval mode.

        Args:
            evidence: ``(B, N, 24)``.

        Returns:
            ``(B, N)`` logarithms of the probability of each candidate; ``(B,)`` calibrated logits of being visible.
        """
        scores, logit = self(torch.from_numpy(evidence))
        log_probability = torch.log_softmax(scores.double(), -1)
        return log_probability.numpy(), self.calibration(logit.double()).numpy()


_INITIAL = {
    Evidence.LOOK_BEST: 4.0,
    Evidence.LOOK_MEAN: 4.0,
    Evidence.LOOK_MARGIN: 2.0,
    Evidence.CROSS_LOG: 4.0,
    Evidence.OTHER_BEST: 2.0,
    Evidence.MASK_OVERLAP: 2.0,
    Evidence.BOX_OVERLAP: 1.0,
    Evidence.NEARBY: 1.0,
    Evidence.SIZE: -1.0,
    Evidence.SCORE: 1.0,
}
