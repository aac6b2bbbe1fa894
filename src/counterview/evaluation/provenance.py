"""The images that predictions were made from, as the prediction file records them.

The same take gives slightly different predictions from the release's videos and from prepared JPEG images. Files that
``counterview predict`` wrote hold ``{"format", "images"}`` as ``data`` in their settings.
"""

from __future__ import annotations

from typing import Any

from counterview.data.dataset import Direction
from counterview.errors import PredictionError
from counterview.evaluation.predictions import KEY_OF, PredictionFile, PredictionSource
from counterview.media.jsonstream import find_member, read_span

MAX_SETTINGS_BYTES = 10_000_000
"""Settings beyond this size are not read."""


def predicted_from(source: PredictionSource, direction: Direction) -> str | None:
    """The images that predictions were made from, such as ``prepared jpg``.

    Args:
        source: the predictions.
        direction: one that it holds.

    Returns:
        format of the data set and storage of its images; ``None`` if the file does not tell.
    """
    if not isinstance(source, PredictionFile):
        return None
    for key in dict.fromkeys([KEY_OF[direction], *KEY_OF.values()]):
        try:
            span = find_member(source.path, (key,), "counterview", error=PredictionError)
            if span is None or span.end - span.start > MAX_SETTINGS_BYTES:
                continue
            settings: Any = read_span(source.path, span, "counterview", error=PredictionError)
        except PredictionError:  # the other direction's key is not in the file
            continue
        data = settings.get("data") if isinstance(settings, dict) else None
        if isinstance(data, dict) and isinstance(data.get("format"), str):
            return f"{data['format']} {data.get('images', '')}".strip()
    return None
