"""Each format against another program that knows it, and files as the tools themselves write them."""

import base64
import io
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image, ImageDraw

from counterview.errors import AnnotationError
from counterview.exchange import read, write
from counterview.exchange.brush import decode_brush, encode_brush
from counterview.exchange.shapes import box_mask, drawn_polygon, place_mask, polygon_mask, union
from counterview.masks.geometry import iou
from counterview.masks.rle import from_coco
from counterview.types import ObjectMask
from tests.exchange.samples import SIZES, blob, flat, noise, some_tracks

FRAMES = {camera: {item.frame for key, item in flat(some_tracks()).items() if key[1] == camera} for camera in SIZES}


def write_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# ---------------------------------------------------------------------------------------------------- shapes


def test_shapes_are_those_of_dense_masks():
    rng = np.random.default_rng(0)
    for _ in range(200):
        size = tuple(rng.integers(3, 20, 2))
        crop = rng.random(tuple(rng.integers(1, 12, 2))) > 0.5
        x, y = rng.integers(-6, 18, 2)
        canvas = np.zeros((60, 60), bool)
        canvas[20 + y : 20 + y + crop.shape[0], 20 + x : 20 + x + crop.shape[1]] = crop
        expected = canvas[20 : 20 + size[0], 20 : 20 + size[1]]
        placed = place_mask(crop, (int(x), int(y)), size)
        assert (placed.to_array() == expected).all()
        other = rng.random(size) > 0.7
        both = union([placed, ObjectMask.from_array(other), ObjectMask.empty(size)])
        assert (both.to_array() == expected | other).all()


def test_polygons_are_those_of_pycocotools_and_of_pillow():
    from pycocotools import mask as coco

    rng = np.random.default_rng(1)
    for number in range(60):
        points = rng.uniform(0, 1, (int(rng.integers(3, 9)), 2)) * (63, 39)
        if number % 2:
            points = np.round(points)
        (encoded,) = coco.frPyObjects([points.ravel().tolist()], 40, 64)
        assert (polygon_mask(points, (40, 64)).to_array() == coco.decode([encoded])[..., 0]).all()
        canvas = Image.new("L", (64, 40))
        ImageDraw.Draw(canvas).polygon([tuple(map(float, point)) for point in points], fill=1, outline=1)
        drawn = ObjectMask.from_array(np.asarray(canvas))
        assert iou(drawn_polygon(points, (40, 64)), drawn) > 0.98  # a pixel, where Pillow rounds otherwise
    assert (box_mask((2, 3, 5, 4), (9, 9)).to_array() == np.pad(np.ones((1, 3), bool), ((3, 5), (2, 4)))).all()


# ---------------------------------------------------------------------------------------------------- COCO


def test_coco_is_read_by_pycocotools(tmp_path, capsys):
    from pycocotools.coco import COCO

    tracks = some_tracks()
    (path,) = write(tracks, "coco", tmp_path)
    data = COCO(str(path))
    seen = 0
    for number in data.getAnnIds():
        (entry,) = data.loadAnns([number])
        (image,) = data.loadImgs([entry["image_id"]])
        (category,) = data.loadCats([entry["category_id"]])
        camera, _, file = image["file_name"].partition("/")
        item = flat(tracks)[category["name"], camera, int(file.removesuffix(".jpg"))]
        assert (data.annToMask(entry) == item.mask_rle.to_array()).all()
        assert entry["area"] == item.mask_rle.area
        assert entry["bbox"] == list(item.mask_rle.box_xywh)
        seen += 1
    assert seen == sum(item.mask_rle is not None for item in flat(tracks).values())


def test_coco_and_yolo_are_read_by_supervision(tmp_path):
    import supervision as sv

    tracks = some_tracks()
    (path,) = write(tracks, "coco", tmp_path)
    write(tracks, "yolo", tmp_path)
    for root in (tmp_path / "images", tmp_path / "yolo" / "images"):
        for camera, (height, width) in SIZES.items():
            (root / camera).mkdir(parents=True)
            for frame in FRAMES[camera]:
                if (tmp_path / "yolo" / "labels" / camera / f"{frame:06d}.txt").exists() or root.parent == tmp_path:
                    Image.new("RGB", (width, height)).save(root / camera / f"{frame:06d}.jpg")
    outlines = flat(read(tmp_path / "yolo"))
    data = sv.DetectionDataset.from_coco(str(tmp_path / "images"), str(path), force_masks=True)
    found = list(data)
    for camera in SIZES:
        labels = sv.DetectionDataset.from_yolo(
            str(tmp_path / "yolo" / "images" / camera), str(tmp_path / "yolo" / "labels" / camera),
            str(tmp_path / "yolo" / "data.yaml"), force_masks=True,
        )  # fmt: skip
        for image, _, detections in labels:
            whole = {}
            for mask, number in zip(
                [] if detections.mask is None else detections.mask, detections.class_id, strict=True
            ):
                whole[number] = whole.get(number, False) | mask
            for number, mask in whole.items():
                key = labels.classes[number], camera, int(image.rsplit("/", 1)[-1].removesuffix(".jpg"))
                assert (mask == outlines[key].mask_rle.to_array()).all()
    seen = 0
    for image, _, detections in found:
        camera, file = image.split("/")[-2:]
        for mask, number in zip([] if detections.mask is None else detections.mask, detections.class_id, strict=True):
            item = flat(tracks)[data.classes[number], camera, int(file.removesuffix(".jpg"))]
            assert (mask == item.mask_rle.to_array()).all()
            seen += 1
    assert seen == 6


def coco_content(**changes):
    polygon = [[2.0, 2.0, 20.0, 2.0, 20.0, 12.0, 2.0, 12.0]]
    second = {"id": 2, "image_id": 7, "category_id": 3, "segmentation": [[0, 0, 5, 0, 5, 5]], "track_id": 4}
    content = {
        "images": [{"id": 7, "file_name": "cam/f_0030.png", "width": 40, "height": 30},
                   {"id": 8, "file_name": "cam/f_0060.png", "width": 40, "height": 30}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "segmentation": polygon, "iscrowd": 0}, second],
        "categories": [{"id": 3, "name": "cup"}, {"id": 5, "name": "never there"}],
    }  # fmt: skip
    content.update(changes)
    return content


def test_a_foreign_coco_file(tmp_path):
    path = write_text(tmp_path / "annotations.json", json.dumps(coco_content()))
    tracks = read(path)
    assert set(tracks.cameras) == {"cam"}
    assert set(tracks.objects) == {"cup", "cup 4"}
    first, second = tracks.objects["cup"]["cam"]
    assert (first.frame, first.time_s, first.visibility, first.source) == (30, 30.0, 1.0, "given")
    assert (second.frame, second.mask_rle, second.visibility) == (60, None, 0.0)
    assert first.mask_rle == from_coco({"size": [30, 40], "counts": polygon_mask(
        np.array([[2.0, 2], [20, 2], [20, 12], [2, 12]]), (30, 40)).to_coco()["counts"]})  # fmt: skip
    assert [item.frame for item in read(path, missing="unknown").objects["cup"]["cam"]] == [30]
    assert read(path, fps=30).objects["cup"]["cam"][0].time_s == 1.0


def test_shapes_that_nothing_tells_apart_are_refused_or_what_one_says(tmp_path):
    content = coco_content()
    del content["annotations"][1]["track_id"]
    path = write_text(tmp_path / "a.json", json.dumps(content))
    with pytest.raises(
        AnnotationError, match=r"nothing tells 2 shapes of 'cup' in frame 30 of cam apart.*merge"
    ) as caught:
        read(path)
    assert "a.json" in str(caught.value)
    assert set(read(path, repeated="number").objects) == {"cup 1", "cup 2"}
    (merged, _) = read(path, repeated="merge").objects["cup"]["cam"]
    parts = [items["cam"][0].mask_rle for items in read(path, repeated="number").objects.values()]
    assert merged.mask_rle == union(parts)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda c: c.update(images=3), "'images' is not a list"),
        (lambda c: c["images"][0].pop("width"), "camera 'cam': a size is not of positive integers"),
        (lambda c: c["images"][0].update(width=10**6, height=10**6), "too large"),
        (lambda c: c["images"][1].update(width=41), "of several sizes"),
        (lambda c: c["images"][0].update(frame=60), "two images are frame 60"),
        (lambda c: c["images"][0].update(frame=-1), "a frame number"),
        (lambda c: c["images"][0].update(counterview={"objects": {"x": {}}}), "the record of 'x'"),
        (lambda c: c["images"][0].update(id=8), "number of its own"),
        (lambda c: c["annotations"][0].update(image_id=99), "annotation 0 is of an image"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3]]), "annotation 0: a polygon"),
        (lambda c: c["annotations"][0].update(segmentation=[[1e300, 2, 3, 4, 5, 6]]), "not a finite number"),
        (lambda c: c["annotations"][0].update(segmentation={"size": [30, 41], "counts": "0"}), "another size"),
        (lambda c: c["annotations"][0].update(segmentation={"size": [30, 40], "counts": [5]}), "do not fill"),
        (lambda c: c["categories"][0].update(name=5), "a label is not a text"),
    ],
)  # fmt: skip
def test_malformed_coco_is_refused(tmp_path, change, problem):
    content = coco_content()
    change(content)
    path = write_text(tmp_path / "a.json", json.dumps(content))
    with pytest.raises(AnnotationError, match=problem) as caught:
        read(path, "coco")
    assert "a.json" in str(caught.value)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------- DAVIS


def test_index_images_have_the_palette_that_pillow_reads(tmp_path):
    tracks = some_tracks()
    write(tracks, "davis", tmp_path)
    image = Image.open(tmp_path / "davis" / "cam01" / "00025.png")
    assert image.mode == "P"
    assert image.getpalette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
    mug, knife = tracks.objects
    assert (np.asarray(image) == 2).all()  # the knife's, which covers all
    indices = np.asarray(Image.open(tmp_path / "davis" / "ego" / "00000.png"))
    assert (indices == flat(tracks)[mug, "ego", 0].mask_rle.to_array()).all()
    assert json.loads((tmp_path / "davis" / "objects.json").read_text())["objects"] == {"1": mug, "2": knife}


def test_a_foreign_davis_folder_and_its_void(tmp_path):
    palette = Image.new("P", (8, 6))
    palette.putpalette([0, 0, 0, 128, 0, 0] + [7] * 756 + [224, 224, 192])
    pixels = np.zeros((6, 8), np.uint8)
    pixels[1:3, 2:5], pixels[4], pixels[5] = 1, 2, 255
    palette.putdata(pixels.ravel().tolist())
    (tmp_path / "bear").mkdir()
    palette.save(tmp_path / "bear" / "00000.png")
    tracks = read(tmp_path / "bear")
    assert (list(tracks.cameras), set(tracks.objects)) == (["bear"], {"object 1", "object 2"})
    assert flat(tracks)["object 2", "bear", 0].mask_rle.box_xywh == (0, 4, 8, 1)
    assert read(tmp_path).cameras == tracks.cameras
    (tmp_path / "bear" / "00001.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(AnnotationError, match=r"00001\.png"):
        read(tmp_path)


# ---------------------------------------------------------------------------------------------------- CVAT


def cvat_file(body, *, size="<original_size><width>40</width><height>30</height></original_size>"):
    meta = f"<version>1.1</version><meta><task><name>kitchen</name>{size}</task></meta>"
    return f'<?xml version="1.0"?><annotations>{meta}{body}</annotations>'


def test_each_mask_of_cvat_is_a_track_of_one_frame(tmp_path):
    tracks = some_tracks()
    write(tracks, "cvat", tmp_path)
    for camera, (height, width) in SIZES.items():
        root = ET.parse(tmp_path / "cvat" / f"{camera}.xml").getroot()
        assert root.findtext("meta/task/name") == camera
        assert (root.findtext("meta/task/original_size/width"), root.findtext("version")) == (str(width), "1.1")
        for track in root.iter("track"):
            first, *rest = track.findall("mask")
            assert [shape.get("outside") for shape in (first, *rest)] == ["0", "1"][: 1 + len(rest)]
            assert all(int(shape.get("frame")) == int(first.get("frame")) + 1 for shape in rest)
            left, top, w, h = (int(first.get(key)) for key in ("left", "top", "width", "height"))
            pixels = []
            for number, run in enumerate(first.get("rle").split(",")):
                pixels += [bool(number % 2)] * int(run)
            dense = np.zeros((height, width), bool)
            dense[top : top + h, left : left + w] = np.reshape(pixels, (h, w))
            item = flat(tracks)[track.get("label"), camera, int(first.get("frame"))]
            assert (dense == item.mask_rle.to_array()).all()


def test_a_foreign_cvat_file(tmp_path):
    body = """
    <track id="0" label="cup" source="manual">
      <box frame="3" outside="0" occluded="0" keyframe="1" xtl="2" ytl="3" xbr="10" ybr="8" z_order="0"></box>
      <box frame="4" outside="0" occluded="0" keyframe="0" xtl="3" ytl="3" xbr="11" ybr="8" z_order="0"></box>
      <box frame="5" outside="1" occluded="0" keyframe="1" xtl="3" ytl="3" xbr="11" ybr="8" z_order="0"></box>
    </track>
    <track id="1" label="knife" source="manual">
      <polygon frame="3" keyframe="1" outside="0" points="2.0,2.0;20.0,2.0;20.0,12.0"></polygon>
    </track>
    <track id="2" label="pot" source="auto">
      <mask frame="4" keyframe="1" outside="0" rle="1, 2, 3" left="5" top="6" width="3" height="2"></mask>
      <mask frame="5" keyframe="1" outside="1" rle="1, 2, 3" left="5" top="6" width="3" height="2"></mask>
    </track>
    <track id="3" label="pan"><ellipse frame="4" cx="20" cy="15" rx="8" ry="4" rotation="90"/></track>
    <track id="4" label="way"><polyline frame="4" points="1,1;2,2"/></track>"""
    path = write_text(tmp_path / "cvat.xml", cvat_file(body))
    tracks = read(path)
    assert list(tracks.cameras) == ["kitchen"]
    assert set(tracks.objects) == {"cup", "knife", "pot", "pan"}
    cup = tracks.objects["cup"]["kitchen"]
    assert [(item.frame, item.visibility, item.source) for item in cup] == [
        (3, 1.0, "given"), (4, 1.0, "propagated"), (5, 0.0, "given")
    ]  # fmt: skip
    assert cup[0].mask_rle.box_xywh == (2, 3, 8, 5)
    pot = flat(tracks)["pot", "kitchen", 4].mask_rle.to_array()
    assert np.argwhere(pot).tolist() == [[6, 6], [6, 7]]
    assert flat(tracks)["pot", "kitchen", 5].mask_rle is None
    ellipse = flat(tracks)["pan", "kitchen", 4].mask_rle
    assert ellipse.box_xywh == (16, 7, 8, 16)
    assert ellipse.area == pytest.approx(np.pi * 8 * 4, rel=0.05)


def test_cvat_for_images(tmp_path):
    body = """<image id="0" name="ego/f_10.jpg" width="40" height="30">
    <box label="cup" xtl="1" ytl="1" xbr="3" ybr="3"/></image>
    <image id="1" name="ego/f_20.jpg" width="40" height="30"/>
    <image id="2" name="exo/f_10.jpg" width="20" height="10"/>"""
    tracks = read(write_text(tmp_path / "a.xml", cvat_file(body, size="")))
    assert {name: camera.size_hw for name, camera in tracks.cameras.items()} == {"ego": (30, 40), "exo": (10, 20)}
    assert {key: item.visibility for key, item in flat(tracks).items()} == {
        ("cup", "ego", 10): 1.0, ("cup", "ego", 20): 0.0, ("cup", "exo", 10): 0.0
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<annotations><track></annotations>", "is not XML"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotations>&x;</annotations>', "document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>', "document type"),
        ("<annotations>" * 40, "too deep"),
        ('<track id="1"/><annotations/>', "is not a file of CVAT"),
        (cvat_file('<track label="a"><box frame="0" xtl="x" ytl="0" xbr="1" ybr="1"/></track>'), "line 1: coordinates"),
        (cvat_file('<track label="a"><box frame="-1" xtl="0" ytl="0" xbr="1" ybr="1"/></track>'), "the frame is not"),
        (cvat_file('<track><box frame="0" xtl="0" ytl="0" xbr="1" ybr="1"/></track>'), "without a label"),
        (cvat_file('<track label="a"><polygon frame="0" points="1,1;2"/></track>'), "the points of a polygon"),
        (cvat_file('<track label="a"><mask frame="0" rle="9" left="0" top="0" width="2" height="2"/></track>'), "fill"),
        (cvat_file('<track label="a"><mask frame="0" rle="1" left="0" top="0" width="99999" height="2"/></track>'),
         "too large"),
        (cvat_file('<track label="a"><mask frame="0" rle="1" left="0" top="0" width="1" height="1"/></track>', size=""),
         "size of its images"),
        (cvat_file(""), "holds no|frames|<image>"),
    ],
)  # fmt: skip
def test_malformed_cvat_is_refused(tmp_path, text, problem):
    path = write_text(tmp_path / "a.xml", text)
    if text == cvat_file(""):
        assert read(path, "cvat").objects == {}
        return
    with pytest.raises(AnnotationError, match=problem) as caught:
        read(path, "cvat")
    assert "a.xml" in str(caught.value)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------- Label Studio


def test_brush_run_lengths_are_those_of_label_studio(fixture_data):
    golden = fixture_data("exchange/label_studio_brush.json")
    assert "label_studio_sdk" in golden["made_by"]
    assert len(golden["masks"]) == 6
    for name, entry in golden["masks"].items():
        mask = from_coco(entry["coco"])
        assert decode_brush(entry["rle"], *entry["size_hw"]) == mask
        if name not in ("colours", "empty"):  # the tool has other ways of writing the same
            assert encode_brush(mask) == entry["rle"]
        assert decode_brush(encode_brush(mask), *entry["size_hw"]) == mask


@pytest.mark.parametrize("seed", range(6))
def test_brush_run_lengths_of_any_mask(seed):
    rng = np.random.default_rng(seed)
    size = tuple(int(n) for n in rng.integers(1, 400, 2))
    mask = blob(size, seed) if seed % 2 and min(size) > 8 else noise(size, seed)
    assert decode_brush(encode_brush(mask), *size) == mask


def label_studio(*results, **data):
    return [{"data": {"image": "/data/upload/3/ego/f_12.jpg", **data}, "annotations": [{"result": list(results)}]}]


def region(kind, size=(30, 40), **value):
    return {
        "type": kind, "original_height": size[0], "original_width": size[1], "image_rotation": 0,
        "value": {kind: ["cup"], **value},
    }  # fmt: skip


def test_a_foreign_label_studio_file(tmp_path):
    mask = blob((30, 40), 3)
    tasks = label_studio(region("brushlabels", format="rle", rle=encode_brush(mask)))
    tasks[0]["annotations"].append({"was_cancelled": True, "result": []})
    path = write_text(tmp_path / "export.json", json.dumps(tasks))
    assert flat(read(path))["cup", "ego", 12].mask_rle == mask
    tasks = label_studio()
    tasks[0] = {
        "data": tasks[0]["data"],
        "predictions": [{"result": [region("rectanglelabels", x=25, y=10, width=50, height=40)]}],
    }
    path.write_text(json.dumps(tasks))
    assert flat(read(path))["cup", "ego", 12].mask_rle.box_xywh == (10, 3, 20, 12)
    path.write_text(json.dumps(label_studio(region("polygonlabels", points=[[0, 0], [50, 0], [50, 50], [0, 50]]))))
    assert flat(read(path))["cup", "ego", 12].mask_rle.area == 15 * 20
    turned = region("rectanglelabels", x=50, y=10, width=20, height=40, rotation=90)
    path.write_text(json.dumps(label_studio(turned)))
    assert flat(read(path))["cup", "ego", 12].mask_rle.box_xywh == (8, 3, 12, 8)  # clockwise about its corner (20, 3)


@pytest.mark.parametrize(
    ("result", "problem"),
    [
        (region("brushlabels", format="rle", rle=[0, 0]), "end too early"),
        (region("brushlabels", format="rle", rle="AAAA"), "not a list of bytes"),
        (region("brushlabels", format="rle", rle=encode_brush(blob((30, 41), 0))), "of another size"),
        (region("brushlabels", format="png", rle=[]), "not of the format rle"),
        ({**region("brushlabels", format="rle", rle=[]), "image_rotation": 90}, "was turned"),
        (region("brushlabels", size=(10**5, 10**5), format="rle", rle=[]), "too large"),
        (region("rectanglelabels", x=1, y=2, width="3", height=4), "not a finite number"),
        ({"type": "brushlabels", "original_height": 30, "original_width": 40, "value": {}}, "no label"),
    ],
)  # fmt: skip
def test_malformed_label_studio_is_refused(tmp_path, result, problem):
    path = write_text(tmp_path / "export.json", json.dumps(label_studio(result)))
    with pytest.raises(AnnotationError, match=problem) as caught:
        read(path)
    assert "export.json" in str(caught.value)


# ---------------------------------------------------------------------------------------------------- LabelMe


def labelme(*shapes):
    return {"version": "5.5.0", "flags": {}, "shapes": list(shapes), "imagePath": "x.jpg", "imageData": None,
            "imageHeight": 30, "imageWidth": 40}  # fmt: skip


def test_a_foreign_labelme_folder(tmp_path):
    polygon = {
        "label": "cup",
        "points": [[2, 2], [20, 2], [20, 12]],
        "group_id": 1,
        "shape_type": "polygon",
        "flags": {},
    }
    other = {**polygon, "points": [[30, 20], [35, 20], [35, 25]]}
    circle = {"label": "pan", "points": [[20, 15], [20, 20]], "group_id": None, "shape_type": "circle"}
    line = {"label": "way", "points": [[1, 1], [2, 2]], "shape_type": "line"}
    write_text(tmp_path / "kitchen" / "f_07.json", json.dumps(labelme(polygon, other, circle, line)))
    write_text(tmp_path / "kitchen" / "f_09.json", json.dumps(labelme()))
    tracks = read(tmp_path / "kitchen")
    assert list(tracks.cameras) == ["kitchen"]
    cup, gone = tracks.objects["cup"]["kitchen"]
    assert (cup.frame, gone.frame, gone.mask_rle) == (7, 9, None)
    canvas = Image.new("L", (40, 30))
    for shape in (polygon, other):
        ImageDraw.Draw(canvas).polygon([tuple(map(float, p)) for p in shape["points"]], fill=1, outline=1)
    assert (cup.mask_rle.to_array() == np.asarray(canvas)).all()
    assert flat(tracks)["pan", "kitchen", 7].mask_rle.area == pytest.approx(np.pi * 25, rel=0.1)
    assert set(tracks.objects) == {"cup", "pan"}


def png(array, mode="L"):
    buffer = io.BytesIO()
    Image.fromarray(array).convert(mode).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    ("mask", "points", "problem"),
    [
        (png(np.ones((4, 5), np.uint8)), [[0, 0], [9, 9]], "does not fit its box"),
        (png(np.ones((40, 50), np.uint8)), [[0, 0], [49, 39]], "too large"),
        (png(np.ones((4, 5), np.uint8), "RGB"), [[0, 0], [4, 3]], "not grey"),
        ("%%%", [[0, 0], [4, 3]], "not base64"),
        ("AAAA", [[0, 0], [4, 3]], "not a PNG"),
        (png(np.ones((4, 5), np.uint8))[:60], [[0, 0], [4, 3]], "damaged|not an image|cannot be opened"),
        (None, [[0, 0], [4, 3]], "not a base64 PNG"),
        (png(np.ones((4, 5), np.uint8)), [[0, 0]], "has two points"),
    ],
)  # fmt: skip
def test_malformed_labelme_is_refused(tmp_path, mask, points, problem):
    shape = {"label": "cup", "points": points, "shape_type": "mask", "mask": mask}
    path = write_text(tmp_path / "a.json", json.dumps(labelme(shape)))
    with pytest.raises(AnnotationError, match=problem) as caught:
        read(path)
    assert "a.json" in str(caught.value)


def test_a_mask_that_was_taken_away_in_the_tool_is_absent(tmp_path):
    tracks = some_tracks()
    write(tracks, "labelme", tmp_path)
    path = tmp_path / "labelme" / "ego" / "000015.json"
    content = json.loads(path.read_text())
    content["shapes"] = []
    path.write_text(json.dumps(content))
    mug = next(iter(tracks.objects))
    item = flat(read(tmp_path / "labelme"))[mug, "ego", 15]
    assert (item.mask_rle, item.visibility, item.source) == (None, 0.0, "given")


# ---------------------------------------------------------------------------------------------------- YOLO


def test_a_foreign_yolo_folder_needs_the_size_of_its_images(tmp_path):
    write_text(tmp_path / "data.yaml", "train: train/images\nnames: [cup, pan]\nnc: 2\n")
    write_text(tmp_path / "train" / "labels" / "a_3.txt", "0 0.5 0.5 0.5 0.2\n1 0.1 0.1 0.3 0.1 0.3 0.4\n")
    with pytest.raises(AnnotationError, match=r"size of the image is not known.*train/images/a_3\.jpg.*size_hw"):
        read(tmp_path)
    tracks = read(tmp_path, size_hw=(30, 40), camera="ego")
    assert flat(tracks)["cup", "ego", 3].mask_rle.box_xywh == (10, 12, 20, 6)
    (tmp_path / "train" / "images").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "train" / "images" / "a_3.jpg")
    assert flat(read(tmp_path, camera="ego")) == flat(tracks)


@pytest.mark.parametrize(
    "line", ["0 0.1 0.2", "7 0.5 0.5 0.1 0.1", "0 a b c d", "x", "0 nan 0 1 1", "0 1e99 0 1 1 0 0"]
)
def test_malformed_yolo_is_refused(tmp_path, line):
    write_text(tmp_path / "data.yaml", "names: [cup, pan]\n")
    write_text(tmp_path / "labels" / "a_3.txt", f"\n{line}\n")
    with pytest.raises(AnnotationError, match=r"a_3\.txt: line 2"):
        read(tmp_path, size_hw=(30, 40))
