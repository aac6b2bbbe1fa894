"""Sound of an activity at a table, made here: what two cameras record of it, each with noise and a clock of its own."""

from __future__ import annotations

import numpy as np
import scipy.signal
from numpy.typing import NDArray

RATE = 16000


def activity(seconds: float, seed: int) -> NDArray[np.float64]:
    """Dishes that clink, things put down, and something like speech: ``(N,)`` at :data:`RATE`, 1 in the loudest part.

    A room of 0.25 s reverberation is included.
    """
    rng = np.random.default_rng(seed)
    count = int(seconds * RATE)
    sound = np.zeros(count)
    for start in rng.uniform(0, seconds, int(seconds * 0.8)):  # dishes: decaying partials
        length = int(RATE * 0.4)
        t = np.arange(length) / RATE
        partials = sum(
            rng.uniform(0.2, 1) * np.sin(2 * np.pi * rng.uniform(700, 6000) * t + rng.uniform(0, 6.3))
            * np.exp(-t * rng.uniform(12, 60)) for _ in range(6)
        )  # fmt: skip
        _add(sound, partials * rng.uniform(0.05, 0.4), int(start * RATE))
    for start in rng.uniform(0, seconds, int(seconds * 0.5)):  # knocks on the table
        length = int(RATE * 0.12)
        knock = rng.normal(0, 1, length) * np.exp(-np.arange(length) / RATE * 60)
        _add(sound, scipy.signal.lfilter([0.2], [1, -0.8], knock) * rng.uniform(0.1, 0.5), int(start * RATE))
    for start in np.arange(rng.uniform(0, 2), seconds, 6.0):  # phrases: a buzz through moving resonances, with pauses
        length = int(RATE * rng.uniform(1.0, 3.0))
        pitch = 110 + 40 * np.cumsum(rng.normal(0, 1, length)) / np.sqrt(length)
        buzz = scipy.signal.sawtooth(2 * np.pi * np.cumsum(pitch) / RATE) + rng.normal(0, 0.2, length)
        syllables = np.clip(np.sin(2 * np.pi * 4 * np.arange(length) / RATE + rng.uniform(0, 6)) + 0.3, 0, 1)
        voiced = np.concatenate([_formants(piece, rng) for piece in np.array_split(buzz, max(1, length // 3200))])
        _add(sound, voiced * syllables * 0.25, int(start * RATE))
    tail = rng.normal(0, 1, RATE // 4) * np.exp(-np.arange(RATE // 4) / RATE * 27)
    tail *= 0.3 / np.sqrt((tail**2).sum())
    tail[0] = 1
    sound = scipy.signal.fftconvolve(sound, tail)[:count]
    return sound / np.abs(sound).max()


def _formants(piece: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    out = np.zeros_like(piece)
    for low, high in ((300, 800), (900, 2200), (2300, 3200)):
        centre = rng.uniform(low, high)
        b, a = scipy.signal.iirpeak(centre, 6, fs=RATE)
        out += scipy.signal.lfilter(b, a, piece)
    return out / max(1e-9, np.abs(out).max())


def _add(sound: NDArray[np.float64], piece: NDArray[np.float64], start: int) -> None:
    end = min(len(sound), start + len(piece))
    sound[start:end] += piece[: end - start]


def recorded(
    sound: NDArray[np.float64], seconds: float, snr_db: float, seed: int, *, late_s: float = 0.0, drift_ppm: float = 0.0
) -> NDArray[np.float32]:
    """What a camera records of a sound: its own echo and noise, late, and with a slow clock.

    Args:
        sound: ``(N,)`` at :data:`RATE`.
        seconds: length of the recording on the camera's clock.
        snr_db: power of the sound over that of the noise, on average over the recording.
        seed: of the noise and the echo.
        late_s: by how much it starts after the sound.
        drift_ppm: by how much its clock is slow.
    """
    rng = np.random.default_rng(seed)
    own = np.arange(int(seconds * RATE)) / RATE
    heard = np.interp((late_s + own * (1 + drift_ppm / 1e6)) * RATE, np.arange(len(sound)), sound, left=0, right=0)
    echo = np.zeros(RATE // 10)
    echo[0] = 1
    echo[rng.integers(40, len(echo), 20)] = rng.normal(0, 0.15, 20)
    heard = scipy.signal.fftconvolve(heard, echo)[: len(own)]
    noise = scipy.signal.lfilter([1.0], [1, -0.9], rng.normal(0, 1, len(own)))  # of rooms and fans: low frequencies
    hum = 0.5 * noise.std() * np.sin(2 * np.pi * 50 * own + rng.uniform(0, 6))
    noise = noise + hum
    noise *= np.sqrt((heard**2).mean() / (noise**2).mean()) * 10 ** (-snr_db / 20)
    out = heard + noise
    return (0.5 * out / max(1e-9, np.abs(out).max())).astype(np.float32)
