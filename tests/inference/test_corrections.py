"""Corrections out of a file. Oracles: what was written, and for each fault the line that a user reads."""

import json

import numpy as np
import pytest

from counterview.errors import AnnotationError, InputError, MaskError
from counterview.inference.corrections import check_corrections, read_corrections, write_corrections
from counterview.inference.prompts import Box, Point, Prompt
from counterview.inference.shown import ShownObject
from counterview.masks.png import write_mask_png
from counterview.types import ObjectMask

SIZE = (24, 32)
DENSE = np.zeros(SIZE, bool)
DENSE[3:12, 4:20] = True
MASK = ObjectMask.from_array(DENSE)
AT = {"object": "mug", "camera": "cam01", "time_s": 1.5}


def write(path, *entries):
    file = path / "fix.json"
    file.write_text(json.dumps({"corrections": list(entries)}))
    return file


def test_every_way_to_say_where_an_object_is(tmp_path):
    (tmp_path / "masks").mkdir()
    write_mask_png(tmp_path / "masks" / "mug.png", DENSE)
    ways = [
        ({"mask": MASK.to_coco()}, MASK),
        ({"mask_png": "masks/mug.png"}, MASK),
        ({"point": [12, 7.5]}, Point(12, 7.5)),
        ({"point": "12,7+14,9-2,3"}, Prompt(points=[(12, 7), (14, 9)], background=[(2, 3)])),
        ({"box": [3, 4, 20, 12]}, Box(3, 4, 20, 12)),
        ({"box": "3,4,20,12-9,9"}, Prompt(box=(3, 4, 20, 12), background=[(9, 9)])),
        ({"absent": True}, None),
    ]
    entries = [{"object": "mug", "camera": "cam01", "frame": i, **way} for i, (way, _) in enumerate(ways)]
    entries.append(AT | {"absent": True})
    read = read_corrections(write(tmp_path, *entries))
    assert [item.prompt for item in read] == [*(prompt for _, prompt in ways), None]
    assert [(item.frame, item.time_s) for item in read] == [*((i, None) for i in range(7)), (None, 1.5)]
    assert {(item.object, item.camera) for item in read} == {("mug", "cam01")}
    check_corrections(read, {"cam01": SIZE}, ["mug"])
    assert read_corrections(write(tmp_path)) == []


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        (3, "entry 2: is not an object; found int"),
        (AT | {"absent": True, "maks": 1}, "entry 2: an unknown key; found 'maks'; expected object, camera"),
        ({"camera": "cam01", "frame": 2, "absent": True}, "entry 2: object is not a name; found None"),
        (AT | {"camera": 4, "absent": True}, "entry 2: camera is not a name; found 4"),
        ({"object": "mug", "camera": "cam01", "absent": True}, "entry 2: has no time, or two"),
        (AT | {"frame": 3, "absent": True}, "entry 2: has no time, or two; expected time_s or frame"),
        (AT | {"time_s": "1", "absent": True}, "entry 2: time_s is not a time; found '1'; expected seconds"),
        (AT | {"time_s": 10**400, "absent": True}, "entry 2: time_s is not a time"),
        ({"object": "mug", "camera": "a", "frame": -1, "absent": True}, "frame is not the number of a frame; found -1"),
        (AT, "entry 2: says where the object is in none or several ways; expected one of mask, mask_png, point"),
        (AT | {"point": [1, 2], "absent": True}, "in none or several ways; found point, absent"),
        (AT | {"absent": False}, "entry 2: absent is not true; found False"),
        (AT | {"point": [1]}, r"entry 2: a point is \(x, y\) in pixels; found \[1\]"),
        (AT | {"point": [1, 10**400]}, r"entry 2: a point is \(x, y\) in pixels"),
        (AT | {"point": "1;2"}, "entry 2: point is malformed; found '1;2'; expected X,Y in pixels"),
        (AT | {"box": [1, 2, 3]}, r"entry 2: a box is \(x1, y1, x2, y2\) in pixels"),
        (AT | {"mask": {"size": [2, 2], "counts": [9]}}, "entry 2: run lengths do not fill the mask"),
        (AT | {"mask": ObjectMask.empty(SIZE).to_coco()}, 'entry 2: mask is empty.*give "absent": true'),
        (AT | {"mask_png": "none.png"}, "entry 2: .*none.png: no such file"),
        (AT | {"mask_png": "../mug.png"}, "entry 2: the name '..' cannot be used"),
        (AT | {"mask_png": "/etc/mug.png"}, "entry 2: the name '/etc/mug.png' cannot be used"),
        (
            AT | {"time_s": 1, "absent": True},
            "entry 2 corrects what entry 1 does; found 'mug' in 'cam01' twice at time 1",
        ),
    ],
)
def test_every_fault_names_file_and_entry(tmp_path, entry, line):
    file = write(tmp_path, AT | {"time_s": 1, "absent": True}, entry)
    with pytest.raises(AnnotationError, match=line) as error:
        read_corrections(file)
    assert str(error.value).startswith(str(file))
    assert "\n" not in str(error.value)


def test_what_is_written_is_read_back(tmp_path):
    prompts = [
        MASK, Point(12.25, 7.5), Box(3, 4, 20.125, 12), None, Prompt(points=[(1.5, 2)]),
        Prompt(points=[(12, 7), (14, 9)], background=[(2, 3)]), Prompt(box=(3, 4, 20, 12), background=[(9, 9)]),
        Prompt(points=[(5, 5)], box=(3, 4, 20, 12)),
    ]  # fmt: skip
    items = [ShownObject("mug", "cam01", prompt, frame=n) for n, prompt in enumerate(prompts)]
    items.append(ShownObject("a,b", "ego", Point(3, 4), time_s=1.5))
    write_corrections(tmp_path / "all.json", items)
    read = read_corrections(tmp_path / "all.json")
    assert [(i.object, i.camera, i.frame, i.time_s) for i in read] == [
        (i.object, i.camera, i.frame, i.time_s) for i in items
    ]
    as_read = [item.prompt for item in read]
    assert as_read[4] == Point(1.5, 2)  # one point is one point
    assert as_read[:4] + as_read[5:] == [*prompts[:4], *prompts[5:], Point(3, 4)]


def test_other_files(tmp_path):
    for text in ("[]", "{}", '{"corrections": {}}'):
        (tmp_path / "fix.json").write_text(text)
        with pytest.raises(AnnotationError, match="is not a file of corrections"):
            read_corrections(tmp_path / "fix.json")
    with pytest.raises(AnnotationError, match="no such file"):
        read_corrections(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("entry", "kind", "line"),
    [
        (
            AT | {"camera": "cam9", "absent": True},
            InputError,
            "fix.json: entry 1: no such camera; found 'cam9'; expected",
        ),
        (AT | {"object": "cup", "absent": True}, InputError, "fix.json: entry 1: no such object; found 'cup'"),
        (AT | {"point": [32, 3]}, InputError, "entry 1: the point 32,3 is outside"),
        (AT | {"box": [3, 3, 3, 9]}, InputError, "entry 1: the box 3,3,3,9 is empty"),
        (AT | {"mask": ObjectMask.from_array(DENSE.T).to_coco()}, MaskError, "entry 1: the mask 'mug' does not fit"),
    ],
)
def test_corrections_are_checked_against_what_they_are_for(tmp_path, entry, kind, line):
    with pytest.raises(kind, match=line):
        check_corrections(read_corrections(write(tmp_path, entry)), {"cam01": SIZE}, ["mug"])
