"""The cameras of a take: against the bundled take, which an earlier version rendered, and against geometry."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from counterview.data import open_dataset
from counterview.tabletop.camera.cameras import Camera, look_at
from counterview.tabletop.camera.rig import draw_rig, ego_camera
from counterview.tabletop.camera.sensor import develop
from counterview.tabletop.config import TabletopConfig, preset
from counterview.tabletop.objects.catalogue import seeded

BUNDLED = Path(str(files("counterview"))) / "assets" / "take"


def iou(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


def test_cameras_of_the_bundled_take_are_those_it_was_rendered_with():
    """Names, order, places and sensors, from files that an earlier version of the renderer wrote."""
    pytest.importorskip("embreex")
    from counterview.tabletop.take import Stage

    manifest = json.loads((BUNDLED / "manifest.json").read_text())
    seed = manifest["seed"]
    stage = Stage(TabletopConfig(**manifest["settings"]), seed, "test", 0)
    cameras = [stage.ego_camera(0.0), *stage.rig.exo]
    listed = json.loads((BUNDLED / "takes.json").read_text())[0]["cameras"]
    assert [camera.name for camera in cameras] == [entry["name"] for entry in listed]
    take = next(iter(open_dataset(BUNDLED, "test")))
    stage.renderer.pose(stage.poses(0.0))
    sensors = [stage.rig.ego_sensor, *stage.rig.exo_sensors]
    colours, rendered_colours, compared = [], [], 0
    for camera, sensor in zip(cameras, sensors, strict=True):
        rendered = stage.renderer.render(camera)
        for number, name in enumerate(stage.scene.names):
            if 0 in take.mask_frames(name, camera.name):
                # Another processor may round a pixel of an outline differently.
                assert iou(take.mask(name, camera.name, 0).to_array(), rendered.labels == number) > 0.95, name
                compared += 1
        image, _ = develop(rendered, sensor, seeded(seed, "test", 0, "noise", camera.name, 0))
        frame = take.frame(camera.name, 0)
        assert frame.shape == image.shape
        colours.append(frame.reshape(-1, 3).mean(0))
        rendered_colours.append(image.reshape(-1, 3).mean(0))
    assert compared > 15
    # White balance and contrast tell the sensors apart: video coding changes mean colours far less.
    assert np.abs(np.array(colours) - rendered_colours).max() < 1.5


@pytest.mark.parametrize("name", ["easy", "standard", "hard"])
def test_exo_cameras_stand_around_the_table_and_frame_it(name):
    config = preset(name, cameras=3)
    portraits, behind = 0, 0
    for seed in range(60):
        rig = draw_rig(np.random.default_rng(seed), 0.7, config)
        assert [camera.name[-2:] for camera in rig.exo] == ["01", "02", "03"]
        assert len(rig.exo_sensors) == 3
        assert rig.ego_size_hw == (config.size, config.size)
        angles = []
        for camera in rig.exo:
            x, y, z = camera.position
            assert 0.7 * config.exo_near_m <= np.hypot(x, y) <= config.exo_far_m
            assert config.exo_low_m <= z <= config.exo_high_m * 1.0001
            angles.append(np.degrees(np.arctan2(x, y)))
            assert abs(angles[-1]) <= 150
            behind += abs(angles[-1]) > 90
            h, w = camera.size_hw
            assert {h, w} == {config.size, 2 * round(config.size * 16 / 18)}
            portraits += h > w
            # The middle of the table is in the image, and left and right are not mirrored.
            ends = np.array([[-0.1, 0.0, 0.0], [0.1, 0.0, 0.0]])
            xy, inside = camera.project(ends)
            assert inside.all()
            if abs(angles[-1]) < 60:
                assert xy[0, 0] > xy[1, 0]  # the person faces the camera
            elif abs(angles[-1]) > 120:
                assert xy[0, 0] < xy[1, 0]  # over the shoulder
    assert portraits == (0 if name == "easy" else pytest.approx(60 * config.portrait, abs=9))
    assert behind > 20


def test_the_head_camera_looks_ahead_and_a_little_down():
    rig = draw_rig(np.random.default_rng(0), 0.7, preset("standard"))
    camera = ego_camera(rig, (np.eye(3), np.array([0.0, 0.0, 0.5])))  # right x, forward y, up z
    assert np.allclose(camera.position, (0.0, 0.12, 0.55))
    (ahead, right, above), inside = camera.project(
        camera.position + np.array([[0.0, 1.0, 0.0], [0.5, 1.0, 0.0], [0.0, 1.0, 0.5]])
    )
    middle, focal = camera.size_hw[0] / 2, camera.focal_px
    # Equisolid: what is straight ahead of the head is 0.1 rad above the viewing direction.
    assert ahead == pytest.approx([middle, middle - 2 * focal * np.sin(0.05)], abs=0.01)
    assert right[0] > middle + 50
    assert above[1] < ahead[1] - 50
    assert inside.all()
    turned = Rotation.from_euler("z", 90, degrees=True).as_matrix()  # the head looks along -x
    assert np.allclose(ego_camera(rig, (turned, np.zeros(3))).position, (-0.12, 0.0, 0.05))


def test_roll_turns_a_camera_about_its_viewing_direction():
    at, target = np.array([0.4, -1.5, 0.6]), np.array([0.1, 0.0, 0.0])
    level, rolled = look_at(at, target), look_at(at, target, 0.3)
    forward = (target - at) / np.linalg.norm(target - at)
    assert np.allclose(level[2], forward)
    assert level[0, 2] == pytest.approx(0)  # the horizon is level
    assert level[1, 2] < 0  # y runs down
    assert np.allclose(np.cross(level[0], level[1]), level[2])
    assert np.allclose(rolled, Rotation.from_rotvec(0.3 * forward).apply(level))


def test_points_are_inside_within_the_width_and_the_height():
    camera = Camera("cam01", (100, 300), 100.0, np.eye(3), np.zeros(3))
    points = np.array([[1.4, 0, 1], [-1.4, 0, 1], [1.6, 0, 1], [0, 0.4, 1], [0, 0.6, 1], [0, -0.6, 1], [0, 0, -1]])
    xy, inside = camera.project(points)
    assert inside.tolist() == [True, True, False, True, False, False, False]
    assert xy[0].tolist() == pytest.approx([290, 50])
    assert xy[3].tolist() == pytest.approx([150, 90])
