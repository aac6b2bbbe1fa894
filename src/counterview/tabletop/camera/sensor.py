"""From light to an image, as a camera's sensor makes it.

Blur, vignetting, exposure, white balance, noise, tone, sharpening and JPEG, in this order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from counterview.media.images import LUMA
from counterview.tabletop.camera.render import OUTSIDE, RenderedImage

__all__ = ["Sensor", "develop", "draw_sensor", "measure_gain"]


@dataclass(frozen=True)
class Sensor:
    """How one camera renders light.

    Attributes:
        exposure: mean brightness that auto exposure aims at, 0 to 1.
        gains: white balance (r, g, b).
        contrast: of the tone curve.
        saturation: of the tone curve.
        noise: standard deviation of a mid grey, in 1/255.
        vignette: darkening at the corners, 0 to 1.
        blur_px: standard deviation of the lens blur.
        sharpen: strength of the unsharp mask.
        jpeg: quality of a JPEG pass before the video, 100 for none.
        crf: H.264 rate factor.
        gamma: exponent of the tone curve's output; above 1 darkens.
        sway: how far white balance and exposure wander over time, as a logarithm.
        sway_s: seconds in which they wander to and fro.
        sway_phase: where they begin, in radians.
    """

    exposure: float
    gains: tuple[float, float, float]
    contrast: float
    saturation: float
    noise: float
    vignette: float
    blur_px: float
    sharpen: float
    jpeg: int
    crf: int
    gamma: float = 1.0
    sway: float = 0.0
    sway_s: float = 10.0
    sway_phase: float = 0.0

    def at(self, t: float) -> Sensor:
        """The sensor ``t`` seconds into a take, with the gains that it has then."""
        if not self.sway:
            return self
        angle = 2 * math.pi * t / self.sway_s + self.sway_phase
        exposure, warmth = self.sway * math.sin(angle), self.sway * math.sin(1.7 * angle)
        red, green, blue = (g * math.exp(exposure) for g in self.gains)
        return replace(self, gains=(red * math.exp(warmth / 2), green, blue * math.exp(-warmth / 2)))


def draw_sensor(rng: np.random.Generator, ego: bool, harshness: float = 1.0, camera_difference: float = 0.0) -> Sensor:
    """Draw a camera's character.

    Args:
        rng: draws it.
        ego: a head-mounted camera.
        harshness: scales noise, blur, colour cast and compression.
        camera_difference: how far cameras differ from each other beyond that, from 0 to 1; see :func:`_another_make`.
    """
    cast = rng.normal(0, 0.05 * harshness, 2)
    sensor = Sensor(
        exposure=float(rng.uniform(0.44, 0.56)),
        gains=(float(np.exp(cast[0])), 1.0, float(np.exp(cast[1]))),
        contrast=float(rng.uniform(0.9, 1.15)),
        saturation=float(rng.uniform(0.8, 1.1)) * (0.9 if ego else 1.0),
        noise=float(rng.uniform(1.5, 4.0)) * harshness * (1.4 if ego else 1.0),
        vignette=float(rng.uniform(0.15, 0.35) if ego else rng.uniform(0.02, 0.15)),
        blur_px=float(rng.uniform(0.25, 0.55)) * (harshness if harshness > 1 else 1.0),
        sharpen=float(rng.uniform(0.0, 0.25) if ego else rng.uniform(0.2, 0.7)),
        jpeg=int(rng.integers(80, 96) - 8 * (harshness > 1)),
        crf=int(rng.integers(20, 25) + (3 if harshness > 1 else 0)),
    )
    return _another_make(sensor, rng, camera_difference) if camera_difference else sensor


def _another_make(sensor: Sensor, rng: np.random.Generator, difference: float) -> Sensor:
    """The sensor as that of another make, with its own colours, tone, exposure, sharpening and compression.

    At a ``difference`` of 1: red and blue against green by 30 % in light (one standard deviation of the logarithm),
    gamma by 22 %, contrast from 0.8 to 1.4, saturation from half to 1.3 times, and one camera in twenty nearly without
    colour. These are errors of automatic white balance and differences of tone curves between makes, not those of two
    cameras that were measured.
    """
    red, blue = np.exp(rng.normal(0, 0.3 * difference, 2).clip(-0.7, 0.7))
    grey = rng.random() < 0.05 * difference
    gamma = math.exp(float(np.clip(rng.normal(0, 0.22 * difference), -0.5, 0.5)))
    contrast = 1 + difference * float(rng.uniform(-0.2, 0.4))
    saturation = float(rng.uniform(0, 0.2)) if grey else 1 + difference * float(rng.uniform(-0.5, 0.3))
    return replace(
        sensor,
        exposure=float(np.clip(sensor.exposure + difference * rng.uniform(-0.14, 0.1), 0.25, 0.7)),
        gains=(sensor.gains[0] * float(red), sensor.gains[1], sensor.gains[2] * float(blue)),
        contrast=sensor.contrast * contrast,
        saturation=sensor.saturation * saturation,
        gamma=gamma,
        blur_px=sensor.blur_px + difference * float(rng.uniform(0, 0.5)),
        sharpen=sensor.sharpen + difference * float(rng.uniform(0, 0.6)),
        jpeg=int(sensor.jpeg - difference * rng.integers(0, 40)),
        crf=int(sensor.crf + difference * rng.integers(0, 8)),
        sway=difference * float(rng.uniform(0, 0.12)),
        sway_s=float(rng.uniform(4, 20)),
        sway_phase=float(rng.uniform(0, 2 * math.pi)),
    )


def _motion_blur(light: np.ndarray, flow_px: np.ndarray) -> np.ndarray:
    """Average of light ``(H, W, 3)`` along each pixel's motion ``(H, W, 2)`` during the exposure."""
    # Longer streaks than this would need more taps than they are worth.
    limit = light.shape[0] / 32
    speed = np.maximum(np.abs(flow_px).max(2, keepdims=True), 1e-6)
    flow_px = flow_px * np.minimum(1, limit / speed)
    longest = float(np.abs(flow_px).max(initial=0))
    if longest < 0.7:
        return light
    h, w = light.shape[:2]
    flow = cv2.blur(flow_px, (5, 5))
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    taps = int(np.clip(np.ceil(longest), 3, 9))
    total = np.zeros_like(light)
    for t in np.linspace(-0.5, 0.5, taps):
        total += cv2.remap(
            light,
            x + flow[..., 0] * np.float32(t),
            y + flow[..., 1] * np.float32(t),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
    return total / taps


def measure_gain(rendered: RenderedImage, sensor: Sensor) -> float:
    """Exposure gain that brings an image to the sensor's brightness."""
    light = rendered.light[::2, ::2][rendered.labels[::2, ::2] != OUTSIDE]
    grey = (light[:, 0] + light[:, 1] + light[:, 2]) / 3
    # The mean of the lower 90 %: a window in view must not turn the room black.
    level = float(np.minimum(grey, np.quantile(grey, 0.9)).mean())
    return float(sensor.exposure**2.2 / max(level, 1e-4))


def develop(
    rendered: RenderedImage, sensor: Sensor, rng: np.random.Generator, gain: float | None = None
) -> tuple[np.ndarray, float]:
    """Turn light into pixels.

    Args:
        rendered: what the camera receives, at ``(H, W)``.
        sensor: the camera's character.
        rng: draws the noise.
        gain: exposure gain; None measures it (auto exposure).

    Returns:
        the image ``(H, W, 3)`` uint8 sRGB, and the gain, so that a static camera can hold it.
    """
    light = np.minimum(rendered.light, 6.0)
    h, w = light.shape[:2]
    inside = rendered.labels != OUTSIDE
    if gain is None:
        gain = measure_gain(rendered, sensor)
    if rendered.flow_px is not None:
        light = _motion_blur(light, rendered.flow_px)
    if sensor.blur_px > 0.2:
        light = cv2.GaussianBlur(light, (0, 0), sensor.blur_px)
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    r2 = ((x - w / 2) ** 2 + (y - h / 2) ** 2) / ((h * h + w * w) / 4)
    light = light * (gain * np.asarray(sensor.gains, np.float32)) * (1 - sensor.vignette * r2)[..., None]
    # Noise before the tone curve: shot noise grows with the root of the light, read noise does not.
    grain = rng.standard_normal(light.shape, np.float32)
    sigma = np.float32(sensor.noise / 255) * np.sqrt(np.maximum(light, 0) * 0.8 + 0.02)
    light = np.maximum(light + grain * sigma, 0)
    value = light * (1 + light / 6.0) / (1 + light)
    value = value ** np.float32(sensor.gamma / 2)
    value = 0.5 + (value - 0.5) * sensor.contrast + 0.04 * (sensor.contrast - 1)
    grey = value @ LUMA
    value = grey[..., None] + (value - grey[..., None]) * sensor.saturation
    if sensor.sharpen > 0:
        value = value + sensor.sharpen * (value - cv2.GaussianBlur(value, (0, 0), 1.0))
    value[~inside] = 0.012
    image = np.clip(value * 255 + 0.5, 0, 255).astype(np.uint8)
    if sensor.jpeg < 100:
        ok, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, sensor.jpeg])
        if ok:
            image = np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1])
    return image, gain
