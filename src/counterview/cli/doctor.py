"""``counterview doctor``: what is installed, what is not, and how to get it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

EXTRAS = {
    "render": ("embreex", "renders synthetic takes"),
    "train": ("accelerate", "trains"),
    "fastsam": ("ultralytics", "FastSAM proposals; AGPL-3.0, read docs/decisions.md first"),
}
WEIGHTS = {
    "facebook/dinov2-with-registers-base": "--features dinov2-base-reg",
    "facebook/dinov2-base": "--features dinov2-base",
    "openai/clip-vit-base-patch16": "--features clip",
    "facebook/dinov3-vitb16-pretrain-lvd1689m": "--features dinov3 (ask for access on its page first)",
    "facebook/sam2.1-hiera-base-plus": "--proposals sam2",
}
PACKAGES = (
    "torch", "transformers", "numpy", "scipy", "pillow", "opencv-python-headless", "scikit-image", "av", "pycocotools",
    "supervision", "huggingface_hub",
)  # fmt: skip


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Show versions, devices, extras and weights, and how to get what is missing."""
    report = examine()
    if as_json:
        print(json.dumps(report, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"counterview {report['counterview']}, Python {report['python']}, {report['system']}")
    table = Table("", "", "", box=None, show_header=False, pad_edge=False)
    for name, version in report["packages"].items():
        table.add_row(name, version or "missing", "" if version else f"pip install {name}")
    for device, note in report["devices"].items():
        table.add_row(device, note, "")
    for name, state in report["shipped"].items():
        table.add_row(name, state, "a model that comes with the package")
    for name, extra in report["extras"].items():
        how = "" if extra["installed"] else f'pip install "counterview[{name}]"'
        table.add_row(
            f"[{name}]".replace("[", "\\["),
            "installed" if extra["installed"] else "not installed",
            f"{extra['what']}  {how}".replace("[", "\\["),
        )
    for name, weight in report["weights"].items():
        how = "" if weight["cached"] else f"fetched on first use, or: hf download {name}"
        table.add_row(name, "cached" if weight["cached"] else "not here", f"{weight['used_by']}  {how}")
    console.print(table)
    console.print("Without any of the weights: counterview match … --proposals graph --features classical")


def examine() -> dict[str, Any]:
    """Gather what :func:`doctor` shows. Nothing is fetched."""
    import importlib.util
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch
    from huggingface_hub import try_to_load_from_cache

    from counterview import __version__

    packages: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    devices = {"cpu": f"{torch.get_num_threads()} threads"}
    devices["cuda"] = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) or "none"
    devices["mps"] = "available" if torch.backends.mps.is_available() else "none"
    return {
        "counterview": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": packages,
        "devices": devices,
        "shipped": _shipped(),
        "extras": {
            name: {"installed": importlib.util.find_spec(module) is not None, "what": what}
            for name, (module, what) in EXTRAS.items()
        },
        "weights": {
            name: {"cached": isinstance(try_to_load_from_cache(name, "model.safetensors"), str), "used_by": used_by}
            for name, used_by in WEIGHTS.items()
        },
    }


def _shipped() -> dict[str, str]:
    """What became of each model that may come with the package; every file is checked against its hash."""
    from counterview.errors import CounterviewError
    from counterview.inference.bundled import BUNDLED, available, bundled_folder

    states = {}
    for name in BUNDLED:
        if name not in available():
            states[name] = "not here"
            continue
        try:
            bundled_folder(name)
            states[name] = "whole"
        except CounterviewError as error:
            states[name] = error.problem
    return states
