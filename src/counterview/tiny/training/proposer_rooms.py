"""Rendered images with the instance of every pixel, to train the ``tiny`` proposer on.

``python -m counterview.tiny.training.proposer_rooms OUT [--scenes N] [--seed N]``: rooms of the split ``train``, each
seen by the ego camera at two instants and by the exo cameras at one. A take has masks of its annotated objects only;
here every body has its number, furniture, clutter and hands as well, so that whatever is not annotated is not taken for
background. ``NAME.jpg`` is the image, ``NAME.png`` the instance of every pixel, and ``NAME.json`` tells which numbers
are clutter, objects and the person. A run that was cut off is continued.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from counterview.errors import InputError
from counterview.masks.png import read_index_png
from counterview.media.files import read_json
from counterview.media.images import write_image
from counterview.tabletop.camera.render import Renderer
from counterview.tabletop.camera.sensor import develop
from counterview.tabletop.camera.world import RigidBody
from counterview.tabletop.config import preset
from counterview.tabletop.objects.catalogue import seeded
from counterview.tabletop.take import Stage
from counterview.tiny.training.command_line import parse

__all__ = ["OUTSIDE", "RoomLabels", "RoomSettings", "read_labels", "render_room", "room_images", "room_number"]

PRESETS = ("standard", "standard", "hard", "easy")
"""Taken in turn, so that training sees several distances and levels of noise."""
OUTSIDE = 255
"""Instance of the pixels beyond the image circle."""
_VIEWS = 4
"""Images of a room: two of the ego camera, one of each exo camera."""


@dataclass(frozen=True)
class RoomSettings:
    """Which rooms are rendered."""

    scenes: int = field(default=560, metadata={"help": "number of rooms"})
    first: int = field(default=0, metadata={"help": "number of the first room"})
    seed: int = field(default=7001, metadata={"help": "seed of all rooms"})
    size: int = field(default=448, metadata={"help": "height of the images, in pixels"})


@dataclass(frozen=True, eq=False)
class RoomLabels:
    """The instance of every pixel of an image.

    Attributes:
        instances: ``(h, w)`` uint8, number of the body that each pixel shows, or :data:`OUTSIDE`.
        clutter: number of the first body of clutter; lower ones are room and furniture.
        things: number of the first annotated object.
        person: number of the first part of the person; all higher ones belong to it too.
    """

    instances: NDArray[np.uint8]
    clutter: int
    things: int
    person: int

    def on_table(self) -> NDArray[np.bool_]:
        """Pixels ``(h, w)`` of objects and clutter."""
        return (self.instances >= self.clutter) & (self.instances < self.person)


def room_number(path: Path) -> int:
    """The room that a file of :func:`render_room` belongs to."""
    return int(path.stem.split("_")[2])


def room_images(folder: Path) -> list[Path]:
    """The JSON files of all images in a folder, in their order; the image is ``path.with_suffix(".jpg")``.

    Raises:
        InputError: there are none.
    """
    paths = sorted(folder.glob("room_*.json"))
    if not paths:
        raise InputError("no rendered rooms here", path=folder, expected="room_*.json and images of proposer_rooms")
    return paths


def read_labels(path: Path) -> RoomLabels:
    """Read the labels of an image by its JSON file.

    Raises:
        InputError: the JSON file or the image of instances is missing or damaged.
    """
    about = read_json(path)
    try:
        numbers = [int(about[key]) for key in ("clutter", "things", "person")]
    except (KeyError, TypeError, ValueError):
        raise InputError("not the JSON file of a room", path=path, expected="numbers clutter, things, person") from None
    return RoomLabels(read_index_png(path.with_suffix(".png")), *numbers)


def render_room(out: Path, seed: int, index: int, size: int) -> None:
    """Render one room into an existing folder; it is complete when the JSON file of its last image is there.

    Args:
        out: the folder.
        seed: of all rooms.
        index: number of the room.
        size: height of the images, in pixels.

    Raises:
        MissingExtraError: ``embreex`` is not installed.
    """
    config = preset(PRESETS[index % len(PRESETS)], size=size, seconds=8, cameras=2, pool_size=2000)
    stem = f"room_{seed:04d}_{index:04d}"
    if (out / f"{stem}_{_VIEWS - 1}.json").is_file():
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
    views += [(late, camera, sensor) for camera, sensor in zip(rig.exo, rig.exo_sensors, strict=True)]  # type: ignore[misc]
    posed = None
    for number, (t, camera, sensor) in enumerate(views):
        if posed != t:
            renderer.pose(stage.poses(t))
            posed = t
        if camera is None:
            earlier = t - rig.exposure_s * config.motion
            rendered = renderer.render(stage.ego_camera(t), (stage.poses(earlier), stage.ego_camera(earlier)))
        else:
            rendered = renderer.render(camera)
        image, _ = develop(rendered, sensor, seeded(seed, "train", index, "noise", number))
        instances = np.where(rendered.labels < 0, OUTSIDE, rendered.labels).astype(np.uint8)
        name = f"{stem}_{number}"
        write_image(out / f"{name}.jpg", image, quality=93)
        cv2.imwrite(str(out / f"{name}.png"), instances)
        (out / f"{name}.json").write_text(json.dumps({**about, "ego": camera is None}), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Render rooms, see the module's text."""
    (out,), settings = parse(__doc__, {"out": "folder of the images"}, RoomSettings, arguments)
    out.mkdir(parents=True, exist_ok=True)
    for index in tqdm(range(settings.first, settings.first + settings.scenes), unit="room"):
        render_room(out, settings.seed, index, settings.size)


if __name__ == "__main__":
    main()
