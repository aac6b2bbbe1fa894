"""The renderer against closed forms and against itself without shortcuts."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("embreex")

from counterview.tabletop import take as takes
from counterview.tabletop.camera.cameras import Camera, look_at
from counterview.tabletop.camera.render import OUTSIDE, Renderer
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
