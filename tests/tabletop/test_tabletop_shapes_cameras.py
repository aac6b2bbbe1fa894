"""Meshes against closed forms; cameras against themselves run backwards."""

import numpy as np
import pytest

from counterview.tabletop.camera.cameras import Camera, look_at
from counterview.tabletop.objects.catalogue import KINDS, NOVEL_KINDS, make_thing
from counterview.tabletop.objects.shapes import Mesh, box, ellipsoid, loft, revolve, rotation_matrix, transform


def volume(mesh: Mesh) -> float:
    """By the divergence theorem over the faces, each turned to agree with its vertex normals."""
    corner = mesh.vertices[mesh.faces].astype(float)
    cross = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    outward = np.sign((cross * mesh.normals[mesh.faces].sum(1)).sum(1))
    return float((outward * (cross * corner.mean(1)).sum(1)).sum() / 6)


def test_solids_enclose_the_volume_of_their_formula():
    cylinder = revolve([([(0, 0), (0.05, 0)], 0), ([(0.05, 0), (0.05, 0.2)], 1), ([(0.05, 0.2), (0, 0.2)], 0)], 128)
    assert volume(cylinder) == pytest.approx(np.pi * 0.05**2 * 0.2, rel=2e-3)
    assert volume(ellipsoid((0.03, 0.05, 0.04), segments=96)) == pytest.approx(4 / 3 * np.pi * 6e-5, rel=5e-3)
    assert volume(box((0.1, 0.2, 0.3), bevel=0.0005)) == pytest.approx(0.006, rel=1e-2)
    x = np.linspace(0, 0.3, 9)
    bar = loft(np.stack([x, 0 * x, 0 * x], -1), np.full(9, 0.02), np.full(9, 0.01), segments=96)
    assert volume(bar) == pytest.approx(np.pi * 0.02 * 0.01 * 0.3, rel=5e-3)
    assert volume(transform(bar, rotation_matrix((1, 2, 3), 0.7), (1, 2, 3))) == pytest.approx(volume(bar), rel=1e-3)


@pytest.mark.parametrize("kind", [*KINDS, *NOVEL_KINDS])
def test_every_kind_stands_on_the_table_in_every_variant(kind):
    for number in range(6):
        thing = make_thing(7, "train", kind, number, number)
        mesh = thing.mesh
        assert mesh.faces.max() < len(mesh.vertices)
        assert mesh.part.max() < len(thing.materials)
        assert np.isfinite(mesh.vertices).all()
        assert np.allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-4)
        assert abs(float(mesh.vertices[:, 2].min())) < 0.004
        assert 0.01 < max(2 * thing.half_xy[0], 2 * thing.half_xy[1], thing.height) < 0.45
        assert len(mesh.faces) < 6000


@pytest.mark.parametrize("circle", [None, 230.0])
def test_a_ray_projects_onto_the_pixel_it_came_from(circle):
    at = np.array([0.3, -0.8, 0.5])
    camera = Camera("cam01", (448, 448), 233.0, look_at(at, (0, 0, 0), 0.1), at, circle)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(60, 390, (2, 500))
    rays, seen = camera.rays(x, y)
    assert np.allclose(np.linalg.norm(rays, axis=1), 1, atol=1e-5)
    back, inside = camera.project(at + rays * rng.uniform(0.2, 4, (500, 1)))
    assert (inside == seen).mean() > 0.99
    assert np.abs(back[seen] - np.stack([x, y], -1)[seen]).max() < 0.02
    middle, _ = camera.project(np.zeros((1, 3)))
    assert np.allclose(middle, 224, atol=0.01)


def test_the_fisheye_has_the_equisolid_angle_law():
    camera = Camera("aria01_214-1", (400, 400), 200.0, np.eye(3), np.zeros(3), 206.0)
    for degrees in (10, 30, 60):
        angle = np.radians(degrees)
        xy, _ = camera.project(np.array([[np.sin(angle), 0, np.cos(angle)]]))
        assert xy[0, 0] - 200 == pytest.approx(2 * 200 * np.sin(angle / 2), abs=1e-3)
