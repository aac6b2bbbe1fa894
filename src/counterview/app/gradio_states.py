"""What Gradio keeps of pages beside their sessions.

It keeps the newest values of a page's components, images among them, of ten thousand pages: nothing that a session
showed may outlast it.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr

UNUSED_S = 60.0
"""A page that has no session yet keeps its values so long after it used them last."""


class GradioStates:
    """The values that Gradio keeps, by the keys of pages.

    Args:
        page: after it was mounted.
    """

    def __init__(self, page: gr.Blocks) -> None:
        self._holder = page.state_holder

    def drop(self, keys: Collection[str]) -> None:
        """Forget pages."""
        for key in keys:
            self._holder.session_data.pop(key, None)
            self._holder.time_last_used.pop(key, None)

    def drop_others(self, keys: Collection[str]) -> None:
        """Forget all pages but some and those that came just now."""
        now = time.time()
        used = {key: moment.timestamp() for key, moment in list(self._holder.time_last_used.items())}
        held = [*list(self._holder.session_data), *used]
        self.drop([key for key in held if key not in keys and used.get(key, 0.0) < now - UNUSED_S])
