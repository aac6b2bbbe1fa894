"""SAM 2.1's video memory: each object's mask is carried from frame to frame of one camera.

The frame loop is our own, over the sub-modules of transformers' ``Sam2VideoModel``: all objects of a frame go through
the network as one batch, its image is encoded once, and what is kept does not grow. Where transformers and the
original code of SAM 2 differ:

* Both store memories in bfloat16; so do we.
* The object pointer of a frame with a mask prompt: the original decodes one mask for it, transformers three, of which
  it takes the best. The weights were trained with the original, which we follow; ``pointer_multimask`` is
  transformers' way.
* If one object of a frame has a prompt, transformers binarises the memories of all. Like the original we do not.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from counterview.devices import resolve_device
from counterview.errors import ConfigError, InputError, shown
from counterview.hub import transformers_class
from counterview.lmeec.preprocess import to_pixels, to_query_mask
from counterview.lmeec.sam2_parts import (
    Decoded,
    ImageFeatures,
    attend_to_memory,
    decode_masks,
    encode_memory,
    image_features,
    mask_values,
    memory_position,
    neck_maps,
    no_prompt,
    pointer_tokens,
    self_attended,
)
from counterview.nn.weights import weights_fingerprint
from counterview.proposals.weights import load_config_of, load_network
from counterview.types import BoolImage, RgbImage

WITHOUT_WEIGHTS = "Without weights, the bundled model follows objects."


@dataclass(frozen=True)
class ConditioningFrame:
    """A frame whose mask was given or matched, and not propagated.

    Attributes:
        step: its number.
        memory: image and mask, ``(h * w, 64)`` bfloat16.
        pointer: object pointer ``(C,)``.
        is_given: by a user.
    """

    step: int
    memory: Tensor
    pointer: Tensor
    is_given: bool


@dataclass
class ObjectMemory:
    """What is remembered of one object in one camera.

    Attributes:
        conditioning: oldest first.
        recent: numbers and memories ``(h * w, 64)`` bfloat16 of propagated frames, newest last.
        pointers: numbers and object pointers ``(C,)`` of propagated frames, newest last.
    """

    conditioning: list[ConditioningFrame] = field(default_factory=list)
    recent: deque[tuple[int, Tensor]] = field(default_factory=deque)
    pointers: deque[tuple[int, Tensor]] = field(default_factory=deque)

    @property
    def ends_as_given(self) -> bool:
        """Whether the newest mask is a user's."""
        newest = self.conditioning[-1]
        return newest.is_given and not (self.recent and self.recent[-1][0] > newest.step)

    def condition(self, frame: ConditioningFrame, most: int) -> None:
        """Add a conditioning frame, and drop one if there are too many: the oldest of those that no user gave.

        Args:
            frame: later than all others.
            most: number of conditioning frames that are kept.
        """
        self.conditioning.append(frame)
        if len(self.conditioning) > most:
            matched = [kept for kept in self.conditioning[:-1] if not kept.is_given]
            self.conditioning.remove(matched[0] if matched else self.conditioning[0])


class VideoMemoryNetwork:
    """SAM 2.1 with the settings that its frame loop needs. It keeps nothing of a video.

    Args:
        sam: a ``Sam2VideoModel``; it is put in eval mode.
        source: the name that it was loaded by, for the settings.
        autocast: ``torch.bfloat16`` or ``torch.float16`` to compute in half precision.
        max_conditioning: conditioning frames kept for each object and camera.
        pointer_multimask: decode three masks for the pointer of a prompted frame, as transformers does.

    Attributes:
        side: of the square image, in pixels.

    Raises:
        ConfigError: another model than SAM 2.1.
        InputError: another precision, or no conditioning frames.
    """

    def __init__(
        self,
        sam: Any,
        *,
        source: str = "",
        autocast: torch.dtype | None = None,
        max_conditioning: int = 4,
        pointer_multimask: bool = False,
    ) -> None:
        config = sam.config
        if not config.enable_temporal_pos_encoding_for_object_pointers or config.num_maskmem < 2:
            raise ConfigError(
                "is not a SAM 2.1", path=source or None, expected="the video memory of facebook/sam2.1-hiera-…"
            )
        if autocast not in (None, torch.bfloat16, torch.float16):
            raise InputError("autocast is torch.bfloat16, torch.float16 or None", found=autocast)
        if max_conditioning < 1:
            raise InputError("max_conditioning is at least 1", found=max_conditioning)
        self.sam, self.source, self.autocast = sam.eval(), source, autocast
        self.max_conditioning, self.pointer_multimask = max_conditioning, pointer_multimask
        self.side = int(config.image_size)
        self.channels = int(config.vision_config.fpn_hidden_size)
        self._weights: str | None = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.sam.no_memory_embedding.device
        return device

    @property
    def cells(self) -> int:
        """Cells of a stored memory, h * w."""
        return (self.side // 16) ** 2

    def settings(self) -> dict[str, Any]:
        """Source, sizes and precision, and a hash of the weights."""
        if self._weights is None:
            self._weights = weights_fingerprint(self.sam)[:16]
        return {
            "source": self.source,
            "weights": self._weights,
            "image_size": self.side,
            "autocast": None if self.autocast is None else str(self.autocast).removeprefix("torch."),
            "max_conditioning": self.max_conditioning,
            "pointer_multimask": self.pointer_multimask,
        }

    def encode(self, image: RgbImage) -> ImageFeatures:
        """Features of one image ``(H, W, 3)`` uint8."""
        pixels = to_pixels(image, self.side)[None].to(self.device)
        with self._inference():
            return image_features(self.sam, neck_maps(self.sam, pixels))

    def condition(self, image: ImageFeatures, masks: Sequence[BoolImage]) -> tuple[Tensor, Tensor]:
        """Encode masks of one image as SAM 2 does with mask prompts.

        Args:
            image: features of one image.
            masks: ``(H, W)`` bool each, N of them, none empty.

        Returns:
            memories ``(N, h * w, 64)`` bfloat16 and object pointers ``(N, C)``.
        """
        count = len(masks)
        squares = torch.stack([to_query_mask(mask, self.side) for mask in masks]).to(self.device)
        with self._inference():
            images = image.pick([0] * count)
            sparse, _ = no_prompt(self.sam, count, self.device)
            _, dense = self.sam.prompt_encoder(None, None, None, self.sam.mask_downsample(squares[:, None]))
            pointer = decode_masks(self.sam, images, sparse, dense, self.pointer_multimask).pointer
            memory = encode_memory(self.sam, images.top, squares)
        return memory.to(torch.bfloat16), pointer.float()

    def propagate(
        self, step: int, images: Sequence[ImageFeatures], rows: Sequence[int], memories: Sequence[ObjectMemory]
    ) -> Iterator[tuple[list[int], Decoded, Tensor]]:
        """Find N objects in the frame ``step``; those with as many memories as a batch. Nothing is remembered yet.

        Args:
            step: number of the frame.
            images: features of one image each.
            rows: the image of each object, ``(N,)``.
            memories: of each object, none without conditioning frame.

        Yields:
            indices of K objects, their masks, and memories ``(K, h * w, 64)`` bfloat16 with these masks.
        """
        groups: dict[Hashable, list[int]] = {}
        for index, memory in enumerate(memories):
            self._forget(memory, step)
            shape = len(memory.conditioning), len(memory.recent), len(memory.pointers)
            groups.setdefault((shape[0] + shape[1], shape[0] + shape[2]), []).append(index)
        if not groups:
            return
        with self._inference():
            joined = ImageFeatures.join(images)
            attended = self_attended(self.sam, joined.top)
            place = memory_position(self.sam, 64, self.side // 16, self.device)
        for group in groups.values():
            with self._inference():
                picked = joined.pick([rows[index] for index in group])
                own = None if attended is None else attended[[rows[index] for index in group]]
                tokens = [self._tokens(memories[index], step, place) for index in group]
                pointers, places = pointer_tokens(
                    self.sam,
                    torch.stack([self._pointers(memories[index]) for index in group]),
                    torch.tensor([self._distances(memories[index], step) for index in group], device=self.device),
                    self._pointer_reach,
                )
                memory_in = torch.cat([torch.stack([t[0] for t in tokens], 1), pointers.float()])
                positions = torch.cat([torch.stack([t[1] for t in tokens], 1), places.float()])
                top = attend_to_memory(self.sam, picked.top, memory_in, positions, len(pointers), own)
                sparse, dense = no_prompt(self.sam, len(group), self.device)
                seen = ImageFeatures(top, picked.half, picked.quarter)
                decoded = decode_masks(self.sam, seen, sparse, dense, self._tracks_with_multimask)
                values = mask_values(decoded.logits, self.side)
                memory_out = encode_memory(self.sam, picked.top, values, decoded.score).to(torch.bfloat16)
            yield group, decoded, memory_out

    def remember(self, memory: ObjectMemory, step: int, frame: Tensor, pointer: Tensor) -> None:
        """Remember a propagated frame.

        Args:
            memory: of the object.
            step: number of the frame.
            frame: its memory, ``(h * w, 64)``.
            pointer: object pointer ``(C,)``.
        """
        # Clones, or one object's memory would keep a whole batch alive.
        memory.recent.append((step, frame.clone()))
        memory.pointers.append((step, pointer.float().clone()))
        self._forget(memory, step + 1)

    # -- inside -------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _inference(self) -> Iterator[None]:
        precision = torch.autocast(self.device.type, dtype=self.autocast) if self.autocast else contextlib.nullcontext()
        with torch.inference_mode(), precision:
            yield

    @property
    def _pointer_reach(self) -> int:
        return int(self.sam.config.max_object_pointers_in_encoder) - 1

    @property
    def _tracks_with_multimask(self) -> bool:
        config = self.sam.config
        return bool(
            config.multimask_output_in_sam
            and config.multimask_output_for_tracking
            and config.multimask_min_pt_num <= 0 <= config.multimask_max_pt_num
        )

    def _forget(self, memory: ObjectMemory, step: int) -> None:
        """Drop propagated frames that frame ``step`` and later ones no longer attend to."""
        while memory.recent and step - memory.recent[0][0] > self.sam.config.num_maskmem - 1:
            memory.recent.popleft()
        while memory.pointers and step - memory.pointers[0][0] > self._pointer_reach:
            memory.pointers.popleft()

    def _tokens(self, memory: ObjectMemory, step: int, place: Tensor) -> tuple[Tensor, Tensor]:
        """Memories ``(L, 64)`` of an object as the attention takes them, and their positions."""
        when = self.sam.memory_temporal_positional_encoding
        parts = [(frame.memory, place + when[-1]) for frame in memory.conditioning]
        parts += [(kept, place + when[step - number - 1]) for number, kept in memory.recent]
        return torch.cat([kept for kept, _ in parts]).float(), torch.cat([where[:, 0] for _, where in parts]).float()

    @staticmethod
    def _pointers(memory: ObjectMemory) -> Tensor:
        return torch.stack([f.pointer for f in memory.conditioning] + [p for _, p in reversed(memory.pointers)])

    @staticmethod
    def _distances(memory: ObjectMemory, step: int) -> list[int]:
        return [step - f.step for f in memory.conditioning] + [step - n for n, _ in reversed(memory.pointers)]


def load_video_memory(
    source: str = "facebook/sam2.1-hiera-base-plus",
    device: str = "auto",
    *,
    image_size: int = 0,
    autocast: torch.dtype | None = None,
    max_conditioning: int = 4,
) -> VideoMemoryNetwork:
    """Load SAM 2.1 with its video memory.

    Args:
        source: a Hub id, or a folder made by ``save_pretrained``.
        device: auto, cpu, cuda, cuda:N or mps.
        image_size: side of the square image in pixels, a multiple of 32; 0: the model's.
        autocast: ``torch.bfloat16`` or ``torch.float16`` to compute in half precision.
        max_conditioning: conditioning frames kept for each object and camera.

    Raises:
        WeightsError: the weights are not on this machine, and the Hub cannot be reached or refuses.
        CheckpointError: the folder's weights are not those of a ``Sam2VideoModel``.
        ConfigError: a device that is not available, a size that is not possible, or another model than SAM 2.1.
    """
    from transformers import Sam2VideoConfig

    if not 0 <= image_size <= 8192 or image_size % 32:
        raise ConfigError("image_size is a multiple of 32 up to 8192", found=shown(image_size))
    on, what, config = resolve_device(device), "SAM 2.1's video memory", None
    if image_size:
        config = load_config_of(Sam2VideoConfig, source, what)
        # The size stands in four places; with fewer of them changed, the memory attention rotates by wrong positions.
        config.vision_config.backbone_feature_sizes = [[image_size // step] * 2 for step in (4, 8, 16)]
        config.prompt_encoder_config.image_size = image_size
        config.image_size = image_size
        config.memory_attention_rope_feat_sizes = [image_size // 16] * 2
    sam = load_network(transformers_class("Sam2VideoModel"), source, what, config, WITHOUT_WEIGHTS)
    return VideoMemoryNetwork(sam.to(on), source=source, autocast=autocast, max_conditioning=max_conditioning)
