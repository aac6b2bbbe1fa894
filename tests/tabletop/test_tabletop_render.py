"""The renderer against closed forms and against itself without shortcuts."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("embreex")

from counterview.tabletop import take as takes
from counterview.tabletop.camera.cameras import Camera, look_at
from counterview.tabletop.camera.render import OUTSIDE, RenderedImage, Renderer
from counterview.tabletop.camera.sensor import Sensor, develop
from counterview.tabletop.camera.world import BACKGROUND, AreaLight, BodyPoses, Lighting, RigidBody
from counterview.tabletop.config import preset
from counterview.tabletop.objects.shapes import ellipsoid, quad
from counterview.tabletop.surfaces.materials import Material

GREY = Material(np.full((8, 8, 3), 180, np.uint8), 0.0)
DARK = np.zeros(3)


def lighting(ambient: float = 0.0) -> Lighting:
    key = AreaLight(np.array([0.0, 0.0, 3.0]), np.array([0.05, 0, 0]), np.array([0, 0.05, 0]), np.full(3, 9.0))
    return Lighting(
        key, AreaLight(np.array([0.0, 0.0, 3.0]), DARK, DARK, DARK), np.full(3, ambient), np.full(3, ambient)
    )


def two_balls() -> Renderer:
    floor = quad([(-9, 9, 0), (9, 9, 0), (9, -9, 0), (-9, -9, 0)])
    ball = ellipsoid((0.2, 0.2, 0.2), segments=96)
    renderer = Renderer(
        [RigidBody(floor, (GREY,)), RigidBody(ball, (GREY,), 0), RigidBody(ball, (GREY,), 1)], lighting()
    )
    translation = np.array([[0, 0, 0], [0, 0, 0.5], [0, 1.0, 0.5]], np.float32)
    renderer.pose(BodyPoses(np.tile(np.eye(3, dtype=np.float32), (3, 1, 1)), translation))
    return renderer


def test_a_ball_covers_its_solid_angle_and_hides_what_is_behind_it():
    at = np.array([0.0, -2.0, 0.5])
    camera = Camera("cam01", (300, 300), 400.0, look_at(at, (0, 0, 0.5)), at)
    rendered = two_balls().render(camera)
    # The outline of a sphere seen on axis is a circle of radius f * tan(asin(r / d)).
    expected = np.pi * (400 * np.tan(np.arcsin(0.2 / 2.0))) ** 2
    assert (rendered.labels == 0).sum() == pytest.approx(expected, rel=0.01)
    assert (rendered.labels == 1).sum() == 0
    assert rendered.labels[150, 150] == 0
    beside = Camera(
        "cam01", (300, 300), 400.0, look_at(np.array([2.0, 0.5, 0.5]), (0, 0.5, 0.5)), np.array([2.0, 0.5, 0.5])
    )
    both = two_balls().render(beside).labels
    assert (both == 0).sum() == pytest.approx((both == 1).sum(), rel=0.01)


def test_a_shadow_falls_where_the_lamp_is_hidden():
    at = np.array([0.0, -3.0, 2.5])
    camera = Camera("cam01", (200, 300), 260.0, look_at(at, (0, 0, 0)), at)
    renderer = two_balls()
    light = renderer.render(camera).light[..., 0]
    (under, beside), _ = camera.project(np.array([[0.0, 0.0, 0.0], [0.6, 0.0, 0.0]])), None
    under, beside = under[0], under[1]
    dark = light[int(under[1]), int(under[0])]
    lit = light[int(beside[1]), int(beside[0])]
    assert dark < 0.05 * lit
    # Lambert and the inverse square, with the texture's 180 / 255 squared (gamma 2).
    d2 = 0.6**2 + 3.0**2
    assert lit == pytest.approx((180 / 255) ** 2 * 9.0 / d2 * 3.0 / np.sqrt(d2), rel=0.05)


def test_a_view_of_one_surface_has_no_edges_and_is_drawn():
    at = np.array([3.0, 3.0, 1.0])
    rendered = two_balls().render(Camera("cam01", (40, 60), 200.0, look_at(at, (3.2, 3.2, 0)), at))
    assert (rendered.labels == BACKGROUND).all()
    assert (rendered.light > 0).all()


def test_the_image_circle_is_dark_outside():
    at = np.array([0.0, -2.0, 0.5])
    camera = Camera("aria01_214-1", (128, 128), 66.0, look_at(at, (0, 0, 0.5)), at, 60.0)
    rendered = two_balls().render(camera)
    y, x = np.mgrid[0:128, 0:128] + 0.5
    assert ((np.hypot(x - 64, y - 64) > 60) == (rendered.labels == OUTSIDE)).all()
    assert (rendered.light[rendered.labels == OUTSIDE] == 0).all()


@pytest.fixture(scope="module")
def stage():
    return takes.Stage(preset("standard", size=128, seconds=12), 3, "train", 0)


def test_tracing_only_what_changed_gives_the_same_image(stage):
    for t in (0.0, 3.0, 3.5, 7.0):
        stage.renderer.pose(stage.poses(t))
        for camera in stage.rig.exo:
            quick = stage.renderer.render(camera, keep=True)
            full = stage.renderer.render(camera)
            assert (quick.labels == full.labels).all()
            assert np.abs(quick.light - full.light).max() < 0.02


def test_every_label_lies_on_its_own_objects_pixels(stage):
    """Objects repainted in glowing colours: colour goes another way through the renderer than labels do."""
    colours = [(40 + 17 * i % 200, 30 + 53 * i % 220, 20 + 91 * i % 230) for i in range(len(stage.scene.things))]
    paint = [Material(np.full((8, 8, 3), c, np.uint8), 0.0, 1, 0.0, 1.0) for c in colours]
    bodies = [
        replace(b, materials=(paint[b.label],) * len(b.materials)) if b.label != BACKGROUND else b
        for b in stage.renderer.bodies
    ]
    night = AreaLight(np.array([0.0, 0.0, 3.0]), DARK, DARK, DARK)
    renderer = Renderer(bodies, Lighting(night, night, DARK, DARK))
    seen = set()
    for t in (0.0, 4.0, 8.0):
        renderer.pose(stage.poses(t))
        for camera in (stage.ego_camera(t), *stage.rig.exo):
            rendered = renderer.render(camera)
            for i, colour in enumerate(colours):
                mask = rendered.labels == i
                inner = mask.copy()
                inner[1:-1, 1:-1] &= mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
                if inner[1:-1, 1:-1].any():
                    seen.add(i)
                    got = np.median(rendered.light[inner], 0)
                    assert np.allclose(got, (np.array(colour) / 255) ** 2, atol=0.01), (i, camera.name)
    assert len(seen) > len(colours) // 2


def test_motion_is_the_displacement_of_the_projection_since_the_exposure_began():
    at = np.array([0.0, -2.0, 0.5])
    camera = Camera("aria01_214-1", (200, 300), 300.0, look_at(at, (0, 0, 0.5)), at)
    renderer = two_balls()
    still = np.tile(np.eye(3, dtype=np.float32), (3, 1, 1))
    now = np.array([[0, 0, 0], [0, 0, 0.5], [0, 1.0, 0.5]], np.float32)
    before = now.copy()
    before[1] -= (0.02, 0, 0.01)  # the near ball has moved right and up
    renderer.pose(BodyPoses(still, now))
    rendered = renderer.render(camera, (BodyPoses(still, before), camera))
    assert rendered.flow_px is not None
    x, y = rendered.flow_px[100, 150]
    depth = 2.0 - 0.2  # to the front of the ball
    assert x == pytest.approx(300 * 0.02 / depth, rel=0.02)
    assert y == pytest.approx(-300 * 0.01 / depth, rel=0.02)
    assert np.abs(rendered.flow_px[rendered.labels == BACKGROUND]).max() < 1e-3
    # The camera moves right: what stands still moves left in the image.
    step = np.array([0.03, 0, 0])
    earlier = Camera("aria01_214-1", (200, 300), 300.0, camera.world_to_camera, at - step)
    renderer.pose(BodyPoses(still, now))
    flow = renderer.render(camera, (BodyPoses(still, now), earlier)).flow_px
    assert flow is not None
    assert flow[100, 150, 0] == pytest.approx(-300 * 0.03 / depth, rel=0.02)


PLAIN = Sensor(0.5, (1.0, 1.0, 1.0), 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 100, 20)
"""A sensor without noise, vignetting, blur, sharpening and JPEG."""


def developed(sensor, light, **more):
    rendered = RenderedImage(light.astype(np.float32), np.zeros(light.shape[:2], np.int16), more.pop("flow", None))
    return develop(rendered, sensor, np.random.default_rng(0), **more)


def test_a_sensor_exposes_and_darkens_corners_and_balances_white():
    grey = np.full((60, 80, 3), 0.3)
    image, gain = developed(PLAIN, grey)
    assert np.ptp(image) == 0
    # A camera meters on the mean: twice the light gives half the gain and the same image.
    bright, half = developed(PLAIN, 2 * grey)
    assert half == pytest.approx(gain / 2)
    assert np.array_equal(bright, image)
    assert developed(PLAIN, 2 * grey, gain=gain)[0][0, 0, 0] > image[0, 0, 0]
    corners, _ = developed(replace(PLAIN, vignette=0.3), grey)
    assert corners[30, 40, 0] == pytest.approx(int(image[0, 0, 0]), abs=1)
    assert corners[0, 0, 0] < corners[30, 0, 0] < corners[30, 40, 0]
    warm, _ = developed(replace(PLAIN, gains=(1.2, 1.0, 0.8)), grey)
    assert warm[0, 0, 0] > warm[0, 0, 1] > warm[0, 0, 2]
    pale, _ = developed(replace(PLAIN, gains=(1.2, 1.0, 0.8), saturation=0.0), grey)
    assert np.ptp(pale) <= 1
    noisy, _ = developed(replace(PLAIN, noise=6.0), grey)
    assert 1 < noisy.astype(float).std() < 12


def test_motion_blur_is_as_long_as_the_motion_and_along_it():
    light = np.full((96, 96, 3), 0.05)
    light[:, 48] = 1.0
    flow = np.zeros((96, 96, 2), np.float32)
    flow[..., 0] = 3.0  # along x, within the limit of a 32nd of the height
    sharp, gain = developed(PLAIN, light)
    blurred, _ = developed(PLAIN, light, flow=flow, gain=gain)
    along = np.abs(blurred.astype(int) - int(blurred[48, 0, 0]))[48, :, 0] > 4
    assert np.flatnonzero(along).tolist() == list(range(46, 51))  # 1.5 pixels to either side, interpolated
    flow = flow[..., ::-1]  # along y: a vertical line stays as it is
    assert np.abs(developed(PLAIN, light, flow=flow, gain=gain)[0].astype(int) - sharp).max() <= 1
