"""Small plots as SVG text, so that a report is a single file."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

COLORS = ("#1f77b4", "#e4572e", "#2a9d55", "#8e5bd0", "#c98a00", "#008b95")
WIDTH, HEIGHT = 460, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 14, 36


def safe_text(value: object) -> str:
    """Text for a page: escaped, with characters that cannot be printed or encoded replaced."""
    text = str(value).encode("utf-8", "backslashreplace").decode("utf-8")
    return html.escape("".join(c if c.isprintable() else "\ufffd" for c in text))


def _x(value: float, low: float, high: float) -> float:
    return _LEFT + (value - low) / (high - low or 1) * (WIDTH - _LEFT - _RIGHT)


def _y(value: float, top: float) -> float:
    return HEIGHT - _BOTTOM - value / (top or 1) * (HEIGHT - _TOP - _BOTTOM)


def _frame(body: list[str], x_label: str, y_label: str, top: float, names: Sequence[str]) -> str:
    lines = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img">']
    for k in range(5):
        value = top * k / 4
        y = _y(value, top)
        lines.append(f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        lines.append(f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    lines.append(f'<text x="{(WIDTH + _LEFT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{safe_text(x_label)}</text>')
    middle = (HEIGHT - _BOTTOM + _TOP) / 2
    lines.append(
        f'<text transform="translate(11 {middle}) rotate(-90)" text-anchor="middle">{safe_text(y_label)}</text>'
    )
    lines += body
    if len(names) > 1:
        for k, name in enumerate(names):
            y = _TOP + 12 + 14 * k
            lines.append(f'<rect x="{_LEFT + 8}" y="{y - 8}" width="9" height="9" fill="{COLORS[k % len(COLORS)]}"/>')
            lines.append(f'<text x="{_LEFT + 22}" y="{y}">{safe_text(name[:40])}</text>')
    return "".join([*lines, "</svg>"])


def success_curve(systems: Sequence[tuple[str, NDArray[np.float64]]]) -> str:
    """Fraction of visible object-frames with at least each IoU, as SVG.

    Args:
        systems: a name and ``(N,)`` IoU in ``[0, 1]`` for each.
    """
    thresholds = np.linspace(0, 1, 51)
    body = []
    for k, (_, values) in enumerate(systems):
        fractions = [float((values >= t).mean()) if len(values) else 0.0 for t in thresholds]
        points = " ".join(f"{_x(t, 0, 1):.1f},{_y(s, 1):.1f}" for t, s in zip(thresholds, fractions, strict=True))
        body.append(f'<polyline points="{points}" fill="none" stroke="{COLORS[k % len(COLORS)]}" stroke-width="2"/>')
    for t in (0, 0.25, 0.5, 0.75, 1):
        body.append(f'<text x="{_x(t, 0, 1):.1f}" y="{HEIGHT - 20}" text-anchor="middle">{t:g}</text>')
    return _frame(body, "IoU of at least", "fraction of visible objects", 1.0, [name for name, _ in systems])


def bars(systems: Sequence[tuple[str, Sequence[float]]], labels: Sequence[str], y_label: str, top: float = 1.0) -> str:
    """Bars side by side for each label, as SVG; NaN has no bar.

    Args:
        systems: a name and one value per label for each.
        labels: under the groups of bars.
        y_label: beside the axis.
        top: upper end of the axis.
    """
    body = []
    slot = (WIDTH - _LEFT - _RIGHT) / max(1, len(labels))
    width = slot * 0.8 / max(1, len(systems))
    for k, (name, values) in enumerate(systems):
        for i, value in enumerate(values):
            if math.isnan(value):
                continue
            y = _y(min(value, top), top)
            x = _LEFT + i * slot + slot * 0.1 + k * width
            tip = f"<title>{safe_text(f'{name}: {labels[i]}: {value:.3f}')}</title>"
            body.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{HEIGHT - _BOTTOM - y:.1f}" '
                f'fill="{COLORS[k % len(COLORS)]}">{tip}</rect>'
            )
    for i, label in enumerate(labels):
        x = _LEFT + (i + 0.5) * slot
        short = label if len(label) <= max(4, int(slot / 6)) else label[: max(3, int(slot / 6) - 1)] + "…"
        body.append(f'<text x="{x:.1f}" y="{HEIGHT - 20}" text-anchor="middle">{safe_text(short)}</text>')
    return _frame(body, "", y_label, top, [name for name, _ in systems])
