"""HANDAL-X: frame i against i + 100 of the sorted list, through the same interface as everything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from counterview.data.formats.handal import open_handal
from counterview.data.open import open_dataset
from counterview.data.pairs import enumerate_pairs
from counterview.errors import AnnotationError, ImageError, InputError
from counterview.types import Visibility


def scene(root: Path, frames: int, *, step: int = 3, values=lambda i: (255,), split: str = "test") -> Path:
    """Numbered 100, 103, …; image i is grey i, its mask is at column i."""
    folder = root / "handal_dataset_hammers" / split / "000001"
    (folder / "rgb").mkdir(parents=True)
    (folder / "mask").mkdir()
    for i in range(frames):
        name = f"{100 + step * i:06d}"
        Image.fromarray(np.full((8, 160, 3), i, dtype=np.uint8)).save(folder / "rgb" / f"{name}.jpg", quality=100)
        mask = np.zeros((8, 160), dtype=np.uint8)
        for row, value in enumerate(values(i)):
            mask[row, i] = value
        Image.fromarray(mask).save(folder / "mask" / f"{name}_000000.png")
    return folder


def test_pairs_are_a_hundred_places_apart(tmp_path: Path) -> None:
    scene(tmp_path, 104, values=lambda i: () if i == 102 else (255,))
    dataset = open_dataset(tmp_path, "test")
    take = dataset.takes[0]
    assert (take.uid, take.scenario, take.objects) == ("handal_dataset_hammers.test.000001", "hammers", ("hammers",))
    assert take.frames == (100, 103, 106, 109)
    pairs = enumerate_pairs(dataset, "ego2exo")
    assert [(p.query_camera, p.target_camera, p.frame, p.target_visible) for p in pairs] == [
        ("rgb", "rgb+100", 100, True),
        ("rgb", "rgb+100", 103, True),
        ("rgb", "rgb+100", 106, False),  # annotated, not visible
        ("rgb", "rgb+100", 109, True),
    ]
    for pair in enumerate_pairs(dataset, "ego2exo", targets="visible"):
        place = (pair.frame - 100) // 3
        assert take.frame("rgb", pair.frame)[0, 0, 0] == place
        assert take.frame("rgb+100", pair.frame)[0, 0, 0] == place + 100
        mask = take.mask(pair.object, "rgb+100", pair.frame)
        assert mask is not None
        assert mask.box_xywh == (place + 100, 0, 1, 1)
    assert take.track("hammers", "rgb+100").visibility(106) is Visibility.NOT_VISIBLE
    back = enumerate_pairs(dataset, "exo2ego")
    assert {(p.query_camera, p.target_camera) for p in back} == {("rgb+100", "rgb")}
    assert [p.frame for p in back] == [100, 103, 109]


def test_several_objects_and_another_step(tmp_path: Path) -> None:
    folder = scene(tmp_path, 6, values=lambda i: (1, 7) if i < 5 else (7,))
    (folder / "mask" / "000103_000000.png").write_bytes(b"x")
    dataset = open_handal(tmp_path / "handal_dataset_hammers", "test", step=2)
    take = dataset.takes[0]
    assert take.objects == ("hammers_1", "hammers_7")
    assert take.mask_frames("hammers_1", "rgb+2") == (100, 103, 106)
    assert take.annotated_frames("hammers_1", "rgb+2") == {100, 103, 106, 109}
    assert take.annotated_frames("hammers_1", "rgb") == {100, 106, 109}  # the damaged mask says nothing
    assert "000103_000000.png" in take.problems[0]
    assert take.native_size("rgb") == (8, 160)


def test_names_without_padding_are_sorted_by_number(tmp_path: Path) -> None:
    """The image of each frame is as grey as its number."""
    folder = tmp_path / "handal_dataset_hammers" / "test" / "000001"
    (folder / "rgb").mkdir(parents=True)
    (folder / "mask").mkdir()
    for number in (8, 9, 10, 11, 100):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / "rgb" / f"{number}.png")
        Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(folder / "mask" / f"{number}_000000.png")
    take = open_handal(tmp_path, "test", step=1).takes[0]
    assert take.frames == (8, 9, 10, 11)
    assert [take.frame("rgb", n)[0, 0, 0] for n in take.frames] == [8, 9, 10, 11]
    assert [take.frame("rgb+1", n)[0, 0, 0] for n in take.frames] == [9, 10, 11, 100]


def test_errors(tmp_path: Path) -> None:
    scene(tmp_path, 3, split="train")
    with pytest.raises(InputError, match="HANDAL has no split 'val'"):
        open_dataset(tmp_path, "val")
    with pytest.raises(InputError, match="has no scenes"):
        open_dataset(tmp_path, "test")
    take = open_dataset(tmp_path, "train").takes[0]
    assert take.frames == ()
    assert list(enumerate_pairs([take], "ego2exo")) == []
    with pytest.raises(ImageError, match="no frame 5"):
        take.frame("rgb", 5)
    with pytest.raises(AnnotationError, match="no camera 'cam01'"):
        take.frame("cam01", 100)


def test_a_smoothed_mask_is_one_object_and_void_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import cv2

    folder = scene(tmp_path, 6)
    disc = np.zeros((60, 120), np.uint8)
    cv2.circle(disc, (50, 30), 15, 255, -1)
    soft = cv2.GaussianBlur(disc, (0, 0), 1.5)
    Image.new("RGB", (120, 60)).save(folder / "rgb" / "000100.jpg")
    Image.fromarray(soft).save(folder / "mask" / "000100_000000.png")
    take = open_handal(tmp_path, step=1).takes[0]
    assert take.objects == ("hammers",)
    mask = take.mask("hammers", "rgb", 100)
    assert mask is not None
    assert np.array_equal(mask.to_array(), soft > soft.max() / 2)
    assert "000100_000000.png: the mask has soft edges" in caplog.text

    ring = (disc > 0).astype(np.uint8)
    cv2.circle(ring, (50, 30), 15, 255, 2)
    for path in (folder / "mask").iterdir():
        Image.fromarray(ring).save(path)
    for path in (folder / "rgb").iterdir():
        Image.new("RGB", (120, 60)).save(path)
    take = open_handal(tmp_path, step=1).takes[0]
    assert take.objects == ("hammers",)
    mask = take.mask("hammers", "rgb", 100)
    assert mask is not None
    assert np.array_equal(mask.to_array(), ring == 1)


def test_a_mask_of_the_stored_pixels_is_turned_as_its_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = scene(tmp_path, 3)
    exif = Image.Exif()
    for orientation, place in ((6, (30, 7, 1, 1)), (3, None)):
        exif[0x0112] = orientation
        stored = np.zeros((40, 60), np.uint8)
        stored[9, 7] = 255
        for path in (folder / "rgb").iterdir():
            Image.new("RGB", (60, 40)).save(path, exif=exif)
        for path in (folder / "mask").iterdir():
            Image.fromarray(stored).save(path)
        take = open_handal(tmp_path, step=1).takes[0]
        if place is None:  # it fits both ways
            assert take.objects == ()
            assert "fits both the upright image and its stored pixels" in caplog.text
            assert "Give the mask" in caplog.text
        else:
            mask = take.mask("hammers", "rgb", 100)
            assert mask is not None
            assert (mask.size_hw, mask.box_xywh) == ((60, 40), place)
