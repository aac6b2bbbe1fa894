"""DINOv2, DINOv3 and CLIP through transformers, as dense feature maps of images of any size."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from counterview.config import load_config, nearest
from counterview.devices import resolve_device, resolve_dtype
from counterview.errors import CheckpointError, ConfigError, WeightsError, shown
from counterview.features.base import Backbone, Fallback, FeatureMap, PoolingKind
from counterview.features.pooling import describe
from counterview.guard import is_folder, reason
from counterview.hub import check_access, quiet_transformers, transformers_class
from counterview.masks.geometry import resize_nearest
from counterview.media.files import sha256_file
from counterview.types import ObjectMask, RgbImage, as_rgb

if TYPE_CHECKING:
    import torch
    from torch import Tensor

HUB_IDS: dict[str, str] = {
    **{f"dinov2-{size}": f"facebook/dinov2-{size}" for size in ("small", "base", "large", "giant")},
    **{f"dinov2-{size}-reg": f"facebook/dinov2-with-registers-{size}" for size in ("small", "base", "large", "giant")},
    "dinov3-small": "facebook/dinov3-vits16-pretrain-lvd1689m",
    "dinov3-small-plus": "facebook/dinov3-vits16plus-pretrain-lvd1689m",
    "dinov3-base": "facebook/dinov3-vitb16-pretrain-lvd1689m",
    "dinov3-large": "facebook/dinov3-vitl16-pretrain-lvd1689m",
    "dinov3-huge-plus": "facebook/dinov3-vith16plus-pretrain-lvd1689m",
    "dinov3-7b": "facebook/dinov3-vit7b16-pretrain-lvd1689m",
    "clip-base": "openai/clip-vit-base-patch16",
    "clip-base-32": "openai/clip-vit-base-patch32",
    "clip-large": "openai/clip-vit-large-patch14",
}
"""Hub repositories by short name."""

ALIASES = {
    "dinov2": "dinov2-base",
    "dinov2-reg": "dinov2-base-reg",
    "dinov3": "dinov3-base",
    "clip": "clip-base",
}

NAMES = ("classical", "tiny", *ALIASES, *HUB_IDS)
"""Names of :func:`load_backbone`, beside Hub ids and folders."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

# model_type of config.json: class in transformers, mean and standard deviation of its training images
_FAMILIES = {
    "dinov2": ("Dinov2Model", IMAGENET),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", IMAGENET),
    "dinov3_vit": ("DINOv3ViTModel", IMAGENET),
    "clip": ("CLIPVisionModel", CLIP),
    "clip_vision_model": ("CLIPVisionModel", CLIP),
}
_WITHOUT_WEIGHTS = "`--features classical` runs without weights."


@dataclass(frozen=True)
class BackboneConfig:
    """Settings of a network of :func:`load_backbone`.

    Raises:
        ConfigError: a value out of range.
    """

    dtype: str = field(default="float32", metadata={"help": "dtype: float32, or float16, bfloat16 for speed"})
    longest_side_px: int | None = field(
        default=960, metadata={"help": "larger images are scaled down to this longer side; null: never"}
    )
    upscale: bool = field(default=False, metadata={"help": "also scale smaller images up to longest_side_px"})
    batch_size: int = field(default=8, metadata={"help": "images of one size in a batch"})
    revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of a Hub repository"})
    mean: tuple[float, float, float] | None = field(
        default=None, metadata={"help": "mean of red, green, blue (0 to 1); null: that of the family's training"}
    )
    std: tuple[float, float, float] | None = field(
        default=None, metadata={"help": "standard deviation of red, green, blue; null: that of the family's training"}
    )

    def __post_init__(self) -> None:
        resolve_dtype(self.dtype)
        if self.longest_side_px is not None and not 1 <= self.longest_side_px <= 8192:
            raise ConfigError("longest_side_px is out of range", found=self.longest_side_px, expected="1 to 8192")
        if not 1 <= self.batch_size <= 4096:
            raise ConfigError("batch_size is out of range", found=self.batch_size, expected="1 to 4096")
        if self.std is not None and min(self.std) <= 0:
            raise ConfigError("std is above 0", found=self.std)


def load_backbone(name: str, device: str = "auto", **settings: Any) -> Backbone:
    """Load a feature extractor.

    Args:
        name: ``classical`` (no weights); ``tiny`` (a small network that comes with the package), or the folder of
            an O-MaMa model that was trained end to end; one of :data:`NAMES`, such as ``dinov2-base-reg``; a Hub id
            (``owner/repository``); or a folder that ``save_pretrained`` wrote.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        settings: the fields of :class:`BackboneConfig`, or of
            :class:`counterview.features.classical.ClassicalConfig` for ``classical``.

    Raises:
        ConfigError: an unknown name (the nearest one is named), setting, device or kind of model.
        WeightsError: the weights are not on this machine and cannot be fetched.
        CheckpointError: a folder whose weights are damaged or do not fit its configuration.

    Example:
        >>> import numpy as np
        >>> from counterview.features import load_backbone
        >>> from counterview.types import ObjectMask
        >>> backbone = load_backbone("classical")
        >>> image = np.zeros((32, 48, 3), np.uint8)
        >>> features = backbone.encode(image)
        >>> features.tensor.shape
        torch.Size([282, 4, 6])
        >>> backbone.describe(features, [ObjectMask.from_array(image[..., 0] == 0)]).shape
        torch.Size([1, 2929])
    """
    if name == "classical":
        from counterview.features.classical import Classical, ClassicalConfig

        return Classical(load_config(ClassicalConfig, settings))
    if name == "tiny" or (_is_folder(name) and _holds_tiny(Path(name))):
        from counterview.features.tiny_weights import load_bundled_tiny, load_tiny

        place = resolve_device(device)
        if settings:
            raise ConfigError("the features 'tiny' have no settings", found=", ".join(sorted(settings)))
        return load_bundled_tiny(place) if name == "tiny" else load_tiny(Path(name), place, name=name)
    config = load_config(BackboneConfig, settings)
    source = HUB_IDS.get(ALIASES.get(name, name), name)
    place = resolve_device(device)
    options: dict[str, Any] = {} if config.revision is None else {"revision": config.revision}
    if not _is_folder(source):
        _check_hub_id(name, source)
        if _cached(source, config.revision) is not None:
            options["local_files_only"] = True  # no questions to the Hub, which may be out of reach
        else:
            what = f"the weights of {name}" + (f" ({source})" if source != name else "")
            check_access(source, what, _WITHOUT_WEIGHTS)
    model, family = _load(name, source, config.dtype, options)
    snapshot = None if _is_folder(source) else _cached(source, config.revision)
    return TransformerBackbone(name, source, config, model, family, place, commit=snapshot.name if snapshot else None)


def input_size(
    image_hw: tuple[int, int], patch_px: int, longest_side_px: int | None = 960, upscale: bool = False
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Sizes of an image after the two steps of preprocessing.

    It is scaled to ``longest_side_px`` if it is larger, keeping its aspect ratio; then both sides are rounded down to a
    multiple of the patch. 704x704 becomes 700x700 and 540x960 becomes 532x952, as in O-MaMa; portrait images stay
    portrait.

    Args:
        image_hw: height and width of the image, px.
        patch_px: patch size of the network.
        longest_side_px: limit; None for none.
        upscale: also scale smaller images up to it.

    Returns:
        the size after scaling, and the size of the network's input.

    Example:
        >>> input_size((2160, 3840), patch_px=14)
        ((540, 960), (532, 952))
    """
    height, width = image_hw
    ratio = 1.0 if longest_side_px is None else longest_side_px / max(height, width)
    if ratio < 1.0 or upscale:
        height, width = max(1, round(height * ratio)), max(1, round(width * ratio))
    return (height, width), (max(1, height // patch_px) * patch_px, max(1, width // patch_px) * patch_px)


def resize_image(image: RgbImage, scaled_hw: tuple[int, int], input_hw: tuple[int, int]) -> RgbImage:
    """Resize an image ``(H, W, 3)`` in the two steps of :func:`input_size`: smoothly, then by nearest neighbour.

    The second step is that of O-MaMa's released code.
    """
    if image.shape[:2] != scaled_hw:
        smaller = scaled_hw[0] <= image.shape[0] and scaled_hw[1] <= image.shape[1]
        method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
        image = np.asarray(cv2.resize(image, (scaled_hw[1], scaled_hw[0]), interpolation=method), dtype=np.uint8)
    return np.asarray(resize_nearest(image, input_hw), dtype=np.uint8)


class TransformerBackbone:
    """A frozen vision transformer of transformers, as a :class:`~counterview.features.base.Backbone`.

    Maps hold the patch tokens after the network's last normalisation (for CLIP: the one in front of its
    projection), ``(C, h, w)`` in the network's dtype. Position embeddings are interpolated to each size.

    Args:
        name: under which it was loaded.
        source: Hub id or folder of the model.
        config: settings.
        model: the network.
        family: its ``model_type`` in transformers.
        device: where to compute.
        commit: of the Hub repository, if known.
    """

    def __init__(
        self,
        name: str,
        source: str,
        config: BackboneConfig,
        model: Any,
        family: str,
        device: torch.device,
        commit: str | None = None,
    ) -> None:
        self._commit = commit
        self.name = name
        self.config = config
        self.device = device
        self.model = model.to(device)
        self._family = family
        shape = self.model.config
        self.channels: int = int(shape.hidden_size)
        self.stride: int = int(shape.patch_size)
        self._source = source
        self._prefix = 1 + int(getattr(shape, "num_register_tokens", 0))
        mean, std = _FAMILIES[self._family][1]
        self._mean: tuple[float, ...] = config.mean or mean
        self._std: tuple[float, ...] = config.std or std

    def settings(self) -> dict[str, Any]:
        """Name, source, fingerprint of the weights, and every setting that the maps depend on."""
        return {
            "features": self.name,
            "source": self._source,
            "weights": self.fingerprint,
            "model_type": self._family,
            "channels": self.channels,
            "stride": self.stride,
            "dtype": self.config.dtype,
            "longest_side_px": self.config.longest_side_px,
            "upscale": self.config.upscale,
            "mean": list(self._mean),
            "std": list(self._std),
        }

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the weights: the commit on the Hub, or a SHA-256 over a folder's weights."""
        if self._commit is not None:
            return self._commit
        files = sorted(Path(self._source).glob("model*.safetensors"))
        return hashlib.sha256("".join(sha256_file(file) for file in files).encode()).hexdigest()

    def encode(self, image: RgbImage) -> FeatureMap:
        """The map of an image ``(H, W, 3)``, see :meth:`~counterview.features.base.Backbone.encode`."""
        return self([image])[0]

    def __call__(self, images: Sequence[RgbImage]) -> list[FeatureMap]:
        """The maps of several images ``(H, W, 3)``; those of one input size are batched."""
        sizes = [
            input_size(as_rgb(i).shape[:2], self.stride, self.config.longest_side_px, self.config.upscale)
            for i in images
        ]
        groups: dict[tuple[int, int], list[int]] = {}
        for index, (_, size) in enumerate(sizes):
            groups.setdefault(size, []).append(index)
        maps: dict[int, FeatureMap] = {}
        for size, members in groups.items():
            for start in range(0, len(members), self.config.batch_size):
                part = members[start : start + self.config.batch_size]
                stack = np.stack([resize_image(images[i], *sizes[i]) for i in part])
                for index, tensor in zip(part, self._forward(stack), strict=True):
                    maps[index] = FeatureMap(tensor, images[index].shape[:2], size)
        return [maps[index] for index in range(len(images))]

    def describe(
        self,
        features: FeatureMap,
        masks: Sequence[ObjectMask],
        kind: PoolingKind = "mask",
        *,
        context_px: int | None = None,
        fallback: Fallback = "centre",
    ) -> Tensor:
        """Descriptors ``(N, C)``, pooled from the map by :func:`counterview.features.pooling.describe`."""
        return describe(features, masks, kind, context_px=context_px, fallback=fallback)

    def _forward(self, images: NDArray[np.uint8]) -> Tensor:
        """``(B, H, W, 3)`` images, already at the input size, to ``(B, C, h, w)`` maps."""
        import torch

        mean = np.array(self._mean, dtype=np.float32)
        std = np.array(self._std, dtype=np.float32)
        values = (images.astype(np.float32) / 255.0 - mean) / std
        pixels = torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))
        pixels = pixels.to(self.device, resolve_dtype(self.config.dtype))
        options = {"interpolate_pos_encoding": True} if self._family.startswith("clip") else {}
        with torch.no_grad():
            tokens = self.model(pixel_values=pixels, **options).last_hidden_state[:, self._prefix :]
            if self._family.startswith("clip"):
                tokens = self.model.post_layernorm(tokens)
        height, width = images.shape[1] // self.stride, images.shape[2] // self.stride
        return tokens.transpose(1, 2).reshape(len(images), self.channels, height, width)


def _holds_tiny(folder: Path) -> bool:
    """Whether a folder is a model with a ``tiny`` network of its own."""
    from counterview.features.tiny_weights import network_settings

    try:
        return network_settings(folder) is not None
    except CheckpointError:
        return False


def _is_folder(source: str) -> bool:
    return bool(source) and is_folder(source)


def _check_hub_id(name: str, source: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    looks_like_path = source.count("/") != 1 or "\\" in source or source.startswith((".", "/", "~"))
    try:
        validate_repo_id(source)
    except HFValidationError:
        looks_like_path = True
    if not looks_like_path:
        return
    if any(c in source for c in "/\\"):
        raise ConfigError("no such folder of features", path=name, fix=f"Known names: {', '.join(NAMES)}.")
    raise ConfigError(
        f"unknown features {shown(name)} ({nearest(name, NAMES)})",
        expected="a known name, a Hub id owner/repository, or a folder",
    )


def _cached(source: str, revision: str | None) -> Path | None:
    """The snapshot of a Hub repository on this machine, named by its commit, if it has configuration and weights."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(source, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    complete = (folder / "config.json").is_file() and any(folder.glob("model*.safetensors"))
    return folder if complete else None


def _load(name: str, source: str, dtype: str, options: dict[str, Any]) -> tuple[Any, str]:
    """The network, with every weight from its checkpoint, and its family."""
    import transformers

    from counterview.nn.network_folder import (
        check_network_config,
        check_network_folder,
        check_network_size,
        check_network_weights,
    )
    from counterview.nn.weights import shortened

    is_folder = _is_folder(source)
    folder = Path(source) if is_folder else _cached(source, options.get("revision"))
    try:
        if folder is not None:
            family = str(check_network_folder(folder).get("model_type"))
        else:
            auto = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False, **options)
            family = str(auto.model_type)
            check_network_config(auto.to_dict(), source)
    except CheckpointError:
        raise
    except Exception as error:
        raise _unreadable(name, source, is_folder, "config.json is missing or cannot be read", error) from None
    if family not in _FAMILIES:
        raise ConfigError(
            f"features {shown(name)} are of the unsupported kind {shown(family)}",
            expected=f"one of {', '.join(sorted(_FAMILIES))}",
        )
    cls = transformers_class(_FAMILIES[family][0])
    try:
        if folder is not None:
            with quiet_transformers():
                check_network_size(cls, cls.config_class.from_pretrained(folder), folder)
        # Only safetensors: pickles can run code.
        with quiet_transformers():
            model, report = cls.from_pretrained(
                source, dtype=resolve_dtype(dtype), output_loading_info=True, use_safetensors=True, **options
            )
    except CheckpointError:
        raise
    except Exception as error:
        raise _unreadable(name, source, is_folder, "the weights cannot be read", error) from None
    # transformers initialises missing weights at random and only warns.
    problems = sorted({*report["missing_keys"], *(str(k[0]) for k in report.get("mismatched_keys", ()))})
    if problems:
        raise CheckpointError(
            f"the weights do not fit {cls.__name__}",
            path=source,
            found=f"{len(problems)} weights missing or of another shape: {shortened(problems)}",
        )
    check_network_weights(model, folder or Path(source))
    return model.eval().requires_grad_(False), family


def _unreadable(name: str, source: str, is_folder: bool, problem: str, error: Exception) -> Exception:
    detail = f"{type(error).__name__}: {reason(error)}"
    if is_folder:
        return CheckpointError(problem, path=source, found=detail, expected="a folder made by save_pretrained")
    return WeightsError(f"the weights of {name} ({source}) are not available", found=detail, fix=_WITHOUT_WEIGHTS)
