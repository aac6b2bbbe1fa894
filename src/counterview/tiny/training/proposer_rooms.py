"""Images with the instance of every pixel, to train the learned proposer on.

``python -m counterview.tiny.training.proposer_rooms OUT [--scenes N] [--seed N]``: rooms of the split ``train``, each seen by the ego
camera at two instants and by the exo cameras at one. Takes know only the masks of annotated objects; here every body
has its number, furniture, clutter and hands as well, so that nothing unannotated counts as nothing. ``NAME.jpg`` is
the image, ``NAME.png`` the body of every pixel, and ``NAME.json`` says which numbers are what. A run that was cut
off is continued.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from counterview.media.images import write_image
from counterview.tabletop.camera.render import Renderer
from counterview.tabletop.camera.world import RigidBody
from counterview.tabletop.camera.sensor import develop
from counterview.tabletop.config import preset
from counterview.tabletop.objects.catalogue import seeded
from counterview.tabletop.take import Stage

PRESETS = ("standard", "standard", "hard", "easy")
"""Taken in turn: what is learned shall not hang on one distance and one noise."""
OUTSIDE = 255
"""Number of the pixels beyond the image circle."""


def render(out: Path, seed: int, index: int, size: int) -> None:
    """Render one room; its images are complete once the last one's JSON is there."""
    config = preset(PRESETS[index % len(PRESETS)], size=size, seconds=8, cameras=2, pool_size=2000)
    stem = f"room_{seed:04d}_{index:04d}"
    if (out / f"{stem}_3.json").is_file():
        return
    stage = Stage(config, seed, "train", index)
    rng = seeded(seed, "train", index, "instances")
    bodies = [RigidBody(b.mesh, b.materials, number) for number, b in enumerate(stage.renderer.bodies)]
    renderer = Renderer(bodies, stage.scene.lighting)
    things, clutter = len(stage.scene.things), len(stage.scene.clutter)
    first_thing = len(stage.scene.fixed)
    about = {"clutter": first_thing - clutter, "things": first_thing, "person": first_thing + things}
    early, late = rng.uniform(0, 3.5), rng.uniform(4, 7.5)
    rig = stage.rig
    views = [(early, None, rig.ego_sensor), (late, None, rig.ego_sensor)]
    views += [(late, camera, sensor) for camera, sensor in zip(rig.exo, rig.exo_sensors, strict=True)]
    posed = None
    for number, (t, camera, sensor) in enumerate(views):
        if posed != t:
            renderer.pose(stage.poses(t))
            posed = t
        if camera is None:
            earlier = t - rig.exposure_s * config.motion
            before = (stage.poses(earlier), stage.ego_camera(earlier))
            rendered = renderer.render(stage.ego_camera(t), before)
        else:
            rendered = renderer.render(camera)
        image, _ = develop(rendered, sensor, seeded(seed, "train", index, "noise", number))
        labels = np.where(rendered.labels < 0, OUTSIDE, rendered.labels).astype(np.uint8)
        name = f"{stem}_{number}"
        write_image(out / f"{name}.jpg", image, quality=93)
        cv2.imwrite(str(out / f"{name}.png"), labels)
        (out / f"{name}.json").write_text(json.dumps({**about, "ego": camera is None}), encoding="utf-8")


def main() -> None:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--scenes", type=int, default=560)
    parser.add_argument("--first", type=int, default=0, help="number of the first room")
    parser.add_argument("--seed", type=int, default=7001)
    parser.add_argument("--size", type=int, default=448, help="height in pixels")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for index in tqdm(range(options.first, options.first + options.scenes), unit="room"):
        render(options.out, options.seed, index, options.size)


if __name__ == "__main__":
    main()
