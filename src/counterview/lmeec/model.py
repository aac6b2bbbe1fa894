"""LM-EEC (NeurIPS 2025, arXiv 2510.11417): the network with its weights in and out, and sessions over clips."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch

from counterview.config import to_dict
from counterview.errors import CheckpointError, ConfigError
from counterview.lmeec.config import LMEECConfig, governed_settings
from counterview.lmeec.network import LMEECNetwork
from counterview.lmeec.released import convert_released, load_sam2
from counterview.lmeec.session import Session
from counterview.nn.checkpoint import Header, Pretrained
from counterview.nn.precision import SinglePrecision
from counterview.nn.weights import load_strictly


class LMEEC(SinglePrecision, LMEECNetwork, Pretrained):
    """LM-EEC: find an object that masks show in one camera in another camera, frame by frame.

    Weights are random; see :meth:`from_pretrained`, :meth:`from_sam2` and :meth:`from_released` for others.

    Args:
        config: architecture and behaviour; the paper's if not given.
    """

    method: ClassVar[str] = "lmeec"
    config_class: ClassVar[type[LMEECConfig]] = LMEECConfig
    about: ClassVar[tuple[str, str, str]] = (
        "LM-EEC",
        "LM-EEC (NeurIPS 2025, arXiv 2510.11417)",
        "Finds an object that masks show in one camera in another camera of the same scene, frame by frame, with a\n"
        "memory bank for each view.",
    )
    usage: ClassVar[str] = (
        'model = counterview.load("{name}")\n'
        "session = model.session()\n"
        'result = session.step(query_image, {{"mug": mask}}, target_image)["mug"]\n'
        "result.mask, result.visibility  # (H, W) bool, probability"
    )
    card_settings: ClassVar[tuple[str, ...]] = (
        "behaviour", "image_size", "compression", "fusion", "cross_view_prompt", "query_memory", "target_memory",
        "bank_size",
    )  # fmt: skip
    """Settings that the card's table has."""

    def __init__(self, config: LMEECConfig | None = None) -> None:
        super().__init__(self.config_class() if config is None else config)

    # -- weights ------------------------------------------------------------------------------------------------

    @classmethod
    def from_released(
        cls,
        weights: str | os.PathLike[str] | Mapping[str, Any],
        backbone: str = "hiera-b+",
        image_size: int = 480,
        **settings: Any,
    ) -> Self:
        """The model with the weights of the released LM-EEC, in released behaviour.

        Args:
            weights: a ``.pt``, ``.pth`` or ``.safetensors`` file, or a state dict, with the released names. Files
                are read without executing anything that they contain.
            backbone: the image encoder of the weights.
            image_size: side of the square image that they were trained on.
            settings: other fields of :class:`LMEECConfig`, for instance ``compression="merge"``.

        Returns:
            The model on the CPU, in eval mode.

        Raises:
            CheckpointError: a weight is missing, unknown, not finite, or of another shape; or the file cannot be
                read safely.
            ConfigError: settings that contradict each other.
        """
        config, state = convert_released(
            weights, backbone=backbone, image_size=image_size, config_class=cls.config_class, **settings
        )
        model = cls(config)
        load_strictly(model, state, None if isinstance(weights, Mapping) else weights)
        return model.eval()

    @classmethod
    def from_sam2(cls, source: str | os.PathLike[str], config: LMEECConfig | None = None) -> Self:
        """The model with the weights of a SAM 2.1 video checkpoint; the fusion starts at random.

        Args:
            source: a folder, or a Hub id such as ``facebook/sam2.1-hiera-base-plus``.
            config: its backbone must be that of the checkpoint; the image size may differ.

        Raises:
            CheckpointError: the checkpoint has another architecture.
            WeightsError: the Hub cannot be reached, or has no such repository.
        """
        model = cls(config)
        load_sam2(model.sam, source, model.config.backbone)
        return model

    def with_settings(self, **settings: Any) -> Self:
        """The same weights under other settings, sharing no memory with this model.

        Args:
            settings: fields of the configuration, for instance ``compression="fifo"``.

        Raises:
            ConfigError: settings that change the architecture, or contradict each other.
        """
        config = replace(self.config, **settings)
        if config.architecture() != self.config.architecture():
            raise ConfigError("these settings change the architecture, which weights do not follow", found=settings)
        other = copy.deepcopy(self)
        other.config = config
        return other

    # -- checkpoints --------------------------------------------------------------------------------------------

    def config_values(self) -> dict[str, Any]:
        """The configuration as it stands in ``config.json``.

        Settings that are as ``behaviour`` has them stand there as null, so that another ``behaviour`` changes them.
        """
        values = to_dict(self.config)
        for name, (paper, released) in governed_settings().items():
            if values[name] == (released if self.config.behaviour == "released" else paper):
                values[name] = None
        return values

    def card_rows(self) -> dict[str, object]:
        """What the card's table says beside the method and the scores."""
        backbone = self.config.backbone if isinstance(self.config.backbone, str) else "a Hiera of its own size"
        settings = {name: getattr(self.config, name) for name in self.card_settings}
        return {"backbone": backbone, **settings, **super().card_rows()}

    @classmethod
    def upgraded(cls, header: Header) -> Header:
        """The header of an earlier format as one of today.

        Raises:
            CheckpointError: of another method; or of the first version, which called a tiny-follow an LM-EEC.
        """
        if header.method == LMEEC.method and header.version == 1:
            try:
                header = header.with_model(cls.method, cls.config_class.current_values(header.model))
            except ConfigError as error:
                raise CheckpointError(error.problem, path=header.path, fix=error.fix) from None
        return super().upgraded(header)

    # -- use ----------------------------------------------------------------------------------------------------

    def session(self, frames: int | None = None, stride: int = 1, autocast: torch.dtype | None = None) -> Session:
        """Begin to follow objects through a clip. See :class:`counterview.lmeec.session.Session`."""
        return Session(self, frames=frames, stride=stride, autocast=autocast)
