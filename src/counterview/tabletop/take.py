"""One take, from its number to its files: a pure function of (settings, seed, split, index)."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from pathlib import Path

import numpy as np

from counterview.errors import InputError
from counterview.masks.draw import contact_sheet, overlay
from counterview.media.files import read_json, sha256_file, write_json
from counterview.media.images import write_image
from counterview.tabletop.camera.cameras import Camera
from counterview.tabletop.camera.render import Renderer
from counterview.tabletop.camera.rig import draw_rig, ego_camera
from counterview.tabletop.camera.sensor import develop, measure_gain
from counterview.tabletop.camera.world import BodyPoses, RigidBody
from counterview.tabletop.config import TabletopConfig
from counterview.tabletop.objects.catalogue import seeded
from counterview.tabletop.scene.action import Story, plan
from counterview.tabletop.scene.hands import make_person, person_poses
from counterview.tabletop.scene.layout import build_scene
from counterview.tabletop.write import FPS, annotate, shrink, take_entry, write_video

__all__ = ["FORMAT", "Stage", "make_take", "render_take", "save_take", "take_is_complete", "take_name", "take_uid"]

FORMAT = 2
"""Raised whenever the same settings would give other takes than before."""

RECORD = "tabletop.json"
"""Name of a take's own record, in its folder."""
_SCENARIOS = ("Cooking", "Repair", "Tidying up", "Packing")


def take_name(seed: int, split: str, index: int) -> str:
    """Name of a take, unique among seeds and splits."""
    return f"tabletop_{split}_{seed:04d}_{index:04d}"


def take_uid(seed: int, split: str, index: int) -> str:
    """UUID of a take, the same wherever it is made."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"counterview/tabletop/{FORMAT}/{take_name(seed, split, index)}"))


def digest(config: TabletopConfig) -> str:
    """Fingerprint of the settings and of the generator's format."""
    return hashlib.sha256(json.dumps([FORMAT, config.settings()], sort_keys=True).encode()).hexdigest()[:16]


def take_is_complete(folder: Path, config: TabletopConfig) -> bool:
    """Whether a folder holds a take that is complete and undamaged.

    Raises:
        InputError: it holds a take that was made with other settings.
    """
    record = folder / RECORD
    if not record.exists():
        return False
    entry = read_json(record)
    if entry.get("digest") != digest(config):
        raise InputError(
            "holds a take made with other settings",
            path=folder,
            fix="Choose another output folder, or the settings of the first run.",
        )
    return all(
        (folder / name).is_file() and sha256_file(folder / name) == value for name, value in entry["files"].items()
    )


class Stage:
    """Everything that a take is rendered from: scene, story, cameras and renderer.

    Args:
        config: settings of the data set.
        seed: of the data set.
        split: whose things are used.
        index: number of the take within the split.

    Attributes:
        scene: what stands where at first.
        story: what moves.
        rig: the cameras.
        renderer: holds all bodies; place them with ``renderer.pose(stage.poses(t))``.

    Raises:
        MissingExtraError: ``embreex`` is not installed.
    """

    def __init__(self, config: TabletopConfig, seed: int, split: str, index: int) -> None:
        self.scene = build_scene(config, seed, split, index)
        self.story: Story = plan(seeded(seed, split, index, "action"), self.scene, config)
        self.rig = draw_rig(seeded(seed, split, index, "rig"), self.scene.table.half_x, config)
        things = [RigidBody(t.mesh, t.materials, i) for i, t in enumerate(self.scene.things)]
        person = make_person(seeded(seed, split, index, "person"))
        self.renderer = Renderer([*self.scene.fixed, *things, *person], self.scene.lighting)

    def ego_camera(self, t: float) -> Camera:
        """The head camera ``t`` seconds into the take."""
        return ego_camera(self.rig, self.story.person(t).head)

    def poses(self, t: float) -> BodyPoses:
        """Poses of the renderer's bodies ``t`` seconds into the take."""
        fixed = [(np.eye(3), np.zeros(3))] * len(self.scene.fixed)
        return BodyPoses.stack([*fixed, *self.story.things(t), *person_poses(self.story.person(t))])


def render_take(
    stage: Stage, config: TabletopConfig, seed: int, split: str, index: int
) -> tuple[dict[str, list[np.ndarray]], dict[str, list[np.ndarray]]]:
    """Render every frame of every camera.

    Returns:
        by camera name, ego first: images ``(H, W, 3)`` uint8 of all rendered frames, and labels ``(H, W)`` int16, see
        :class:`~counterview.tabletop.camera.render.RenderedImage`, of those at full seconds.
    """
    rig, names = stage.rig, [stage.rig.ego_name, *(c.name for c in stage.rig.exo)]
    images: dict[str, list[np.ndarray]] = {n: [] for n in names}
    labels: dict[str, list[np.ndarray]] = {n: [] for n in names}
    gains: dict[str, float] = {}
    for k in range(config.seconds * config.rendered_fps):
        t = k / config.rendered_fps
        stage.renderer.pose(stage.poses(t))
        earlier = t - rig.exposure_s * config.motion
        views = [(stage.ego_camera(t), rig.ego_sensor), *list(zip(rig.exo, rig.exo_sensors, strict=True))]
        for camera, steady_sensor in views:
            sensor = steady_sensor.at(t)
            ego = camera.name == rig.ego_name
            before = (stage.poses(earlier), stage.ego_camera(earlier)) if ego else None
            rendered = stage.renderer.render(camera, before, keep=not ego)
            image, gain = develop(
                rendered, sensor, seeded(seed, split, index, "noise", camera.name, k), gains.get(camera.name)
            )
            # A static camera holds its exposure; the ego camera follows the light, slowly.
            gains[camera.name] = gain if not ego else gain * (measure_gain(rendered, sensor) / gain) ** 0.3
            images[camera.name].append(image)
            if k % config.rendered_fps == 0:
                labels[camera.name].append(rendered.labels)
    return images, labels


def _sheet(
    images: dict[str, list[np.ndarray]], labels: dict[str, list[np.ndarray]], config: TabletopConfig
) -> np.ndarray:
    """Contact sheet ``(h, w, 3)`` uint8: four moments of all cameras, the last two with outlines of the masks."""
    rows = np.linspace(0, config.seconds - 1, 4).round().astype(int).tolist()
    tiles, captions = [], []
    for i, second in enumerate(rows):
        for name in images:
            tile = images[name][second * config.rendered_fps]
            if i >= 2:
                view = labels[name][second]
                tile = overlay(tile, [view == k for k in range(int(view.max()) + 1)])
            tiles.append(tile)
            captions.append(f"{name}  {second} s")
    return contact_sheet(tiles, columns=len(images), captions=captions, tile_height_px=240)


def save_take(
    folder: Path, config: TabletopConfig, seed: int, split: str, index: int, crf: int | None = None, extras: bool = True
) -> None:
    """Render a take into an existing, empty folder.

    Args:
        folder: where its files go.
        config: settings of the data set.
        seed: of the data set.
        split: whose things are used.
        index: number of the take within the split.
        crf: H.264 rate factor of all videos; None for each camera's own.
        extras: write the 448p copies and the contact sheet too.

    Raises:
        MissingExtraError: ``embreex`` is not installed.
    """
    name = take_name(seed, split, index)
    stage = Stage(config, seed, split, index)
    images, labels = render_take(stage, config, seed, split, index)
    hold = FPS // config.rendered_fps
    sensors = [stage.rig.ego_sensor, *stage.rig.exo_sensors]
    for (camera, frames), sensor in zip(images.items(), sensors, strict=True):
        full = folder / "frame_aligned_videos" / f"{camera}.mp4"
        write_video(full, frames, hold, sensor.crf if crf is None else crf)
        if not extras:
            continue
        small = folder / "frame_aligned_videos" / "downscaled" / "448" / f"{camera}.mp4"
        small.parent.mkdir(parents=True, exist_ok=True)
        if frames[0].shape[0] <= 448:
            shutil.copyfile(full, small)
        else:
            write_video(small, [shrink(f, 448) for f in frames], hold, sensor.crf)
    if extras:
        write_image(folder / "contact_sheet.jpg", _sheet(images, labels, config), quality=85)
    sizes = {c: (int(f[0].shape[0]), int(f[0].shape[1])) for c, f in images.items()}
    rng = seeded(seed, split, index, "annotator")
    least = {c: max(6, round(16 * (min(hw) / 448) ** 2)) for c, hw in sizes.items()}
    masks = annotate(stage.scene.names, labels, rng, config.unknown, least)
    scenario = str(rng.choice(_SCENARIOS))
    uid = take_uid(seed, split, index)
    files = {p.relative_to(folder).as_posix(): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}
    away = stage.story.away
    write_json(
        folder / RECORD,
        {
            "digest": digest(config),
            "seed": seed,
            "split": split,
            "index": index,
            "take_uid": uid,
            "files": files,
            "instances": {n: t.instance for n, t in zip(stage.scene.names, stage.scene.things, strict=True)},
            "actions": [
                {"object": stage.scene.names[a.thing], "start_s": round(a.start_s, 3), "end_s": round(a.end_s, 3)}
                for a in stage.story.actions
            ],
            **({"away": {"start_s": away.start_s, "end_s": away.end_s}} if away else {}),
            "take": take_entry(uid, name, split, scenario, config.seconds, sizes),
            "annotation": {"scenario": scenario, "take_name": name, "object_masks": masks},
        },
        indent=None,
    )


def make_take(out: Path, config: TabletopConfig, seed: int, split: str, index: int) -> Path:
    """Render one take into ``out/takes/<name>``, completely or not at all; a complete one is kept.

    Returns:
        the take's folder.

    Raises:
        InputError: a take of that name was made with other settings.
        MissingExtraError: ``embreex`` is not installed.
    """
    name = take_name(seed, split, index)
    folder = out / "takes" / name
    if take_is_complete(folder, config):
        return folder
    aside = out / ".partial" / name
    for stale in (aside, folder):
        if stale.exists():
            shutil.rmtree(stale)
    aside.mkdir(parents=True)
    save_take(aside, config, seed, split, index)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside.rename(folder)
    return folder
