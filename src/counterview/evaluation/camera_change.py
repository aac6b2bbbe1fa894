"""The same scene by another camera: changes of colour, tone and sharpness, with which every measure is taken again.

Two cameras do not agree on colour. A change is applied to one image of a pair, so that a method meets in it what it
meets between two makes of camera: white balance, exposure and tone curve, saturation, noise, blur and compression.
:data:`CHANGES` are fixed ones; :func:`draw_change` draws one, as far from the first camera as a head-mounted research
camera is from an action camera. Ours; the official protocol has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from counterview.config import out_of_range
from counterview.errors import ConfigError, ImageError
from counterview.media.images import LUMA
from counterview.types import RgbImage


@dataclass(frozen=True)
class CameraChange:
    """How the second camera differs. The defaults change nothing. Applied in the order of the fields.

    Values are sRGB, as stored, from 0 to 1: a gain of 1.2 there is one of about 1.5 in light.

    Attributes:
        blur_px: standard deviation of a Gaussian blur, in pixels of an image 1,000 px wide.
        gamma: exponent of the tone curve; above 1 darkens.
        gains: of red, green and blue.
        contrast: slope of an S-shaped tone curve at mid grey; 1 is straight.
        saturation: 0 is grey.
        noise: standard deviation, in 1/255.
        jpeg: quality of a JPEG pass, 0 for none.

    Raises:
        ConfigError: a value out of range.
    """

    blur_px: float = 0.0
    gamma: float = 1.0
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)
    contrast: float = 1.0
    saturation: float = 1.0
    noise: float = 0.0
    jpeg: int = 0

    def __post_init__(self) -> None:
        problems = [
            *out_of_range(self, "blur_px", at_least=0, at_most=50),
            *out_of_range(self, "gamma", "contrast", at_least=0.1, at_most=10),
            *out_of_range(self, "saturation", at_least=0, at_most=4),
            *out_of_range(self, "noise", at_least=0, at_most=255),
            *out_of_range(self, "jpeg", at_least=0, at_most=100),
        ]
        if len(self.gains) != 3 or not all(0.05 <= gain <= 20 for gain in self.gains):
            problems.append(f"gains={self.gains} (three numbers from 0.05 to 20)")
        if problems:
            raise ConfigError("; ".join(problems))

    def apply(self, image: RgbImage, seed: int = 0) -> RgbImage:
        """The image as the second camera would have stored it.

        Args:
            image: ``(H, W, 3)`` uint8.
            seed: draws the noise.

        Returns:
            ``(H, W, 3)`` uint8, a new array.

        Raises:
            ImageError: not such an image.

        >>> CameraChange(gains=(1.2, 1.0, 0.75)).apply(np.full((1, 1, 3), 100, np.uint8)).tolist()
        [[[120, 100, 75]]]
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ImageError("not an RGB image of bytes", found=f"{image.dtype} {image.shape}", expected="(H, W, 3)")
        value: NDArray[np.floating] = image.astype(np.float32) / 255
        if self.blur_px:
            value = np.asarray(cv2.GaussianBlur(value, (0, 0), self.blur_px * image.shape[1] / 1000), np.float32)
        if self.gamma != 1:
            value = np.asarray(value ** np.float32(self.gamma), dtype=np.float32)
        value = np.asarray(value * np.asarray(self.gains, np.float32), dtype=np.float32)
        if self.contrast != 1:
            value = _s_curve(value.clip(0, 1), self.contrast)
        if self.saturation != 1:
            grey = (value @ LUMA)[..., None]
            value = grey + (value - grey) * np.float32(self.saturation)
        if self.noise:
            noise = np.random.default_rng(seed).standard_normal(value.shape, np.float32)
            value = value + noise * np.float32(self.noise / 255)
        changed = (value * 255 + 0.5).clip(0, 255).astype(np.uint8)
        return _through_jpeg(changed, self.jpeg) if self.jpeg else changed


def _s_curve(value: NDArray[np.floating], slope: float) -> NDArray[np.floating]:
    """Values from 0 to 1 through a curve that keeps 0, 1/2 and 1 and has this slope in the middle."""
    centred = 2 * value - 1
    # 1 - (1 - x)^slope has this slope at 0 and ends at 1, below a slope of 1 as well as above.
    curved = np.sign(centred) * (1 - (1 - np.abs(centred)) ** np.float32(slope))
    return np.asarray(0.5 + curved / 2, dtype=np.float32)


def _through_jpeg(image: RgbImage, quality: int) -> RgbImage:
    encoded, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded:
        raise ImageError("an image could not be encoded as JPEG", found=str(image.shape))
    return np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)[..., ::-1])


CHANGES: Mapping[str, CameraChange] = MappingProxyType({
    "warm": CameraChange(gains=(1.2, 1.0, 0.75)),
    "dark": CameraChange(gamma=1.8),
    "cool": CameraChange(gamma=0.7, gains=(0.88, 1.0, 1.15)),
    "grey": CameraChange(saturation=0.0),
})  # fmt: skip
"""Fixed changes: lamp light, underexposure, daylight with overexposure, and a camera without colour."""


def draw_change(rng: np.random.Generator) -> CameraChange:
    """Draw a camera that differs from the first as two makes of camera do.

    White balance, in stored values: red and blue against green by 15 % (one standard deviation of the logarithm), which
    is an error of automatic white balance among the worst quarter of images, between any two illuminants. Exposure and
    tone: gamma by a quarter, contrast 0.8 to 1.4. Saturation 0.5 to 1.3. Sharpness and compression of a streamed video.

    Args:
        rng: draws it.
    """
    red, blue = np.exp(rng.normal(0, 0.15, 2).clip(-0.35, 0.35))
    return CameraChange(
        blur_px=float(rng.uniform(0, 1.2)),
        gamma=float(math.exp(np.clip(rng.normal(0, 0.25), -0.6, 0.6))),
        gains=(float(red), 1.0, float(blue)),
        contrast=float(rng.uniform(0.8, 1.4)),
        saturation=float(rng.uniform(0.5, 1.3)),
        noise=float(rng.uniform(0, 6)),
        jpeg=int(rng.integers(40, 96)),
    )
