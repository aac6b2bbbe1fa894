"""Make the images that come with the package: ``python -m tools.make_example_pair [pair] [take]``.

``assets/pair``: one instant of a table from a near and from a far viewpoint, with the masks of a few objects.
``assets/take``: a short take in the release layout. Both use objects of the ``test`` split.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np

from counterview.masks.png import write_mask_png
from counterview.media.files import write_json
from counterview.media.images import write_image
from counterview.tabletop.camera.cameras import Camera, look_at
from counterview.tabletop.camera.render import Renderer
from counterview.tabletop.camera.sensor import Sensor, develop
from counterview.tabletop.camera.world import BodyPoses, RigidBody
from counterview.tabletop.config import preset
from counterview.tabletop.generate import index_takes
from counterview.tabletop.objects.catalogue import seeded
from counterview.tabletop.scene.layout import build_scene
from counterview.tabletop.take import save_take, take_name

__all__ = ["make_bundled_take", "make_pair"]

PAIR_SEED = 4
FAR_M = (1.2, -0.7, 0.66)
"""Where the far camera stands, from the middle of the table's top: a good 60 degrees round from the near one."""
TAKE_SEED = 19
_LOGGER = logging.getLogger(__name__)


def make_pair(folder: Path, seed: int = PAIR_SEED, objects: int = 6) -> list[str]:
    """Write ``ego.jpg``, ``exo.jpg``, masks and ``pair.json``; return the objects' names.

    Chosen are the objects whose smaller mask of the two is largest; masks hold visible pixels only.

    Args:
        folder: exists.
        seed: of the scene.
        objects: number of objects.
    """
    scene = build_scene(preset("easy", objects_min=10, objects_max=11), seed, "test", 0)
    bodies = [*scene.fixed, *(RigidBody(t.mesh, t.materials, i) for i, t in enumerate(scene.things))]
    fixed = [(np.eye(3), np.zeros(3))] * len(scene.fixed)
    renderer = Renderer(bodies, scene.lighting)
    renderer.pose(BodyPoses.stack([*fixed, *(placement.pose() for placement in scene.placements)]))
    near = np.array([0.08, -scene.table.half_y - 0.02, 0.36])
    far = np.array(FAR_M)
    cameras = (
        Camera("ego", (704, 704), 0.52 * 704, look_at(near, (0.0, 0.0, 0.0), 0.04), near, 0.515 * 704),
        Camera("exo", (540, 960), 760.0, look_at(far, (0.0, -0.02, 0.02)), far),
    )
    sensors = (
        Sensor(0.5, (1.03, 1, 0.97), 1.0, 0.95, 2.0, 0.25, 0.3, 0.2, 100, 20),
        Sensor(0.52, (0.98, 1, 1.05), 1.05, 1.05, 1.5, 0.05, 0.25, 0.4, 100, 20),
    )
    labels = []
    for camera, sensor in zip(cameras, sensors, strict=True):
        rendered = renderer.render(camera)
        image, _ = develop(rendered, sensor, seeded(seed, "pair", camera.name))
        write_image(folder / f"{camera.name}.jpg", image, quality=88)
        labels.append(rendered.labels)
    area = [min(float((view == i).mean()) for view in labels) for i in range(len(scene.things))]
    chosen = sorted(sorted(range(len(area)), key=lambda i: -area[i])[:objects])
    entries = []
    for i in chosen:
        word = scene.names[i].replace(" ", "_").replace("/", "_")
        masks = {}
        for camera, view in zip(cameras, labels, strict=True):
            masks[camera.name] = f"{camera.name}_{word}.png"
            write_mask_png(folder / masks[camera.name], view == i)
        entries.append({"name": scene.names[i], "ego_mask": masks["ego"], "exo_mask": masks["exo"]})
    write_json(
        folder / "pair.json",
        {
            "about": "Rendered by tools.make_example_pair; no camera saw this table.",
            "seed": seed,
            "ego": "ego.jpg",
            "exo": "exo.jpg",
            "objects": entries,
        },
    )
    return [scene.names[i] for i in chosen]


def make_bundled_take(folder: Path, seed: int = TAKE_SEED) -> str:
    """Write one short take in the release layout, without 448p copies; return its name."""
    config = preset(
        "standard",
        seconds=10,
        objects_min=8,
        objects_max=9,
        tall_clutter_max=1,
        exo_low_m=0.25,
        exo_high_m=0.8,
        portrait=0.0,
    )
    name = take_name(seed, "test", 0)
    target = folder / "takes" / name
    target.mkdir(parents=True)
    save_take(target, config, seed, "test", 0, crf=33, extras=False)
    index_takes(folder, config, seed, [("test", 0)])
    return name


def main(arguments: Sequence[str] | None = None) -> None:
    """Rebuild the bundled assets in place (or below ``--to``)."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("what", nargs="*", help="pair or take; both if not given")
    parser.add_argument("--to", type=Path, default=Path(str(files("counterview"))) / "assets")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    unknown = set(options.what) - {"pair", "take"}
    if unknown:
        parser.error(f"unknown asset: {', '.join(sorted(unknown))}")
    for what in options.what or ["pair", "take"]:
        folder = options.to / what
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        if what == "take":
            _LOGGER.info("%s: %s", folder, make_bundled_take(folder))
        else:
            _LOGGER.info("%s: %s", folder, ", ".join(make_pair(folder)))


if __name__ == "__main__":
    main()
