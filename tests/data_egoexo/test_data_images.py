"""Prepared images without loss, and folders that an earlier version started."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from counterview.data.open import open_dataset
from counterview.data.pairs import enumerate_pairs
from counterview.data.prepare.prepare import prepare_release
from counterview.errors import ConfigError, InputError
from tests.data_egoexo.release_maker import EGO, EXO, PORTRAIT, SIZES, TakeSpec, make_release


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos with noise, which JPEG cannot keep."""
    return make_release(tmp_path_factory.mktemp("release"), [TakeSpec("u", "n", absent={})], noise=60)


@pytest.mark.parametrize(("images", "suffix"), [("png", ".png"), ("webp-lossless", ".webp")])
def test_lossless_images_are_those_of_the_video(release: Path, tmp_path: Path, images: str, suffix: str) -> None:
    report = prepare_release(release, tmp_path / "out", splits=["val"], images=images)
    assert report.counts == {"prepared": 1}
    raw, done = open_dataset(release).takes[0], open_dataset(tmp_path / "out").takes[0]
    assert {p.name for p in (tmp_path / "out" / "u" / EXO).iterdir()} == {f"{f}{suffix}" for f in (0, 30, 60, 90)}
    for camera in SIZES.keys() & set(raw.cameras):
        for frame in (0, 30, 60, 90):
            assert np.array_equal(raw.frame(camera, frame), done.frame(camera, frame))
    assert list(enumerate_pairs([raw], "ego2exo")) == list(enumerate_pairs([done], "ego2exo"))
    assert open_dataset(tmp_path / "out").image_source() == {"format": "prepared", "images": suffix[1:]}
    assert open_dataset(release).image_source() == {"format": "release", "images": "video full"}
    # Continued after a stop, and without change.
    (tmp_path / "out" / "u" / PORTRAIT / f"60{suffix}").unlink()
    assert prepare_release(release, tmp_path / "out", splits=["val"], images=images).done_before == 0
    assert done.frame(PORTRAIT, 60).shape == (192, 108, 3)
    assert prepare_release(release, tmp_path / "out", splits=["val"], images=images).done_before == 1
    with pytest.raises(ConfigError, match=f"images '{images}' instead of 'jpg'"):
        prepare_release(release, tmp_path / "out", splits=["val"])


def test_jpeg_is_the_default_and_close(release: Path, tmp_path: Path) -> None:
    prepare_release(release, tmp_path / "out", splits=["val"])
    raw, done = open_dataset(release).takes[0], open_dataset(tmp_path / "out").takes[0]
    difference = np.abs(raw.frame(EGO, 30).astype(int) - done.frame(EGO, 30))
    assert 0 < difference.mean() < 8
    assert open_dataset(tmp_path / "out").image_source() == {"format": "prepared", "images": "jpg"}
    with pytest.raises(InputError, match="no such image format; found 'tiff'; expected jpg or png or webp-lossless"):
        prepare_release(release, tmp_path / "out2", splits=["val"], images="tiff")
    with pytest.raises(InputError, match="positive number of frames a second; found 0"):
        prepare_release(release, tmp_path / "out2", splits=["val"], annotation_fps=0)


def test_a_folder_that_an_earlier_version_started_is_continued(release: Path, tmp_path: Path) -> None:
    prepare_release(release, tmp_path / "out", splits=["val"])
    path = tmp_path / "out" / ".counterview" / "settings.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({key: settings[key] for key in ("height", "every_second", "quality")}))
    assert prepare_release(release, tmp_path / "out", splits=["val"]).done_before == 1


def test_a_folder_with_both_kinds_of_images(release: Path, tmp_path: Path) -> None:
    """What the layout's own readers see is read."""
    prepare_release(release, tmp_path / "out", splits=["val"])
    Image.new("RGB", (192, 108)).save(tmp_path / "out" / "u" / EXO / "30.png")
    take = open_dataset(tmp_path / "out").takes[0]
    assert take.frame(EXO, 30).mean() > 50
    (tmp_path / "out" / "u" / EXO / "30.jpg").unlink()
    assert open_dataset(tmp_path / "out").takes[0].frame(EXO, 30).mean() == 0
