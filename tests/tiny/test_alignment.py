"""Two cameras in one look: the bundled model on the bundled pair of images."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest

import counterview
from counterview.errors import ConfigError
from counterview.evaluation.camera_change import CHANGES
from counterview.features.object_crops import CropSource
from counterview.features.tiny import TinyConfig
from counterview.inference.camera_pairs import CameraPairs
from counterview.inference.examples import load_pair
from counterview.masks.geometry import iou
from counterview.omama import OMaMaConfig
from counterview.proposals.base import Proposals
from counterview.tiny import TinyMatchConfig
from counterview.tiny.alignment import AlignmentConfig, CameraRegions, align

CONFIG = AlignmentConfig()


@pytest.fixture(scope="module")
def model():
    return counterview.load("tiny-match")


@pytest.fixture(scope="module")
def views():
    pair = load_pair()
    return pair.near, pair.far


@pytest.fixture(scope="module")
def proposals(model, views):
    """Of the unchanged images, query and target."""
    return [model.proposer(view.image, None) for view in views]


@pytest.fixture
def regions(model, views, proposals):
    def of(which, change=None):
        image = views[which].image if change is None else CHANGES[change].apply(views[which].image)
        return CameraRegions(model.backbone.net.object_crops, CropSource(image), proposals[which], CONFIG)

    return of


def matched(model, views, proposals, change=None):
    """IoU and visibility of each object, the target image changed."""
    target_image = views[1].image if change is None else CHANGES[change].apply(views[1].image)
    query, target = model.encode(views[0].image, proposals[0]), model.encode(target_image, proposals[1])
    names = list(views[0].masks)
    found = model.match_encoded(query, list(views[0].masks.values()), target, names=names)
    return np.array([(iou(m.mask_rle, views[1].masks[m.name]), m.visibility) for m in found])


def test_cameras_that_agree_are_left_as_they_are(regions):
    alignment = align(regions(0), regions(1), CONFIG)
    assert (alignment.query, alignment.target) == (None, None)


def test_what_the_other_camera_did_is_undone(regions, views):
    alignment = align(regions(0), regions(1, "warm"), CONFIG)
    assert alignment.query is None
    undone = alignment.target(CHANGES["warm"].apply(views[1].image)).astype(float)
    tint = np.log(undone.mean((0, 1)) / views[1].image.mean((0, 1)))
    tint = tint[[0, 2]] - tint[1]
    assert np.abs(tint).max() < 0.1 < np.log(1.2)  # of log 1.2 and log 0.75 that were done


def test_the_pair_is_the_same_the_other_way_round(regions):
    there, back = align(regions(0), regions(1, "warm"), CONFIG), align(regions(1, "warm"), regions(0), CONFIG)
    assert there.query is back.target is None
    assert there.target == back.query is not None


def test_a_camera_without_colour_takes_it_from_the_other(regions):
    for query, target in ((None, "grey"), ("grey", None)):
        alignment = align(regions(0, query), regions(1, target), CONFIG)
        coloured = alignment.query if query is None else alignment.target
        assert coloured.transfer.saturation == 0
        assert [alignment.query, alignment.target].count(None) == 1
    assert align(regions(0, "grey"), regions(1, "grey"), CONFIG).query is None


def test_without_proposals_nothing_is_known(model, views):
    network = model.backbone.net.object_crops
    empty = [CameraRegions(network, CropSource(v.image), Proposals.none(v.image.shape[:2]), CONFIG) for v in views]
    assert align(*empty, CONFIG) == align(*reversed(empty), CONFIG)


def test_objects_are_found_under_another_camera(model, views, proposals):
    plain = matched(model, views, proposals)
    unaligned = counterview.load("tiny-match")
    unaligned.matcher.model.config = replace(unaligned.matcher.model.config, alignment=None)
    for change in ("warm", "cool"):
        with_it, without = (matched(m, views, proposals, change) for m in (model, unaligned))
        assert with_it[:, 0].mean() > 0.9 * plain[:, 0].mean()
        assert with_it.mean() >= without.mean()
    assert (
        matched(unaligned, views, proposals, "cool")[:, 1].mean()
        < matched(model, views, proposals, "cool")[:, 1].mean()
    )


def test_a_pair_is_looked_at_once_and_forgotten_with_its_images(model, views, proposals, monkeypatch):
    pairs = CameraPairs(CONFIG, model.matcher.describe)
    calls = []
    changed = CameraPairs._changed
    monkeypatch.setattr(CameraPairs, "_changed", lambda *args: (calls.append(1), changed(*args))[1])
    query = model.encode(views[0].image, proposals[0])
    target = model.encode(CHANGES["warm"].apply(views[1].image), proposals[1])
    first = pairs.aligned(model.backbone, query, target)
    assert first[0] is query
    assert first[1] is not target
    assert pairs.aligned(model.backbone, query, target)[1] is first[1]
    assert pairs.aligned(model.backbone, target, query) == (first[1], query)
    assert len(calls) == 1
    watched = weakref.ref(target)
    del target, first
    gc.collect()
    assert watched() is None
    assert not len(pairs._pairs)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match=r"regions is 0.*min_gain is 0.5"):
        AlignmentConfig(regions=0, min_gain=0.5)
    head = OMaMaConfig.knn(128, object_channels=454, backbone="tiny")
    with pytest.raises(ConfigError, match=r"alignment is given without network\.object_crops"):
        TinyMatchConfig(head, network=TinyConfig(), alignment=CONFIG)
    with pytest.raises(ConfigError, match="features of tiny-match alone"):
        other = counterview.load("knn")
        image = np.zeros((64, 64, 3), np.uint8)
        encoding = other.encode(image, Proposals.none((64, 64)))
        CameraPairs(CONFIG, other.matcher.describe).aligned(other.backbone, encoding, encoding)


def test_what_two_views_have_in_common_is_found_once(model, views, proposals, monkeypatch):
    query, target = (model.encode(view.image, masks) for view, masks in zip(views, proposals, strict=True))
    masks, names = list(views[0].masks.values()), list(views[0].masks)
    first = model.match_encoded(query, masks, target, names=names)
    monkeypatch.setattr("counterview.tiny.model.view_homographies", None)  # would fail if it were called
    again = model.match_encoded(query, masks, target, names=names)
    alone = model.match_encoded(query, masks[1:2], target, names=names[1:2])
    assert [m.mask_rle for m in again] == [m.mask_rle for m in first]
    for a, b in ((again[1], first[1]), (alone[0], first[1])):
        assert a.mask_rle == b.mask_rle
        assert a.visibility == pytest.approx(b.visibility, abs=1e-5)
