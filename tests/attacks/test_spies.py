"""Models with hostile configurations start, fetch and open nothing elsewhere, as the interpreter itself sees it."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.inference.small_models import small_tiny_match

ROOT = Path(__file__).parents[2]


class Marks:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def hostile(outside: Path) -> dict[str, tuple[dict, str]]:
    """By name: values of the O-MaMa part of ``config.json``, and the error."""
    return {
        "a pickle elsewhere": ({"proposer": f"fastsam:{outside}/evil.pt"}, "TrustError"),
        "an address": ({"proposer": "fastsam:http://127.0.0.1:9/x.pt"}, "TrustError"),
        "an address in settings": (
            {"proposer": "fastsam", "proposer_settings": {"weights": "https://127.0.0.1:9/x.pt"}}, "TrustError",
        ),
        "a pickle of its own": ({"proposer": "fastsam:evil.pt"}, "TrustError"),
        "a folder of the system": ({"proposer": "folder:/etc"}, "TrustError"),
        "the way up": ({"proposer": "folder:../outside"}, "TrustError"),
        "a repository": ({"backbone": "owner/name", "backbone_settings": {}}, "TrustError"),
        "masks of a repository": ({"proposer": "sam2:owner/name"}, "TrustError"),
        "features elsewhere, with code": ({"backbone": f"{outside}/network", "backbone_settings": {}}, "TrustError"),
        "features of its own, with code": ({"backbone": "network", "backbone_settings": {}}, "ConfigError"),
        "a network without end": ({"channels": 50_000_000}, "CheckpointError"),
        "a link to a device": ({}, "CheckpointError"),
    }  # fmt: skip


def with_code(folder: Path, mark: Path) -> None:
    """A folder of transformers that brings code."""
    folder.mkdir(parents=True)
    kinds = {"AutoConfig": "run.Config", "AutoModel": "run.Model", "AutoImageProcessor": "run.Processor"}
    (folder / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": kinds}))
    (folder / "run.py").write_text(f"open({str(mark)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    (folder / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")


@pytest.mark.skipif(os.name == "nt", reason="links of this kind, and resource")
def test_a_hostile_model_starts_nothing_and_opens_nothing_elsewhere(tmp_path):
    outside, mark = tmp_path / "outside", tmp_path / "outside" / "ran"
    with_code(outside / "network", mark)
    (outside / "evil.pt").write_bytes(pickle.dumps(Marks(mark)))
    seed = small_tiny_match(tmp_path / "seed")
    folders = {"good": seed}
    configs = hostile(outside)
    for number, (name, (values, _)) in enumerate(configs.items()):
        folder = tmp_path / f"model{number}"
        shutil.copytree(seed, folder)
        content = json.loads((folder / "config.json").read_text())
        content["model"]["omama"].update({"proposer_settings": {}, **values} if values else {})
        (folder / "config.json").write_text(json.dumps(content))
        if "of its own" in name:
            shutil.copy(outside / "evil.pt", folder)
            with_code(folder / "network", mark)
        if name == "a link to a device":
            (folder / "config.json").unlink()
            (folder / "config.json").symlink_to("/dev/zero")
        folders[name] = folder
    site = tmp_path / "site"  # stands for the package of FastSAM
    (site / "ultralytics").mkdir(parents=True)
    (site / "ultralytics" / "utils.py").write_text("")
    (site / "ultralytics" / "__init__.py").write_text(f"def FastSAM(weights): open({str(mark)!r}, 'w')\n")
    environment = {k: v for k, v in os.environ.items() if k != "HF_HUB_OFFLINE"}  # a user has the network
    environment["PYTHONPATH"] = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "tests.attacks.spy", *map(str, folders.values())],
        cwd=ROOT, env=environment, input="y\ny\n", capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    found = {name: report["folders"][str(folder)] for name, folder in folders.items()}
    assert found["good"] == {"ended": "loaded", "seen": []}
    for name, (_, error) in configs.items():
        assert found[name]["seen"] == [], name
        assert found[name]["ended"].startswith(f"{error}: {folders[name]}"), (name, found[name]["ended"])
        assert "\n" not in found[name]["ended"]
    assert not mark.exists()
    assert report["grown_bytes"] < 5 * 10**8
    for event in ("open /etc/hostname", "subprocess.Popen", "socket.connect"):
        assert any(text.startswith(event) for text in report["control"]), "the spy sees"
