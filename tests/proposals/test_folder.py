import io
import json
import logging
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from counterview.cli.main import main
from counterview.errors import CounterviewError, InputError, PathError, ProposalError
from counterview.masks.png import write_mask_png
from counterview.proposals import load_proposer
from counterview.proposals.base import file_name
from counterview.types import ObjectMask

SIZE = (24, 32)
IMAGE = np.zeros((*SIZE, 3), np.uint8)


def _masks(count=3, seed=0):
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, *SIZE), bool)
    for mask in masks:
        y, x = rng.integers(0, 15, 2)
        mask[y : y + rng.integers(2, 9), x : x + rng.integers(2, 12)] = True
    return masks


def _dense(proposals):
    return np.stack([mask.to_array() for mask in proposals])


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, ">i2"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_o_mama_files(tmp_path, dtype, save):
    masks = _masks()
    boxes = np.array([[1, 2, 3.5, 4], [5, 6, 7, 8], [0, 0, 1, 1]])
    save(tmp_path / "00030_masks.npz", masks.astype(dtype))
    np.save(tmp_path / "00030_boxes.npy", boxes)
    found = load_proposer(f"folder:{tmp_path}")(IMAGE, "00030")
    assert np.array_equal(_dense(found), masks)
    assert found.boxes_xywh.tolist() == boxes.tolist()
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_o_mama_files_without_boxes_and_with_a_name(tmp_path):
    masks = _masks()
    np.savez(tmp_path / "7_masks.npz", masks=masks, other=np.arange(3))
    found = load_proposer(f"folder:{tmp_path}")(IMAGE, "7")
    assert found.boxes_xywh[0].tolist() == list(ObjectMask.from_array(masks[0]).box_xywh)


def test_empty_masks_are_left_out_and_the_boxes_follow(tmp_path, caplog):
    masks = _masks()
    masks[1] = False
    np.savez(tmp_path / "a_masks.npz", masks)
    np.save(tmp_path / "a_boxes.npy", np.arange(12).reshape(3, 4))
    with caplog.at_level(logging.WARNING):
        found = load_proposer(f"folder:{tmp_path}")(IMAGE, "a")
    assert np.array_equal(_dense(found), masks[[0, 2]])
    assert found.boxes_xywh[1].tolist() == [8, 9, 10, 11]
    assert "1 empty masks are left out" in caplog.text


def test_png_folder(tmp_path):
    masks = _masks(12)
    for index, mask in enumerate(masks):
        write_mask_png(tmp_path / "frame" / f"{index:03d}.png", mask)
    (tmp_path / "frame" / "notes.txt").write_text("not a mask")
    assert np.array_equal(_dense(load_proposer(f"folder:{tmp_path}")(IMAGE, "frame")), masks)


def _annotation(mask, form, **more):
    if form == "compressed":
        rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        segmentation = {"size": list(SIZE), "counts": rle["counts"].decode()}
    elif form == "plain":
        segmentation = {"size": list(SIZE), "counts": ObjectMask.from_array(mask).runs.tolist()}
    else:
        ys, xs = np.nonzero(mask)
        x0, y0, x1, y1 = (int(v) for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
        segmentation = [[x0, y0, x1, y0, x1, y1, x0, y1]]
    return {"segmentation": segmentation, **more}


@pytest.mark.parametrize("form", ["compressed", "plain", "polygon"])
def test_coco_of_one_image_ordered_by_score(tmp_path, form):
    masks = _masks()
    listed = [_annotation(mask, form, score=score) for mask, score in zip(masks, (0.2, 0.9, 0.5), strict=True)]
    (tmp_path / "a.json").write_text(json.dumps({"annotations": listed}))
    (tmp_path / "b.json").write_text(json.dumps(listed))
    for name in ("a", "b"):
        found = load_proposer(f"folder:{tmp_path}")(IMAGE, name)
        assert np.array_equal(_dense(found), masks[[1, 2, 0]])
        assert found.scores.tolist() == pytest.approx([0.9, 0.5, 0.2])


def test_coco_of_several_images(tmp_path):
    masks = _masks(4)
    listed = [_annotation(mask, "compressed", image_id=5 + i % 2) for i, mask in enumerate(masks)]
    images = [{"id": 5, "file_name": "cam/one.jpg"}, {"id": 6, "file_name": "cam\\two.png"}]
    (tmp_path / "all.json").write_text(json.dumps({"images": images, "annotations": listed}))
    proposer = load_proposer(f"folder:{tmp_path}")
    assert np.array_equal(_dense(proposer(IMAGE, "one")), masks[[0, 2]])
    assert np.array_equal(_dense(proposer(IMAGE, "two")), masks[[1, 3]])
    with pytest.raises(ProposalError, match="no proposals for the image 'three'"):
        proposer(IMAGE, "three")


def test_no_name_is_refused(tmp_path):
    with pytest.raises(ProposalError, match="found by the image's name"):
        load_proposer(f"folder:{tmp_path}")(IMAGE)


@pytest.mark.parametrize("name", ["../a", "a/../b", "a//b", "/a", "..", "", "C:x", "nul"])
def test_names_never_lead_out_of_the_folder(tmp_path, name):
    inside = tmp_path / "inside"
    inside.mkdir()
    np.savez(tmp_path / "a_masks.npz", _masks())
    with pytest.raises(PathError):
        load_proposer(f"folder:{inside}")(IMAGE, name)


def _npz(path, data, member="arr_0.npy"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, data)


def _npy(array, **more):
    stream = io.BytesIO()
    np.save(stream, array, **more)
    return stream.getvalue()


def _header(shape, descr="|b1"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


BAD_ARCHIVES = {
    "not a zip": (lambda p: p.write_bytes(b"hello"), "not a readable NumPy archive"),
    "cut off": (
        lambda p: (np.savez(p, _masks()), p.write_bytes(p.read_bytes()[:300])),
        "not a readable NumPy archive",
    ),
    "no array": (lambda p: _npz(p, b"", "readme.txt"), "no array of masks"),
    "two arrays": (lambda p: np.savez(p, a=_masks(), b=_masks()), "no array of masks"),
    "not npy": (lambda p: _npz(p, b"x" * 400), "not a readable NumPy array"),
    "objects": (lambda p: _npz(p, _npy(np.array([{}], dtype=object), allow_pickle=True)), "another size|objects"),
    "objects of the right shape": (
        lambda p: _npz(p, _header((1, *SIZE), "|O") + b"cos\nsystem\n" * 500),
        "not numeric|objects",
    ),
    "records": (lambda p: _npz(p, _npy(np.zeros((1, *SIZE), [("a", "u1")]))), "objects"),
    "text": (lambda p: _npz(p, _npy(np.full((1, *SIZE), "a"))), "not numeric"),
    "other size": (lambda p: np.savez(p, np.zeros((2, 24, 33), bool)), "another size"),
    "two dimensions": (lambda p: np.savez(p, np.zeros(SIZE, bool)), "not a stack of masks"),
    "too many": (lambda p: _npz(p, _header((10**9, *SIZE))), "too many masks"),
    "too short": (lambda p: _npz(p, _header((5, *SIZE)) + b"\1" * 2000), "ends too early"),
    "negative": (lambda p: _npz(p, _header((-1, *SIZE))), "not a readable NumPy array"),
    "values": (lambda p: np.savez(p, _masks().astype(np.uint8) * 255), "other than 0 and 1"),
    "nan": (lambda p: np.savez(p, np.full((1, *SIZE), np.nan)), "other than 0 and 1"),
    "fortran": (lambda p: np.savez(p, np.asfortranarray(_masks())), "Fortran"),
    "all empty": (lambda p: np.savez(p, np.zeros((2, *SIZE), bool)), "are empty"),
    "header bomb": (
        lambda p: _npz(p, b"\x93NUMPY\x02\x00\xff\xff\xff\x7f" + b"(" * 70_000),
        "not a readable NumPy array",
    ),
}


@pytest.mark.parametrize("case", BAD_ARCHIVES)
def test_bad_archives_are_refused_in_one_line(tmp_path, case):
    make, words = BAD_ARCHIVES[case]
    make(tmp_path / "a_masks.npz")
    with pytest.raises(ProposalError, match=words) as caught:
        load_proposer(f"folder:{tmp_path}")(IMAGE, "a")
    assert "a_masks.npz" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_zip_bomb_is_not_unpacked(tmp_path):
    # 100 MB of zeros in 100 kB: a header that fits is followed by far more than it announces.
    path = tmp_path / "a_masks.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as stream,
    ):
        stream.write(_header((1, *SIZE)) + b"\1" * (SIZE[0] * SIZE[1]))
        for _ in range(100):
            stream.write(bytes(1_000_000))
    tracemalloc.start()
    found = load_proposer(f"folder:{tmp_path}")(IMAGE, "a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 1
    assert peak < 10e6


@pytest.mark.parametrize(
    ("boxes", "words"),
    [
        (np.zeros((2, 4)), "do not fit the masks"),
        (np.zeros((3, 5)), "do not fit the masks"),
        (np.full((3, 4), np.nan), "values that are not valid"),
        (np.full((3, 4), -1.0), "values that are not valid"),
        (np.array([[{}] * 4] * 3, dtype=object), "do not fit|objects"),
        (np.full((3, 4), "a"), "do not fit"),
    ],
)
def test_bad_boxes_are_refused(tmp_path, boxes, words):
    np.savez(tmp_path / "a_masks.npz", _masks())
    np.save(tmp_path / "a_boxes.npy", boxes, allow_pickle=True)
    with pytest.raises(ProposalError, match=words):
        load_proposer(f"folder:{tmp_path}")(IMAGE, "a")


BAD_JSON = {
    "not json": ("{", "not JSON"),
    "a number": ("3", "no annotations"),
    "empty": ("[]", "no annotations"),
    "no object": ("[7]", "is not an object"),
    "no segmentation": ("[{}]", "no segmentation"),
    "other size": ('[{"segmentation": {"size": [24, 33], "counts": "0"}}]', "another size"),
    "huge size": ('[{"segmentation": {"size": [1000000, 1000000], "counts": "0"}}]', "another size"),
    "bad counts": ('[{"segmentation": {"size": [24, 32], "counts": "PPP"}}]', "run"),
    "short counts": ('[{"segmentation": {"size": [24, 32], "counts": [5, 6]}}]', "fill"),
    "line": ('[{"segmentation": [[1, 2, 3, 4]]}]', "polygon"),
    "text in polygon": ('[{"segmentation": [[1, 2, 3, 4, 5, "6"]]}]', "polygon"),
    "infinite polygon": ('[{"segmentation": [[1, 2, 3, 4, 5, 1e999]]}]', "finite"),
    "score": ('[{"segmentation": [[1, 2, 9, 4, 5, 9]], "score": "high"}]', "score"),
    "nan score": ('[{"segmentation": [[1, 2, 9, 4, 5, 9]], "score": NaN}]', "score"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_bad_annotations_are_refused_in_one_line(tmp_path, case):
    text, words = BAD_JSON[case]
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ProposalError, match=words) as caught:
        load_proposer(f"folder:{tmp_path}")(IMAGE, "a")
    assert "a.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"images": [3], "annotations": []}, "file_name"),
        ({"images": [{"file_name": "x.png"}], "annotations": []}, "no id"),
        ({"images": [{"file_name": "x.png", "id": 1}]}, "no annotations"),
        (
            {"images": [{"file_name": "x.png", "id": 1}], "annotations": [{"image_id": 2}]},
            "not of an image of the file",
        ),
        (
            {"images": [{"file_name": "x.png", "id": 1}], "annotations": [{"image_id": []}]},
            "not of an image of the file",
        ),
    ],
)
def test_bad_collections_are_refused(tmp_path, content, words):
    (tmp_path / "all.json").write_text(json.dumps(content))
    with pytest.raises(ProposalError, match=words):
        load_proposer(f"folder:{tmp_path}")(IMAGE, "x")


def test_bad_pngs_are_the_inputs_fault(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    proposer = load_proposer(f"folder:{tmp_path}")
    with pytest.raises(ProposalError, match="no PNG"):
        proposer(IMAGE, "a")
    (folder / "0.png").write_bytes(b"nothing")
    with pytest.raises(InputError):
        proposer(IMAGE, "a")
    write_mask_png(folder / "0.png", np.ones((5, 5), bool))
    with pytest.raises(ProposalError, match="another size") as caught:
        proposer(IMAGE, "a")
    assert "0.png" in str(caught.value)


def test_too_many_are_refused(tmp_path):
    np.savez(tmp_path / "a_masks.npz", _masks(5))
    (tmp_path / "b.json").write_text(json.dumps([_annotation(m, "plain") for m in _masks(5)]))
    for index, mask in enumerate(_masks(5)):
        write_mask_png(tmp_path / "c" / f"{index}.png", mask)
    proposer = load_proposer(f"folder:{tmp_path}", max_masks=4)
    for name in "abc":
        with pytest.raises(CounterviewError, match="too many"):
            proposer(IMAGE, name)


ODD = {
    "box only": ({"bbox": [1, 2, 3, 4], "id": 71}, r"annotation 1 \(id 71\): there is no segmentation"),
    "two points": ({"segmentation": [[1, 2, 3, 4]]}, "annotation 1: a polygon is x, y, x, y"),
    "no score": ({"score": None}, "annotation 1: the score is not a finite number; found None"),
    "float counts": (
        {"segmentation": {"size": list(SIZE), "counts": [3.0, 5]}},
        "annotation 1: run-length counts are text or a list .*; found float 3.0 at position 0",
    ),
    "no object": ("text", "annotation 1 is not an object; found str"),
}


@pytest.mark.parametrize("case", ODD)
def test_one_odd_annotation_is_left_out_with_a_warning(tmp_path, case, caplog):
    import re

    masks = _masks()
    change, words = ODD[case]
    listed = [_annotation(mask, "compressed", score=1 - i / 10) for i, mask in enumerate(masks)]
    odd = {**listed[1], **change} if isinstance(change, dict) else change
    odd = change if case == "box only" else odd
    listed[1] = odd
    (tmp_path / "a.json").write_text(json.dumps(listed))
    found = load_proposer(f"folder:{tmp_path}")(IMAGE, "a")
    assert np.array_equal(_dense(found), masks[[0, 2]])
    assert re.search(rf"a\.json: {words}.*it is left out", caplog.text)
    (tmp_path / "a.json").write_text(json.dumps([odd, odd]))
    with pytest.raises(ProposalError, match=words.replace("annotation 1", "annotation 0")):
        load_proposer(f"folder:{tmp_path}")(IMAGE, "a")


def test_an_annotation_of_no_image_is_left_out(tmp_path, caplog):
    masks = _masks(2)
    images = [{"id": 5, "file_name": "one.jpg"}]
    listed = [_annotation(mask, "compressed", image_id=identity) for mask, identity in zip(masks, (5, 9), strict=True)]
    (tmp_path / "all.json").write_text(json.dumps({"images": images, "annotations": listed}))
    assert np.array_equal(_dense(load_proposer(f"folder:{tmp_path}")(IMAGE, "one")), masks[[0]])
    assert "all.json: annotation 1 is not of an image of the file; found 9; it is left out" in caplog.text


def _turned_image(path, orientation, size_hw=SIZE):
    """A file whose upright pixels have ``size_hw``."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = size_hw[::-1] if orientation >= 5 else size_hw
    Image.fromarray(np.zeros((*stored, 3), np.uint8)).save(path, exif=exif)
    return path


@pytest.mark.parametrize("kind", ["npz", "png", "coco"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_masks_of_a_turned_image_are_refused_unless_it_is_certain_what_they_were_drawn_on(tmp_path, kind, orientation):
    image = _turned_image(tmp_path / "a.jpg", orientation)
    masks = _masks()
    if kind == "npz":
        np.savez(tmp_path / "a_masks.npz", masks)
    elif kind == "png":
        (tmp_path / "a").mkdir()
        for number, mask in enumerate(masks):
            write_mask_png(tmp_path / "a" / f"{number}.png", ObjectMask.from_array(mask))
    else:
        outlines = [{"segmentation": [[2, 2, 12, 2, 12, 9]]}]
        (tmp_path / "a.json").write_text(json.dumps(outlines))
    proposer, name = load_proposer(f"folder:{tmp_path}"), file_name(image)
    assert name.orientation == orientation
    if orientation == 6 and kind != "coco":  # the shape says it
        assert np.array_equal(_dense(proposer(IMAGE, name)), masks)
    else:
        with pytest.raises(ProposalError, match=f"stored pixels; found EXIF orientation {orientation} of the image"):
            proposer(IMAGE, name)
    assert len(proposer(IMAGE, str(name))), "a frame of a data set has no file"


def test_masks_with_the_orientation_of_their_image_are_certain(tmp_path):
    image, masks = _turned_image(tmp_path / "a.jpg", 3), _masks()
    (tmp_path / "a").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 3
    for number, mask in enumerate(masks):
        stored = Image.fromarray(np.ascontiguousarray(mask[::-1, ::-1]).astype(np.uint8) * 255)
        stored.save(tmp_path / "a" / f"{number}.png", exif=exif)
    assert np.array_equal(_dense(load_proposer(f"folder:{tmp_path}")(IMAGE, file_name(image))), masks)


def test_the_command_refuses_masks_of_a_turned_image(tmp_path, capsys):
    """Through ``match``: the name that the command gives knows the orientation."""
    image = _turned_image(tmp_path / "a.jpg", 3)
    np.savez(tmp_path / "a_masks.npz", _masks())
    arguments = ["match", str(image), str(image), "--box", "2,2,9,9", "--model", "knn", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--proposals", f"folder:{tmp_path}"]) == 2
    assert "EXIF orientation 3 of the image" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
