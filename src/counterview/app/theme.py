"""Looks of the page: colours, letters of the reader's own system, and the style sheet."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from counterview.masks.draw import PALETTE

if TYPE_CHECKING:
    import gradio as gr


def make_theme() -> gr.themes.Base:
    """The theme: plain, and with fonts of the reader's system alone, so that none is fetched."""
    import gradio as gr

    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"]
    mono = ["ui-monospace", "DejaVu Sans Mono", "monospace"]
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.blue, neutral_hue=gr.themes.colors.slate, font=fonts, font_mono=mono,
        radius_size=gr.themes.sizes.radius_md, spacing_size=gr.themes.sizes.spacing_md,
    )  # fmt: skip
    return theme


def asset(name: str) -> bytes:
    """A file of the page that comes with the package.

    Args:
        name: ``page.js``, ``page.css``, ``videos.js`` or ``videos.css``.
    """
    return (files("counterview") / "assets" / "page" / name).read_bytes()


def style_sheet() -> str:
    """The style sheet, with the colours of objects as they are drawn on images."""
    colors = "".join(f"--cv-object-{number}: {color};" for number, color in enumerate(PALETTE))
    return f":root {{ {colors} }}\n" + (asset("page.css") + asset("videos.css")).decode("utf-8")
